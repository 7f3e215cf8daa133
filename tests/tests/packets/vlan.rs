//! Packet tables: VLAN tags stay on whatever becomes of a packet.

use weir_abi::counters::Reason;
use weir_tests::{
    packet::{self, ACK, SYN},
    vips::*,
};

/// EtherType and content of tags, outermost first.
const TAGGINGS: [&[[u8; 4]]; 5] = [
    &[[0x81, 0, 0, 5]],
    &[[0x81, 0, 0xe0, 0]],
    &[[0x88, 0xa8, 0x0f, 0xff]],
    &[[0x88, 0xa8, 0, 7], [0x81, 0, 0x60, 9]],
    &[[0x81, 0, 0, 7], [0x81, 0, 0, 9]],
];

fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], tags.concat().as_slice(), &frame[12..]].concat()
}

#[test]
fn a_tagged_packet_is_treated_as_without_its_tags_and_keeps_them() {
    let mut balancer = balancer();
    let inner = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"data");
    let inner6 = packet::tcp(CLIENT6, "[2001:db8::10]:80", ACK, &[7; 1300]);
    let frames = [
        inner.clone(),
        inner6.clone(),
        packet::tcp(CLIENT, "198.51.100.10:81", ACK, b"with a second hop"),
        packet::tcp(CLIENT, "198.51.100.10:82", SYN, b""),
        packet::tcp(CLIENT, "198.51.100.10:85", ACK, b"by IPv6"),
        packet::tcp(CLIENT, "198.51.100.10:7", ACK, b"no such service"),
        packet::tcp(CLIENT, "198.51.100.99:80", ACK, b"not a vip"),
        packet::udp(CLIENT, "198.51.100.10:53", b"query"),
        packet::icmp(ip("203.0.113.7"), ip("198.51.100.10"), 8, 0, [0; 4], b"ping"),
        packet::icmp(ip("2001:db8:f::7"), ip("2001:db8::10"), 128, 0, [0; 4], b"ping"),
        packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, None),
        packet::gue(&inner6, ip("10.1.2.2"), own(), 50_000, Some(ip("10.1.3.2"))),
        [&packet::HOST[..], &packet::ROUTER, &[8, 6], &[0; 28]].concat(),
    ];
    for frame in frames {
        let plain = balancer.run(&frame).expect("run");
        for tags in TAGGINGS {
            let seen = balancer.run(&tagged(&frame, tags)).expect("run");
            assert_eq!((seen.action, seen.reason), (plain.action, plain.reason));
            assert_eq!(seen.packet, tagged(&plain.packet, tags), "{:?} with {tags:?}", plain.reason);
        }
    }
}

#[test]
fn nobody_looks_behind_a_third_tag() {
    let mut balancer = balancer();
    let inner = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"data");
    let sent = tagged(&inner, &[[0x81, 0, 0, 1]; 3]);
    let seen = balancer.run(&sent).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::PassNotVip));
    assert_eq!(seen.packet, sent);
}

#[test]
fn a_tag_cut_short_is_a_counted_drop() {
    let mut balancer = balancer();
    let inner = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"");
    for tags in TAGGINGS {
        let whole = tagged(&inner, tags);
        for len in 14..whole.len() {
            let seen = balancer.run(&whole[..len]).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropMalformed), "cut at {len}");
        }
    }
}
