//! Packet tables: what the loaded kernel program does with single packets.

use std::net::IpAddr;

use weir_abi::{
    Address, Config,
    counters::Reason,
    flow::Flow,
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_LOCAL},
    service::{PROTO_TCP, PROTO_UDP, Slot, VipKey, VipRange, VipRanges},
};
use weir_tests::{
    packet::{self, ACK, SYN},
    prog_run::{Balancer, key4},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

const VIP: [u8; 4] = [198, 51, 100, 10];
const OWN4: [u8; 4] = [10, 1, 1, 2];

fn own6() -> Address {
    v6("fd00:1:1::2")
}

fn v6(text: &str) -> Address {
    ip(text).into()
}

/// The balancer with local proxy 1, IPv4 proxies 2 and 3, IPv6 proxy 4; services by port of the VIP:
/// tcp/80 → 2; tcp/81 → 2 then 3; tcp/82 → local; tcp/83 → local then 3; tcp/84 → 2 then 4; tcp/85 → 4; tcp/86 → 4 then 4;
/// tcp/87 → nobody; udp/53 → 2; tcp/1000-2000 → 3; [2001:db8::10]:80 → 2 then 3.
fn balancer() -> Balancer {
    let config =
        Config { abi_version: weir_abi::ABI_VERSION, has_v4: 1, has_v6: 1, address4: OWN4, address6: own6() };
    let mut balancer = Balancer::load(config).expect("load");
    let gue4 = |last| Backend { address: Address::v4([10, 1, last, 2]), kind: KIND_GUE4, _pad: [0; 3] };
    let local = Backend { address: Address::v4(OWN4), kind: KIND_LOCAL, _pad: [0; 3] };
    let gue6 = Backend { address: v6("fd00:1:4::2"), kind: KIND_GUE6, _pad: [0; 3] };
    for (slot, backend) in [(1, local), (2, gue4(2)), (3, gue4(3)), (4, gue6)] {
        balancer.backend(slot, backend).expect("backend");
    }
    let tables = [
        (80, 2, 0),
        (81, 2, 3),
        (82, 1, 0),
        (83, 1, 3),
        (84, 2, 4),
        (85, 4, 0),
        (86, 4, 4),
        (87, 0, 0),
        (88, 2, 1),
    ];
    for (port, owner, previous) in tables {
        let service = u32::from(port);
        balancer.service(service, key4(VIP, PROTO_TCP, port), Slot { owner, previous }).expect("service");
    }
    balancer.service(53, key4(VIP, PROTO_UDP, 53), Slot { owner: 2, previous: 0 }).expect("udp");
    let vip6 =
        VipKey { address: v6("2001:db8::10"), port: 80u16.to_be_bytes(), protocol: PROTO_TCP, _pad: 0 };
    balancer.service(6, vip6, Slot { owner: 2, previous: 3 }).expect("v6");
    balancer.service(100, key4(VIP, PROTO_TCP, 999), Slot { owner: 3, previous: 0 }).expect("range");
    let mut ranges = VipRanges { count: 1, ..VipRanges::default() };
    ranges.ranges[0] = VipRange { first: 1000, last: 2000, service: 100 };
    balancer.ranges(VipKey { port: [0, 0], ..key4(VIP, PROTO_TCP, 0) }, ranges).expect("ranges");
    balancer
}

/// The outer source port weir gives the flow of `from` to `to`.
fn flow_port(from: &str, to: &str, protocol: u8) -> u16 {
    let (from, to): (std::net::SocketAddr, std::net::SocketAddr) =
        (from.parse().unwrap(), to.parse().unwrap());
    let flow = Flow {
        source: Address::from(from.ip()),
        destination: Address::from(to.ip()),
        source_port: from.port().to_be_bytes(),
        destination_port: to.port().to_be_bytes(),
        protocol,
    };
    0xc000 | (flow.hash() >> 18) as u16
}

const CLIENT: &str = "203.0.113.7:40000";
const CLIENT6: &str = "[2001:db8:f::7]:40000";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn own() -> IpAddr {
    IpAddr::from(OWN4)
}

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
    let extension =
        packet::frame(packet::ip(ip("2001:db8:f::7"), ip("2001:db8::10"), 60, 64, &[6, 0, 0, 0, 0, 0, 0, 0]));
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
        ("ping", icmp, XDP_PASS, Reason::PassVipOther),
        ("local owner", tcp("198.51.100.10:82"), XDP_PASS, Reason::DeliverLocal),
        (
            "syn for a local owner",
            packet::tcp(CLIENT, "198.51.100.10:83", SYN, b""),
            XDP_PASS,
            Reason::DeliverLocal,
        ),
        ("no backend", tcp("198.51.100.10:87"), XDP_DROP, Reason::DropNoBackend),
        ("fragment", with(20, 0x20, tcp("198.51.100.10:80")), XDP_DROP, Reason::DropFragment),
        ("later fragment", with(21, 9, tcp("198.51.100.10:80")), XDP_DROP, Reason::DropFragment),
        ("fragment for another", with(20, 0x20, tcp("198.51.100.99:80")), XDP_PASS, Reason::PassNotVip),
        ("extension", extension, XDP_DROP, Reason::DropExtension),
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
