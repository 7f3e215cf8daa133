//! Packet tables: DSCP and ECN through the tunnel (RFC 6040).

use weir_abi::{counters::Reason, service::PROTO_TCP};
use weir_tests::{
    packet::{self, ACK},
    vips::*,
};

/// Expedited forwarding.
const EF: u8 = 46 << 2;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

#[test]
fn a_tunnel_has_the_dscp_and_ecn_of_its_packet() {
    let mut balancer = balancer();
    let cases = [
        (CLIENT, "198.51.100.10:80", own(), "10.1.2.2", None),
        (CLIENT, "198.51.100.10:85", std::net::IpAddr::from(own6()), "fd00:1:4::2", None),
        (CLIENT6, "[2001:db8::10]:80", own(), "10.1.2.2", Some("10.1.3.2")),
    ];
    for (client, vip, from, first, second) in cases {
        for tos in (0..=255_u8).step_by(7) {
            let sent = packet::with_tos(packet::tcp(client, vip, ACK, b"data"), tos);
            let seen = balancer.run(&sent).expect("run");
            let port = flow_port(client, vip, PROTO_TCP);
            // `gue` takes them from the packet.
            let wanted = packet::gue(&sent, from, ip(first), port, second.map(ip));
            assert_eq!(seen.packet, packet::turned(wanted), "{vip}, {tos:#x}");
        }
    }
}

#[test]
fn congestion_met_by_a_tunnel_is_told_to_its_packet() {
    let mut balancer = balancer();
    for (client, vip) in [(CLIENT, "198.51.100.10:80"), (CLIENT6, "[2001:db8::10]:80")] {
        let inner = |ecn: u8| packet::with_tos(packet::tcp(client, vip, ACK, b"data"), EF | ecn);
        for (outer, from) in [(own(), "10.1.2.2"), (std::net::IpAddr::from(own6()), "fd00:1:4::2")] {
            let tunnel = |ecn, outer_ecn, second| {
                packet::with_tos(packet::gue(&inner(ecn), ip(from), outer, 50_000, second), outer_ecn)
            };
            for (ecn, outer_ecn, after) in [
                (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
                (NOT_ECT, CE, None),
                (ECT_0, NOT_ECT, Some(ECT_0)),
                (ECT_0, ECT_0, Some(ECT_0)),
                (ECT_0, CE, Some(CE)),
                (ECT_1, CE, Some(CE)),
                (CE, NOT_ECT, Some(CE)),
                (CE, CE, Some(CE)),
            ] {
                let seen = balancer.run(&tunnel(ecn, outer_ecn, None)).expect("run");
                let Some(after) = after else {
                    assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropGueMalformed));
                    continue;
                };
                assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DecapDeliver));
                assert_eq!(seen.packet, inner(after), "{ecn} in {outer_ecn}");

                // And on to the second hop.
                let seen = balancer.run(&tunnel(ecn, outer_ecn, Some(ip("10.1.3.2")))).expect("run");
                assert_eq!(seen.reason, Reason::DecapSecondHop);
                let port = flow_port(client, vip, PROTO_TCP);
                let wanted = packet::gue(&inner(after), own(), ip("10.1.3.2"), port, None);
                assert_eq!(seen.packet, packet::turned(wanted), "{ecn} in {outer_ecn}");
            }
        }
    }
}
