//! A tunnel that ends here: open it, and deliver the packet or send it to its second hop.

use aya_ebpf::{helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use weir_abi::{
    Address, checksum,
    counters::Reason,
    gue::{Chain, Gue, LEN_CHAIN4, LEN_CHAIN6, LEN_PLAIN},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, PROTO_IPIP, PROTO_IPV6},
    hop::{KIND_GUE4, KIND_GUE6, KIND_NONE},
};

use crate::{
    Verdict, chain, classify,
    classify::L3_AT,
    packet,
    work::{Kind, Parsed, Work},
};

/// Opens the tunnel whose GUE header begins at the `l4_at` of what was parsed; what is inside takes its place.
#[inline(always)]
pub(crate) fn decap(ctx: &XdpContext, work: &mut Work) -> Verdict<Reason> {
    let outer_ecn = work.parsed.tos & ECN;
    strip(ctx, work)?;
    classify::classify(ctx, work).map_err(|reason| match reason {
        // Whoever may send us tunnels may not use them to reach the rest of this host.
        Reason::PassNotVip | Reason::PassNoService | Reason::PassVipOther => Reason::DropGueNotVip,
        other => other,
    })?;
    if matches!(work.parsed.kind, Kind::Echo | Kind::Tunnel) {
        return Err(Reason::DropGueNotVip);
    }
    if outer_ecn == ECN_CE && work.parsed.tos & ECN != ECN_CE {
        congested(ctx, work)?;
    }
    if work.route.first.kind == KIND_NONE || chain::is_known(ctx, &work.parsed) {
        return Err(Reason::DecapDeliver);
    }
    work.route.hash = work.parsed.flow.hash();
    Ok(Reason::DecapSecondHop)
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
    let gue_at = work.parsed.at();
    work.route.clear();
    let second = &mut work.route.first;
    let malformed = |_| Reason::DropGueMalformed;
    let gue: Gue = packet::read(ctx, gue_at).map_err(malformed)?;
    let ethertype = match gue.protocol {
        PROTO_IPIP => ETHERTYPE_IPV4,
        PROTO_IPV6 => ETHERTYPE_IPV6,
        _ => return Err(Reason::DropGueMalformed),
    };
    let chain_at = gue_at + size_of::<Gue>();
    let address_at = chain_at + size_of::<Chain>();
    let inner_at = match gue.version_control_len {
        LEN_PLAIN => chain_at,
        LEN_CHAIN4 => {
            second.kind = chain_kind(ctx, chain_at, KIND_GUE4)?;
            second.address = Address::v4(packet::read(ctx, address_at).map_err(malformed)?);
            address_at + 4
        }
        LEN_CHAIN6 => {
            second.kind = chain_kind(ctx, chain_at, KIND_GUE6)?;
            second.address = Address::v6(packet::read(ctx, address_at).map_err(malformed)?);
            address_at + 16
        }
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

#[inline(always)]
fn chain_kind(ctx: &XdpContext, at: usize, expected: u8) -> Verdict<u8> {
    let chain: Chain = packet::read(ctx, at).map_err(|_| Reason::DropGueMalformed)?;
    if chain.kind == expected && chain.index == 1 && chain.count == 2 {
        Ok(expected)
    } else {
        Err(Reason::DropGueMalformed)
    }
}
