//! Packet tables: fragments. Whatever the order, all of a packet go to one proxy, or to none.

use weir_abi::{
    Address,
    counters::Reason,
    flow::Flow,
    limits::FRAGMENTS_MAX,
    service::{PROTO_TCP, PROTO_UDP},
};
use weir_tests::{
    packet::{self, ACK, SYN},
    vips::*,
};

/// The outer source port of UDP fragments: that of a flow without ports.
fn portless(from: &str, to: &str) -> u16 {
    let flow = Flow {
        source: v6_or_v4(from),
        destination: v6_or_v4(to),
        source_port: [0; 2],
        destination_port: [0; 2],
        protocol: PROTO_UDP,
    };
    0xc000 | (flow.hash() >> 18) as u16
}

fn v6_or_v4(text: &str) -> Address {
    ip(text).into()
}

#[test]
fn fragments_of_a_datagram_go_to_one_proxy_in_any_order() {
    let mut balancer = balancer();
    let cases = [
        (
            packet::udp(CLIENT, "198.51.100.10:53", &[7; 3000]),
            "203.0.113.7",
            "198.51.100.10",
            "10.1.2.2",
            None,
        ),
        (
            packet::udp(CLIENT6, "[2001:db8::10]:53", &[7; 3000]),
            "2001:db8:f::7",
            "2001:db8::10",
            "10.1.3.2",
            Some("10.1.2.2"),
        ),
    ];
    for (whole, from, to, first, second) in cases {
        let pieces = packet::fragments(&whole, 1, 1400);
        assert_eq!(pieces.len(), 3);
        // In order, the first last, the first in the middle.
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            for sent in order.map(|number| &pieces[number]) {
                let seen = balancer.run(sent).expect("run");
                assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::EncapFragment), "{order:?}");
                let wanted = packet::gue(sent, own(), ip(first), portless(from, to), second.map(ip));
                assert_eq!(seen.packet, packet::turned(wanted), "{order:?}");
            }
        }
        // Out of the tunnel too, even where the slot has changed: no port, no socket to ask.
        for inner in &pieces {
            for second in [None, Some(ip("10.1.3.2"))] {
                let seen =
                    balancer.run(&packet::gue(inner, ip("10.1.2.2"), own(), 50_000, second)).expect("run");
                assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver));
                assert_eq!(&seen.packet, inner);
            }
        }
    }
}

#[test]
fn fragments_of_a_segment_follow_their_first() {
    let mut balancer = balancer();
    for (id, client, vip, first, second) in [
        (77, CLIENT, "198.51.100.10:80", "10.1.2.2", None),
        (79, CLIENT, "198.51.100.10:1500", "10.1.3.2", None),
        (81, CLIENT6, "[2001:db8::10]:80", "10.1.2.2", Some("10.1.3.2")),
    ] {
        let pieces = packet::fragments(&packet::tcp(client, vip, ACK, &[7; 3000]), id, 1400);
        let lone = balancer.run(&pieces[1]).expect("run");
        assert_eq!((lone.action, lone.reason), (XDP_DROP, Reason::DropFragment), "before its first");
        // The first, then the others in any order.
        for sent in [&pieces[0], &pieces[2], &pieces[1]] {
            let seen = balancer.run(sent).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::EncapFragment), "{vip}");
            let port = flow_port(client, vip, PROTO_TCP);
            let wanted = packet::gue(sent, own(), ip(first), port, second.map(ip));
            assert_eq!(seen.packet, packet::turned(wanted), "{vip}");
        }
        // Another packet's fragments are none of them.
        let other = packet::fragments(&packet::tcp(client, vip, ACK, &[7; 3000]), id + 1, 1400);
        assert_eq!(balancer.run(&other[1]).expect("run").reason, Reason::DropFragment);
    }
}

#[test]
fn tunnelled_fragments_of_a_segment_are_delivered_together_or_sent_on_together() {
    let mut balancer = balancer();
    for (number, flags, reason) in [(1, ACK, Reason::DecapSecondHop), (2, SYN, Reason::DecapDeliver)] {
        let whole = packet::tcp(CLIENT, "198.51.100.10:80", flags, &[7; 3000]);
        for inner in packet::fragments(&whole, number, 1400) {
            let tunnel = packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, Some(ip("10.1.3.2")));
            assert_eq!(balancer.run(&tunnel).expect("run").reason, reason);
        }
    }
    // Local owners with a previous one ask the same question.
    for (flags, reason) in [(ACK, Reason::EncapSecondHop), (SYN, Reason::DeliverLocal)] {
        let whole = packet::tcp(CLIENT, "198.51.100.10:83", flags, &[7; 3000]);
        for sent in packet::fragments(&whole, 3 + u16::from(flags), 1400) {
            assert_eq!(balancer.run(&sent).expect("run").reason, reason);
        }
    }
}

#[test]
fn fragments_for_nothing_of_ours_are_left_to_the_kernel() {
    let mut balancer = balancer();
    let cases = [
        (packet::udp(CLIENT, "198.51.100.99:53", &[7; 3000]), Reason::PassNotVip),
        (packet::udp(CLIENT6, "[2001:db8::99]:53", &[7; 3000]), Reason::PassNotVip),
        (
            packet::icmp(ip("203.0.113.7"), ip("198.51.100.10"), 8, 0, [0; 4], &[7; 3000]),
            Reason::PassVipOther,
        ),
        (
            packet::icmp(ip("2001:db8:f::7"), ip("2001:db8::10"), 128, 0, [0; 4], &[7; 3000]),
            Reason::PassVipOther,
        ),
    ];
    for (whole, reason) in cases {
        for sent in packet::fragments(&whole, 9, 1400) {
            let seen = balancer.run(&sent).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_PASS, reason));
            assert_eq!(seen.packet, sent);
        }
    }
    // A first fragment too short for its ports and flags (RFC 1858).
    let tiny = packet::fragments(&packet::tcp(CLIENT, "198.51.100.10:80", ACK, &[7; 100]), 10, 8);
    assert_eq!(balancer.run(&tiny[0]).expect("run").reason, Reason::DropMalformed);
    // A fragment header around a whole packet is none (RFC 6946).
    let atomic = packet::fragments(&packet::tcp(CLIENT6, "[2001:db8::10]:80", ACK, b"data"), 11, 1400);
    assert_eq!(balancer.run(&atomic[0]).expect("run").reason, Reason::Encap);
}

#[test]
fn what_is_remembered_of_fragments_is_bounded() {
    let mut balancer = balancer();
    let pieces = |id: u32| {
        let client = format!("203.0.{}.7:40000", id >> 14);
        packet::fragments(&packet::tcp(&client, "198.51.100.10:80", ACK, &[7; 40]), id as u16 & 0x3fff, 24)
    };
    for id in 0..2 * FRAGMENTS_MAX {
        assert_eq!(balancer.run(&pieces(id)[0]).expect("run").reason, Reason::EncapFragment);
    }
    // The newest is there, the oldest forgotten.
    assert_eq!(balancer.run(&pieces(2 * FRAGMENTS_MAX - 1)[1]).expect("run").reason, Reason::EncapFragment);
    assert_eq!(balancer.run(&pieces(0)[1]).expect("run").reason, Reason::DropFragment);
}
