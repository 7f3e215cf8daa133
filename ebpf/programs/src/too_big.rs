//! Telling a client that its packet is too big for the tunnel: ICMP fragmentation needed, ICMPv6 packet too big.
//!
//! Without it such packets vanish behind the balancer and connections hang (RFC 2923 §2.1). The VIP itself answers, since
//! it is the one the client speaks to. Bounded per CPU by a token bucket: what asks for more is dropped and counted only.

use aya_ebpf::{
    helpers::generated::{bpf_csum_diff, bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use weir_abi::{
    checksum,
    counters::Reason,
    gue,
    headers::{Eth, Icmp, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6},
    limits::{TOO_BIG_BURST, TOO_BIG_INTERVAL_NS},
};

use crate::{
    Verdict,
    classify::L3_AT,
    icmp::{TTL, is_answerable},
    maps, packet,
    work::{Kind, Work},
};

/// How much of the packet is told back: all headers looked behind, and far less than any MTU.
const QUOTE_LEN: usize = 256;
/// The ICMP message with it.
const MESSAGE_LEN: usize = size_of::<Icmp>() + QUOTE_LEN;
/// DSCP of internetwork control, as RFC 1812 §4.3.2.5 has errors sent.
const TOS: u8 = 0xc0;
/// RFC 791 §3.2: every link carries as much.
const V4_MTU_MIN: u32 = 68;
/// RFC 8200 §5: the same for IPv6.
const V6_MTU_MIN: u32 = 1280;

/// Turns the packet at hand into the message that says what would fit.
#[inline(never)]
pub(crate) fn tell(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = turn(ctx, work);
    work.settle(verdict)
}

#[inline(always)]
fn turn(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let parsed = &work.parsed;
    // RFC 1122 §3.2.2, RFC 4443 §2.4: no errors about errors, nor about any fragment but the first.
    if parsed.kind == Kind::Error || parsed.is_later {
        return Err(Reason::DropTooBig);
    }
    let route = &work.route;
    let fits = route.mtu.saturating_sub(gue::overhead(&route.first, &route.second));
    let is_v4 = parsed.is_v4;
    if !is_credible(fits, is_v4) {
        return Err(Reason::DropTooBig);
    }
    let eth: Eth = packet::read(ctx, 0)?;
    let eth = Eth { destination: eth.source, source: eth.destination, ..eth };
    // SAFETY: a local. Volatile, or the compiler would leave out checks of bounds that follow from this one, which the
    // verifier does not conclude.
    let len = unsafe { core::ptr::read_volatile(&packet::len(ctx)) };
    if len < L3_AT + QUOTE_LEN {
        return Err(Reason::DropTooBig);
    }
    let cut = len - (L3_AT + QUOTE_LEN);
    if is_v4 {
        let came: Ipv4 = packet::read(ctx, L3_AT)?;
        if !came.is_unfragmentable() || !is_answerable(&parsed.flow.source) || !has_budget() {
            return Err(Reason::DropTooBig);
        }
        make_room(ctx, cut, size_of::<Ipv4>())?;
        packet::write(ctx, 0, eth)?;
        put_v4::<MESSAGE_LEN>(ctx, came.destination, came.source, fits)
    } else {
        if !is_answerable(&parsed.flow.source) || !has_budget() {
            return Err(Reason::DropTooBig);
        }
        make_room(ctx, cut, size_of::<Ipv6>())?;
        packet::write(ctx, 0, eth)?;
        // The packet's own header stands behind the two new ones.
        let came: Ipv6 = packet::read(ctx, L3_AT + size_of::<Ipv6>() + size_of::<Icmp>())?;
        put_v6::<MESSAGE_LEN>(ctx, came.destination, came.source, fits)
    }
}

/// Whether `mtu` is what a link of the family may have: nobody sends less because he is told to.
#[inline(always)]
pub(crate) const fn is_credible(mtu: u32, is_v4: bool) -> bool {
    mtu >= if is_v4 { V4_MTU_MIN } else { V6_MTU_MIN }
}

/// Writes the IP and ICMP headers of a message of `LEN` bytes from ICMP on, whose quote is in its place.
#[inline(always)]
pub(crate) fn put_v4<const LEN: usize>(
    ctx: &XdpContext,
    source: [u8; 4],
    destination: [u8; 4],
    fits: u32,
) -> Verdict<()> {
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: TOS,
        total_len: ((size_of::<Ipv4>() + LEN) as u16).to_be_bytes(),
        id: [0, 0],
        fragment: [0x40, 0],
        ttl: TTL,
        protocol: PROTO_ICMP,
        checksum: [0, 0],
        source,
        destination,
    };
    ip.checksum = checksum::ipv4(&ip);
    packet::write(ctx, L3_AT, ip)?;
    let [_, _, high, low] = fits.to_be_bytes();
    let kind = [Icmp::UNREACHABLE, Icmp::FRAGMENTATION_NEEDED];
    message::<{ size_of::<Ipv4>() }, LEN>(ctx, kind, [0, 0, high, low], 0)
}

/// The same for IPv6.
#[inline(always)]
pub(crate) fn put_v6<const LEN: usize>(
    ctx: &XdpContext,
    source: [u8; 16],
    destination: [u8; 16],
    fits: u32,
) -> Verdict<()> {
    let ip = Ipv6 {
        version_class_label: [0x60 | TOS >> 4, TOS << 4, 0, 0],
        payload_len: (LEN as u16).to_be_bytes(),
        next_header: PROTO_ICMPV6,
        hop_limit: TTL,
        source,
        destination,
    };
    packet::write(ctx, L3_AT, ip)?;
    // RFC 8200 §8.1: both addresses, the length and the protocol count too.
    let addresses = sum::<32>(ctx, L3_AT + size_of::<Ipv6>() - 32, 0)?;
    let rest = (LEN as u32).to_be() as u64 + u32::from(PROTO_ICMPV6).to_be() as u64;
    let seed = u64::from(addresses) + rest;
    let seed = (seed & 0xffff_ffff) + (seed >> 32);
    let seed = ((seed & 0xffff_ffff) + (seed >> 32)) as u32;
    message::<{ size_of::<Ipv6>() }, LEN>(ctx, [Icmp::V6_TOO_BIG, 0], fits.to_be_bytes(), seed)
}

/// Cuts the packet's end off and makes room for an IP header of `l3_len` bytes and ICMP in front of it.
#[inline(always)]
fn make_room(ctx: &XdpContext, cut: usize, l3_len: usize) -> Verdict<()> {
    let room = (l3_len + size_of::<Icmp>()) as i32;
    // SAFETY: plain helper calls; every packet pointer is taken anew afterwards.
    let failed = unsafe {
        bpf_xdp_adjust_tail(ctx.ctx, -(cut as i32)) != 0 || bpf_xdp_adjust_head(ctx.ctx, -room) != 0
    };
    if failed { Err(Reason::DropHeadroom) } else { Ok(()) }
}

/// Writes the ICMP header behind an IP header of `L3_LEN` bytes, and the checksum of the whole message of `LEN`.
#[inline(always)]
fn message<const L3_LEN: usize, const LEN: usize>(
    ctx: &XdpContext,
    [kind, code]: [u8; 2],
    rest: [u8; 4],
    seed: u32,
) -> Verdict<()> {
    let at = L3_AT + L3_LEN;
    let mut icmp = Icmp { kind, code, checksum: [0, 0], rest };
    packet::write(ctx, at, icmp)?;
    let sum = sum::<LEN>(ctx, at, seed)?;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // Summed up as it lies in memory, so it goes back as it is.
    icmp.checksum = (!(sum as u16)).to_ne_bytes();
    packet::write(ctx, at, icmp)
}

/// The Internet checksum of `LEN` bytes of the packet, not folded, on top of `seed`.
#[inline(always)]
fn sum<const LEN: usize>(ctx: &XdpContext, at: usize, seed: u32) -> Verdict<u32> {
    let bytes = packet::pointer::<[u8; LEN]>(ctx, at)?;
    // SAFETY: `pointer` checked that the bytes lie in the packet; nothing is taken from the null pointer, as its length says.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast(), LEN as u32, seed) };
    u32::try_from(sum).map_err(|_| Reason::DropInternal)
}

/// Takes a token from this CPU's bucket, if there is one.
#[inline(always)]
pub(crate) fn has_budget() -> bool {
    let Some(bucket) = maps::too_big_bucket() else { return false };
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    let fresh = now.wrapping_sub(bucket.filled_ns) / TOO_BIG_INTERVAL_NS;
    if fresh >= TOO_BIG_BURST {
        (bucket.tokens, bucket.filled_ns) = (TOO_BIG_BURST, now);
    } else {
        bucket.tokens = (bucket.tokens + fresh).min(TOO_BIG_BURST);
        bucket.filled_ns += fresh * TOO_BIG_INTERVAL_NS;
    }
    if bucket.tokens == 0 {
        return false;
    }
    bucket.tokens -= 1;
    true
}
