//! A tunnel that ends here: open it, and deliver the packet or send it to its second hop.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use weir_abi::{
    Address, checksum,
    counters::Reason,
    gue::{Chain, Gue, LEN_CHAIN4, LEN_CHAIN6, LEN_PLAIN, VARIANT_1_IPV4, VARIANT_1_IPV6},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, PROTO_IPIP, PROTO_IPV6},
    hop::{KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6},
    service::SERVICE_DIRECT,
};

use crate::{
    Verdict, chain, classify,
    classify::L3_AT,
    maps, packet,
    work::{Kind, Parsed, Route, Work},
};

/// Opens the tunnel that was parsed; what is inside takes its place. Returns what to count it under when it goes on to its
/// second hop, and nothing when it is for the balancer to send on.
#[inline(always)]
pub(crate) fn decap(ctx: &XdpContext, work: &mut Work) -> Verdict<Option<Reason>> {
    let outer_ecn = work.parsed.tos & ECN;
    strip(ctx, work)?;
    classify::classify(ctx, work).map_err(|reason| match reason {
        // Whoever may send us tunnels may not use them to reach the rest of this host.
        Reason::PassNotVip | Reason::PassNoService | Reason::PassVipOther => Reason::DropGueNotVip,
        other => other,
    })?;
    if matches!(work.parsed.kind, Kind::Echo | Kind::Own | Kind::Tunnel) {
        return Err(Reason::DropGueNotVip);
    }
    if outer_ecn == ECN_CE && work.parsed.tos & ECN != ECN_CE {
        congested(ctx, work)?;
    }
    if work.parsed.is_foreign && maps::service_flags(work.parsed.service) & SERVICE_DIRECT != 0 {
        // Another balancer's choice was this one. Peers choose a server, and never send such packets here.
        return Ok(None);
    }
    if chain::stays(ctx, work) {
        return Err(Reason::DecapDeliver);
    }
    work.route.hash = work.parsed.flow.hash();
    Ok(Some(Reason::DecapSecondHop))
}

/// Both bits of ECN.
const ECN: u8 = 3;
/// Congestion experienced.
const ECN_CE: u8 = 3;

/// Marks the packet as its tunnel was marked on the way (RFC 6040 §4.2).
#[inline(never)]
fn congested(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = mark(ctx, &mut work.parsed);
    work.settle(verdict)
}

#[inline(always)]
fn mark(ctx: &XdpContext, parsed: &mut Parsed) -> Verdict<()> {
    // RFC 6040 §4.2: "If the inner ECN field is Not-ECT … and the outer ECN field is CE, the decapsulator MUST drop the
    // packet." Our own tunnels carry the packet's ECN: this one is not ours.
    if parsed.tos & ECN == 0 {
        return Err(Reason::DropGueMalformed);
    }
    parsed.tos |= ECN_CE;
    if parsed.is_v4 {
        let mut ip: Ipv4 = packet::read(ctx, L3_AT)?;
        let from = [ip.version_ihl, ip.tos];
        ip.tos |= ECN_CE;
        ip.checksum = checksum::adjusted(ip.checksum, from, [ip.version_ihl, ip.tos]);
        packet::write(ctx, L3_AT, ip)
    } else {
        let mut class: [u8; 2] = packet::read(ctx, L3_AT)?;
        class[1] |= ECN_CE << 4;
        packet::write(ctx, L3_AT, class)
    }
}

/// Removes the outer headers, so that the inner packet stands behind an Ethernet header; the second hop becomes the route's first.
#[inline(always)]
fn strip(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    work.route.clear();
    let (protocol, inner_at) = if work.parsed.is_ipip {
        (work.parsed.flow.protocol, work.parsed.at())
    } else {
        look_inside(ctx, &work.parsed, &mut work.route)?
    };
    let ethertype = match protocol {
        PROTO_IPIP => ETHERTYPE_IPV4,
        PROTO_IPV6 => ETHERTYPE_IPV6,
        _ => return Err(Reason::DropGueMalformed),
    };
    let mut eth: Eth = packet::read(ctx, 0)?;
    eth.ethertype = ethertype;
    // SAFETY: a plain helper call; every packet pointer is taken anew afterwards.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, (inner_at - L3_AT) as i32) } != 0 {
        return Err(Reason::DropGueMalformed);
    }
    packet::write(ctx, 0, eth)
}

/// The protocol of what is behind a GUE header, and where it begins; fills in the second hop.
#[inline(always)]
fn look_inside(ctx: &XdpContext, parsed: &Parsed, route: &mut Route) -> Verdict<(u8, usize)> {
    let gue_at = parsed.at();
    let malformed = |_| Reason::DropGueMalformed;
    let gue: Gue = packet::read(ctx, gue_at).map_err(malformed)?;
    if parsed.is_foreign {
        // Whom strangers name as second hop is not whom this host sends packets to.
        return match gue.version_control_len >> 4 {
            VARIANT_1_IPV4 => Ok((PROTO_IPIP, gue_at)),
            VARIANT_1_IPV6 => Ok((PROTO_IPV6, gue_at)),
            _ if gue.version_control_len == LEN_PLAIN => Ok((gue.protocol, gue_at + size_of::<Gue>())),
            _ => Err(Reason::DropGueMalformed),
        };
    }
    let chain_at = gue_at + size_of::<Gue>();
    let address_at = chain_at + size_of::<Chain>();
    let Route { first: second, is_back, .. } = route;
    let inner_at = match gue.version_control_len {
        LEN_PLAIN => chain_at,
        LEN_CHAIN4 => {
            second.kind = chain_kind(ctx, chain_at, KIND_GUE4, KIND_IPIP4, is_back)?;
            second.address = Address::v4(packet::read(ctx, address_at).map_err(malformed)?);
            address_at + 4
        }
        LEN_CHAIN6 => {
            second.kind = chain_kind(ctx, chain_at, KIND_GUE6, KIND_IPIP6, is_back)?;
            second.address = Address::v6(packet::read(ctx, address_at).map_err(malformed)?);
            address_at + 16
        }
        _ => return Err(Reason::DropGueMalformed),
    };
    Ok((gue.protocol, inner_at))
}

#[inline(always)]
fn chain_kind(ctx: &XdpContext, at: usize, gue: u8, ipip: u8, is_back: &mut bool) -> Verdict<u8> {
    let chain: Chain = packet::read(ctx, at).map_err(|_| Reason::DropGueMalformed)?;
    *is_back = chain.index == 2;
    let is_whole = matches!((chain.index, chain.count), (1, 2) | (2, 3));
    if (chain.kind == gue || chain.kind == ipip) && is_whole {
        Ok(chain.kind)
    } else {
        Err(Reason::DropGueMalformed)
    }
}
