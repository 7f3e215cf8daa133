//! From what happened to what the kernel shall do with the packet: one door, one counter, one action.

use aya_ebpf::bindings::xdp_action;
use weir_abi::counters::{Fate, Reason};

use crate::maps;

/// Counts the packet and says what becomes of it; `transmit` is the action of a packet on its way.
#[inline(always)]
pub(crate) fn finish(reason: Reason, transmit: u32) -> u32 {
    maps::count_reason(reason);
    action(reason, transmit)
}

/// What becomes of a packet that is counted under `reason`.
#[inline(always)]
pub(crate) fn action(reason: Reason, transmit: u32) -> u32 {
    match reason.fate() {
        Fate::Passed => xdp_action::XDP_PASS,
        Fate::Sent => transmit,
        Fate::Returned => xdp_action::XDP_TX,
        Fate::Dropped => xdp_action::XDP_DROP,
    }
}
