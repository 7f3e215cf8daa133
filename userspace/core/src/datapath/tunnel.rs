//! GUE tunnels: opened where they end, put in front of packets that leave.

use weir_abi::{
    Address, checksum,
    counters::Reason,
    gue::{Chain, GUE_PORT, Gue, LEN_CHAIN4, LEN_CHAIN6, LEN_PLAIN},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, PROTO_IPIP, PROTO_IPV6, Udp},
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_LOCAL, KIND_NONE},
    service::PROTO_UDP,
};

use super::{
    Action, Kind, L3_AT, Packet, Verdict, Way,
    frame::Header,
    trace::{Stage, called, host_of},
};

/// TTL of the outer header.
const OUTER_TTL: u8 = 64;
/// Both bits of ECN; as a value, congestion experienced.
const ECN: u8 = 3;
/// Bytes of a GUE header, and of the chain in front of a second hop's address.
const GUE_LEN: usize = 4;
const CHAIN_LEN: usize = 4;

impl Packet<'_> {
    /// Opens the tunnel and delivers what is inside, or sends it to its second hop. Returns what it is counted under.
    pub(super) fn open_tunnel(&mut self) -> Verdict<Reason> {
        let is_congested = self.parsed.tos & ECN == ECN;
        let second = self.strip()?;
        self.trace.step(Stage::Decap, |names| {
            let second = second.as_ref().map(|second| called(names, &second.address));
            (
                "opened".into(),
                second.map_or_else(|| "no second hop".into(), |hop| format!("second hop {hop}")),
            )
        });
        self.classify().map_err(|reason| match reason {
            // Whoever may send us tunnels may not use them to reach the rest of this host.
            Reason::PassNotVip | Reason::PassNoService | Reason::PassVipOther => Reason::DropGueNotVip,
            other => other,
        })?;
        if matches!(self.parsed.kind, Kind::Echo | Kind::Tunnel) {
            return Err(Reason::DropGueNotVip);
        }
        if is_congested && self.parsed.tos & ECN != ECN {
            self.mark_congestion()?;
        }
        match second {
            Some(second) if !self.is_known() => {
                (self.first, self.second) = (second, None);
                self.hash = self.parsed.flow.hash();
                Ok(Reason::DecapSecondHop)
            }
            _ => Err(Reason::DecapDeliver),
        }
    }

    /// Takes the outer headers off; returns the second hop they carry, if any.
    fn strip(&mut self) -> Verdict<Option<Backend>> {
        let malformed = |_| Reason::DropGueMalformed;
        let gue_at = self.parsed.l4_at;
        let gue: Gue = self.frame.read(gue_at).map_err(malformed)?;
        let ethertype = match gue.protocol {
            PROTO_IPIP => ETHERTYPE_IPV4,
            PROTO_IPV6 => ETHERTYPE_IPV6,
            _ => return Err(Reason::DropGueMalformed),
        };
        let (chain_at, address_at) = (gue_at + GUE_LEN, gue_at + GUE_LEN + CHAIN_LEN);
        let (second, inner_at) = match gue.version_control_len {
            LEN_PLAIN => (None, chain_at),
            LEN_CHAIN4 => {
                self.check_chain(chain_at, KIND_GUE4)?;
                let address = Address::v4(self.frame.bytes(address_at).map_err(malformed)?);
                (Some(Backend { address, kind: KIND_GUE4, _pad: [0; 3] }), address_at + 4)
            }
            LEN_CHAIN6 => {
                self.check_chain(chain_at, KIND_GUE6)?;
                let address = Address::v6(self.frame.bytes(address_at).map_err(malformed)?);
                (Some(Backend { address, kind: KIND_GUE6, _pad: [0; 3] }), address_at + 16)
            }
            _ => return Err(Reason::DropGueMalformed),
        };
        let eth: Eth = self.frame.read(0)?;
        if !self.frame.shrink(inner_at - L3_AT) {
            return Err(Reason::DropGueMalformed);
        }
        self.frame.write(0, &Eth { ethertype, ..eth })?;
        Ok(second)
    }

    fn check_chain(&self, at: usize, kind: u8) -> Verdict<()> {
        let chain: Chain = self.frame.read(at).map_err(|_| Reason::DropGueMalformed)?;
        let is_ours = (chain.kind, chain.index, chain.count) == (kind, 1, 2);
        if is_ours { Ok(()) } else { Err(Reason::DropGueMalformed) }
    }

    /// Marks the packet as its tunnel was marked on the way.
    fn mark_congestion(&mut self) -> Verdict<()> {
        // RFC 6040 §4.2: "If the inner ECN field is Not-ECT … and the outer ECN field is CE, the decapsulator MUST drop
        // the packet."
        if self.parsed.tos & ECN == 0 {
            return Err(Reason::DropGueMalformed);
        }
        self.parsed.tos |= ECN;
        if self.parsed.is_v4 {
            let mut ip: Ipv4 = self.frame.read(L3_AT)?;
            let from = [ip.version_ihl, ip.tos];
            ip.tos |= ECN;
            ip.checksum = checksum::adjusted(ip.checksum, from, [ip.version_ihl, ip.tos]);
            self.frame.write(L3_AT, &ip)?;
        } else {
            let [first, second] = self.frame.bytes(L3_AT)?;
            self.frame.write_bytes(L3_AT, &[first, second | ECN << 4])?;
        }
        self.trace.step(Stage::Decap, |_| ("congestion marked".into(), "its tunnel met congestion".into()));
        Ok(())
    }

    /// Puts the tunnel in front of the packet and finds its next hop; returns what sends it.
    pub(super) fn encapsulate(&mut self) -> Verdict<Action> {
        let came_as: Eth = self.frame.read(0)?;
        let is_v4 = match self.first.kind {
            KIND_GUE4 => true,
            KIND_GUE6 => false,
            _ => return Err(Reason::DropNoBackend),
        };
        let outer = self.outer(is_v4)?;
        self.frame.grow(outer.len())?;
        self.frame.write_bytes(L3_AT, &outer)?;
        self.send(&came_as, is_v4)
    }

    /// The headers of the tunnel, behind Ethernet; or it does not fit.
    fn outer(&mut self, is_v4: bool) -> Verdict<Vec<u8>> {
        let (config, to) = (&self.image.config, &self.first.address);
        let inner_len = self.frame.len() - L3_AT;
        let behind_udp = self.gue();
        let udp_len = inner_len + 8 + behind_udp.len();
        let len = udp_len + if is_v4 { 20 } else { 40 };
        let (first, second, mtu) = (self.first, self.second, config.mtu);
        self.trace.step(Stage::Encap, |names| {
            let second = second.map(|second| format!(", then {}", host_of(names, Some(&second))));
            let to = format!("GUE to {}{}", host_of(names, Some(&first)), second.unwrap_or_default());
            (to, format!("{} bytes in front of {inner_len}", len - inner_len))
        });
        let is_too_big = mtu != 0 && len > mtu as usize;
        self.trace.step(Stage::Mtu, |_| {
            let fits = if is_too_big { "too big" } else { "fits" };
            let mtu = if mtu == 0 { "the MTU is not looked at".into() } else { format!("the MTU is {mtu}") };
            (fits.into(), format!("{len} bytes, {mtu}"))
        });
        if is_too_big {
            return Err(Reason::DropTooBig);
        }
        let mut wire = Vec::with_capacity(len - inner_len);
        // RFC 6040 §4.1, normal mode: ECN is copied, and DSCP with it.
        let tos = self.parsed.tos;
        if is_v4 {
            let mut ip = Ipv4 {
                version_ihl: 0x45,
                tos,
                total_len: (len as u16).to_be_bytes(),
                id: [0, 0],
                fragment: [0x40, 0], // don't fragment
                ttl: OUTER_TTL,
                protocol: PROTO_UDP,
                checksum: [0, 0],
                source: config.address4,
                destination: to.v4_octets(),
            };
            ip.checksum = checksum::ipv4(&ip);
            ip.put(&mut wire);
        } else {
            let ip = Ipv6 {
                version_class_label: [0x60 | tos >> 4, tos << 4, 0, 0],
                payload_len: (udp_len as u16).to_be_bytes(),
                next_header: PROTO_UDP,
                hop_limit: OUTER_TTL,
                source: config.address6.octets(),
                destination: to.octets(),
            };
            ip.put(&mut wire);
        }
        let udp = Udp {
            // The high bits of the flow hash spread tunnels over receive queues and paths, in the dynamic range.
            source: (0xc000 | (self.hash >> 18) as u16).to_be_bytes(),
            destination: GUE_PORT,
            len: (udp_len as u16).to_be_bytes(),
            checksum: [0, 0], // RFC 6935
        };
        udp.put(&mut wire);
        wire.extend(behind_udp);
        Ok(wire)
    }

    /// GUE and the chain to the second hop.
    fn gue(&self) -> Vec<u8> {
        let protocol = if self.parsed.is_v4 { PROTO_IPIP } else { PROTO_IPV6 };
        let mut wire = Vec::with_capacity(GUE_LEN + CHAIN_LEN + 16);
        let gue = |version_control_len| Gue { version_control_len, protocol, flags: [0, 0] };
        let chain = |kind| Chain { kind, index: 1, count: 2, _pad: 0 };
        match self.second.filter(|second| second.kind != KIND_NONE) {
            None => gue(LEN_PLAIN).put(&mut wire),
            Some(second) if has_v6_address(&second) => {
                gue(LEN_CHAIN6).put(&mut wire);
                chain(KIND_GUE6).put(&mut wire);
                wire.extend(second.address.octets());
            }
            Some(second) => {
                gue(LEN_CHAIN4).put(&mut wire);
                chain(KIND_GUE4).put(&mut wire);
                wire.extend(second.address.v4_octets());
            }
        }
        wire
    }

    /// Writes the Ethernet header towards the next hop.
    fn send(&mut self, came_as: &Eth, is_v4: bool) -> Verdict<Action> {
        let to = self.first.address;
        let way = self.host.way(&to);
        let ethertype = if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let (eth, action, why) = match way {
            Way::Forbidden => {
                self.trace.step(Stage::NextHop, |names| {
                    ("none".into(), format!("the routing table forbids {}", called(names, &to)))
                });
                return Err(Reason::DropNoRoute);
            }
            // The routing table knows nothing of tags.
            Way::Forward { egress, source, destination } if self.tags.is_empty() => (
                Eth { destination, source, ethertype },
                egress.map_or(Action::Transmit, Action::Redirect),
                "the routing table says so",
            ),
            Way::Forward { .. } | Way::Back => (
                Eth { destination: came_as.source, source: came_as.destination, ethertype },
                Action::Transmit,
                "back to the router it came from",
            ),
        };
        self.trace.step(Stage::NextHop, |_| {
            let [a, b, c, d, e, f] = eth.destination;
            (format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"), why.into())
        });
        self.frame.write(0, &eth)?;
        Ok(action)
    }
}

/// Whether a second hop's address is IPv6. A hop that is this host itself has its own tunnel address here.
fn has_v6_address(hop: &Backend) -> bool {
    match hop.kind {
        KIND_GUE4 => false,
        KIND_LOCAL => !hop.address.is_v4(),
        _ => true,
    }
}
