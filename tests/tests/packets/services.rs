//! Which service a port of a VIP is: remembered from packet to packet, and never a packet longer than it is so.

use weir_abi::{
    counters::Reason,
    service::{PROTO_TCP, VipKey, VipRange, VipRanges},
};
use weir_core::plan::Op;
use weir_tests::{
    packet::{self, ACK},
    prog_run::{self, key4},
    vips::*,
};

#[test]
fn a_service_that_changes_or_goes_does_so_for_the_next_packet() {
    // Remembered per CPU: all packets must come to the same.
    prog_run::stay_on_one_cpu();
    let mut balancer = balancer();
    let port80 = key4(VIP, PROTO_TCP, 80);
    let all_tcp = VipKey { port: [0, 0], ..port80 };
    let mut ranges = VipRanges { count: 1, ..VipRanges::default() };
    ranges.ranges[0] = VipRange { first: 80, last: 80, service: 87 };
    let steps = [
        (None, Reason::Encap),
        // To the service of this host, away, into a range, out of it, to no VIP at all, and back.
        (Some(Op::PutVip(port80, 82)), Reason::DeliverLocal),
        (Some(Op::DeleteVip(port80)), Reason::PassNoService),
        (Some(Op::PutRanges(all_tcp, ranges)), Reason::DropNoBackend),
        (Some(Op::PutRanges(all_tcp, VipRanges::default())), Reason::PassNoService),
        (Some(Op::DeleteRanges(all_tcp)), Reason::PassNotVip),
        (Some(Op::PutVip(port80, 80)), Reason::Encap),
    ];
    for (step, wanted) in steps {
        let told = format!("{step:?}");
        if let Some(op) = step {
            balancer.apply(op).expect("apply");
        }
        for _ in 0..3 {
            let sent = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"");
            assert_eq!(balancer.run(&sent).expect("run").reason, wanted, "{told}");
        }
    }
}

/// As many as share one place of what is remembered, and more.
#[test]
fn services_that_share_a_place_are_told_apart() {
    prog_run::stay_on_one_cpu();
    let mut balancer = balancer();
    for _ in 0..2 {
        for port in 1_000..=2_000 {
            for (to, wanted) in [(VIP, Reason::Encap), ([198, 51, 100, 99], Reason::PassNotVip)] {
                let [a, b, c, d] = to;
                let sent = packet::tcp(CLIENT, &format!("{a}.{b}.{c}.{d}:{port}"), ACK, b"");
                assert_eq!(balancer.run(&sent).expect("run").reason, wanted, "{port}");
            }
            let other = packet::tcp(CLIENT, "198.51.100.10:82", ACK, b"");
            assert_eq!(balancer.run(&other).expect("run").reason, Reason::DeliverLocal, "after {port}");
        }
    }
}
