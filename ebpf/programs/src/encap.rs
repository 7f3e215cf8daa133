//! Putting a tunnel in front of a packet and sending it on its way.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use weir_abi::{
    Config, checksum,
    counters::Reason,
    gue::{Chain, GUE_PORT, Gue, LEN_CHAIN4, LEN_CHAIN6, LEN_PLAIN},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, PROTO_IPIP, PROTO_IPV6, Udp},
    hop::{KIND_GUE4, KIND_GUE6, KIND_LOCAL, KIND_NONE},
    service::PROTO_UDP,
};

use crate::{
    Verdict,
    classify::L3_AT,
    maps, next_hop, packet,
    work::{Route, Work},
};

/// TTL of the outer header: a tunnel crosses the fabric, not the Internet.
const OUTER_TTL: u8 = 64;

/// Puts the tunnel of the route in front of the packet and finds its next hop; returns the action that sends it.
#[inline(always)]
pub(crate) fn encap(ctx: &XdpContext, work: &mut Work) -> Verdict<u32> {
    let config = maps::config().ok_or(Reason::DropInternal)?;
    let came_as: Eth = packet::read(ctx, 0)?;
    if matches!(work.route.first.kind, KIND_NONE | KIND_LOCAL) {
        // A local previous owner cannot stand behind a local owner; an empty slot is nobody.
        return Err(Reason::DropNoBackend);
    }
    let way = next_hop::find(ctx, &work.route.first, config)?;
    if way.verdict == next_hop::FORBIDDEN {
        return Err(Reason::DropNoRoute);
    }
    // The routing table knows nothing of tags: a tagged packet goes back, with its tags, to the router it came from.
    let (way, mtu) =
        if work.tags.count == 0 { (way.forward(), way.mtu) } else { (None, way.mtu.min(config.mtu)) };
    work.route.mtu = if config.mtu == 0 { 0 } else { mtu };
    let Route { first, second, .. } = &work.route;
    match (first.is_over_v4(), second.kind) {
        (true, _) if first.is_ipip() => put::<true, IPIP_LEN>(ctx, work, config)?,
        (false, _) if first.is_ipip() => put::<false, IPIP_LEN>(ctx, work, config)?,
        (true, KIND_NONE) => put::<true, PLAIN_LEN>(ctx, work, config)?,
        (true, _) if !second.address.is_v4() => put::<true, CHAIN6_LEN>(ctx, work, config)?,
        (true, _) => put::<true, CHAIN4_LEN>(ctx, work, config)?,
        (false, KIND_NONE) => put::<false, PLAIN_LEN>(ctx, work, config)?,
        (false, _) if !second.address.is_v4() => put::<false, CHAIN6_LEN>(ctx, work, config)?,
        (false, _) => put::<false, CHAIN4_LEN>(ctx, work, config)?,
    }
    let ethertype = if first.is_over_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let (eth, action) = match way {
        Some(way) => {
            let eth = Eth { destination: way.destination, source: way.source, ethertype };
            let same = way.egress == ctx.ingress_ifindex() as u32;
            // SAFETY: a plain helper call.
            (eth, if same { xdp_action::XDP_TX } else { unsafe { bpf_redirect(way.egress, 0) as u32 } })
        }
        None => {
            (Eth { destination: came_as.source, source: came_as.destination, ethertype }, xdp_action::XDP_TX)
        }
    };
    packet::write(ctx, 0, eth)?;
    Ok(action)
}

const V4_LEN: usize = size_of::<Ipv4>();
const V6_LEN: usize = size_of::<Ipv6>();
/// What follows the outer IP header: nothing,
const IPIP_LEN: usize = 0;
/// UDP and GUE,
const PLAIN_LEN: usize = size_of::<Udp>() + size_of::<Gue>();
/// the same with an IPv4 second hop,
const CHAIN4_LEN: usize = PLAIN_LEN + size_of::<Chain>() + 4;
/// or an IPv6 one.
const CHAIN6_LEN: usize = PLAIN_LEN + size_of::<Chain>() + 16;

/// Writes the outer headers, `REST` bytes behind the outer IP header: a function for each form keeps every access at a
/// constant offset, as the verifier likes it.
#[inline(always)]
fn put<const IS_V4: bool, const REST: usize>(ctx: &XdpContext, work: &Work, config: &Config) -> Verdict<()> {
    let route: &Route = &work.route;
    let l3_len = if IS_V4 { V4_LEN } else { V6_LEN };
    let inner_len = packet::len(ctx) - L3_AT;
    if route.mtu != 0 && inner_len + l3_len + REST > route.mtu as usize {
        return Err(Reason::DropTooBig);
    }
    // SAFETY: a plain helper call; every packet pointer is taken anew afterwards.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -((l3_len + REST) as i32)) } != 0 {
        return Err(Reason::DropHeadroom);
    }
    let to = &route.first.address;
    // RFC 6040 §4.1, normal mode: ECN is copied, and DSCP with it. Whoever marks the tunnel marks the packet.
    let tos = work.parsed.tos;
    // A frame is at most 64 KiB: the sums fit into 16 bits or the kernel could not have received it.
    let rest_len = (inner_len + REST) as u16;
    let inner_protocol = if work.parsed.is_v4 { PROTO_IPIP } else { PROTO_IPV6 };
    let protocol = if REST == IPIP_LEN { inner_protocol } else { PROTO_UDP };
    if IS_V4 {
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            tos,
            total_len: (rest_len + V4_LEN as u16).to_be_bytes(),
            id: [0, 0],
            fragment: [0x40, 0], // don't fragment: a tunnel that does not fit is an MTU to mend
            ttl: OUTER_TTL,
            protocol,
            checksum: [0, 0],
            source: config.address4,
            destination: to.v4_octets(),
        };
        ip.checksum = checksum::ipv4(&ip);
        packet::write(ctx, L3_AT, ip)?;
    } else {
        // RFC 6438 §4: without ports, the flow label spreads tunnels over paths and receive queues.
        let label = if REST == IPIP_LEN { (route.hash >> 12).to_be_bytes() } else { [0; 4] };
        let ip = Ipv6 {
            version_class_label: [0x60 | tos >> 4, tos << 4 | label[1], label[2], label[3]],
            payload_len: rest_len.to_be_bytes(),
            next_header: protocol,
            hop_limit: OUTER_TTL,
            source: config.address6.octets(),
            destination: to.octets(),
        };
        packet::write(ctx, L3_AT, ip)?;
    }
    if REST == IPIP_LEN {
        return Ok(());
    }
    let udp_at = L3_AT + l3_len;
    let udp = Udp {
        // The high bits of the flow hash spread tunnels over receive queues and paths, in the dynamic range.
        source: (0xc000 | (route.hash >> 18) as u16).to_be_bytes(),
        destination: GUE_PORT,
        len: rest_len.to_be_bytes(),
        checksum: [0, 0], // RFC 6935: zero is allowed for tunnels, over IPv6 too
    };
    packet::write(ctx, udp_at, udp)?;
    let version_control_len = match REST {
        PLAIN_LEN => LEN_PLAIN,
        CHAIN4_LEN => LEN_CHAIN4,
        _ => LEN_CHAIN6,
    };
    let gue_at = udp_at + size_of::<Udp>();
    packet::write(ctx, gue_at, Gue { version_control_len, protocol: inner_protocol, flags: [0, 0] })?;
    if REST == PLAIN_LEN {
        return Ok(());
    }
    let second = &route.second;
    let kind = match second.kind {
        // This host itself, at its own tunnel address.
        KIND_LOCAL if REST == CHAIN4_LEN => KIND_GUE4,
        KIND_LOCAL => KIND_GUE6,
        kind => kind,
    };
    let chain_at = gue_at + size_of::<Gue>();
    let address_at = chain_at + size_of::<Chain>();
    let index = 1 + u8::from(route.is_back);
    packet::write(ctx, chain_at, Chain { kind, index, count: index + 1, _pad: 0 })?;
    if REST == CHAIN4_LEN {
        packet::write(ctx, address_at, second.address.v4_octets())
    } else {
        packet::write(ctx, address_at, second.address.octets())
    }
}
