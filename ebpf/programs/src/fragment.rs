//! Fragments: all of a packet go to the same proxy, though only the first has ports.
//!
//! UDP: the ports do not count. Every fragment, the first too, goes by addresses and protocol alone (as in Maglev, §4.3:
//! 3-tuple), so neither order nor the balancer it comes to matters, and nothing is remembered. The price: a client's
//! fragmented datagrams may go to another proxy than its whole ones.
//!
//! TCP: a segment must reach the proxy that has the connection, so the ports count. The first fragment leaves them in a
//! bounded table, where the least recently used goes first; a fragment that comes before its first, or to a balancer the
//! first did not come to, is dropped and counted, and TCP sends again. (So it does when an identification comes again and the
//! fragment follows the first of long ago.) It is rare: TCP avoids fragments (RFC 1191).

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    fragment::{FirstFragment, FragmentKey},
    service::PROTO_UDP,
};

use crate::{
    Verdict, classify, maps,
    work::{Kind, Parsed, Work},
};

/// Finds the service of a UDP fragment.
#[inline(always)]
pub(crate) fn udp(work: &mut Work) -> Verdict<()> {
    (work.key.port, work.key.protocol) = ([0, 0], PROTO_UDP);
    work.parsed.service = maps::fragment_service(&work.key)?;
    work.parsed.kind = Kind::Fragment;
    if work.parsed.hops_left <= 1 { Err(Reason::DropTtl) } else { Ok(()) }
}

/// Finds the service of a TCP fragment.
#[inline(always)]
pub(crate) fn tcp(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let Parsed { flow, fragment_id, .. } = &work.parsed;
    work.fragment = FragmentKey { source: flow.source, destination: flow.destination, id: *fragment_id };
    if !work.parsed.is_later {
        classify::by_ports(ctx, work)?;
        let flow = &work.parsed.flow;
        let first = FirstFragment {
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            is_syn: u32::from(work.parsed.kind == Kind::Syn),
        };
        maps::remember_fragment(&work.fragment, &first);
        return Ok(());
    }
    let first = maps::first_fragment(&work.fragment).ok_or(Reason::DropFragment)?;
    let flow = &mut work.parsed.flow;
    (flow.source_port, flow.destination_port) = (first.source_port, first.destination_port);
    work.parsed.kind = if first.is_syn != 0 { Kind::Syn } else { Kind::Fragment };
    (work.key.port, work.key.protocol) = (flow.destination_port, flow.protocol);
    work.parsed.service = maps::service_of(&mut work.key)?;
    if work.parsed.hops_left <= 1 { Err(Reason::DropTtl) } else { Ok(()) }
}
