//! Bytes → what kind of packet this is: a flow for a VIP, a tunnel that ends here, or the kernel's business.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    Address,
    counters::Reason,
    flow::Flow,
    gue::GUE_PORT,
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, Tcp, Udp},
    service::{PROTO_TCP, PROTO_UDP},
};

use crate::{Verdict, maps, packet};

/// Where the network header begins.
pub(crate) const L3_AT: usize = size_of::<Eth>();

/// The largest IPv4 header.
const IPV4_LEN_MAX: usize = 60;

/// What a packet is.
pub(crate) enum Class {
    /// For a service of ours.
    Flow(Parsed),
    /// A tunnel that ends at this host; its GUE header begins at `gue_at`.
    Tunnel { gue_at: usize },
}

/// A packet for a service of ours.
pub(crate) struct Parsed {
    /// Its 5-tuple.
    pub(crate) flow: Flow,
    /// Index into `SERVICES`.
    pub(crate) service: u32,
    /// Where TCP or UDP begins.
    pub(crate) l4_at: usize,
    /// Whether it is IPv4.
    pub(crate) is_v4: bool,
    /// Whether it opens a TCP connection.
    pub(crate) is_syn: bool,
}

/// Network header, as far as both families share it.
struct Network {
    source: Address,
    destination: Address,
    protocol: u8,
    hops_left: u8,
    l4_at: usize,
    is_v4: bool,
    is_fragment: bool,
}

/// Classifies a packet as it came in from the wire.
#[inline(always)]
pub(crate) fn classify(ctx: &XdpContext) -> Verdict<Class> {
    let network = network(ctx)?;
    if network.protocol == PROTO_UDP && !network.is_fragment && is_own(&network.destination, network.is_v4) {
        let udp: Udp = packet::read(ctx, network.l4_at)?;
        if udp.destination == GUE_PORT {
            return if maps::is_peer(&network.source) {
                Ok(Class::Tunnel { gue_at: network.l4_at + size_of::<Udp>() })
            } else {
                Err(Reason::DropGueUntrusted)
            };
        }
    }
    parse(ctx, network).map(Class::Flow)
}

/// The packet that begins behind the Ethernet header, if it is for a service of ours.
#[inline(always)]
pub(crate) fn inner(ctx: &XdpContext) -> Verdict<Parsed> {
    parse(ctx, network(ctx)?)
}

#[inline(always)]
fn network(ctx: &XdpContext) -> Verdict<Network> {
    let eth: Eth = packet::read(ctx, 0).map_err(|_| Reason::PassNotVip)?;
    match eth.ethertype {
        ETHERTYPE_IPV4 => {
            let ip: Ipv4 = packet::read(ctx, L3_AT)?;
            let header_len = ip.header_len();
            if ip.version_ihl >> 4 != 4 || header_len < size_of::<Ipv4>() {
                return Err(Reason::DropMalformed);
            }
            Ok(Network {
                source: Address::v4(ip.source),
                destination: Address::v4(ip.destination),
                protocol: ip.protocol,
                hops_left: ip.ttl,
                l4_at: L3_AT + (header_len & IPV4_LEN_MAX),
                is_v4: true,
                is_fragment: ip.is_fragment(),
            })
        }
        ETHERTYPE_IPV6 => {
            let ip: Ipv6 = packet::read(ctx, L3_AT)?;
            if ip.version_class_label[0] >> 4 != 6 {
                return Err(Reason::DropMalformed);
            }
            Ok(Network {
                source: Address::v6(ip.source),
                destination: Address::v6(ip.destination),
                protocol: ip.next_header,
                hops_left: ip.hop_limit,
                l4_at: L3_AT + size_of::<Ipv6>(),
                is_v4: false,
                is_fragment: false,
            })
        }
        _ => Err(Reason::PassNotVip),
    }
}

#[inline(always)]
fn parse(ctx: &XdpContext, network: Network) -> Verdict<Parsed> {
    let has_ports = (network.protocol == PROTO_TCP || network.protocol == PROTO_UDP) && !network.is_fragment;
    // TCP and UDP begin with the same two ports. Without ports, port 0 (which no service has) asks whether the address is
    // a VIP at all: what is none of our business must not be judged by rules that hold for VIPs.
    let ports: [[u8; 2]; 2] = if has_ports { packet::read(ctx, network.l4_at)? } else { [[0, 0]; 2] };
    let protocol = if has_ports { network.protocol } else { PROTO_TCP };
    let service = match maps::service_index(&network.destination, ports[1], protocol) {
        Err(Reason::PassNotVip) => return Err(Reason::PassNotVip),
        _ if network.is_fragment => return Err(Reason::DropFragment),
        _ if !has_ports && !network.is_v4 && is_extension(network.protocol) => {
            return Err(Reason::DropExtension);
        }
        _ if !has_ports => return Err(Reason::PassVipOther),
        found => found?,
    };
    if network.hops_left <= 1 {
        return Err(Reason::DropTtl);
    }
    let is_syn = if network.protocol == PROTO_TCP {
        packet::read::<Tcp>(ctx, network.l4_at)?.is_syn()
    } else {
        packet::read::<Udp>(ctx, network.l4_at)?;
        false
    };
    Ok(Parsed {
        flow: Flow {
            source: network.source,
            destination: network.destination,
            source_port: ports[0],
            destination_port: ports[1],
            protocol: network.protocol,
        },
        service,
        l4_at: network.l4_at,
        is_v4: network.is_v4,
        is_syn,
    })
}

/// Hop-by-hop, routing, fragment, destination options.
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 44 | 60)
}

/// Whether tunnels to `address` end at this host.
#[inline(always)]
fn is_own(address: &Address, is_v4: bool) -> bool {
    let Some(config) = maps::config() else { return false };
    if is_v4 {
        config.has_v4 != 0 && *address == Address::v4(config.address4)
    } else {
        config.has_v6 != 0 && *address == config.address6
    }
}
