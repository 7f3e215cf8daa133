//! The packets of a probe: what is asked, in its tunnel, and what comes back.

use std::net::{IpAddr, SocketAddr};

use weir_abi::{
    Address, Config,
    flow::Flow,
    headers::{Eth, Ipv4, Ipv6, Tcp},
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_LOCAL},
    service::PROTO_TCP,
    tunnel::TUNNELS_IPIP_OF_PEERS,
};

use crate::datapath::{Carried, Written, frame::Header, tunnel::Outer};

/// TTL and hop limit of what is inside the tunnel.
const HOPS_LEFT: u8 = 64;

/// A TCP segment without options or payload, from the IP header on; `None` when the families differ.
pub(super) fn segment(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    sequence: u32,
) -> Option<Vec<u8>> {
    let carried = Carried::Tcp(flags);
    let written = Written { source, destination, carried, payload_len: 0, hops_left: HOPS_LEFT, sequence };
    Some(written.frame()?.split_off(size_of::<Eth>()))
}

/// The packet in its tunnel to a host, as the balancer of this one would send it; the one of `KIND_LOCAL` ends here.
pub(super) fn tunnelled(
    config: &Config,
    to: &Backend,
    (source, destination): (SocketAddr, SocketAddr),
    inner: &[u8],
) -> Vec<u8> {
    let flow = Flow {
        source: Address::from(source.ip()),
        destination: Address::from(destination.ip()),
        source_port: source.port().to_be_bytes(),
        destination_port: destination.port().to_be_bytes(),
        protocol: PROTO_TCP,
    };
    let kind = match (to.kind, config.tunnels & TUNNELS_IPIP_OF_PEERS != 0, to.address.is_v4()) {
        (KIND_LOCAL, false, true) => KIND_GUE4,
        (KIND_LOCAL, false, false) => KIND_GUE6,
        (KIND_LOCAL, true, true) => KIND_IPIP4,
        (KIND_LOCAL, true, false) => KIND_IPIP6,
        (kind, ..) => kind,
    };
    let outer = Outer {
        config,
        first: Backend { kind, ..*to },
        second: None,
        is_back: false,
        hash: flow.hash(),
        tos: 0,
        is_around_v4: source.is_ipv4(),
    };
    [outer.headers(inner.len()).as_slice(), inner].concat()
}

/// What a TCP segment says that may answer a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) flags: u8,
    pub(super) acknowledgement: u32,
}

impl Answer {
    /// Reads an IP packet; `None` for everything but a TCP segment.
    pub(super) fn read(mut wire: &[u8]) -> Option<Self> {
        let version = wire.first()? >> 4;
        let (source, destination): (IpAddr, IpAddr) = match version {
            4 => {
                let ip = Ipv4::take(&mut wire)?;
                if ip.protocol != PROTO_TCP || ip.is_later_fragment() {
                    return None;
                }
                wire = wire.get(ip.header_len().checked_sub(size_of::<Ipv4>())?..)?;
                (ip.source.into(), ip.destination.into())
            }
            6 => {
                let ip = Ipv6::take(&mut wire)?;
                if ip.next_header != PROTO_TCP {
                    return None;
                }
                (ip.source.into(), ip.destination.into())
            }
            _ => return None,
        };
        let tcp = Tcp::take(&mut wire)?;
        Some(Self {
            source: SocketAddr::new(source, u16::from_be_bytes(tcp.source)),
            destination: SocketAddr::new(destination, u16::from_be_bytes(tcp.destination)),
            flags: tcp.flags,
            acknowledgement: u32::from_be_bytes(tcp.acknowledgement),
        })
    }
}
