//! ICMP errors about tunnels of this host: a router between it and a tunnel's end could not send one on.
//!
//! What it says of the path's MTU is remembered for the end of the tunnel, so that clients are told by [`crate::too_big`] from
//! then on. And the client whose packet it was is told at once, where the router quoted enough of it: IPv4 routers need not
//! quote more than eight bytes of what follows the outer header (RFC 792), most do (RFC 1812 §4.3.2.3). Such errors can be
//! forged, as all can: nobody is believed less than the least MTU there is, nor for longer than the kernel would.

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use weir_abi::{
    Address,
    counters::Reason,
    gue::{GUE_PORT, Gue, overhead},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Icmp, Ipv4, Ipv6, PROTO_IPIP, PROTO_IPV6, Udp},
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6},
    limits::{PATH_MTU_LIFETIME_NS, PATH_MTU_MIN_V4},
    path::PathMtu,
    service::PROTO_UDP,
};

use crate::{
    Verdict,
    classify::L3_AT,
    icmp::is_answerable,
    maps, packet, too_big,
    work::{Kind, Parsed, Work, set_ends},
};

/// What is told back of a packet: its IP header, and eight bytes with the ports.
const QUOTE4_LEN: usize = size_of::<Ipv4>() + 8;
const QUOTE6_LEN: usize = size_of::<Ipv6>() + 8;
/// RFC 8200 §5.
const V6_MTU_MIN: u32 = 1280;

/// Judges an ICMP message to this host's own address.
#[inline(never)]
pub(crate) fn note(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = judge(ctx, work);
    work.settle(verdict)
}

#[inline(always)]
fn judge(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let icmp: Icmp = packet::read(ctx, work.parsed.at()).map_err(|_| Reason::PassNotVip)?;
    let quote_at = work.parsed.at() + size_of::<Icmp>();
    let [_, _, high, low] = icmp.rest;
    let (is_error, mtu) = if work.parsed.is_v4 {
        let is_error = matches!(icmp.kind, Icmp::UNREACHABLE | Icmp::TIME_EXCEEDED | Icmp::PARAMETER);
        let needs_less = icmp.kind == Icmp::UNREACHABLE && icmp.code == Icmp::FRAGMENTATION_NEEDED;
        let mtu = u32::from(u16::from_be_bytes([high, low])).max(PATH_MTU_MIN_V4);
        (is_error, if needs_less { mtu } else { 0 })
    } else {
        let mtu = u32::from_be_bytes(icmp.rest).max(V6_MTU_MIN);
        // RFC 4443 §2.1: errors have the first bit zero.
        (icmp.kind < 128, if icmp.kind == Icmp::V6_TOO_BIG { mtu } else { 0 })
    };
    if !is_error {
        return Err(Reason::PassNotVip);
    }
    let (protocol, inside_at) = outer(ctx, quote_at, &mut work.parsed).map_err(|_| Reason::PassNotVip)?;
    let is_ipip = protocol != PROTO_UDP;
    if !is_ipip {
        let udp: [u16; 2] = packet::read(ctx, inside_at).map_err(|_| Reason::PassNotVip)?;
        if udp[1].to_ne_bytes() != GUE_PORT {
            return Err(Reason::PassNotVip);
        }
    }
    if mtu == 0 {
        return Err(Reason::PassTunnelError);
    }
    // SAFETY: a plain helper call.
    let until_ns = unsafe { bpf_ktime_get_ns() } + PATH_MTU_LIFETIME_NS;
    maps::remember_path(&work.parsed.flow.destination, &PathMtu { mtu, _pad: 0, until_ns });
    let kind = match (work.parsed.is_v4, is_ipip) {
        (true, true) => KIND_IPIP4,
        (true, false) => KIND_GUE4,
        (false, true) => KIND_IPIP6,
        (false, false) => KIND_GUE6,
    };
    let (first, second) = (Backend { kind, ..Backend::default() }, Backend::default());
    // From here on `parsed` is about the packet in the tunnel: as far as it is quoted.
    let other = |_| Reason::PassTunnelError;
    let (protocol, inner_at) = if is_ipip {
        (protocol, inside_at)
    } else {
        let gue_at = inside_at + size_of::<Udp>();
        let gue: Gue = packet::read(ctx, gue_at).map_err(other)?;
        // The chains there are take 20 bytes at most.
        let chain_len = usize::from(gue.version_control_len & 7) * 4;
        (gue.protocol, gue_at + size_of::<Gue>() + chain_len)
    };
    let took = (inner_at - quote_at) as u32;
    let fits = mtu.saturating_sub(overhead(&first, &second).max(took));
    let parsed = &mut work.parsed;
    match protocol {
        PROTO_IPIP => inner4(ctx, inner_at, parsed).map_err(other)?,
        PROTO_IPV6 => inner6(ctx, inner_at, parsed).map_err(other)?,
        _ => return Err(Reason::PassTunnelError),
    }
    work.key.address = parsed.flow.destination;
    let is_ours = maps::is_vip(&mut work.key) && is_answerable(&parsed.flow.source);
    if !is_ours || !too_big::is_credible(fits, parsed.is_v4) || !too_big::has_budget() {
        return Err(Reason::PassTunnelError);
    }
    (parsed.l4_at, parsed.kind, work.route.mtu) = (inner_at as u32, Kind::TunnelTooBig, fits);
    Ok(())
}

/// The protocol of a quoted packet of this host, and where what it carries begins; takes its destination.
#[inline(always)]
fn outer(ctx: &XdpContext, at: usize, parsed: &mut Parsed) -> Verdict<(u8, usize)> {
    let own = parsed.flow.destination;
    let (protocol, end) = if parsed.is_v4 {
        let ip: [u16; 10] = packet::read(ctx, at)?;
        if ip[0].to_ne_bytes()[0] != 0x45 || word(ip[6], ip[7]) != own.0[3] {
            return Err(Reason::PassNotVip);
        }
        parsed.flow.destination.0[3] = word(ip[8], ip[9]);
        (ip[4].to_ne_bytes()[1], at + size_of::<Ipv4>())
    } else {
        let ip: Ipv6Halves = packet::read(ctx, at)?;
        if ip[0].to_ne_bytes()[0] >> 4 != 6 || v6::<4>(&ip) != own {
            return Err(Reason::PassNotVip);
        }
        parsed.flow.destination = v6::<12>(&ip);
        (ip[3].to_ne_bytes()[0], at + size_of::<Ipv6>())
    };
    match protocol {
        PROTO_UDP | PROTO_IPIP | PROTO_IPV6 => Ok((protocol, end)),
        _ => Err(Reason::PassNotVip),
    }
}

/// An IPv6 header in halves of words, since the compiler does not know where it stands; read whole, since the verifier takes
/// each place that is computed anew for another.
type Ipv6Halves = [u16; 20];

/// The address that begins with half `AT`.
#[inline(always)]
fn v6<const AT: usize>(ip: &[u16]) -> Address {
    Address([
        word(ip[AT], ip[AT + 1]),
        word(ip[AT + 2], ip[AT + 3]),
        word(ip[AT + 4], ip[AT + 5]),
        word(ip[AT + 6], ip[AT + 7]),
    ])
}

/// A word as it lies in memory.
#[inline(always)]
const fn word(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Takes the ends of a quoted IPv4 packet that its sender wants to hear about.
#[inline(always)]
fn inner4(ctx: &XdpContext, at: usize, parsed: &mut Parsed) -> Verdict<()> {
    let quote: [u16; QUOTE4_LEN / 2] = packet::read(ctx, at)?;
    let is_unfragmentable = quote[3].to_ne_bytes()[0] & 0x40 != 0;
    // RFC 1122 §3.2.2: nobody is told about a fragment but the first, nor about an error.
    let is_first = u16::from_be(quote[3]) & 0x1fff == 0;
    let [_, protocol] = quote[4].to_ne_bytes();
    if quote[0].to_ne_bytes()[0] != 0x45 || !is_unfragmentable || !is_first || !is_transport(protocol) {
        return Err(Reason::PassTunnelError);
    }
    let (source, destination) = (word(quote[6], quote[7]), word(quote[8], quote[9]));
    let (source, destination) = (Address::v4(source.to_ne_bytes()), Address::v4(destination.to_ne_bytes()));
    set_ends(&mut parsed.flow, source, destination, protocol);
    parsed.is_v4 = true;
    Ok(())
}

/// The same for IPv6.
#[inline(always)]
fn inner6(ctx: &XdpContext, at: usize, parsed: &mut Parsed) -> Verdict<()> {
    let quote: [u16; QUOTE6_LEN / 2] = packet::read(ctx, at)?;
    let [protocol, _] = quote[3].to_ne_bytes();
    if quote[0].to_ne_bytes()[0] >> 4 != 6 || !is_transport(protocol) {
        return Err(Reason::PassTunnelError);
    }
    set_ends(&mut parsed.flow, v6::<4>(&quote), v6::<12>(&quote), protocol);
    parsed.is_v4 = false;
    Ok(())
}

#[inline(always)]
const fn is_transport(protocol: u8) -> bool {
    protocol == weir_abi::service::PROTO_TCP || protocol == PROTO_UDP
}

/// Turns the error about the tunnel into one about the packet in it, from its VIP to its client.
#[inline(never)]
pub(crate) fn tell(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = turn(ctx, work);
    work.settle(verdict)
}

#[inline(always)]
fn turn(ctx: &XdpContext, work: &Work) -> Verdict<()> {
    let (parsed, fits) = (&work.parsed, work.route.mtu);
    let eth: Eth = packet::read(ctx, 0)?;
    let ethertype = if parsed.is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let eth = Eth { destination: eth.source, source: eth.destination, ethertype };
    let (headers_len, quote_len) = if parsed.is_v4 {
        (L3_AT + size_of::<Ipv4>() + size_of::<Icmp>(), QUOTE4_LEN)
    } else {
        (L3_AT + size_of::<Ipv6>() + size_of::<Icmp>(), QUOTE6_LEN)
    };
    let (begin, end) = (parsed.at(), parsed.at() + quote_len);
    // SAFETY: a local. Volatile, so that the compiler does not subtract pointers in 32 bits, which the verifier forbids.
    let len = unsafe { core::ptr::read_volatile(&packet::len(ctx)) };
    if len < end || begin < headers_len {
        return Err(Reason::PassTunnelError);
    }
    // SAFETY: plain helper calls; every packet pointer is taken anew afterwards.
    let failed = unsafe {
        bpf_xdp_adjust_tail(ctx.ctx, -((len - end) as i32)) != 0
            || bpf_xdp_adjust_head(ctx.ctx, (begin - headers_len) as i32) != 0
    };
    if failed {
        return Err(Reason::DropHeadroom);
    }
    packet::write(ctx, 0, eth)?;
    let (vip, client) = (&parsed.flow.destination, &parsed.flow.source);
    if parsed.is_v4 {
        const LEN: usize = size_of::<Icmp>() + QUOTE4_LEN;
        too_big::put_v4::<LEN>(ctx, vip.v4_octets(), client.v4_octets(), fits)
    } else {
        const LEN: usize = size_of::<Icmp>() + QUOTE6_LEN;
        too_big::put_v6::<LEN>(ctx, vip.octets(), client.octets(), fits)
    }
}
