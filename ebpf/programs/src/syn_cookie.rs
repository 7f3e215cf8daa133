//! SYN cookies: a SYN that would be delivered to this host is answered here, and nothing is remembered of it.
//!
//! The kernel makes the cookie (`bpf_tcp_gen_syncookie`, 5.3) for the very socket that would get the SYN, found as the kernel
//! finds it, and so takes the ACK that answers it. With `net.ipv4.tcp_syncookies = 1` it gives one exactly when it would send
//! cookies itself, that is when the socket's queue of half-open connections is full; until then SYNs are delivered. Here an
//! answer costs no socket buffer, no route lookup and no half-open connection.
//!
//! The newer `bpf_tcp_raw_gen_syncookie_ipv4` needs no socket, but also marks none: the kernel refuses the ACK unless it sent
//! cookies for that socket lately itself. And it is missing before 5.20.
//!
//! MSS is the only option of the answer. The kernel keeps window scale, SACK and timestamps of the client in the timestamp of
//! its own cookies, relative to an offset per peer that no program may know (`secure_tcp_ts_off`).

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_action,
    helpers::generated::{
        bpf_ktime_get_ns, bpf_redirect, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie,
        bpf_xdp_adjust_tail,
    },
    programs::XdpContext,
};
use weir_abi::{
    checksum,
    counters::Reason,
    guard::Guard,
    headers::{Eth, Ipv4, Ipv6, Tcp},
    limits::SYN_BURST_NS,
    rate,
    service::{PROTO_TCP, SERVICE_SYN_COOKIES},
};

use crate::{
    Verdict, chain,
    classify::L3_AT,
    icmp::TTL,
    maps, next_hop, packet,
    work::{Kind, Work},
};

/// TCP_LISTEN of the kernel's enum.
const TCP_LISTEN: u32 = 10;
/// Words of the largest TCP header.
const TCP_WORDS_MAX: usize = 15;
/// MSS, the only option of an answer, takes a word.
const ANSWER_LEN: usize = size_of::<Tcp>() + 4;
/// SYN and ACK.
const SYN_ACK: u8 = 0x12;
/// What a connection without window scale begins with, as Linux has it.
const WINDOW: u16 = 64_240;

/// A TCP header with all its options, and the cookie that answers it.
pub(crate) struct Syn {
    words: [[u16; 2]; TCP_WORDS_MAX],
    len_bytes: u32,
    cookie: u32,
}

/// What becomes of a SYN that is delivered for `reason`: that, or it is turned into its answer and sent back.
#[inline(always)]
pub(crate) fn deliver(ctx: &XdpContext, work: &mut Work, reason: Reason) -> Verdict<(Reason, u32)> {
    if work.parsed.kind != Kind::Syn
        || work.parsed.is_fragment
        || maps::service_flags(work.parsed.service) & SERVICE_SYN_COOKIES == 0
        || make(ctx, work).is_err()
    {
        return Err(reason);
    }
    let came_as: Eth = packet::read(ctx, 0)?;
    answer(ctx, work)?;
    let action = send(ctx, work, &came_as)?;
    Ok((Reason::SynCookie, action))
}

/// Makes a cookie, unless SYNs are few or the kernel wants none yet.
#[inline(never)]
fn make(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = cookie(ctx, work);
    work.settle(verdict)
}

/// Any error says: deliver it.
#[inline(always)]
fn cookie(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let guard = maps::guard(work.parsed.service)?;
    let [due, _] = maps::syn_rates(work.parsed.service)?;
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    if rate::admits(due, now, u64::from(guard.cookie_interval_ns), SYN_BURST_NS) {
        return Err(Reason::DeliverLocal);
    }
    copy(ctx, work)?;
    let (mut tuple, len) = chain::tuple(&work.parsed.flow, work.parsed.is_v4);
    // SAFETY: the tuple lives on the stack and is `len` bytes long.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.as_ptr(), &mut tuple, len, chain::CURRENT_NETNS, 0) };
    if socket.is_null() {
        return Err(Reason::DeliverLocal);
    }
    // SAFETY: not null, and held until the release below.
    let made = if unsafe { (*socket).state } == TCP_LISTEN { generate(ctx, work, socket.cast()) } else { -1 };
    // SAFETY: the reference taken by the lookup, released once on every path.
    unsafe { bpf_sk_release(socket.cast()) };
    if made < 0 {
        return Err(Reason::DeliverLocal);
    }
    work.syn.cookie = made as u32;
    Ok(())
}

/// The kernel's cookie in the low 32 bits, or a negative error: ENOENT when it wants none.
#[inline(always)]
fn generate(ctx: &XdpContext, work: &mut Work, socket: *mut core::ffi::c_void) -> i64 {
    let tcp = (&raw mut work.syn.words).cast();
    // Masked for the verifier: from 20 to 60 bytes.
    let len = work.syn.len_bytes & 0x3f;
    if len > size_of_val(&work.syn.words) as u32 || len < size_of::<Tcp>() as u32 {
        return -1;
    }
    // SAFETY: `pointer` checked the IP header, and the TCP header is a copy of the length given.
    unsafe {
        if work.parsed.is_v4 {
            let Ok(ip) = packet::pointer::<Ipv4>(ctx, L3_AT) else { return -1 };
            bpf_tcp_gen_syncookie(socket, ip.cast(), size_of::<Ipv4>() as u32, tcp, len)
        } else {
            let Ok(ip) = packet::pointer::<Ipv6>(ctx, L3_AT) else { return -1 };
            bpf_tcp_gen_syncookie(socket, ip.cast(), size_of::<Ipv6>() as u32, tcp, len)
        }
    }
}

/// Copies the TCP header to where its length may vary: the verifier knows no length of a packet.
#[inline(always)]
fn copy(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let at = work.parsed.at();
    let tcp: Tcp = packet::read(ctx, at)?;
    let words = usize::from(tcp.data_offset >> 4);
    if words < size_of::<Tcp>() / 4 {
        return Err(Reason::DropMalformed);
    }
    for (index, word) in work.syn.words.iter_mut().enumerate() {
        if index < words {
            *word = packet::read(ctx, at + index * 4)?;
        }
    }
    work.syn.len_bytes = (words * 4) as u32;
    Ok(())
}

/// Turns the SYN into a SYN-ACK with the cookie. The Ethernet header is as it was.
#[inline(never)]
fn answer(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = if work.parsed.is_v4 {
        write::<{ size_of::<Ipv4>() }>(ctx, work)
    } else {
        write::<{ size_of::<Ipv6>() }>(ctx, work)
    };
    work.settle(verdict)
}

#[inline(always)]
fn write<const L3_LEN: usize>(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let guard: &Guard = maps::guard(work.parsed.service)?;
    let flow = &work.parsed.flow;
    // Through memory, so that the compiler does not subtract pointers in 32 bits, which the verifier forbids.
    // SAFETY: a local that was just written.
    let len = unsafe { core::ptr::read_volatile(&packet::len(ctx)) };
    let more = (L3_AT + L3_LEN + ANSWER_LEN) as i32 - len as i32;
    // SAFETY: a plain helper call; every packet pointer is taken anew afterwards.
    if more != 0 && unsafe { bpf_xdp_adjust_tail(ctx.ctx, more) } != 0 {
        return Err(Reason::DropHeadroom);
    }
    let mss = if L3_LEN == size_of::<Ipv4>() {
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: ((L3_LEN + ANSWER_LEN) as u16).to_be_bytes(),
            id: [0, 0],
            fragment: [0x40, 0],
            ttl: TTL,
            protocol: PROTO_TCP,
            checksum: [0, 0],
            source: flow.destination.v4_octets(),
            destination: flow.source.v4_octets(),
        };
        ip.checksum = checksum::ipv4(&ip);
        packet::write(ctx, L3_AT, ip)?;
        guard.mss4
    } else {
        let ip = Ipv6 {
            version_class_label: [0x60, 0, 0, 0],
            payload_len: (ANSWER_LEN as u16).to_be_bytes(),
            next_header: PROTO_TCP,
            hop_limit: TTL,
            source: flow.destination.octets(),
            destination: flow.source.octets(),
        };
        packet::write(ctx, L3_AT, ip)?;
        guard.mss6
    };
    let syn = &work.syn;
    // The SYN itself takes a number; whatever it carries is sent again.
    let sequence =
        u32::from_be(u32::from(syn.words[1][0]).to_le() | u32::from(syn.words[1][1]).to_le() << 16);
    let tcp = Tcp {
        source: flow.destination_port,
        destination: flow.source_port,
        sequence: syn.cookie.to_be_bytes(),
        acknowledgement: sequence.wrapping_add(1).to_be_bytes(),
        data_offset: ((ANSWER_LEN / 4) << 4) as u8,
        flags: SYN_ACK,
        window: WINDOW.to_be_bytes(),
        checksum: [0, 0],
        urgent: [0, 0],
    };
    let at = L3_AT + L3_LEN;
    packet::write(ctx, at, tcp)?;
    // Option 2, four bytes (RFC 9293 §3.7.1).
    packet::write(ctx, at + size_of::<Tcp>(), [0x0204_u16.to_be(), mss.to_be()])?;
    let header: [u16; ANSWER_LEN / 2] = packet::read(ctx, at)?;
    let sum = checksum::tcp24(&header, &flow.source, &flow.destination);
    packet::write(ctx, at + core::mem::offset_of!(Tcp, checksum), sum)
}

/// Writes the Ethernet header towards the client and returns the action that sends it.
///
/// Back to the router the SYN came from; but what came by tunnel was sent by another balancer, which may stand in the same
/// network: there the routing table says who forwards to clients.
#[inline(always)]
fn send(ctx: &XdpContext, work: &mut Work, came_as: &Eth) -> Verdict<u32> {
    if work.by_tunnel && work.tags.count == 0 {
        let config = maps::config().ok_or(Reason::DropInternal)?;
        let way = next_hop::ask_for(ctx, &mut work.way, &work.parsed.flow.source, config);
        if way.verdict == next_hop::FORBIDDEN {
            return Err(Reason::DropNoRoute);
        }
        if let Some(way) = way.forward() {
            let eth = Eth { destination: way.destination, source: way.source, ethertype: came_as.ethertype };
            packet::write(ctx, 0, eth)?;
            let same = way.egress == ctx.ingress_ifindex() as u32;
            // SAFETY: a plain helper call.
            return Ok(if same { xdp_action::XDP_TX } else { unsafe { bpf_redirect(way.egress, 0) as u32 } });
        }
    }
    let eth = Eth { destination: came_as.source, source: came_as.destination, ethertype: came_as.ethertype };
    packet::write(ctx, 0, eth)?;
    Ok(xdp_action::XDP_TX)
}
