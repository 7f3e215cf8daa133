//! From what happened to what the kernel shall do with the packet: one door, one counter, one action.

use aya_ebpf::bindings::xdp_action;
use weir_abi::counters::Reason;

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
    match reason {
        Reason::PassNotVip
        | Reason::PassVipOther
        | Reason::PassNoService
        | Reason::PassTunnelError
        | Reason::DeliverLocal
        | Reason::DecapDeliver => xdp_action::XDP_PASS,
        Reason::Encap
        | Reason::EncapIcmp
        | Reason::EncapFragment
        | Reason::EncapSecondHop
        | Reason::DecapSecondHop
        | Reason::SynCookie => transmit,
        // Back to the router it came from.
        Reason::IcmpEcho | Reason::IcmpTooBig | Reason::IcmpTunnelTooBig => xdp_action::XDP_TX,
        Reason::DropMalformed
        | Reason::DropFragment
        | Reason::DropExtension
        | Reason::DropTtl
        | Reason::DropTooBig
        | Reason::DropBlocked
        | Reason::DropSourceLimit
        | Reason::DropSynRate
        | Reason::DropNoBackend
        | Reason::DropGueMalformed
        | Reason::DropGueUntrusted
        | Reason::DropGueNotVip
        | Reason::DropNoRoute
        | Reason::DropHeadroom
        | Reason::DropInternal => xdp_action::XDP_DROP,
    }
}
