//! From what happened to what the kernel shall do with the packet: one door, one counter, one action.

use aya_ebpf::bindings::xdp_action;
use weir_abi::{counters::Reason, hop::Backend};

use crate::{Verdict, maps};

/// Where a packet goes when it stays in the fabric.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    /// The host it is tunnelled to.
    pub(crate) first: Backend,
    /// The host behind that one; of kind `KIND_NONE` when there is none.
    pub(crate) second: Backend,
    /// The flow's hash.
    pub(crate) hash: u32,
    /// Whether the packet itself is IPv4.
    pub(crate) inner_is_v4: bool,
    /// What to count it under when it is on its way.
    pub(crate) reason: Reason,
}

/// What becomes of a packet: sent through a tunnel, or (`Err`) ended here for a reason.
pub(crate) type Outcome = Verdict<Route>;

/// Counts the packet and says what becomes of it; `transmit` is the action of a packet on its way.
#[inline(always)]
pub(crate) fn finish(reason: Reason, transmit: u32) -> u32 {
    maps::count_reason(reason);
    match reason {
        Reason::PassNotVip
        | Reason::PassVipOther
        | Reason::PassNoService
        | Reason::DeliverLocal
        | Reason::DecapDeliver => xdp_action::XDP_PASS,
        Reason::Encap | Reason::EncapSecondHop | Reason::DecapSecondHop => transmit,
        Reason::DropMalformed
        | Reason::DropFragment
        | Reason::DropExtension
        | Reason::DropTtl
        | Reason::DropNoBackend
        | Reason::DropGueMalformed
        | Reason::DropGueUntrusted
        | Reason::DropGueNotVip
        | Reason::DropNoRoute
        | Reason::DropHeadroom
        | Reason::DropInternal => xdp_action::XDP_DROP,
    }
}
