//! What a packet is: a flow for a VIP, a tunnel that ends here, or the kernel's business.

use weir_abi::{
    Address,
    counters::Reason,
    fragment::{FirstFragment, FragmentKey},
    gue::GUE_PORT,
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6, Tcp, Udp},
    limits::{EXTENSIONS_LEN_BYTES_MAX, EXTENSIONS_MAX},
    service::{PROTO_TCP, PROTO_UDP, VipKey},
};

use super::{
    Kind, L3_AT, Packet, Verdict,
    trace::{Stage, called, flow_text},
};

/// EtherTypes of VLAN tags: 802.1Q and 802.1ad.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// Tags looked behind.
const TAGS_MAX: usize = 2;
/// Where tags stand: behind the MAC addresses.
const TAGS_AT: usize = 12;
/// EtherType and content.
const TAG_LEN: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// IPv6 fragment header (RFC 8200 §4.5).
pub(super) const FRAGMENT: u8 = 44;
/// Destination options (RFC 8200 §4.6).
pub(super) const DESTINATION_OPTIONS: u8 = 60;
/// All lengths of extension headers are multiples of this.
const UNIT: usize = 8;

const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

impl Packet<'_> {
    /// Takes VLAN tags off, two at most.
    pub(super) fn take_tags_off(&mut self) -> Verdict<()> {
        let mut tags = Vec::new();
        let mut ethertype_at = TAGS_AT;
        while tags.len() < TAGS_MAX && self.frame.bytes(ethertype_at).is_ok_and(|found| TAGS.contains(&found))
        {
            // The tag, and the EtherType behind it: one that is cut off is no tag.
            let [tag @ .., _, _] = self.frame.bytes::<{ TAG_LEN + 2 }>(ethertype_at)?;
            tags.push(tag);
            ethertype_at += TAG_LEN;
        }
        if tags.is_empty() {
            return Ok(());
        }
        let mut eth: Eth = self.frame.read(0)?;
        eth.ethertype = self.frame.bytes(ethertype_at)?;
        if !self.frame.shrink(tags.len() * TAG_LEN) {
            return Err(Reason::DropMalformed);
        }
        self.tags = tags;
        self.trace
            .step(Stage::Vlan, |_| (format!("{} taken off", self.tags.len()), format!("{:02x?}", self.tags)));
        self.frame.write(0, &eth)
    }

    /// Puts the tags in front of whatever the frame has become.
    pub(super) fn put_tags_back(&mut self) -> Verdict<()> {
        if self.tags.is_empty() {
            return Ok(());
        }
        let ends: [u8; TAGS_AT] = self.frame.bytes(0)?;
        self.frame.grow(self.tags.len() * TAG_LEN)?;
        self.frame.write_bytes(0, &ends)?;
        self.frame.write_bytes(TAGS_AT, &self.tags.concat())
    }

    /// Fills in what is known of the packet: once for one from the wire, once more for one out of a tunnel.
    pub(super) fn classify(&mut self) -> Verdict<()> {
        self.network()?;
        let parsed = &self.parsed;
        let (protocol, is_own) = (parsed.flow.protocol, self.is_own());
        self.trace.step(Stage::Packet, |_| {
            let family = if parsed.is_v4 { "IPv4" } else { "IPv6" };
            let fragment = if parsed.is_fragment { ", a fragment" } else { "" };
            (flow_text(&parsed.flow), format!("{family}, {} hops left{fragment}", parsed.hops_left))
        });
        if protocol != PROTO_TCP && !parsed.is_fragment && is_own {
            if protocol != PROTO_UDP {
                self.parsed.kind = Kind::Own;
                return Ok(());
            }
            let udp: Udp = self.frame.read(self.parsed.l4_at)?;
            if udp.destination == GUE_PORT {
                return self.admit_gue();
            }
        }
        // Most packets that are not for a VIP are known by one bit.
        if !self.image.may_be_vip(self.parsed.flow.destination) {
            return Err(Reason::PassNotVip);
        }
        if (protocol != PROTO_TCP && protocol != PROTO_UDP) || self.parsed.is_fragment {
            return self.special();
        }
        self.by_ports()
    }

    /// Whether tunnels to the packet's destination end at this host.
    fn is_own(&self) -> bool {
        let (config, destination) = (&self.image.config, self.parsed.flow.destination);
        if self.parsed.is_v4 {
            config.has_v4 != 0 && destination == Address::v4(config.address4)
        } else {
            config.has_v6 != 0 && destination == config.address6
        }
    }

    /// Reads the network header.
    fn network(&mut self) -> Verdict<()> {
        let eth: Eth = self.frame.read(0).map_err(|_| Reason::PassNotVip)?;
        let parsed = &mut self.parsed;
        (parsed.flow.source_port, parsed.flow.destination_port) = ([0; 2], [0; 2]);
        match eth.ethertype {
            ETHERTYPE_IPV4 => {
                let ip: Ipv4 = self.frame.read(L3_AT)?;
                if ip.version_ihl >> 4 != 4 || ip.header_len() < 20 {
                    return Err(Reason::DropMalformed);
                }
                parsed.flow.source = Address::v4(ip.source);
                parsed.flow.destination = Address::v4(ip.destination);
                parsed.flow.protocol = ip.protocol;
                parsed.l4_at = L3_AT + ip.header_len();
                (parsed.is_v4, parsed.hops_left, parsed.tos) = (true, ip.ttl, ip.tos);
                (parsed.is_fragment, parsed.is_later) = (ip.is_fragment(), ip.is_later_fragment());
                parsed.fragment_id = u16::from_ne_bytes(ip.id).into();
            }
            ETHERTYPE_IPV6 => {
                let ip: Ipv6 = self.frame.read(L3_AT)?;
                if ip.version_class_label[0] >> 4 != 6 {
                    return Err(Reason::DropMalformed);
                }
                parsed.flow.source = Address::v6(ip.source);
                parsed.flow.destination = Address::v6(ip.destination);
                parsed.flow.protocol = ip.next_header;
                parsed.l4_at = L3_AT + 40;
                (parsed.is_v4, parsed.hops_left, parsed.tos) = (false, ip.hop_limit, ip.tos());
                (parsed.is_fragment, parsed.is_later) = (false, false);
            }
            _ => return Err(Reason::PassNotVip),
        }
        Ok(())
    }

    /// Finds the service of a whole TCP or UDP packet.
    fn by_ports(&mut self) -> Verdict<()> {
        let at = self.parsed.l4_at;
        let [source_high, source_low, high, low] = self.frame.bytes(at)?;
        self.parsed.flow.source_port = [source_high, source_low];
        self.parsed.flow.destination_port = [high, low];
        self.find_service()?;
        self.parsed.kind = if self.parsed.flow.protocol == PROTO_TCP {
            let tcp: Tcp = self.frame.read(at)?;
            if tcp.is_syn() { Kind::Syn } else { Kind::Segment }
        } else {
            self.frame.read::<Udp>(at)?;
            Kind::Datagram
        };
        Ok(())
    }

    /// Finds the service of the flow's address, protocol and port; the packet must not be at its last hop.
    pub(super) fn find_service(&mut self) -> Verdict<()> {
        let flow = self.parsed.flow;
        let (address, port) = (flow.destination, u16::from_be_bytes(flow.destination_port));
        let found = self.image.find_service(address, flow.protocol, port);
        self.trace.step(Stage::Service, |names| {
            let of = called(names, &address);
            match found {
                Ok(service) => (format!("service {service}"), format!("{} of {of}", flow_text(&flow))),
                Err(Reason::PassNoService) => ("none".into(), format!("{of} is a VIP without port {port}")),
                Err(_) => ("none".into(), format!("{of} is no VIP")),
            }
        });
        self.parsed.service = found?;
        self.is_alive()
    }

    /// A packet at its last hop goes no further.
    fn is_alive(&self) -> Verdict<()> {
        if self.parsed.hops_left <= 1 { Err(Reason::DropTtl) } else { Ok(()) }
    }

    /// What is no whole TCP or UDP packet right behind its IP header.
    fn special(&mut self) -> Verdict<()> {
        let address = self.parsed.flow.destination;
        let is_vip = self.image.is_vip(address);
        self.trace.step(Stage::Vip, |names| {
            let known = if is_vip { "a VIP" } else { "no VIP" };
            (known.into(), format!("the packet is for {}", called(names, &address)))
        });
        // What is none of our business must not be judged by rules that hold for VIPs.
        if !is_vip {
            return Err(Reason::PassNotVip);
        }
        if !self.parsed.is_v4 && is_extension(self.parsed.flow.protocol) {
            self.skip_extensions()?;
        }
        let parsed = &self.parsed;
        match parsed.flow.protocol {
            PROTO_TCP | PROTO_UDP if !parsed.is_fragment => self.by_ports(),
            PROTO_TCP => self.tcp_fragment(),
            PROTO_UDP => self.udp_fragment(),
            // The kernel puts together what it answers itself.
            _ if parsed.is_fragment => Err(Reason::PassVipOther),
            PROTO_ICMP if parsed.is_v4 => self.icmp(),
            PROTO_ICMPV6 if !parsed.is_v4 => self.icmp(),
            _ => Err(Reason::PassVipOther),
        }
    }

    /// Looks behind IPv6 extension headers, up to a bound, or as far as a fragment that is not the first has them.
    fn skip_extensions(&mut self) -> Verdict<()> {
        let parsed = &mut self.parsed;
        let (start, mut next_header) = (parsed.l4_at, parsed.flow.protocol);
        for _ in 0..EXTENSIONS_MAX {
            if !is_extension(next_header) || parsed.is_later {
                break;
            }
            let [following, len, high, low, id @ ..]: [u8; UNIT] = self.frame.bytes(parsed.l4_at)?;
            if next_header == FRAGMENT {
                let offset = u16::from_be_bytes([high, low]);
                parsed.is_later = offset & 0xfff8 != 0;
                // One that is alone is none (RFC 6946).
                parsed.is_fragment = parsed.is_later || offset & 1 != 0;
                parsed.fragment_id = u32::from_ne_bytes(id);
                parsed.l4_at += UNIT;
            } else {
                // The fourth byte of a routing header: segments left, and then it goes to somebody else's address.
                if next_header == ROUTING && low != 0 {
                    return Err(Reason::DropExtension);
                }
                parsed.l4_at += UNIT + usize::from(len) * UNIT;
            }
            next_header = following;
            if parsed.l4_at > start + EXTENSIONS_LEN_BYTES_MAX {
                return Err(Reason::DropExtension);
            }
        }
        if is_extension(next_header) && !parsed.is_later {
            return Err(Reason::DropExtension);
        }
        parsed.flow.protocol = next_header;
        self.trace.step(Stage::Packet, |_| {
            (format!("IP protocol {next_header}"), "behind IPv6 extension headers".into())
        });
        Ok(())
    }

    /// UDP fragments go by addresses and protocol alone.
    fn udp_fragment(&mut self) -> Verdict<()> {
        let address = self.parsed.flow.destination;
        let all = VipKey { address, port: [0, 0], protocol: PROTO_UDP, _pad: 0 };
        let first = self.image.ranges.get(&all).ok_or(Reason::PassNotVip)?.fragments;
        self.parsed.service = first.checked_sub(1).ok_or(Reason::PassNoService)?;
        self.parsed.kind = Kind::Fragment;
        self.trace.step(Stage::Service, |_| {
            (format!("service {}", first - 1), "fragments of datagrams go by addresses alone".into())
        });
        self.is_alive()
    }

    /// TCP fragments follow the first of their segment, which has the ports.
    fn tcp_fragment(&mut self) -> Verdict<()> {
        let flow = self.parsed.flow;
        let key =
            FragmentKey { source: flow.source, destination: flow.destination, id: self.parsed.fragment_id };
        if !self.parsed.is_later {
            self.by_ports()?;
            let first = FirstFragment {
                source_port: self.parsed.flow.source_port,
                destination_port: self.parsed.flow.destination_port,
                is_syn: u32::from(self.parsed.kind == Kind::Syn),
            };
            self.host.fragments.insert(key, first);
            return Ok(());
        }
        let first = self.host.fragments.get(&key).copied();
        self.trace.step(Stage::Packet, |_| match first {
            Some(_) => ("a fragment".into(), "its first fragment said the ports".into()),
            None => ("a fragment of nothing known".into(), "its first fragment has not come here".into()),
        });
        let first = first.ok_or(Reason::DropFragment)?;
        let flow = &mut self.parsed.flow;
        (flow.source_port, flow.destination_port) = (first.source_port, first.destination_port);
        self.parsed.kind = if first.is_syn != 0 { Kind::Syn } else { Kind::Fragment };
        self.find_service()
    }
}
