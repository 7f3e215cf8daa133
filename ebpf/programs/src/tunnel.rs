//! Tunnels that end at this host: whose are opened. What is in them is [`crate::decap`]'s business.
//!
//! GUE of a peer always; IPIP of peers, and either of others, where the configuration says so.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    headers::{PROTO_ICMP, PROTO_ICMPV6, PROTO_IPIP, PROTO_IPV6, Udp},
    tunnel::{ACCEPT_GUE, ACCEPT_IPIP, TUNNELS_IPIP_OF_PEERS, TUNNELS_OF_OTHERS},
};

use crate::{
    Verdict,
    extension::DESTINATION_OPTIONS,
    maps, packet, tunnel_error,
    work::{Kind, Parsed, Work},
};

/// Admits a UDP datagram to this host's GUE port.
#[inline(always)]
pub(crate) fn admit_gue(parsed: &mut Parsed) -> Verdict<()> {
    parsed.is_foreign = !maps::is_peer(&parsed.flow.source);
    if parsed.is_foreign && !is_accepted(parsed, ACCEPT_GUE) {
        return Err(Reason::DropGueUntrusted);
    }
    parsed.l4_at += size_of::<Udp>() as u32;
    (parsed.is_ipip, parsed.kind) = (false, Kind::Tunnel);
    Ok(())
}

/// Judges what comes to this host's own address and is neither TCP nor UDP: a tunnel without UDP, or an error about one of
/// this host's. A program of its own, with a stack of its own.
#[inline(never)]
pub(crate) fn without_udp(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let parsed = &mut work.parsed;
    let icmp = if parsed.is_v4 { PROTO_ICMP } else { PROTO_ICMPV6 };
    let verdict = if parsed.flow.protocol == icmp {
        tunnel_error::note(ctx, work)
    } else if admit_ipip(ctx, parsed) {
        Ok(())
    } else {
        Err(Reason::PassNotVip)
    };
    work.settle(verdict)
}

/// Whether a packet is an IPIP tunnel that is opened here. Any other is not ours to judge: the kernel may know it.
#[inline(always)]
fn admit_ipip(ctx: &XdpContext, parsed: &mut Parsed) -> bool {
    let Some(config) = maps::config() else { return false };
    if config.tunnels == 0 {
        return false;
    }
    if !parsed.is_v4 && parsed.flow.protocol == DESTINATION_OPTIONS && !skip_limit(ctx, parsed) {
        return false;
    }
    if parsed.flow.protocol != PROTO_IPIP && parsed.flow.protocol != PROTO_IPV6 {
        return false;
    }
    parsed.is_foreign = !maps::is_peer(&parsed.flow.source);
    let accepted = if parsed.is_foreign {
        is_accepted(parsed, ACCEPT_IPIP)
    } else {
        config.tunnels & TUNNELS_IPIP_OF_PEERS != 0
    };
    (parsed.is_ipip, parsed.kind) = (true, Kind::Tunnel);
    accepted
}

/// Moves behind the one header of eight bytes in which RFC 2473 §4.1.1 has the tunnel encapsulation limit; Linux adds it
/// unless told not to.
#[inline(always)]
fn skip_limit(ctx: &XdpContext, parsed: &mut Parsed) -> bool {
    let Ok([next_header, len]) = packet::read::<[u8; 2]>(ctx, parsed.at()) else { return false };
    parsed.flow.protocol = next_header;
    parsed.l4_at += 8;
    len == 0
}

/// Whether a stranger's tunnel of a kind (an `ACCEPT_` bit) is opened.
#[inline(always)]
fn is_accepted(parsed: &Parsed, kind: u32) -> bool {
    let asked = maps::config().is_some_and(|config| config.tunnels & TUNNELS_OF_OTHERS != 0);
    asked && maps::accepted_from(&parsed.flow.source) & kind != 0
}
