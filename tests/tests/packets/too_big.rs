//! Packet tables: packets that do not fit into the tunnel.

use std::time::{Duration, Instant};

use weir_abi::{counters::Reason, limits::TOO_BIG_BURST};
use weir_tests::{
    packet::{self, ACK},
    vips::*,
};

const MTU: u32 = 1500;
/// How much of a packet is told back.
const QUOTE: usize = 256;

/// The packet must not be fragmented.
fn unfragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    let tos = packet::tos(&frame);
    packet::with_tos(frame, tos) // the checksum anew
}

/// The message about `sent`, from the VIP.
fn too_big(sent: &[u8], fits: u32) -> Vec<u8> {
    let quote = &sent[14..14 + QUOTE];
    let mtu = fits.to_be_bytes();
    let message = if sent[12..14] == [8, 0] {
        let mut message =
            packet::icmp(ip("198.51.100.10"), ip("203.0.113.7"), 3, 4, [0, 0, mtu[2], mtu[3]], quote);
        message[20] = 0x40;
        message
    } else {
        packet::icmp(ip("2001:db8::10"), ip("2001:db8:f::7"), 2, 0, mtu, quote)
    };
    packet::turned(packet::with_tos(message, 0xc0))
}

#[test]
fn clients_are_told_what_fits_into_the_tunnel() {
    let mut balancer = balancer_with_mtu(MTU);
    // To, bytes of the tunnel in front of it, bytes a client is told to leave room for.
    let cases = [
        ("198.51.100.10:80", 32, 40),
        ("198.51.100.10:81", 40, 40),
        ("198.51.100.10:84", 52, 72),
        ("198.51.100.10:85", 52, 72),
        ("198.51.100.10:86", 72, 72),
        ("[2001:db8::10]:80", 40, 40),
        ("198.51.100.10:90", 20, 20),
        ("198.51.100.10:91", 40, 40),
        ("198.51.100.10:95", 52, 72),
        ("[2001:db8::10]:91", 40, 40),
    ];
    for (vip, tunnel, room) in cases {
        let is_v4 = !vip.starts_with('[');
        let (client, headers) = if is_v4 { (CLIENT, 40) } else { (CLIENT6, 60) };
        let sent = |len: usize| {
            let frame = packet::tcp(client, vip, ACK, &vec![7; len - headers]);
            if is_v4 { unfragmentable(frame) } else { frame }
        };
        let fits = MTU as usize - tunnel;
        let seen = balancer.run(&sent(fits)).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::Encap), "{vip}");
        assert_eq!(seen.packet.len(), 14 + MTU as usize, "{vip}");

        for len in [fits + 1, 1500.max(fits + 1)] {
            let sent = sent(len);
            let seen = balancer.run(&sent).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::IcmpTooBig), "{vip}, {len} bytes");
            assert_eq!(seen.packet, too_big(&sent, MTU - room), "{vip}, {len} bytes");
        }
        // What was told fits.
        let seen = balancer.run(&sent((MTU - room) as usize)).expect("run");
        assert_eq!(seen.reason, Reason::Encap, "{vip}");
    }
}

#[test]
fn nobody_is_told_who_must_not_be_or_would_not_listen() {
    let mut balancer = balancer_with_mtu(MTU);
    let payload = vec![7; 1450];
    let big = packet::tcp(CLIENT, "198.51.100.10:80", ACK, &payload);
    let answer = packet::tcp("198.51.100.10:80", CLIENT, ACK, &payload);
    let error = packet::icmp(ip("192.0.2.1"), ip("198.51.100.10"), 3, 4, [0; 4], &answer[14..]);
    let pieces = packet::fragments(&packet::udp(CLIENT, "198.51.100.10:53", &[7; 3000]), 1, 1480);
    let cases = [
        ("may be fragmented", big.clone()),
        ("an error", unfragmentable(error)),
        ("a later fragment", unfragmentable(pieces[1].clone())),
        ("from a group", unfragmentable(packet::tcp("224.0.0.1:40000", "198.51.100.10:80", ACK, &payload))),
    ];
    for (name, sent) in cases {
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropTooBig), "{name}");
    }
    // Local delivery needs no tunnel.
    let local = unfragmentable(packet::tcp(CLIENT, "198.51.100.10:82", ACK, &payload));
    assert_eq!(balancer.run(&local).expect("run").reason, Reason::DeliverLocal);
    // IPv6 hosts send 1,280 bytes whatever they are told.
    let mut narrow = balancer_with_mtu(1300);
    let sent = packet::tcp(CLIENT6, "[2001:db8::10]:80", ACK, &[7; 1220]);
    assert_eq!(narrow.run(&sent).expect("run").reason, Reason::DropTooBig);
    // And where nobody knows the MTU, nothing is too big.
    let seen = weir_tests::vips::balancer().run(&unfragmentable(big)).expect("run");
    assert_eq!(seen.reason, Reason::Encap);
}

#[test]
fn flows_sent_on_to_the_second_hop_are_told_too() {
    let mut balancer = balancer_with_mtu(MTU);
    // The second tunnel is larger than the first: IPv6.
    let inner = unfragmentable(packet::tcp(CLIENT, "198.51.100.10:80", ACK, &[7; 1420]));
    let tunnel = packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip("fd00:1:4::2")));
    let seen = balancer.run(&tunnel).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::IcmpTooBig));
    assert_eq!(seen.packet, too_big(&inner, MTU - 72));
}

#[test]
fn how_many_are_told_is_bounded_and_comes_back() {
    let balancer = balancer_with_mtu(MTU);
    let sent = unfragmentable(packet::tcp(CLIENT, "198.51.100.10:80", ACK, &[7; 1450]));
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut told = 0;
    // Faster than tokens come in, on whichever CPUs this runs and however slow they are: the action alone is looked at.
    while balancer.action(&sent).expect("run") == XDP_TX {
        told += 1;
        assert!(Instant::now() < deadline, "{told} were told and no end");
    }
    assert!(told >= TOO_BIG_BURST, "{told} were told");
    while balancer.action(&sent).expect("run") == XDP_DROP {
        assert!(Instant::now() < deadline, "nobody is told any more");
    }
}
