//! Packet tables: tunnels without GUE.

use std::net::IpAddr;

use weir_abi::{counters::Reason, service::PROTO_TCP};
use weir_tests::{
    packet::{self, ACK, SYN},
    vips::*,
};

#[test]
fn flows_go_by_ipip_to_backends_that_want_it() {
    let mut balancer = balancer();
    let own6 = IpAddr::from(own6());
    let cases = [
        ("198.51.100.10:90", own(), "10.1.5.2"),
        ("198.51.100.10:91", own6, "fd00:1:6::2"),
        // It has no room for a second hop.
        ("198.51.100.10:94", own(), "10.1.5.2"),
        ("[2001:db8::10]:90", own(), "10.1.5.2"),
        ("[2001:db8::10]:91", own6, "fd00:1:6::2"),
    ];
    for (vip, from, to) in cases {
        let client = if vip.starts_with('[') { CLIENT6 } else { CLIENT };
        let hash = flow_hash(client, vip, PROTO_TCP);
        for (flags, payload, tos) in [(SYN, &b""[..], 0), (ACK, b"hello", 0xb9), (ACK, &[7; 1400], 0xff)] {
            let sent = packet::with_tos(packet::tcp(client, vip, flags, payload), tos);
            let seen = balancer.run(&sent).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::Encap), "{vip}");
            assert_eq!(seen.packet, packet::turned(packet::ipip(&sent, from, ip(to), hash)), "{vip}");
        }
    }
}

#[test]
fn a_second_hop_may_be_reached_by_ipip() {
    let mut balancer = balancer();
    let own6 = IpAddr::from(own6());
    // The chain says so, and whoever opens the tunnel sends it on in that way.
    let cases = [
        ("198.51.100.10:92", own(), "10.1.2.2", "10.1.5.2", 0x14),
        ("198.51.100.10:95", own(), "10.1.2.2", "fd00:1:6::2", 0x16),
        ("198.51.100.10:96", own6, "fd00:1:4::2", "10.1.5.2", 0x14),
    ];
    for (vip, from, first, second, kind) in cases {
        let sent = packet::tcp(CLIENT, vip, ACK, b"data");
        let port = flow_port(CLIENT, vip, PROTO_TCP);
        let with_kind = |mut tunnel: Vec<u8>| {
            let outer_len = if tunnel[12..14] == [8, 0] { 20 } else { 40 };
            tunnel[14 + outer_len + 8 + 4] = kind;
            tunnel
        };
        let wanted = with_kind(packet::gue(&sent, from, ip(first), port, Some(ip(second))));
        let seen = balancer.run(&sent).expect("run");
        assert_eq!(seen.packet, packet::turned(wanted), "{vip}");

        let (sender, receiver) = (ip("10.1.2.2"), own());
        let tunnel = with_kind(packet::gue(&sent, sender, receiver, port, Some(ip(second))));
        let seen = balancer.run(&tunnel).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::DecapSecondHop), "{vip}");
        let from = if second.contains(':') { own6 } else { own() };
        let wanted = packet::ipip(&sent, from, ip(second), flow_hash(CLIENT, vip, PROTO_TCP));
        assert_eq!(seen.packet, packet::turned(wanted), "{vip}");
    }
    let sent = packet::tcp(CLIENT, "198.51.100.10:93", ACK, b"data");
    let seen = balancer.run(&sent).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::EncapSecondHop));
    let hash = flow_hash(CLIENT, "198.51.100.10:93", PROTO_TCP);
    assert_eq!(seen.packet, packet::turned(packet::ipip(&sent, own(), ip("10.1.5.2"), hash)));
}
