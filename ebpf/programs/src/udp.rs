//! UDP flows that stay where they are when their slot changes.
//!
//! No packet says that it opens a flow, and no socket knows its flows, so each host remembers those it was given. Of a slot
//! that changes, a flow is where it is remembered: asked first is the owner, then the second hop, and what neither knows is
//! new and goes back to the owner. Only the first packets of flows that open during a change take the way round.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use weir_abi::{
    hop::{KIND_GUE4, KIND_GUE6},
    limits::{UDP_FLOW_IDLE_NS, UDP_FLOW_STAMP_NS},
};

use crate::{
    maps,
    work::{Kind, Work},
};

/// Whether a packet of which this host is a hop stays here; else `route` says where it goes, and whether it may come back.
#[inline(never)]
pub(crate) fn stays(work: &mut Work) -> bool {
    let hash = work.parsed.flow.hash_wide();
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    if is_known(hash, now) {
        return true;
    }
    if !matches!(work.route.first.kind, KIND_GUE4 | KIND_GUE6) {
        // The last hop there is, or the next is reached by IPIP and could not give back what is new. An error opens no flow.
        if work.parsed.kind == Kind::Datagram {
            maps::remember_udp_flow(hash, now);
        }
        return true;
    }
    send_on(work);
    false
}

#[inline(always)]
fn is_known(hash: u64, now: u64) -> bool {
    let Some(last) = maps::udp_flow(hash) else { return false };
    // SAFETY: a value of the map, aligned; other CPUs write about the same time into it.
    let silent = now.saturating_sub(unsafe { last.read_volatile() });
    if silent > UDP_FLOW_IDLE_NS {
        return false;
    }
    if silent > UDP_FLOW_STAMP_NS {
        // SAFETY: as above.
        unsafe { last.write_volatile(now) };
    }
    true
}

/// To the second hop, with this host behind it; what came from a first hop goes back to it for good.
#[inline(always)]
fn send_on(work: &mut Work) {
    let route = &mut work.route;
    if route.is_back {
        route.is_back = false;
        return;
    }
    let Some(config) = maps::config() else { return };
    // In the family in which the second hop is reached, or it might not be able to answer.
    if route.first.kind == KIND_GUE4 {
        (route.second.kind, route.is_back) = (KIND_GUE4, true);
        route.second.address = weir_abi::Address::v4(config.address4);
    } else {
        let [a, b, c, d] = config.address6.0;
        (route.second.kind, route.is_back) = (KIND_GUE6, true);
        route.second.address = weir_abi::Address([a, b, c, d]);
    }
}
