//! A packet for a VIP: which proxy gets it.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    hop::{Backend, KIND_LOCAL},
};

use crate::{
    chain,
    classify::Parsed,
    maps, packet,
    reason::{Outcome, Route},
};

/// Gives the packet to the owner of its slot: by tunnel, or to the kernel when the owner is this host.
#[inline(always)]
pub(crate) fn balance(ctx: &XdpContext, parsed: &Parsed) -> Outcome {
    let (slot, hash) = maps::slot(parsed.service, &parsed.flow)?;
    if slot.owner == 0 {
        return Err(Reason::DropNoBackend);
    }
    let owner = maps::backend(slot.owner)?;
    let previous = if slot.previous == 0 { None } else { Some(maps::backend(slot.previous)?) };
    maps::count_traffic(parsed.service, slot.owner, packet::len(ctx));
    let (first, second, reason) = if owner.kind != KIND_LOCAL {
        (*owner, previous.copied().unwrap_or_default(), Reason::Encap)
    } else {
        // This host is asked first, exactly as a remote owner would be: flows it does not know go to their previous owner.
        match previous {
            Some(previous) if !chain::is_known(ctx, parsed) => {
                (*previous, Backend::default(), Reason::EncapSecondHop)
            }
            _ => return Err(Reason::DeliverLocal),
        }
    };
    Ok(Route { first, second, hash, inner_is_v4: parsed.is_v4, reason })
}
