//! Showing packets to whoever captures. Off, it costs a look at one value.
//!
//! Before it is treated a packet is shown if it may be one that is wanted, and when it is known what became of it, whether
//! it was. A ring that is full loses what does not fit; the kernel counts that.

use aya_ebpf::{
    btf_maps::{Array, PerfEventByteArray},
    helpers::generated::bpf_ktime_get_ns,
    macros::btf_map,
    programs::XdpContext,
};
use weir_abi::{
    Address,
    capture::{CAME, Capture, Captured, LEFT},
    counters::Reason,
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6},
};

use crate::{
    maps, packet, vlan,
    work::{Work, set_ends},
};

#[btf_map]
static CAPTURE: Array<Capture, 1> = Array::new();
#[btf_map]
static CAPTURE_EVENTS: PerfEventByteArray = PerfEventByteArray::new();

const L3_AT: usize = size_of::<Eth>();
const TAG_LEN: usize = 4;
const NOBODY: Address = Address([0; 4]);

/// Whether anything may be wanted.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    CAPTURE.get(0).is_some_and(|capture| capture.until_ns != 0)
}

/// Shows a packet as it came in.
#[inline(never)]
pub(crate) fn came(ctx: &XdpContext, work: &mut Work) {
    let Some(capture) = CAPTURE.get(0) else { return };
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    work.is_captured = u32::from(now < capture.until_ns);
    if work.is_captured == 0 {
        return;
    }
    work.turn = work.turn.wrapping_add(1);
    // What cannot be read has nobody's addresses, not those of the packet before.
    set_ends(&mut work.parsed.flow, NOBODY, NOBODY, 0);
    if capture.directions & CAME != 0 && may_be_wanted(ctx, capture) {
        show(ctx, work.turn, CAME, 0, capture.snap_len_bytes);
    }
}

/// Shows what became of it, if it is wanted.
#[inline(never)]
pub(crate) fn left(ctx: &XdpContext, work: &Work, reason: Reason) {
    let Some(capture) = CAPTURE.get(0) else { return };
    let flow = &work.parsed.flow;
    let is_wanted = capture.reasons >> (reason as u32 & 63) & 1 != 0
        && (capture.vip == NOBODY || capture.vip == flow.destination)
        && is_client(capture, &flow.source);
    if is_wanted {
        let room = if capture.directions & LEFT != 0 { capture.snap_len_bytes } else { 0 };
        show(ctx, work.turn, LEFT, reason as u32, room);
    }
}

#[inline(always)]
fn show(ctx: &XdpContext, turn: u32, direction: u32, reason: u32, room: u32) {
    // SAFETY: a local that was just written. Through memory, or the compiler would subtract pointers in 32 bits.
    let len_bytes = unsafe { core::ptr::read_volatile(&packet::len(ctx)) } as u32;
    let captured_bytes = if len_bytes < room { len_bytes } else { room };
    let event = Captured {
        // SAFETY: a plain helper call.
        at_ns: unsafe { bpf_ktime_get_ns() },
        turn,
        direction,
        reason,
        len_bytes,
        captured_bytes,
        ingress: ctx.ingress_ifindex() as u32,
    };
    // SAFETY: a local without padding.
    let bytes =
        unsafe { core::slice::from_raw_parts((&raw const event).cast::<u8>(), size_of::<Captured>()) };
    CAPTURE_EVENTS.output(ctx, bytes, captured_bytes);
}

/// Whether a client is one of those wanted.
#[inline(always)]
fn is_client(capture: &Capture, client: &Address) -> bool {
    let (wanted, mask) = (&capture.client.0, &capture.client_mask.0);
    (client.0[0] ^ wanted[0]) & mask[0] == 0
        && (client.0[1] ^ wanted[1]) & mask[1] == 0
        && (client.0[2] ^ wanted[2]) & mask[2] == 0
        && (client.0[3] ^ wanted[3]) & mask[3] == 0
}

/// Whether a packet as it came may be wanted: a tunnel's inside and what an ICMP error is about are seen later.
#[inline(always)]
fn may_be_wanted(ctx: &XdpContext, capture: &Capture) -> bool {
    if capture.vip == NOBODY && capture.client_mask == NOBODY {
        return true;
    }
    let Ok(eth) = packet::read::<Eth>(ctx, 0) else { return false };
    if !vlan::is_tag(eth.ethertype) {
        return has_ends::<L3_AT>(ctx, capture, eth.ethertype);
    }
    let Ok([_, one]) = packet::read::<[[u8; 2]; 2]>(ctx, L3_AT) else { return false };
    if !vlan::is_tag(one) {
        return has_ends::<{ L3_AT + TAG_LEN }>(ctx, capture, one);
    }
    let Ok([_, two]) = packet::read::<[[u8; 2]; 2]>(ctx, L3_AT + TAG_LEN) else { return false };
    has_ends::<{ L3_AT + 2 * TAG_LEN }>(ctx, capture, two)
}

#[inline(always)]
fn has_ends<const AT: usize>(ctx: &XdpContext, capture: &Capture, ethertype: [u8; 2]) -> bool {
    let Some(config) = maps::config() else { return false };
    let (source, destination, is_own, is_icmp) = match ethertype {
        ETHERTYPE_IPV4 => {
            let Ok(ip) = packet::read::<Ipv4>(ctx, AT) else { return false };
            let is_own = config.has_v4 != 0 && ip.destination == config.address4;
            (Address::v4(ip.source), Address::v4(ip.destination), is_own, ip.protocol == PROTO_ICMP)
        }
        ETHERTYPE_IPV6 => {
            let Ok(ip) = packet::read::<Ipv6>(ctx, AT) else { return false };
            let destination = Address::v6(ip.destination);
            let is_own = config.has_v6 != 0 && destination == config.address6;
            (Address::v6(ip.source), destination, is_own, ip.next_header == PROTO_ICMPV6)
        }
        _ => return false,
    };
    is_own
        || (capture.vip == NOBODY || capture.vip == destination) && (is_icmp || is_client(capture, &source))
}
