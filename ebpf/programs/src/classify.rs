//! Bytes → what kind of packet this is: a flow for a VIP, a tunnel that ends here, or the kernel's business.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    Address,
    counters::Reason,
    gue::GUE_PORT,
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, Tcp, Udp},
    service::{PROTO_TCP, PROTO_UDP, VipKey},
};

use crate::{
    Verdict, maps, packet, services, special, tunnel,
    work::{Kind, Parsed, Work, set_ends},
};

/// Where the network header begins.
pub(crate) const L3_AT: usize = size_of::<Eth>();

/// Fills in `parsed`: once for a packet from the wire, once more for one out of a tunnel.
#[inline(never)]
pub(crate) fn classify(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = judge(ctx, work);
    work.settle(verdict)
}

#[inline(always)]
fn judge(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    network(ctx, work)?;
    let parsed = &mut work.parsed;
    let protocol = parsed.flow.protocol;
    if protocol != PROTO_TCP && !parsed.is_fragment && is_own(parsed) {
        if protocol != PROTO_UDP {
            parsed.kind = Kind::Own;
            return Ok(());
        }
        let udp: Udp = packet::read(ctx, parsed.at())?;
        if udp.destination == GUE_PORT {
            return tunnel::admit_gue(parsed);
        }
    }
    if !maps::may_be_vip(&parsed.flow.destination) {
        return Err(Reason::PassNotVip);
    }
    if (protocol != PROTO_TCP && protocol != PROTO_UDP) || parsed.is_fragment {
        return special::service(ctx, work);
    }
    by_ports(ctx, work)
}

/// Reads the network header.
#[inline(always)]
fn network(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let parsed = &mut work.parsed;
    let eth: Eth = packet::read(ctx, 0).map_err(|_| Reason::PassNotVip)?;
    match eth.ethertype {
        ETHERTYPE_IPV4 => {
            let ip: Ipv4 = packet::read(ctx, L3_AT)?;
            let header_len = ip.header_len();
            if ip.version_ihl >> 4 != 4 || header_len < size_of::<Ipv4>() {
                return Err(Reason::DropMalformed);
            }
            let ends = (Address::v4(ip.source), Address::v4(ip.destination));
            set_ends(&mut parsed.flow, ends.0, ends.1, ip.protocol);
            parsed.l4_at = (L3_AT + header_len) as u32;
            (parsed.is_v4, parsed.hops_left, parsed.tos) = (true, ip.ttl, ip.tos);
            (parsed.is_fragment, parsed.is_later) = (ip.is_fragment(), ip.is_later_fragment());
            parsed.fragment_id = u32::from(u16::from_ne_bytes(ip.id));
        }
        ETHERTYPE_IPV6 => {
            let ip: Ipv6 = packet::read(ctx, L3_AT)?;
            if ip.version_class_label[0] >> 4 != 6 {
                return Err(Reason::DropMalformed);
            }
            let ends = (Address::v6(ip.source), Address::v6(ip.destination));
            set_ends(&mut parsed.flow, ends.0, ends.1, ip.next_header);
            parsed.l4_at = (L3_AT + size_of::<Ipv6>()) as u32;
            (parsed.is_v4, parsed.hops_left, parsed.tos) = (false, ip.hop_limit, ip.tos());
            (parsed.is_fragment, parsed.is_later) = (false, false); // a header of its own says so
        }
        _ => return Err(Reason::PassNotVip),
    }
    Ok(())
}

/// Finds the service of a whole TCP or UDP packet.
#[inline(always)]
pub(crate) fn by_ports(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let parsed = &mut work.parsed;
    // TCP and UDP begin with the same two ports.
    let ports: [[u8; 2]; 2] = packet::read(ctx, parsed.at())?;
    (parsed.flow.source_port, parsed.flow.destination_port) = (ports[0], ports[1]);
    work.key = VipKey {
        address: parsed.flow.destination,
        port: parsed.flow.destination_port,
        protocol: parsed.flow.protocol,
        _pad: 0,
    };
    parsed.service = services::of(&mut work.key)?;
    if parsed.hops_left <= 1 {
        return Err(Reason::DropTtl);
    }
    parsed.kind = if parsed.flow.protocol == PROTO_TCP {
        let tcp: Tcp = packet::read(ctx, parsed.at())?;
        if tcp.is_syn() { Kind::Syn } else { Kind::Segment }
    } else {
        packet::read::<Udp>(ctx, parsed.at())?;
        Kind::Datagram
    };
    Ok(())
}

/// Whether tunnels to the packet's destination end at this host.
#[inline(always)]
fn is_own(parsed: &Parsed) -> bool {
    let Some(config) = maps::config() else { return false };
    let address = &parsed.flow.destination;
    if parsed.is_v4 {
        config.has_v4 != 0 && *address == Address::v4(config.address4)
    } else {
        config.has_v6 != 0 && *address == config.address6
    }
}
