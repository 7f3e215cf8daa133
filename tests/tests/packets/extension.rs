//! Packet tables: IPv6 extension headers.

use weir_abi::{counters::Reason, service::PROTO_TCP};
use weir_tests::{
    packet::{self, ACK, with_extensions},
    prog_run::Balancer,
    vips::*,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const VIP6: &str = "[2001:db8::10]:80";

fn run(balancer: &mut Balancer, extensions: &[(u8, Vec<u8>)]) -> (Vec<u8>, weir_tests::prog_run::Seen) {
    let sent = with_extensions(packet::tcp(CLIENT6, VIP6, ACK, b"data"), extensions);
    let seen = balancer.run(&sent).expect("run");
    (sent, seen)
}

/// Options that say nothing: `PadN` over `units` times eight bytes, less the two of the header itself.
fn padding(units: usize) -> Vec<u8> {
    let len = units * 8 - 2;
    [vec![1, (len - 2) as u8], vec![0; len - 2]].concat()
}

/// A routing header whose segments are all visited, or not.
fn routing(left: u8) -> Vec<u8> {
    vec![4, left, 0, 0, 0, 0]
}

#[test]
fn extension_headers_do_not_hide_the_ports() {
    let mut balancer = balancer();
    let port = flow_port(CLIENT6, VIP6, PROTO_TCP);
    let cases: [&[(u8, Vec<u8>)]; 6] = [
        &[(HOP_BY_HOP, padding(1))],
        &[(DESTINATION, padding(3))],
        &[(ROUTING, routing(0))],
        &[
            (HOP_BY_HOP, padding(1)),
            (DESTINATION, padding(1)),
            (ROUTING, routing(0)),
            (DESTINATION, padding(1)),
        ],
        &[(DESTINATION, padding(24))],
        &[(HOP_BY_HOP, padding(12)), (DESTINATION, padding(12))],
    ];
    for extensions in cases {
        let (sent, seen) = run(&mut balancer, extensions);
        assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::Encap), "{extensions:?}");
        let wanted = packet::gue(&sent, own(), ip("10.1.2.2"), port, Some(ip("10.1.3.2")));
        assert_eq!(seen.packet, packet::turned(wanted));
    }
    // An error about the flow may have them too.
    let answer = packet::tcp(VIP6, CLIENT6, ACK, b"answer");
    let error = packet::icmp(ip("2001:db8:ffff::1"), ip("2001:db8::10"), 2, 0, [0, 0, 5, 0], &answer[14..]);
    let seen = balancer.run(&with_extensions(error, &[(HOP_BY_HOP, padding(1))])).expect("run");
    assert_eq!(seen.reason, Reason::EncapIcmp);
}

#[test]
fn too_many_extension_headers_are_counted_drops() {
    let mut balancer = balancer();
    let five = vec![(DESTINATION, padding(1)); 5];
    let long = vec![(DESTINATION, padding(25))];
    let long_together = vec![(HOP_BY_HOP, padding(12)), (DESTINATION, padding(13))];
    let on_the_way = vec![(ROUTING, routing(1))];
    for extensions in [five, long, long_together, on_the_way] {
        let (_, seen) = run(&mut balancer, &extensions);
        assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropExtension), "{extensions:?}");
    }
    // Not our business when they are for nobody of ours.
    let other = packet::tcp(CLIENT6, "[2001:db8::99]:80", ACK, b"");
    let seen = balancer.run(&with_extensions(other, &vec![(DESTINATION, padding(1)); 5])).expect("run");
    assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::PassNotVip));
}

#[test]
fn extension_headers_cut_anywhere_are_counted_drops() {
    let mut balancer = balancer();
    let (whole, _) = run(&mut balancer, &[(HOP_BY_HOP, padding(2)), (DESTINATION, padding(1))]);
    for len in 14..whole.len() - 4 {
        let seen = balancer.run(&whole[..len]).expect("run");
        assert_eq!((seen.action, seen.reason), (XDP_DROP, Reason::DropMalformed), "cut at {len}");
    }
}
