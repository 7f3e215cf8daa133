//! Packets that an operator describes in a few words, whole and with right checksums.

use std::net::{IpAddr, SocketAddr};

use weir_abi::{
    checksum,
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Icmp, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6, Tcp, Udp},
    service::{PROTO_TCP, PROTO_UDP},
};

use super::frame::{Header, folded, sum};

/// MAC addresses of a router and of the balancer behind it: of no meaning, and easy to tell from real ones.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BALANCER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// A TCP segment with these flags.
    Tcp(u8),
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request; ports do not matter.
    Echo,
}

impl Carried {
    /// Flag of TCP.
    pub const FIN: u8 = 0x01;
    /// Flag of TCP.
    pub const SYN: u8 = 0x02;
    /// Flag of TCP.
    pub const RST: u8 = 0x04;
    /// Flag of TCP.
    pub const ACK: u8 = 0x10;
}

/// A packet from a client to a VIP.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The client.
    pub source: SocketAddr,
    /// The VIP, of the same family.
    pub destination: SocketAddr,
    /// What it carries.
    pub carried: Carried,
    /// Bytes behind the last header.
    pub payload_len: usize,
    /// TTL or hop limit.
    pub hops_left: u8,
    /// Sequence number of a TCP segment; one with ACK acknowledges the same.
    pub sequence: u32,
}

impl Written {
    /// The Ethernet frame; `None` when the families differ or it would be longer than an IP packet can be.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let payload = vec![0; self.payload_len];
        let (mut header, checksum_at, protocol) = self.header(8 + self.payload_len);
        let len = u16::try_from(header.len() + payload.len()).ok()?;
        let mut frame = Vec::new();
        let eth = |ethertype| Eth { destination: BALANCER, source: ROUTER, ethertype };
        let pseudo = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                eth(ETHERTYPE_IPV4).put(&mut frame);
                let mut ip = Ipv4 {
                    version_ihl: 0x45,
                    total_len: len.checked_add(20)?.to_be_bytes(),
                    fragment: [0x40, 0],
                    ttl: self.hops_left,
                    protocol,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4::default()
                };
                ip.checksum = checksum::ipv4(&ip);
                ip.put(&mut frame);
                sum(&source.octets()) + sum(&destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                eth(ETHERTYPE_IPV6).put(&mut frame);
                let ip = Ipv6 {
                    version_class_label: [0x60, 0, 0, 0],
                    payload_len: len.to_be_bytes(),
                    next_header: protocol,
                    hop_limit: self.hops_left,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                ip.put(&mut frame);
                sum(&source.octets()) + sum(&destination.octets())
            }
            _ => return None,
        };
        // ICMP of IPv4 alone does not count the addresses.
        let pseudo = if protocol == PROTO_ICMP { 0 } else { pseudo + u32::from(protocol) + u32::from(len) };
        let checksum = match folded(pseudo + sum(&header)) {
            [0, 0] if protocol == PROTO_UDP => [0xff, 0xff], // zero says that there is none (RFC 768)
            checksum => checksum,
        };
        header.get_mut(checksum_at..checksum_at + 2)?.copy_from_slice(&checksum);
        frame.extend(header);
        frame.extend(payload);
        Some(frame)
    }

    /// The header behind IP with no checksum yet, where that goes, and its protocol.
    fn header(&self, udp_len: usize) -> (Vec<u8>, usize, u8) {
        let mut header = Vec::new();
        let (source, destination) = (self.source.port().to_be_bytes(), self.destination.port().to_be_bytes());
        match self.carried {
            Carried::Tcp(flags) => {
                let sequence = self.sequence.to_be_bytes();
                let tcp = Tcp {
                    source,
                    destination,
                    sequence,
                    acknowledgement: if flags & Carried::ACK == 0 { [0; 4] } else { sequence },
                    data_offset: 5 << 4,
                    flags,
                    window: [0xff, 0xff],
                    ..Tcp::default()
                };
                tcp.put(&mut header);
                (header, 16, PROTO_TCP)
            }
            Carried::Udp => {
                let len = (udp_len as u16).to_be_bytes();
                Udp { source, destination, len, checksum: [0, 0] }.put(&mut header);
                (header, 6, PROTO_UDP)
            }
            Carried::Echo => {
                let is_v4 = self.source.is_ipv4();
                let kind = if is_v4 { Icmp::ECHO } else { Icmp::V6_ECHO };
                Icmp { kind, code: 0, checksum: [0, 0], rest: [0, 1, 0, 1] }.put(&mut header);
                (header, 2, if is_v4 { PROTO_ICMP } else { PROTO_ICMPV6 })
            }
        }
    }
}
