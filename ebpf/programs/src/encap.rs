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
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_LOCAL, KIND_NONE},
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

/// Puts the tunnel of `route` in front of the packet and finds its next hop; returns the action that sends it.
#[inline(always)]
pub(crate) fn encap(ctx: &XdpContext, work: &Work) -> Verdict<u32> {
    let route = &work.route;
    let config = maps::config().ok_or(Reason::DropInternal)?;
    let came_as: Eth = packet::read(ctx, 0)?;
    let is_v4 = match route.first.kind {
        KIND_GUE4 => true,
        KIND_GUE6 => false,
        // A local previous owner cannot stand behind a local owner; an empty slot is nobody.
        _ => return Err(Reason::DropNoBackend),
    };
    match (is_v4, route.second.kind) {
        (true, KIND_NONE) => put::<true, PLAIN_LEN>(ctx, work, config)?,
        (true, _) if has_v6_address(&route.second) => put::<true, CHAIN6_LEN>(ctx, work, config)?,
        (true, _) => put::<true, CHAIN4_LEN>(ctx, work, config)?,
        (false, KIND_NONE) => put::<false, PLAIN_LEN>(ctx, work, config)?,
        (false, _) if has_v6_address(&route.second) => put::<false, CHAIN6_LEN>(ctx, work, config)?,
        (false, _) => put::<false, CHAIN4_LEN>(ctx, work, config)?,
    }
    send(ctx, &came_as, work, config)
}

const V4_LEN: usize = size_of::<Ipv4>();
const V6_LEN: usize = size_of::<Ipv6>();
/// What follows the outer IP header: UDP and GUE,
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
    if config.mtu != 0 && inner_len + l3_len + REST > config.mtu as usize {
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
    let udp_len = (inner_len + REST) as u16;
    if IS_V4 {
        let mut ip = Ipv4 {
            version_ihl: 0x45,
            tos,
            total_len: (udp_len + V4_LEN as u16).to_be_bytes(),
            id: [0, 0],
            fragment: [0x40, 0], // don't fragment: a tunnel that does not fit is an MTU to mend
            ttl: OUTER_TTL,
            protocol: PROTO_UDP,
            checksum: [0, 0],
            source: config.address4,
            destination: to.v4_octets(),
        };
        ip.checksum = checksum::ipv4(&ip);
        packet::write(ctx, L3_AT, ip)?;
    } else {
        let ip = Ipv6 {
            version_class_label: [0x60 | tos >> 4, tos << 4, 0, 0],
            payload_len: udp_len.to_be_bytes(),
            next_header: PROTO_UDP,
            hop_limit: OUTER_TTL,
            source: config.address6.octets(),
            destination: to.octets(),
        };
        packet::write(ctx, L3_AT, ip)?;
    }
    let udp_at = L3_AT + l3_len;
    let udp = Udp {
        // The high bits of the flow hash spread tunnels over receive queues and paths, in the dynamic range.
        source: (0xc000 | (route.hash >> 18) as u16).to_be_bytes(),
        destination: GUE_PORT,
        len: udp_len.to_be_bytes(),
        checksum: [0, 0], // RFC 6935: zero is allowed for tunnels, over IPv6 too
    };
    packet::write(ctx, udp_at, udp)?;
    let (version_control_len, kind) = match REST {
        PLAIN_LEN => (LEN_PLAIN, KIND_NONE),
        CHAIN4_LEN => (LEN_CHAIN4, KIND_GUE4),
        _ => (LEN_CHAIN6, KIND_GUE6),
    };
    let protocol = if work.parsed.is_v4 { PROTO_IPIP } else { PROTO_IPV6 };
    let gue_at = udp_at + size_of::<Udp>();
    packet::write(ctx, gue_at, Gue { version_control_len, protocol, flags: [0, 0] })?;
    if kind == KIND_NONE {
        return Ok(());
    }
    let chain_at = gue_at + size_of::<Gue>();
    let address_at = chain_at + size_of::<Chain>();
    packet::write(ctx, chain_at, Chain { kind, index: 1, count: 2, _pad: 0 })?;
    if kind == KIND_GUE4 {
        packet::write(ctx, address_at, route.second.address.v4_octets())
    } else {
        packet::write(ctx, address_at, route.second.address.octets())
    }
}

/// Writes the Ethernet header towards the next hop of the tunnel and returns the action that sends it.
#[inline(always)]
fn send(ctx: &XdpContext, came_as: &Eth, work: &Work, config: &Config) -> Verdict<u32> {
    let to = &work.route.first;
    let way = next_hop::find(ctx, to, config)?;
    let ethertype = if to.kind == KIND_GUE4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let (eth, action) = match way.verdict {
        next_hop::FORBIDDEN => return Err(Reason::DropNoRoute),
        // The routing table knows nothing of tags: a tagged packet goes back, with its tags, to the router it came from.
        next_hop::FORWARD if work.tags.count == 0 => {
            let eth = Eth { destination: way.destination, source: way.source, ethertype };
            let same = way.egress == ctx.ingress_ifindex() as u32;
            // SAFETY: a plain helper call.
            (eth, if same { xdp_action::XDP_TX } else { unsafe { bpf_redirect(way.egress, 0) as u32 } })
        }
        _ => {
            (Eth { destination: came_as.source, source: came_as.destination, ethertype }, xdp_action::XDP_TX)
        }
    };
    packet::write(ctx, 0, eth)?;
    Ok(action)
}

/// Whether a hop's address is IPv6. A hop that is this host itself has its own tunnel address here.
#[inline(always)]
fn has_v6_address(hop: &Backend) -> bool {
    match hop.kind {
        KIND_GUE4 => false,
        KIND_LOCAL => !hop.address.is_v4(),
        _ => true,
    }
}
