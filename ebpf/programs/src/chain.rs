//! The daisy chain: does this host know a flow, or shall it go to the second hop?
//!
//! A SYN is for the first hop. So is a flow with a socket of its own: `bpf_skc_lookup_tcp` finds request sockets and
//! TIME_WAIT too, but it runs the sk_lookup program and so finds the *listener* for everything that has none; a listener
//! only counts when the packet answers a SYN cookie it sent.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie},
    programs::XdpContext,
};
use weir_abi::{
    flow::Flow,
    headers::{Ipv4, Ipv6, Tcp},
    hop::KIND_NONE,
    service::{PROTO_TCP, PROTO_UDP, SERVICE_UDP_FLOWS},
};

use crate::{
    classify::L3_AT,
    maps, packet, udp,
    work::{Kind, Parsed, Work},
};

/// TCP_LISTEN of the kernel's enum.
const TCP_LISTEN: u32 = 10;
/// The namespace of the device the packet came in on.
pub(crate) const CURRENT_NETNS: u64 = u64::MAX;

/// Whether a packet of which this host is a hop stays here; else it goes to the hop in `route.first`.
#[inline(always)]
pub(crate) fn stays(ctx: &XdpContext, work: &mut Work) -> bool {
    let is_udp = work.parsed.flow.protocol == PROTO_UDP && work.parsed.kind != Kind::Fragment;
    if is_udp && maps::service_flags(work.parsed.service) & SERVICE_UDP_FLOWS != 0 {
        return udp::stays(work);
    }
    work.route.first.kind == KIND_NONE || is_known(ctx, &work.parsed)
}

/// Whether the flow is at home here. A program of its own for the stack's sake: each has 512 bytes, all together.
#[inline(never)]
fn is_known(ctx: &XdpContext, parsed: &Parsed) -> bool {
    if parsed.flow.protocol == PROTO_TCP {
        parsed.kind == Kind::Syn || has_tcp_socket(ctx, parsed)
    } else {
        // A UDP fragment says no port: it stays with the first hop, whatever the order.
        parsed.kind == Kind::Fragment || has_udp_socket(ctx, parsed)
    }
}

#[inline(always)]
fn has_tcp_socket(ctx: &XdpContext, parsed: &Parsed) -> bool {
    let (mut tuple, len) = tuple(&parsed.flow, parsed.is_v4);
    // SAFETY: the tuple lives on the stack and is `len` bytes long.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), &mut tuple, len, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null, and held until the release below.
    let state = unsafe { (*socket).state };
    let known = state != TCP_LISTEN || answers_cookie(ctx, parsed, socket.cast());
    // SAFETY: the reference taken by the lookup, released once on every path.
    unsafe { bpf_sk_release(socket.cast()) };
    known
}

#[inline(always)]
fn answers_cookie(ctx: &XdpContext, parsed: &Parsed, socket: *mut core::ffi::c_void) -> bool {
    if parsed.kind != Kind::Segment {
        return false; // an ICMP error or the middle of a segment answers nothing
    }
    let Ok(tcp) = packet::pointer::<Tcp>(ctx, parsed.at()) else { return false };
    let verdict = if parsed.is_v4 {
        let Ok(ip) = packet::pointer::<Ipv4>(ctx, L3_AT) else { return false };
        // SAFETY: `pointer` checked both headers.
        unsafe {
            bpf_tcp_check_syncookie(
                socket,
                ip.cast(),
                size_of::<Ipv4>() as u32,
                tcp.cast(),
                size_of::<Tcp>() as u32,
            )
        }
    } else {
        let Ok(ip) = packet::pointer::<Ipv6>(ctx, L3_AT) else { return false };
        // SAFETY: as above.
        unsafe {
            bpf_tcp_check_syncookie(
                socket,
                ip.cast(),
                size_of::<Ipv6>() as u32,
                tcp.cast(),
                size_of::<Tcp>() as u32,
            )
        }
    };
    verdict == 0
}

/// Where nobody remembers UDP flows, any socket that would take the datagram makes the flow known.
#[inline(always)]
fn has_udp_socket(ctx: &XdpContext, parsed: &Parsed) -> bool {
    let (mut tuple, len) = tuple(&parsed.flow, parsed.is_v4);
    // SAFETY: the tuple lives on the stack and is `len` bytes long.
    let socket = unsafe { bpf_sk_lookup_udp(ctx.as_ptr(), &mut tuple, len, CURRENT_NETNS, 0) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the reference taken by the lookup.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

/// The kernel's form of a 5-tuple, and how much of it counts.
#[inline(always)]
pub(crate) fn tuple(flow: &Flow, is_v4: bool) -> (bpf_sock_tuple, u32) {
    // SAFETY: a union of integers; all bits zero is a value.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (sport, dport) = (u16::from_ne_bytes(flow.source_port), u16::from_ne_bytes(flow.destination_port));
    if is_v4 {
        tuple.__bindgen_anon_1.ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: flow.source.0[3],
            daddr: flow.destination.0[3],
            sport,
            dport,
        };
        (tuple, size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1>() as u32)
    } else {
        tuple.__bindgen_anon_1.ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: flow.source.0,
            daddr: flow.destination.0,
            sport,
            dport,
        };
        (tuple, size_of::<bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2>() as u32)
    }
}
