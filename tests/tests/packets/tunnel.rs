//! Packet tables: whose tunnels are opened, and of which kinds.

use std::net::IpAddr;

use weir_abi::{
    Address,
    counters::Reason,
    service::{PROTO_TCP, SERVICE_DIRECT},
    tunnel::{ACCEPT_GUE, ACCEPT_IPIP, TUNNELS_IPIP_OF_PEERS, TUNNELS_OF_OTHERS, TunnelSource},
};
use weir_tests::{
    packet::{self, ACK, SYN},
    prog_run::Balancer,
    vips::*,
};

const PEER: &str = "10.1.2.2";
const PEER6: &str = "fd00:1:4::2";
/// Balancers of somebody else: of one may come IPIP, of the other GUE, of the third both.
const IPIP: &str = "192.0.2.1";
const GUE: &str = "192.0.2.129";
const BOTH6: &str = "2001:db8:77::1";
const STRANGER: &str = "192.0.3.1";

fn open_to_others() -> Balancer {
    let mut balancer = balancer_with(0, TUNNELS_OF_OTHERS);
    let sources = [
        ("192.0.2.0", 96 + 24, ACCEPT_IPIP),
        ("192.0.2.128", 96 + 25, ACCEPT_GUE),
        ("2001:db8:77::", 48, ACCEPT_GUE | ACCEPT_IPIP),
    ];
    for (prefix, len_bits, kinds) in sources {
        let source = TunnelSource { len_bits, address: Address::from(ip(prefix)) };
        balancer.tunnel_source(source, kinds).expect("source");
    }
    balancer
}

fn inner(version: u8) -> Vec<u8> {
    match version {
        4 => packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"data"),
        _ => packet::tcp(CLIENT6, "[2001:db8::10]:80", ACK, b"data"),
    }
}

/// The address tunnels from `from` end at.
fn end(from: &str) -> IpAddr {
    if from.contains(':') { IpAddr::from(own6()) } else { own() }
}

#[test]
fn tunnels_of_others_are_opened_where_they_are_asked_for() {
    let mut balancer = open_to_others();
    // From, whether its GUE is opened, whether its IPIP is.
    let cases = [
        (IPIP, false, true),
        (GUE, true, false),
        (BOTH6, true, true),
        (STRANGER, false, false),
        (PEER, true, false),
        (PEER6, true, false),
    ];
    for (from, gue, ipip) in cases {
        let is_peer = [PEER, PEER6].contains(&from);
        for inner in [inner(4), inner(6)] {
            let expect = |balancer: &mut Balancer, tunnel: Vec<u8>, opened: bool, refused: (u32, Reason)| {
                let seen = balancer.run(&tunnel).expect("run");
                let wanted = if opened { (XDP_PASS, Reason::DecapDeliver) } else { refused };
                assert_eq!((seen.action, seen.reason), wanted, "{from}");
                assert_eq!(seen.packet, if opened { inner.clone() } else { tunnel }, "{from}");
            };
            let stranger = (XDP_DROP, Reason::DropGueUntrusted);
            let plain = packet::gue(&inner, ip(from), end(from), 50_000, None);
            expect(&mut balancer, plain, gue, stranger);
            let variant_1 = packet::gue_variant_1(&inner, ip(from), end(from), 50_000);
            let refused = if is_peer { (XDP_DROP, Reason::DropGueMalformed) } else { stranger };
            expect(&mut balancer, variant_1, gue && !is_peer, refused);
            // What is not opened is the kernel's: it may have an IPIP device of its own.
            let tunnel = packet::ipip(&inner, ip(from), end(from), 0);
            expect(&mut balancer, tunnel, ipip, (XDP_PASS, Reason::PassNotVip));
        }
    }
}

#[test]
fn nothing_of_others_is_opened_unless_asked_for() {
    let mut balancer = balancer();
    for from in [IPIP, GUE, BOTH6, PEER] {
        let tunnel = packet::ipip(&inner(4), ip(from), end(from), 0);
        assert_eq!(balancer.run(&tunnel).expect("run").reason, Reason::PassNotVip, "{from}");
        let tunnel = packet::gue_variant_1(&inner(4), ip(from), end(from), 50_000);
        let refused = if from == PEER { Reason::DropGueMalformed } else { Reason::DropGueUntrusted };
        assert_eq!(balancer.run(&tunnel).expect("run").reason, refused, "{from}");
    }
}

#[test]
fn peers_send_ipip_to_a_node_that_wants_it() {
    let mut balancer = balancer_with(0, TUNNELS_IPIP_OF_PEERS);
    for from in [PEER, PEER6] {
        for inner in [inner(4), inner(6)] {
            let seen = balancer.run(&packet::ipip(&inner, ip(from), end(from), 7)).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver), "{from}");
            assert_eq!(seen.packet, inner);
            let chained = packet::gue(&inner, ip(from), end(from), 50_000, Some(ip("10.1.3.2")));
            assert_eq!(balancer.run(&chained).expect("run").reason, Reason::DecapSecondHop, "{from}");
        }
    }
    let tunnel = packet::ipip(&inner(4), ip(STRANGER), own(), 0);
    assert_eq!(balancer.run(&tunnel).expect("run").reason, Reason::PassNotVip);
}

#[test]
fn a_tunnel_of_others_is_for_a_vip_and_names_no_second_hop() {
    let mut balancer = open_to_others();
    let other = packet::tcp(CLIENT, "198.51.100.99:80", ACK, b"");
    let closed = packet::tcp(CLIENT, "198.51.100.10:7", ACK, b"");
    let ping = packet::icmp(ip("203.0.113.7"), IpAddr::from(VIP), 8, 0, [0; 4], b"ping");
    let nested = packet::ipip(&inner(4), ip(IPIP), own(), 0);
    for inside in [&other, &closed, &ping, &nested] {
        for tunnel in [
            packet::ipip(inside, ip(IPIP), own(), 0),
            packet::gue(inside, ip(GUE), own(), 50_000, None),
            packet::gue_variant_1(inside, ip(GUE), own(), 50_000),
        ] {
            let seen = balancer.run(&tunnel).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropGueNotVip));
        }
    }
    for second in ["10.1.3.2", "fd00:1:4::2"] {
        let tunnel = packet::gue(&inner(4), ip(GUE), own(), 50_000, Some(ip(second)));
        assert_eq!(balancer.run(&tunnel).expect("run").reason, Reason::DropGueMalformed);
    }
    // Cut anywhere they are counted, and never sent.
    for whole in [packet::ipip(&inner(4), ip(IPIP), own(), 0), packet::ipip(&inner(6), ip(IPIP), own(), 0)] {
        for len in 34..whole.len() - 4 {
            let seen = balancer.run(&whole[..len]).expect("run");
            assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropMalformed), "cut at {len}");
        }
    }
}

#[test]
fn the_encapsulation_limit_linux_puts_before_ip6ip6_is_looked_behind() {
    let mut balancer = open_to_others();
    let inner = inner(6);
    let tunnel = packet::ipip(&inner, ip(BOTH6), end(BOTH6), 0);
    let limit = |rest: &[u8]| packet::with_extensions(tunnel.clone(), &[(60, rest.to_vec())]);
    let seen = balancer.run(&limit(&[4, 1, 4, 1, 1, 0])).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver));
    assert_eq!(seen.packet, inner);
    let long = [1, 12].iter().chain(&[0; 12]).copied().collect::<Vec<u8>>();
    assert_eq!(balancer.run(&limit(&long)).expect("run").reason, Reason::PassNotVip);
}

#[test]
fn congestion_met_by_a_tunnel_of_others_is_told_to_its_packet() {
    let mut balancer = open_to_others();
    let sent = packet::with_tos(inner(4), 2);
    let tunnel = packet::with_tos(packet::ipip(&sent, ip(IPIP), own(), 0), 3);
    let seen = balancer.run(&tunnel).expect("run");
    assert_eq!((seen.reason, packet::tos(&seen.packet)), (Reason::DecapDeliver, 3));
    assert_eq!(seen.packet, packet::with_tos(sent, 3));
}

#[test]
fn what_others_send_for_a_vip_straight_at_servers_is_balanced() {
    let mut balancer = open_to_others();
    balancer.service_flags(90, SERVICE_DIRECT).expect("flags");
    for flags in [SYN, ACK] {
        let inner = packet::tcp(CLIENT, "198.51.100.10:90", flags, b"");
        let seen = balancer.run(&packet::gue(&inner, ip(GUE), own(), 50_000, None)).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::Encap));
        let hash = flow_hash(CLIENT, "198.51.100.10:90", PROTO_TCP);
        let wanted = packet::ipip(&inner, own(), ip("10.1.5.2"), hash);
        assert_eq!(seen.packet, packet::turned(wanted));
        // A peer would have chosen a server.
        let seen = balancer.run(&packet::gue(&inner, ip(PEER), own(), 50_000, None)).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver));
    }
}
