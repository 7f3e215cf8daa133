//! A packet for a VIP: which proxy gets it.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    guard::{SOURCE_BITS, Source, SourcePrefix},
    hop::KIND_LOCAL,
    service::{SERVICE_SOURCES, Slot},
};

use crate::{
    Verdict, chain, maps, packet, quic,
    work::{Kind, Work, copy},
};

/// Gives the packet to the owner of its slot: by tunnel, or to the kernel when the owner is this host. Sets the route of a
/// tunnel and returns what to count it under.
#[inline(always)]
pub(crate) fn balance(ctx: &XdpContext, work: &mut Work) -> Verdict<Reason> {
    let service = maps::service(work.parsed.service)?;
    let mut table = service.table;
    if service.flags & SERVICE_SOURCES != 0 {
        work.table = table;
        of_source(work);
        table = work.table;
    }
    let (slot, hash) = maps::slot(table, &work.parsed.flow)?;
    let slot = match quic::server(ctx, service, &work.parsed) {
        0 => slot,
        owner => Slot { owner, previous: 0 },
    };
    if slot.owner == 0 {
        return Err(Reason::DropNoBackend);
    }
    work.route.hash = hash;
    work.route.clear();
    let owner = maps::backend(slot.owner)?;
    maps::count_traffic(work.parsed.service, slot.owner, packet::len(ctx));
    if owner.kind != KIND_LOCAL {
        copy(owner, &mut work.route.first);
        if slot.previous != 0 {
            // A backend by IPIP has none: see `weir_core::image`.
            copy(maps::backend(slot.previous)?, &mut work.route.second);
        }
        return Ok(match work.parsed.kind {
            Kind::Error => Reason::EncapIcmp,
            _ if work.parsed.is_fragment => Reason::EncapFragment,
            _ => Reason::Encap,
        });
    }
    // This host is asked first, exactly as a remote owner would be: flows it does not know go to their previous owner.
    if slot.previous != 0 {
        copy(maps::backend(slot.previous)?, &mut work.route.first);
    }
    if chain::stays(ctx, work) { Err(Reason::DeliverLocal) } else { Ok(Reason::EncapSecondHop) }
}

/// Writes down the table of the source's own, where it has one. A program of its own for the stack's sake.
#[inline(never)]
fn of_source(work: &mut Work) {
    let source = Source::new(work.parsed.service + 1, work.parsed.flow.source);
    work.prefix = SourcePrefix { len_bits: SOURCE_BITS, source };
    if let Some(table) = maps::source_table(&work.prefix) {
        work.table = table;
    }
}
