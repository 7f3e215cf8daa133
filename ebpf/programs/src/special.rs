//! What comes for a VIP and is no whole TCP or UDP packet right behind its IP header: rare, and kept out of the way of
//! the others.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    headers::{PROTO_ICMP, PROTO_ICMPV6},
    service::{PROTO_TCP, PROTO_UDP, VipKey},
};

use crate::{Verdict, classify, extension, fragment, icmp, maps, work::Work};

/// Finds the service such a packet is for. A program of its own, with a stack of its own.
#[inline(never)]
pub(crate) fn service(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = judge(ctx, work);
    work.settle(verdict)
}

#[inline(always)]
fn judge(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    work.key = VipKey { address: work.parsed.flow.destination, port: [0, 0], protocol: 0, _pad: 0 };
    // What is none of our business must not be judged by rules that hold for VIPs.
    if !maps::is_vip(&mut work.key) {
        return Err(Reason::PassNotVip);
    }
    let parsed = &mut work.parsed;
    if !parsed.is_v4 && extension::is_one(parsed.flow.protocol) {
        extension::skip(ctx, parsed)?;
    }
    match parsed.flow.protocol {
        PROTO_TCP | PROTO_UDP if !parsed.is_fragment => classify::by_ports(ctx, work),
        PROTO_TCP => fragment::tcp(ctx, work),
        PROTO_UDP => fragment::udp(work),
        // The kernel puts together what it answers itself.
        _ if parsed.is_fragment => Err(Reason::PassVipOther),
        PROTO_ICMP if parsed.is_v4 => icmp::service(ctx, work),
        PROTO_ICMPV6 if !parsed.is_v4 => icmp::service(ctx, work),
        _ => Err(Reason::PassVipOther),
    }
}
