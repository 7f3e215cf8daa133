//! Packet tables: ICMP and ICMPv6 for a VIP.

use std::net::IpAddr;

use weir_abi::{
    counters::Reason,
    service::{PROTO_TCP, PROTO_UDP},
};
use weir_tests::{
    packet::{self, ACK},
    vips::*,
};

const VIP4: &str = "198.51.100.10";
const VIP6: &str = "2001:db8::10";
const ROUTER4: &str = "192.0.2.1";
const ROUTER6: &str = "2001:db8:ffff::1";

/// An error from a router about the first bytes of a packet, which is given as a frame.
fn error(kind: u8, code: u8, about: &[u8], quoted: usize) -> Vec<u8> {
    let (router, vip) = if about[12..14] == [8, 0] { (ROUTER4, VIP4) } else { (ROUTER6, VIP6) };
    let end = about.len().min(14 + quoted);
    packet::icmp(ip(router), ip(vip), kind, code, [0, 0, 5, 0], &about[14..end])
}

#[test]
fn echo_requests_to_a_vip_are_answered() {
    let mut balancer = balancer();
    let long = vec![0xa5; 1400];
    for payload in [&b""[..], b"x", b"ping of some length", &long] {
        for (client, vip, request, reply) in [("203.0.113.7", VIP4, 8, 0), ("2001:db8:f::7", VIP6, 128, 129)]
        {
            for rest in [[0, 0, 0, 0], [0x12, 0x34, 0xff, 0xff]] {
                let mut sent = packet::icmp(ip(client), ip(vip), request, 0, rest, payload);
                let seen = balancer.run(&sent).expect("run");
                assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::IcmpEcho));
                let wanted = packet::icmp(ip(vip), ip(client), reply, 0, rest, payload);
                assert_eq!(seen.packet, packet::turned(wanted.clone()), "{} bytes to {vip}", payload.len());

                // The last hop is reached: nothing is forwarded.
                let ttl_at = if vip == VIP4 { 22 } else { 21 };
                sent[ttl_at] = 1;
                assert_eq!(balancer.run(&sent).expect("run").packet[ttl_at], 64);
            }
        }
    }
}

#[test]
fn what_is_no_plain_echo_to_a_vip_is_left_to_the_kernel() {
    let mut balancer = balancer();
    let echo = |from: &str, to: &str| packet::icmp(ip(from), ip(to), 8, 0, [0; 4], b"ping");
    let echo6 = |from: &str, to: &str| packet::icmp(ip(from), ip(to), 128, 0, [0; 4], b"ping");
    let mut options = echo("203.0.113.7", VIP4);
    options.splice(34..34, [1; 4]);
    options[14] = 0x46;
    let mut fragment = echo("203.0.113.7", VIP4);
    fragment[20] = 0x20;
    let cases = [
        ("not a vip", echo("203.0.113.7", "198.51.100.99"), Reason::PassNotVip),
        ("options", options, Reason::PassVipOther),
        ("from a group", echo("224.0.0.1", VIP4), Reason::PassVipOther),
        ("from everybody", echo("255.255.255.255", VIP4), Reason::PassVipOther),
        ("from nobody", echo("0.0.0.0", VIP4), Reason::PassVipOther),
        ("from itself", echo("127.0.0.1", VIP4), Reason::PassVipOther),
        ("from an IPv6 group", echo6("ff02::1", VIP6), Reason::PassVipOther),
        ("from nobody, IPv6", echo6("::", VIP6), Reason::PassVipOther),
        ("an answer", packet::icmp(ip("203.0.113.7"), ip(VIP4), 0, 0, [0; 4], b"x"), Reason::PassVipOther),
        (
            "redirect",
            error(5, 1, &packet::tcp("198.51.100.10:80", CLIENT, ACK, b""), 28),
            Reason::PassVipOther,
        ),
        (
            "neighbour solicitation",
            packet::icmp(ip("fe80::1"), ip(VIP6), 135, 0, [0; 4], &[0; 16]),
            Reason::PassVipOther,
        ),
    ];
    for (name, sent, reason) in cases {
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_PASS, reason), "{name}");
        assert_eq!(seen.packet, sent, "{name}");
    }
}

#[test]
fn errors_go_to_the_owner_of_the_flow_they_are_about() {
    let mut balancer = balancer();
    let answer = |from: &str| packet::tcp(from, CLIENT, ACK, b"an answer of the proxy");
    let answer6 = packet::tcp("[2001:db8::10]:80", CLIENT6, ACK, b"an answer of the proxy");
    let mut optioned = answer("198.51.100.10:80");
    optioned.splice(34..34, [1; 40]);
    optioned[14] = 0x4f;
    let dns = packet::udp("198.51.100.10:53", CLIENT, b"a long answer");
    let mut fragment6 = answer6.clone();
    fragment6.splice(54..54, [6, 0, 0, 1, 0, 0, 0, 9]);
    fragment6[20] = 44;
    // Name, error, flow backwards, first hop, second hop.
    let cases = [
        ("frag needed", error(3, 4, &answer("198.51.100.10:80"), 28), 80, "10.1.2.2", None),
        ("port unreachable", error(3, 3, &dns, 28), 53, "10.1.2.2", None),
        ("time exceeded", error(11, 0, &answer("198.51.100.10:80"), 500), 80, "10.1.2.2", None),
        ("parameter problem", error(12, 0, &answer("198.51.100.10:80"), 28), 80, "10.1.2.2", None),
        ("about options", error(3, 4, &optioned, 68), 80, "10.1.2.2", None),
        ("second hop", error(3, 4, &answer("198.51.100.10:81"), 28), 81, "10.1.2.2", Some("10.1.3.2")),
        ("IPv6 unreachable", error(1, 0, &answer6, 48), 80, "10.1.2.2", Some("10.1.3.2")),
        ("too big", error(2, 0, &answer6, 1000), 80, "10.1.2.2", Some("10.1.3.2")),
        ("IPv6 time exceeded", error(3, 0, &answer6, 48), 80, "10.1.2.2", Some("10.1.3.2")),
        ("IPv6 parameter problem", error(4, 1, &answer6, 48), 80, "10.1.2.2", Some("10.1.3.2")),
        ("about a first fragment", error(2, 0, &fragment6, 1000), 80, "10.1.2.2", Some("10.1.3.2")),
    ];
    for (name, sent, port, first, second) in cases {
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::EncapIcmp), "{name}");
        let (client, vip) = if sent[12..14] == [8, 0] { (CLIENT, VIP4) } else { (CLIENT6, VIP6) };
        let protocol = if port == 53 { PROTO_UDP } else { PROTO_TCP };
        let vip = std::net::SocketAddr::new(ip(vip), port).to_string();
        let port = flow_port(client, &vip, protocol);
        let wanted = packet::gue(&sent, own(), ip(first), port, second.map(ip));
        assert_eq!(seen.packet, packet::turned(wanted), "{name}");
    }
    // Local owners: delivered where they have no doubt, sent on where the flow is not known here.
    let seen = balancer.run(&error(3, 4, &answer("198.51.100.10:82"), 28)).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DeliverLocal));
    let seen = balancer.run(&error(3, 4, &answer("198.51.100.10:83"), 28)).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::EncapSecondHop));
}

#[test]
fn errors_about_nothing_of_ours_are_left_to_the_kernel() {
    let mut balancer = balancer();
    let ours = packet::tcp("198.51.100.10:80", CLIENT, ACK, b"data");
    let mut later = ours.clone();
    later[21] = 9;
    let ping = packet::icmp(ip(VIP4), ip("203.0.113.7"), 8, 0, [0; 4], b"");
    let cases = [
        ("another's packet", error(3, 4, &packet::tcp("198.51.100.11:80", CLIENT, ACK, b""), 28)),
        ("no such service", error(3, 4, &packet::tcp("198.51.100.10:7", CLIENT, ACK, b""), 28)),
        ("a later fragment", error(3, 4, &later, 28)),
        ("an echo", error(3, 4, &ping, 28)),
        ("no ports left", error(3, 4, &ours, 22)),
        ("no packet left", error(3, 4, &ours, 0)),
    ];
    for (name, sent) in cases {
        let seen = balancer.run(&sent).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::PassVipOther), "{name}");
        let tunnel = packet::gue(&sent, ip("10.1.2.2"), own(), 50_000, None);
        assert_eq!(balancer.run(&tunnel).expect("run").reason, Reason::DropGueNotVip, "{name}, in a tunnel");
    }
}

#[test]
fn tunnelled_errors_are_delivered_or_go_to_the_second_hop() {
    let mut balancer = balancer();
    for (about, client, vip) in [
        (packet::tcp("198.51.100.10:80", CLIENT, ACK, b"data"), CLIENT, "198.51.100.10:80"),
        (packet::tcp("[2001:db8::10]:80", CLIENT6, ACK, b"data"), CLIENT6, "[2001:db8::10]:80"),
    ] {
        let inner = if client == CLIENT { error(3, 4, &about, 28) } else { error(2, 0, &about, 48) };
        let seen = balancer.run(&packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, None)).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver));
        assert_eq!(seen.packet, inner);

        let tunnel = packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip("10.1.3.2")));
        let seen = balancer.run(&tunnel).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::DecapSecondHop));
        let wanted = packet::gue(&inner, own(), ip("10.1.3.2"), flow_port(client, vip, PROTO_TCP), None);
        assert_eq!(seen.packet, packet::turned(wanted));
    }
    let echo = packet::icmp(ip("203.0.113.7"), IpAddr::from(VIP), 8, 0, [0; 4], b"");
    let seen = balancer.run(&packet::gue(&echo, ip("10.1.2.2"), own(), 50_000, None)).expect("run");
    assert_eq!(seen.reason, Reason::DropGueNotVip, "nobody tunnels what every balancer answers");
}
