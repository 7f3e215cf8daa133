//! UDP flows: remembered by the host that has them, found there through changes, and at home with the owner when new.

use weir_abi::{
    counters::Reason,
    service::{PROTO_UDP, SERVICE_UDP_FLOWS, Slot},
};
use weir_tests::{
    packet,
    prog_run::{Balancer, Seen, key4},
    vips::*,
};

const TO: &str = "198.51.100.10:5000";
const INDEX: u32 = 300;
/// Where a chain's index and count stand behind IPv4, UDP and GUE.
const CHAIN_INDEX_AT: usize = 14 + 20 + 8 + 4 + 1;

fn owned_by(slot: Slot) -> Balancer {
    let mut balancer = balancer();
    balancer.service(INDEX, key4(VIP, PROTO_UDP, 5000), slot).expect("service");
    balancer.service_flags(INDEX, SERVICE_UDP_FLOWS).expect("flags");
    balancer
}

fn datagram(client: u16) -> Vec<u8> {
    packet::udp(&format!("203.0.113.7:{client}"), TO, b"move left")
}

/// As a first hop gets it from a balancer: with `second` behind it.
fn chained(client: u16, second: &str) -> Vec<u8> {
    packet::gue(&datagram(client), ip("10.1.2.2"), own(), 50_000, Some(ip(second)))
}

/// As a second hop gets it from the first, who would have it back.
fn asked(client: u16, first: &str) -> Vec<u8> {
    let mut packet = chained(client, first);
    (packet[CHAIN_INDEX_AT], packet[CHAIN_INDEX_AT + 1]) = (2, 3);
    packet
}

fn tunnel(client: u16, to: &str, back: Option<&str>) -> Vec<u8> {
    let port = flow_port(&format!("203.0.113.7:{client}"), TO, PROTO_UDP);
    let mut packet = packet::turned(packet::gue(&datagram(client), own(), ip(to), port, back.map(ip)));
    if back.is_some() {
        (packet[CHAIN_INDEX_AT], packet[CHAIN_INDEX_AT + 1]) = (2, 3);
    }
    packet
}

fn run(balancer: &mut Balancer, packet: &[u8]) -> (Reason, Vec<u8>) {
    let Seen { reason, packet, .. } = balancer.run(packet).expect("run");
    (reason, packet)
}

#[test]
fn a_first_hop_keeps_the_udp_flows_it_knows_and_asks_the_second_for_others() {
    let mut balancer = owned_by(Slot { owner: 1, previous: 0 });
    assert_eq!(run(&mut balancer, &datagram(40_000)).0, Reason::DeliverLocal);
    assert_eq!(run(&mut balancer, &chained(40_000, "10.1.3.2")).0, Reason::DecapDeliver);
    let other = run(&mut balancer, &chained(40_001, "10.1.3.2"));
    assert_eq!(other, (Reason::DecapSecondHop, tunnel(40_001, "10.1.3.2", Some("10.1.1.2"))));
}

#[test]
fn a_second_hop_keeps_the_udp_flows_it_knows_and_gives_back_others() {
    let mut balancer = owned_by(Slot { owner: 1, previous: 0 });
    let plain = packet::gue(&datagram(40_000), ip("10.1.2.2"), own(), 50_000, None);
    assert_eq!(run(&mut balancer, &plain).0, Reason::DecapDeliver);
    assert_eq!(run(&mut balancer, &asked(40_000, "10.1.3.2")).0, Reason::DecapDeliver);
    let other = run(&mut balancer, &asked(40_001, "10.1.3.2"));
    assert_eq!(other, (Reason::DecapSecondHop, tunnel(40_001, "10.1.3.2", None)));
}

#[test]
fn a_new_udp_flow_that_came_back_is_at_home() {
    let mut balancer = owned_by(Slot { owner: 1, previous: 3 });
    let asked = run(&mut balancer, &datagram(40_002));
    assert_eq!(asked, (Reason::EncapSecondHop, tunnel(40_002, "10.1.3.2", Some("10.1.1.2"))));
    let back = packet::gue(&datagram(40_002), ip("10.1.3.2"), own(), 50_000, None);
    assert_eq!(run(&mut balancer, &back).0, Reason::DecapDeliver);
    assert_eq!(run(&mut balancer, &datagram(40_002)).0, Reason::DeliverLocal, "remembered");
}

#[test]
fn a_chain_of_unknown_length_is_refused() {
    let mut balancer = owned_by(Slot { owner: 1, previous: 0 });
    for (index, count) in [(0, 1), (1, 3), (2, 2), (3, 4)] {
        let mut packet = chained(40_000, "10.1.3.2");
        (packet[CHAIN_INDEX_AT], packet[CHAIN_INDEX_AT + 1]) = (index, count);
        assert_eq!(run(&mut balancer, &packet).0, Reason::DropGueMalformed, "{index} of {count}");
    }
}
