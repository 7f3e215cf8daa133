//! Packet tables: ICMP errors about tunnels of the host itself.

use std::net::IpAddr;

use weir_abi::counters::Reason;
use weir_tests::{
    packet::{self, ACK},
    vips::*,
};

const PATH_MTU: u32 = 1400;

/// The packet must not be fragmented.
fn unfragmentable(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    let tos = packet::tos(&frame);
    packet::with_tos(frame, tos)
}

/// A packet of a client, larger than what the path carries, in both families.
fn sent(version: u8, port: u16) -> Vec<u8> {
    match version {
        4 => unfragmentable(packet::tcp(CLIENT, &format!("198.51.100.10:{port}"), ACK, &[7; 1400])),
        _ => packet::tcp(CLIENT6, &format!("[2001:db8::10]:{port}"), ACK, &[7; 1380]),
    }
}

/// A router says of the first `quoted` bytes of a tunnel's packet that the path carries less.
fn too_big(tunnel: &[u8], quoted: usize) -> Vec<u8> {
    let mtu = PATH_MTU.to_be_bytes();
    let quote = &tunnel[14..tunnel.len().min(14 + quoted)];
    match tunnel[12..14] == [8, 0] {
        true => packet::icmp(ip("192.0.2.1"), own(), 3, 4, [0, 0, mtu[2], mtu[3]], quote),
        false => packet::icmp(ip("2001:db8:ffff::1"), IpAddr::from(own6()), 2, 0, mtu, quote),
    }
}

/// What the client is told: from the VIP, about its own packet.
fn told(sent: &[u8], fits: u32) -> Vec<u8> {
    let mtu = fits.to_be_bytes();
    let message = if sent[12..14] == [8, 0] {
        let rest = [0, 0, mtu[2], mtu[3]];
        let mut message = packet::icmp(ip("198.51.100.10"), ip("203.0.113.7"), 3, 4, rest, &sent[14..42]);
        message[20] = 0x40;
        message
    } else {
        packet::icmp(ip("2001:db8::10"), ip("2001:db8:f::7"), 2, 0, mtu, &sent[14..62])
    };
    packet::turned(packet::with_tos(message, 0xc0))
}

/// Tunnels from here: the packet in it, the tunnel, where it ends, and what is to be left free for it.
fn tunnels() -> Vec<(Vec<u8>, Vec<u8>, u16, u32)> {
    let own6 = IpAddr::from(own6());
    let mut tunnels = Vec::new();
    for version in [4, 6] {
        let plain = sent(version, 80);
        let (first, second, first6) = (ip("10.1.2.2"), ip("10.1.3.2"), ip("fd00:1:4::2"));
        tunnels.push((plain.clone(), packet::gue(&plain, own(), first, 50_000, None), 80, 40));
        tunnels.push((plain.clone(), packet::gue(&plain, own(), first, 50_000, Some(second)), 80, 40));
        tunnels.push((plain.clone(), packet::ipip(&plain, own(), ip("10.1.5.2"), 0), 90, 20));
        tunnels.push((plain.clone(), packet::ipip(&plain, own6, ip("fd00:1:6::2"), 9), 91, 40));
        if version == 4 {
            tunnels.push((plain.clone(), packet::gue(&plain, own6, first6, 50_000, None), 85, 72));
            tunnels.push((plain.clone(), packet::gue(&plain, own6, first6, 50_000, Some(first6)), 85, 72));
        }
    }
    tunnels
}

#[test]
fn a_client_is_told_when_a_router_finds_its_tunnel_too_big_and_is_told_sooner_from_then_on() {
    for (number, (inside, tunnel, port, room)) in tunnels().into_iter().enumerate() {
        let mut balancer = balancer_with_mtu(1500);
        let seen = balancer.run(&too_big(&tunnel, 600)).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::IcmpTunnelTooBig), "tunnel {number}");
        assert_eq!(seen.packet, told(&inside, PATH_MTU - room), "tunnel {number}");
        // The next packet does not get so far.
        let version = if inside[12..14] == [8, 0] { 4 } else { 6 };
        let next = sent(version, port);
        let seen = balancer.run(&next).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::IcmpTooBig), "tunnel {number}");
        let said = if version == 4 { &seen.packet[40..42] } else { &seen.packet[60..62] };
        assert_eq!(said, ((PATH_MTU - room) as u16).to_be_bytes(), "tunnel {number}");
    }
}

#[test]
fn what_a_router_says_of_one_path_is_not_believed_of_another() {
    let mut balancer = balancer_with_mtu(1500);
    let tunnel = packet::gue(&sent(4, 80), own(), ip("10.1.3.2"), 50_000, None);
    assert_eq!(balancer.run(&too_big(&tunnel, 28)).expect("run").reason, Reason::PassTunnelError);
    assert_eq!(balancer.run(&sent(4, 80)).expect("run").reason, Reason::Encap);
    assert_eq!(balancer.run(&sent(4, 999)).expect("run").reason, Reason::IcmpTooBig);
}

#[test]
fn however_little_a_router_quotes_its_error_is_counted() {
    for (number, (inside, tunnel, _, _)) in tunnels().into_iter().enumerate() {
        let mut balancer = balancer_with_mtu(1500);
        let outer = if tunnel[12..14] == [8, 0] { 20 } else { 40 };
        let inner_at = tunnel.len() - inside.len();
        let needed = inner_at + if inside[12..14] == [8, 0] { 28 } else { 48 };
        for quoted in 0..=needed {
            let sent = too_big(&tunnel, quoted);
            let seen = balancer.run(&sent).expect("run");
            // IPIP is seen by its outer header alone, GUE by its ports.
            let least = outer + if tunnel[14..][if outer == 20 { 9 } else { 6 }] == 17 { 4 } else { 0 };
            let wanted = match quoted {
                _ if quoted < least => (XDP_PASS, Reason::PassNotVip),
                _ if quoted < needed => (XDP_PASS, Reason::PassTunnelError),
                _ => (XDP_TX, Reason::IcmpTunnelTooBig),
            };
            assert_eq!((seen.action, seen.reason), wanted, "tunnel {number}, {quoted} bytes");
            if wanted.0 == XDP_PASS {
                assert_eq!(seen.packet, sent);
            }
        }
    }
}

#[test]
fn errors_that_say_nothing_of_a_path_are_left_to_the_kernel() {
    let mut balancer = balancer_with_mtu(1500);
    let tunnel = packet::gue(&sent(4, 80), own(), ip("10.1.2.2"), 50_000, None);
    let tunnel6 = packet::ipip(&sent(4, 80), IpAddr::from(own6()), ip("fd00:1:6::2"), 0);
    let about =
        |quote: &[u8], kind, code| packet::icmp(ip("192.0.2.1"), own(), kind, code, [0, 0, 5, 0], quote);
    let about6 = |kind| {
        packet::icmp(ip("2001:db8:ffff::1"), IpAddr::from(own6()), kind, 0, [0, 0, 5, 0], &tunnel6[14..200])
    };
    let with = |at: usize, byte: u8| {
        let mut quote = tunnel[14..200].to_vec();
        quote[at] = byte;
        quote
    };
    let cases = [
        ("host unreachable", about(&tunnel[14..200], 3, 1), Reason::PassTunnelError),
        ("time exceeded", about(&tunnel[14..200], 11, 0), Reason::PassTunnelError),
        ("IPv6 unreachable", about6(1), Reason::PassTunnelError),
        ("IPv6 time exceeded", about6(3), Reason::PassTunnelError),
        ("a ping", about(&tunnel[14..200], 8, 0), Reason::PassNotVip),
        ("an IPv6 ping", about6(128), Reason::PassNotVip),
        ("another's packet", about(&with(15, 99), 3, 4), Reason::PassNotVip),
        ("another port", about(&with(23, 99), 3, 4), Reason::PassNotVip),
        ("TCP", about(&with(9, 6), 3, 4), Reason::PassNotVip),
        ("not for a vip", about(&with(32 + 19, 99), 3, 4), Reason::PassTunnelError),
        ("from a group", about(&with(32 + 12, 224), 3, 4), Reason::PassTunnelError),
        ("may be fragmented", about(&with(32 + 6, 0), 3, 4), Reason::PassTunnelError),
        ("an error in it", about(&with(32 + 9, 1), 3, 4), Reason::PassTunnelError),
        ("of an unknown form", about(&with(29, 99), 3, 4), Reason::PassTunnelError),
    ];
    for (name, sent, reason) in cases {
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_PASS, reason), "{name}");
        assert_eq!(seen.packet, sent, "{name}");
    }
}

#[test]
fn no_router_is_believed_less_than_the_least_mtu_there_is() {
    let mut balancer = balancer_with_mtu(1500);
    let tunnel = packet::gue(&sent(4, 80), own(), ip("10.1.2.2"), 50_000, None);
    let mut forged = packet::icmp(ip("192.0.2.1"), own(), 3, 4, [0, 0, 0, 68], &tunnel[14..200]);
    assert_eq!(balancer.run(&forged).expect("run").packet[40..42], (552u16 - 40).to_be_bytes());
    forged[40..42].copy_from_slice(&[0, 0]);
    assert_eq!(balancer.run(&forged).expect("run").packet[40..42], (552u16 - 40).to_be_bytes());
}
