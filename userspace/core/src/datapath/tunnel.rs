//! Tunnels in front of packets that leave, and the way to their end.

use weir_abi::{
    Config, checksum,
    counters::Reason,
    gue::{Chain, GUE_PORT, Gue, LEN_CHAIN4, LEN_CHAIN6, LEN_PLAIN},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, PROTO_IPIP, PROTO_IPV6, Udp},
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_LOCAL, KIND_NONE},
    service::PROTO_UDP,
};

use super::{
    Action, L3_AT, Packet, Verdict, Way,
    frame::Header,
    open::{CHAIN_LEN, GUE_LEN},
    trace::{Stage, called, host_of},
};

/// TTL of the outer header.
const OUTER_TTL: u8 = 64;

impl Packet<'_> {
    /// Puts the tunnel in front of the packet and finds its next hop; returns what sends it.
    pub(super) fn encapsulate(&mut self) -> Verdict<Action> {
        let came_as: Eth = self.frame.read(0)?;
        let first = self.first;
        if matches!(first.kind, KIND_NONE | KIND_LOCAL) {
            return Err(Reason::DropNoBackend);
        }
        let way = self.host.way(&first.address);
        if way == Way::Forbidden {
            self.trace.step(Stage::NextHop, |names| {
                ("none".into(), format!("the routing table forbids {}", called(names, &first.address)))
            });
            return Err(Reason::DropNoRoute);
        }
        self.mtu = self.mtu_of(&way);
        let outer = self.outer()?;
        self.frame.grow(outer.len())?;
        self.frame.write_bytes(L3_AT, &outer)?;
        self.send(&came_as, &way)
    }

    /// What the way to the tunnel's end carries; 0 when it is not looked at.
    fn mtu_of(&self, way: &Way) -> u32 {
        let configured = self.image.config.mtu;
        if configured == 0 {
            return 0;
        }
        let link = match way {
            Way::Forward { mtu, .. } if *mtu != 0 => *mtu,
            _ => configured,
        };
        let path = self.host.paths.get(&self.first.address).copied().unwrap_or(u32::MAX);
        // The routing table knows nothing of tags: a tagged packet goes back to the router it came from.
        let back = if self.tags.is_empty() { u32::MAX } else { configured };
        link.min(path).min(back)
    }

    /// The headers of the tunnel, behind Ethernet; or it does not fit.
    fn outer(&mut self) -> Verdict<Vec<u8>> {
        let (first, second, mtu) = (self.first, self.second, self.mtu);
        let inner_len = self.frame.len() - L3_AT;
        let outer = Outer {
            config: &self.image.config,
            first,
            second,
            is_back: self.is_back,
            hash: self.hash,
            // RFC 6040 §4.1, normal mode: ECN is copied, and DSCP with it.
            tos: self.parsed.tos,
            is_around_v4: self.parsed.is_v4,
        };
        let len = outer.headers(inner_len).len() + inner_len;
        self.trace.step(Stage::Encap, |names| {
            let kind = if first.is_ipip() { "IPIP" } else { "GUE" };
            let second = second.map(|second| format!(", then {}", host_of(names, Some(&second))));
            let to = format!("{kind} to {}{}", host_of(names, Some(&first)), second.unwrap_or_default());
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
        Ok(outer.headers(inner_len))
    }

    /// Writes the Ethernet header towards the next hop.
    fn send(&mut self, came_as: &Eth, way: &Way) -> Verdict<Action> {
        let ethertype = if self.first.is_over_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let (eth, action, why) = match *way {
            Way::Forward { egress, source, destination, .. } if self.tags.is_empty() => (
                Eth { destination, source, ethertype },
                egress.map_or(Action::Transmit, Action::Redirect),
                "the routing table says so",
            ),
            _ => (
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

/// The headers of a tunnel, from the outer IP header on.
pub(crate) struct Outer<'a> {
    /// Whose tunnel it is.
    pub(crate) config: &'a Config,
    pub(crate) first: Backend,
    pub(crate) second: Option<Backend>,
    pub(crate) is_back: bool,
    /// Of the flow inside.
    pub(crate) hash: u32,
    pub(crate) tos: u8,
    /// Whether the packet inside is IPv4.
    pub(crate) is_around_v4: bool,
}

impl Outer<'_> {
    /// In front of a packet of `inner_len` bytes.
    pub(crate) fn headers(&self, inner_len: usize) -> Vec<u8> {
        let (first, config, tos) = (self.first, self.config, self.tos);
        let inner_protocol = if self.is_around_v4 { PROTO_IPIP } else { PROTO_IPV6 };
        // What stands between the outer IP header and the packet.
        let between = if first.is_ipip() { Vec::new() } else { self.udp_and_gue(inner_len, inner_protocol) };
        let rest_len = inner_len + between.len();
        let protocol = if first.is_ipip() { inner_protocol } else { PROTO_UDP };
        let mut wire = Vec::with_capacity(40 + between.len());
        if first.is_over_v4() {
            let mut ip = Ipv4 {
                version_ihl: 0x45,
                tos,
                total_len: ((20 + rest_len) as u16).to_be_bytes(),
                id: [0, 0],
                fragment: [0x40, 0], // don't fragment
                ttl: OUTER_TTL,
                protocol,
                checksum: [0, 0],
                source: config.address4,
                destination: first.address.v4_octets(),
            };
            ip.checksum = checksum::ipv4(&ip);
            ip.put(&mut wire);
        } else {
            // RFC 6438 §4: without ports, the flow label spreads tunnels over paths.
            let label = if first.is_ipip() { self.hash >> 12 } else { 0 };
            let [_, high, middle, low] = label.to_be_bytes();
            let ip = Ipv6 {
                version_class_label: [0x60 | tos >> 4, tos << 4 | high, middle, low],
                payload_len: (rest_len as u16).to_be_bytes(),
                next_header: protocol,
                hop_limit: OUTER_TTL,
                source: config.address6.octets(),
                destination: first.address.octets(),
            };
            ip.put(&mut wire);
        }
        wire.extend(between);
        wire
    }

    /// UDP, GUE and the chain to the second hop, in front of a packet of `inner_len` bytes.
    fn udp_and_gue(&self, inner_len: usize, protocol: u8) -> Vec<u8> {
        let mut gue = Vec::with_capacity(GUE_LEN + CHAIN_LEN + 16);
        let header = |version_control_len| Gue { version_control_len, protocol, flags: [0, 0] };
        match self.second.filter(|second| second.kind != KIND_NONE) {
            None => header(LEN_PLAIN).put(&mut gue),
            Some(second) => {
                let is_v4 = second.address.is_v4();
                header(if is_v4 { LEN_CHAIN4 } else { LEN_CHAIN6 }).put(&mut gue);
                let kind = match second.kind {
                    // This host itself, at its own tunnel address.
                    KIND_LOCAL if is_v4 => KIND_GUE4,
                    KIND_LOCAL => KIND_GUE6,
                    kind => kind,
                };
                let index = 1 + u8::from(self.is_back);
                Chain { kind, index, count: index + 1, _pad: 0 }.put(&mut gue);
                if is_v4 {
                    gue.extend(second.address.v4_octets());
                } else {
                    gue.extend(second.address.octets());
                }
            }
        }
        let udp = Udp {
            // The high bits of the flow hash spread tunnels over receive queues and paths, in the dynamic range.
            source: (0xc000 | (self.hash >> 18) as u16).to_be_bytes(),
            destination: GUE_PORT,
            len: ((8 + gue.len() + inner_len) as u16).to_be_bytes(),
            checksum: [0, 0], // RFC 6935
        };
        let mut wire = Vec::with_capacity(8 + gue.len());
        udp.put(&mut wire);
        wire.extend(gue);
        wire
    }
}
