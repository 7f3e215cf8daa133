//! Packet tables: what the loaded kernel program does with single packets.

mod ecn;
mod extension;
mod fragment;
mod guard;
mod icmp;
mod ipip;
mod quic;
mod services;
mod syn_cookie;
mod too_big;
mod tunnel;
mod tunnel_error;
mod udp_flows;
mod verifier;
mod vlan;

use std::net::IpAddr;

use weir_abi::{
    counters::Reason,
    service::{PROTO_TCP, PROTO_UDP},
};
use weir_tests::{
    packet::{self, ACK, SYN},
    vips::*,
};

#[test]
fn flows_of_a_vip_are_tunnelled_to_the_owner_of_their_slot() {
    let mut balancer = balancer();
    let own6 = IpAddr::from(own6());
    let cases = [
        ("198.51.100.10:80", own(), "10.1.2.2", None),
        ("198.51.100.10:81", own(), "10.1.2.2", Some("10.1.3.2")),
        ("198.51.100.10:84", own(), "10.1.2.2", Some("fd00:1:4::2")),
        ("198.51.100.10:85", own6, "fd00:1:4::2", None),
        ("198.51.100.10:86", own6, "fd00:1:4::2", Some("fd00:1:4::2")),
        ("198.51.100.10:88", own(), "10.1.2.2", Some("10.1.1.2")),
        ("198.51.100.10:999", own(), "10.1.3.2", None),
        ("198.51.100.10:1000", own(), "10.1.3.2", None),
        ("198.51.100.10:2000", own(), "10.1.3.2", None),
        ("[2001:db8::10]:80", own(), "10.1.2.2", Some("10.1.3.2")),
    ];
    for (vip, from, first, second) in cases {
        let client = if vip.starts_with('[') { CLIENT6 } else { CLIENT };
        for (flags, payload) in [(SYN, &b""[..]), (ACK, b"hello"), (ACK, &[7; 1400])] {
            let sent = packet::tcp(client, vip, flags, payload);
            let seen = balancer.run(&sent).expect("run");
            let port = flow_port(client, vip, PROTO_TCP);
            let wanted = packet::turned(packet::gue(&sent, from, ip(first), port, second.map(ip)));
            assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::Encap), "{vip}");
            assert_eq!(seen.packet, wanted, "{vip}");
        }
    }
    let sent = packet::udp(CLIENT, "198.51.100.10:53", b"query");
    let seen = balancer.run(&sent).expect("run");
    let port = flow_port(CLIENT, "198.51.100.10:53", PROTO_UDP);
    assert_eq!(seen.packet, packet::turned(packet::gue(&sent, own(), ip("10.1.2.2"), port, None)));
}

#[test]
fn packets_end_where_they_must() {
    let mut balancer = balancer();
    let tcp = |to: &str| packet::tcp(CLIENT, to, ACK, b"");
    let from_peer = |inner: &[u8]| packet::gue(inner, ip("10.1.2.2"), own(), 50_000, None);
    let with = |at: usize, byte: u8, mut packet: Vec<u8>| {
        packet[at] = byte;
        packet
    };
    let icmp =
        packet::frame(packet::ip(ip("203.0.113.7"), IpAddr::from(VIP), 1, 64, &[8, 0, 0, 0, 0, 0, 0, 0]));
    let expired =
        packet::frame(packet::ip(ip("203.0.113.7"), IpAddr::from(VIP), 6, 1, &tcp("198.51.100.10:80")[34..]));
    let cases = [
        ("not a vip", tcp("198.51.100.99:80"), XDP_PASS, Reason::PassNotVip),
        (
            "arp",
            [&packet::HOST[..], &packet::ROUTER, &[8, 6], &[0; 28]].concat(),
            XDP_PASS,
            Reason::PassNotVip,
        ),
        ("no such port", tcp("198.51.100.10:2001"), XDP_PASS, Reason::PassNoService),
        ("wrong protocol", packet::udp(CLIENT, "198.51.100.10:80", b"x"), XDP_PASS, Reason::PassNoService),
        ("ping", icmp, XDP_TX, Reason::IcmpEcho),
        ("local owner", tcp("198.51.100.10:82"), XDP_PASS, Reason::DeliverLocal),
        (
            "syn for a local owner",
            packet::tcp(CLIENT, "198.51.100.10:83", SYN, b""),
            XDP_PASS,
            Reason::DeliverLocal,
        ),
        ("no backend", tcp("198.51.100.10:87"), XDP_DROP, Reason::DropNoBackend),
        ("first fragment", with(20, 0x20, tcp("198.51.100.10:80")), XDP_TX, Reason::EncapFragment),
        (
            "lone later fragment",
            with(19, 1, with(21, 9, tcp("198.51.100.10:80"))),
            XDP_DROP,
            Reason::DropFragment,
        ),
        ("fragment for another", with(20, 0x20, tcp("198.51.100.99:80")), XDP_PASS, Reason::PassNotVip),
        ("last hop", expired, XDP_DROP, Reason::DropTtl),
        ("header length 4", with(14, 0x44, tcp("198.51.100.10:80")), XDP_DROP, Reason::DropMalformed),
        ("version 5", with(14, 0x55, tcp("198.51.100.10:80")), XDP_DROP, Reason::DropMalformed),
        ("tunnel", from_peer(&tcp("198.51.100.10:80")), XDP_PASS, Reason::DecapDeliver),
        (
            "tunnel from a stranger",
            packet::gue(&tcp("198.51.100.10:80"), ip("10.9.9.9"), own(), 50_000, None),
            XDP_DROP,
            Reason::DropGueUntrusted,
        ),
        ("tunnel for no vip", from_peer(&tcp("198.51.100.99:80")), XDP_DROP, Reason::DropGueNotVip),
        ("tunnel for no service", from_peer(&tcp("198.51.100.10:7")), XDP_DROP, Reason::DropGueNotVip),
        (
            "tunnel of unknown form",
            with(42, 0x1f, from_peer(&tcp("198.51.100.10:80"))),
            XDP_DROP,
            Reason::DropGueMalformed,
        ),
        (
            "tunnel of ethernet",
            with(43, 0x2f, from_peer(&tcp("198.51.100.10:80"))),
            XDP_DROP,
            Reason::DropGueMalformed,
        ),
    ];
    for (name, sent, action, reason) in cases {
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (action, reason), "{name}");
    }
}

#[test]
fn tunnels_are_opened_byte_for_byte() {
    let mut balancer = balancer();
    for (client, vip) in [(CLIENT, "198.51.100.10:80"), (CLIENT6, "[2001:db8::10]:80")] {
        let inner = packet::tcp(client, vip, SYN, b"payload");
        let tunnels = [
            packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, None),
            packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip("10.1.3.2"))),
            packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip("fd00:1:4::2"))),
            packet::gue(&inner, ip("fd00:1:4::2"), IpAddr::from(own6()), 50_000, None),
            packet::gue(&inner, ip("fd00:1:4::2"), IpAddr::from(own6()), 50_000, Some(ip("10.1.3.2"))),
            packet::gue(&inner, ip("fd00:1:4::2"), IpAddr::from(own6()), 50_000, Some(ip("fd00:1:4::2"))),
        ];
        for tunnel in tunnels {
            let seen = balancer.run(&tunnel).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver));
            assert_eq!(seen.packet, inner);
        }
    }
}

#[test]
fn flows_unknown_here_go_to_the_second_hop() {
    let mut balancer = balancer();
    // No socket anywhere knows this flow: established packets are sent on, SYNs stay.
    for (client, vip) in [(CLIENT, "198.51.100.10:80"), (CLIENT6, "[2001:db8::10]:80")] {
        let inner = packet::tcp(client, vip, ACK, b"data");
        for (second, from) in [("10.1.3.2", own()), ("fd00:1:4::2", IpAddr::from(own6()))] {
            let tunnel = packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip(second)));
            let seen = balancer.run(&tunnel).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::DecapSecondHop));
            let port = flow_port(client, vip, PROTO_TCP);
            assert_eq!(seen.packet, packet::turned(packet::gue(&inner, from, ip(second), port, None)));
        }
    }
    let sent = packet::tcp(CLIENT, "198.51.100.10:83", ACK, b"data");
    let seen = balancer.run(&sent).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::EncapSecondHop));
    let port = flow_port(CLIENT, "198.51.100.10:83", PROTO_TCP);
    assert_eq!(seen.packet, packet::turned(packet::gue(&sent, own(), ip("10.1.3.2"), port, None)));
}

#[test]
fn packets_cut_at_any_length_are_counted_and_never_sent() {
    let mut balancer = balancer();
    let inner = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"");
    let inner6 = packet::tcp(CLIENT6, "[2001:db8::10]:80", ACK, b"");
    for whole in [
        inner.clone(),
        inner6.clone(),
        packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip("10.1.3.2"))),
        packet::gue(&inner6, ip("fd00:1:4::2"), IpAddr::from(own6()), 50_000, Some(ip("fd00:1:4::2"))),
    ] {
        // The kernel takes no test packet shorter than an Ethernet header.
        for len in 14..whole.len() {
            let seen = balancer.run(&whole[..len]).expect("run");
            let dropped = matches!(seen.reason, Reason::DropMalformed | Reason::DropGueMalformed);
            assert!(seen.action == XDP_DROP && dropped, "cut at {len}: {seen:?}");
        }
    }
}

#[test]
fn ipv4_options_do_not_hide_the_ports() {
    let mut balancer = balancer();
    let plain = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"data");
    for words in 1..=10usize {
        let mut sent = plain.clone();
        sent.splice(34..34, vec![1; words * 4]); // no-operation options
        sent[14] = 0x45 + words as u8;
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::Encap), "{words} words of options");
        assert!(seen.packet.ends_with(&sent[14..]));
    }
}
