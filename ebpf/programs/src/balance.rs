//! A packet for a VIP: which proxy gets it.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    hop::{KIND_LOCAL, KIND_NONE},
};

use crate::{
    Verdict, chain, maps, packet,
    work::{Kind, Work, copy},
};

/// Gives the packet to the owner of its slot: by tunnel, or to the kernel when the owner is this host. Sets the route of a
/// tunnel and returns what to count it under.
#[inline(always)]
pub(crate) fn balance(ctx: &XdpContext, work: &mut Work) -> Verdict<Reason> {
    let (parsed, route) = (&work.parsed, &mut work.route);
    let (slot, hash) = maps::slot(parsed.service, &parsed.flow)?;
    if slot.owner == 0 {
        return Err(Reason::DropNoBackend);
    }
    route.hash = hash;
    let owner = maps::backend(slot.owner)?;
    let previous = if slot.previous == 0 { None } else { Some(maps::backend(slot.previous)?) };
    maps::count_traffic(parsed.service, slot.owner, packet::len(ctx));
    if owner.kind != KIND_LOCAL {
        copy(owner, &mut route.first);
        // IPIP has no room for it: see `weir_core::image`, which leaves such rows none.
        match previous {
            Some(previous) => copy(previous, &mut route.second),
            None => route.second.kind = KIND_NONE,
        }
        return Ok(match parsed.kind {
            Kind::Error => Reason::EncapIcmp,
            _ if parsed.is_fragment => Reason::EncapFragment,
            _ => Reason::Encap,
        });
    }
    // This host is asked first, exactly as a remote owner would be: flows it does not know go to their previous owner.
    match previous {
        Some(previous) if !chain::is_known(ctx, parsed) => {
            copy(previous, &mut route.first);
            route.second.kind = KIND_NONE;
            Ok(Reason::EncapSecondHop)
        }
        _ => Err(Reason::DeliverLocal),
    }
}
