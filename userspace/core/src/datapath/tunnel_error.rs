//! ICMP errors about tunnels of this host: what they say of the path is remembered, and the client in the tunnel is told.

use weir_abi::{
    Address,
    counters::Reason,
    gue::{GUE_PORT, Gue, overhead},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Icmp, Ipv4, Ipv6, PROTO_IPIP, PROTO_IPV6},
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6},
    limits::PATH_MTU_MIN_V4,
    service::{PROTO_TCP, PROTO_UDP},
};

use super::{
    Kind, L3_AT, Packet, Verdict,
    icmp::{ICMP_LEN, is_answerable},
    too_big::{is_credible, message4, message6},
    trace::{Stage, called},
};

/// What is told back of a packet behind its IP header: the ports.
const QUOTE_LEN: usize = 8;
/// RFC 8200 §5.
const V6_MTU_MIN: u32 = 1280;

impl Packet<'_> {
    /// Judges an ICMP message to this host's own address.
    pub(super) fn tunnel_error(&mut self) -> Verdict<()> {
        let at = self.parsed.l4_at;
        let icmp: Icmp = self.frame.read(at).map_err(|_| Reason::PassNotVip)?;
        let mtu = self.mtu_said(&icmp).ok_or(Reason::PassNotVip)?;
        let quote_at = at + ICMP_LEN;
        let (end, protocol, inside_at) = self.quoted_tunnel(quote_at)?;
        self.parsed.flow.destination = end;
        let Some(mtu) = mtu else { return Err(Reason::PassTunnelError) };
        self.trace.step(Stage::Icmp, |names| {
            let what = format!("an error about a tunnel to {}", called(names, &end));
            (what, format!("its path carries {mtu} bytes, a router says"))
        });
        self.host.paths.insert(end, mtu);
        // From here on it is about the packet in the tunnel, as far as it is quoted.
        let other = |_| Reason::PassTunnelError;
        let is_ipip = protocol != PROTO_UDP;
        let (inner_protocol, inner_at) = if is_ipip {
            (protocol, inside_at)
        } else {
            let gue: Gue = self.frame.read(inside_at + 8).map_err(other)?;
            let chain_len = usize::from(gue.version_control_len & 7) * 4;
            (gue.protocol, inside_at + 8 + 4 + chain_len)
        };
        let kind = match (self.parsed.is_v4, is_ipip) {
            (true, true) => KIND_IPIP4,
            (true, false) => KIND_GUE4,
            (false, true) => KIND_IPIP6,
            (false, false) => KIND_GUE6,
        };
        let first = Backend { kind, ..Backend::default() };
        let fits =
            mtu.saturating_sub(overhead(&first, &Backend::default()).max((inner_at - quote_at) as u32));
        self.quoted_packet(inner_protocol, inner_at)?;
        let flow = &self.parsed.flow;
        let is_ours = self.image.is_vip(flow.destination) && is_answerable(&flow.source);
        if !is_ours || !is_credible(fits, self.parsed.is_v4) || !self.host.may_tell {
            return Err(Reason::PassTunnelError);
        }
        (self.parsed.l4_at, self.parsed.kind, self.mtu) = (inner_at, Kind::TunnelTooBig, fits);
        Ok(())
    }

    /// What an error says of the path's MTU, if it does; `None` when it is no error.
    fn mtu_said(&self, icmp: &Icmp) -> Option<Option<u32>> {
        if self.parsed.is_v4 {
            let [_, _, high, low] = icmp.rest;
            let mtu = u32::from(u16::from_be_bytes([high, low])).max(PATH_MTU_MIN_V4);
            let needs_less = (icmp.kind, icmp.code) == (Icmp::UNREACHABLE, Icmp::FRAGMENTATION_NEEDED);
            let is_error = matches!(icmp.kind, Icmp::UNREACHABLE | Icmp::TIME_EXCEEDED | Icmp::PARAMETER);
            is_error.then_some(needs_less.then_some(mtu))
        } else {
            let mtu = u32::from_be_bytes(icmp.rest).max(V6_MTU_MIN);
            // RFC 4443 §2.1: errors have the first bit zero.
            (icmp.kind < 128).then_some((icmp.kind == Icmp::V6_TOO_BIG).then_some(mtu))
        }
    }

    /// The end of a tunnel of this host that is quoted, its protocol, and where what it carries begins.
    fn quoted_tunnel(&self, at: usize) -> Verdict<(Address, u8, usize)> {
        let other = |_| Reason::PassNotVip;
        let own = self.parsed.flow.destination;
        let (is_ours, end, protocol, inside_at) = if self.parsed.is_v4 {
            let ip: Ipv4 = self.frame.read(at).map_err(other)?;
            let is_ours = ip.version_ihl == 0x45 && Address::v4(ip.source) == own;
            (is_ours, Address::v4(ip.destination), ip.protocol, at + 20)
        } else {
            let ip: Ipv6 = self.frame.read(at).map_err(other)?;
            let is_ours = ip.version_class_label[0] >> 4 == 6 && Address::v6(ip.source) == own;
            (is_ours, Address::v6(ip.destination), ip.next_header, at + 40)
        };
        let is_tunnel = match protocol {
            PROTO_UDP => {
                let [_, _, high, low] = self.frame.bytes(inside_at).map_err(other)?;
                [high, low] == GUE_PORT
            }
            PROTO_IPIP | PROTO_IPV6 => true,
            _ => false,
        };
        if is_ours && is_tunnel { Ok((end, protocol, inside_at)) } else { Err(Reason::PassNotVip) }
    }

    /// Takes the ends of a quoted packet that its sender wants to hear about.
    fn quoted_packet(&mut self, protocol: u8, at: usize) -> Verdict<()> {
        let other = |_| Reason::PassTunnelError;
        let is_transport = |protocol| protocol == PROTO_TCP || protocol == PROTO_UDP;
        let flow = &mut self.parsed.flow;
        match protocol {
            PROTO_IPIP => {
                let ip: Ipv4 = self.frame.read(at).map_err(other)?;
                self.frame.bytes::<QUOTE_LEN>(at + 20).map_err(other)?;
                // RFC 1122 §3.2.2: nobody is told about a fragment but the first.
                let is_told = ip.is_unfragmentable() && !ip.is_later_fragment();
                if ip.version_ihl != 0x45 || !is_told || !is_transport(ip.protocol) {
                    return Err(Reason::PassTunnelError);
                }
                (flow.source, flow.destination) = (Address::v4(ip.source), Address::v4(ip.destination));
                (flow.protocol, self.parsed.is_v4) = (ip.protocol, true);
            }
            PROTO_IPV6 => {
                let ip: Ipv6 = self.frame.read(at).map_err(other)?;
                self.frame.bytes::<QUOTE_LEN>(at + 40).map_err(other)?;
                if ip.version_class_label[0] >> 4 != 6 || !is_transport(ip.next_header) {
                    return Err(Reason::PassTunnelError);
                }
                (flow.source, flow.destination) = (Address::v6(ip.source), Address::v6(ip.destination));
                (flow.protocol, self.parsed.is_v4) = (ip.next_header, false);
            }
            _ => return Err(Reason::PassTunnelError),
        }
        Ok(())
    }

    /// Turns the error about the tunnel into one about the packet in it, from its VIP to its client; returns what it is
    /// counted under.
    pub(super) fn tell_about_tunnel(&mut self) -> Verdict<Reason> {
        let (parsed, fits) = (self.parsed, self.mtu);
        let eth: Eth = self.frame.read(0)?;
        let ip_len = if parsed.is_v4 { 20 } else { 40 };
        let ethertype = if parsed.is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let headers_len = L3_AT + ip_len + ICMP_LEN;
        let (begin, end) = (parsed.l4_at, parsed.l4_at + ip_len + QUOTE_LEN);
        if self.frame.len() < end || begin < headers_len {
            return Err(Reason::PassTunnelError);
        }
        self.frame.truncate(end);
        if !self.frame.shrink(begin - headers_len) {
            return Err(Reason::DropHeadroom);
        }
        let (vip, client) = (parsed.flow.destination, parsed.flow.source);
        let quote = self.frame.from(headers_len);
        let message = if parsed.is_v4 {
            message4(vip.v4_octets(), client.v4_octets(), fits, quote)
        } else {
            message6(vip.octets(), client.octets(), fits, quote)
        };
        self.frame.write(0, &Eth { destination: eth.source, source: eth.destination, ethertype })?;
        self.frame.write_bytes(L3_AT, &message)?;
        self.trace.step(Stage::Icmp, |names| {
            let what = format!("the client {} is told", called(names, &client));
            (what, format!("{fits} bytes would fit"))
        });
        Ok(Reason::IcmpTunnelTooBig)
    }
}
