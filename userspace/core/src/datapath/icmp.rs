//! ICMP and ICMPv6 for a VIP: echo requests are answered, errors go where the flow goes they are about.

use weir_abi::{
    Address, checksum,
    counters::Reason,
    headers::{Eth, Icmp, Ipv4, Ipv6},
    service::{PROTO_TCP, PROTO_UDP},
};

use super::{
    Kind, L3_AT, Packet, Verdict,
    classify::FRAGMENT,
    trace::{Stage, called, flow_text},
};

/// Where ICMP begins behind an IPv4 header without options,
const V4_AT: usize = L3_AT + 20;
/// and ICMPv6 behind an IPv6 header alone.
const V6_AT: usize = L3_AT + 40;
/// TTL and hop limit of answers.
pub(super) const TTL: u8 = 64;
/// Bytes of an ICMP header; an error goes on with the packet it is about.
pub(super) const ICMP_LEN: usize = 8;

/// What an ICMP message is to us.
enum Message {
    Echo,
    Error,
    Other,
}

fn message(kind: u8, is_v4: bool) -> Message {
    if is_v4 {
        match kind {
            Icmp::ECHO => Message::Echo,
            Icmp::UNREACHABLE | Icmp::TIME_EXCEEDED | Icmp::PARAMETER => Message::Error,
            _ => Message::Other,
        }
    } else {
        match kind {
            Icmp::V6_ECHO => Message::Echo,
            Icmp::V6_UNREACHABLE | Icmp::V6_TOO_BIG | Icmp::V6_TIME_EXCEEDED | Icmp::V6_PARAMETER => {
                Message::Error
            }
            _ => Message::Other,
        }
    }
}

/// Whether an answer may go to `address`: never to groups, this network or nobody.
pub(super) fn is_answerable(address: &Address) -> bool {
    if address.is_v4() {
        !matches!(address.v4_octets()[0], 0 | 127 | 224..)
    } else {
        address.octets()[0] != 0xff && *address != Address::default()
    }
}

impl Packet<'_> {
    /// Finds the service an ICMP message is about.
    pub(super) fn icmp(&mut self) -> Verdict<()> {
        let (at, is_v4) = (self.parsed.l4_at, self.parsed.is_v4);
        let icmp: Icmp = self.frame.read(at)?;
        // Behind options and extension headers an echo request is left to the kernel.
        let is_plain = at == if is_v4 { V4_AT } else { V6_AT };
        match message(icmp.kind, is_v4) {
            Message::Echo if is_plain && is_answerable(&self.parsed.flow.source) => {
                self.parsed.kind = Kind::Echo;
                return Ok(());
            }
            Message::Error => self.reverse(at + ICMP_LEN)?,
            Message::Echo | Message::Other => return Err(Reason::PassVipOther),
        }
        let flow = self.parsed.flow;
        self.trace
            .step(Stage::Icmp, |_| ("an error".into(), format!("about an answer to {}", flow_text(&flow))));
        self.find_service().map_err(|reason| match reason {
            Reason::DropTtl => reason,
            _ => Reason::PassVipOther,
        })?;
        self.parsed.kind = Kind::Error;
        Ok(())
    }

    /// Takes the flow from the packet an error carries: that went from the VIP to the client, so it is read backwards.
    fn reverse(&mut self, at: usize) -> Verdict<()> {
        let other = |_| Reason::PassVipOther;
        let (source, destination, protocol, ports_at);
        if self.parsed.is_v4 {
            let ip: Ipv4 = self.frame.read(at).map_err(other)?;
            if ip.version_ihl >> 4 != 4 || ip.header_len() < 20 || ip.is_later_fragment() {
                return Err(Reason::PassVipOther);
            }
            (source, destination) = (Address::v4(ip.source), Address::v4(ip.destination));
            (protocol, ports_at) = (ip.protocol, at + ip.header_len());
        } else {
            let ip: Ipv6 = self.frame.read(at).map_err(other)?;
            if ip.version_class_label[0] >> 4 != 6 {
                return Err(Reason::PassVipOther);
            }
            (source, destination) = (Address::v6(ip.source), Address::v6(ip.destination));
            let behind = at + 40;
            // It may be the first fragment of a larger one.
            (protocol, ports_at) = if ip.next_header == FRAGMENT {
                let [next_header, _, high, low] = self.frame.bytes(behind).map_err(other)?;
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Err(Reason::PassVipOther);
                }
                (next_header, behind + 8)
            } else {
                (ip.next_header, behind)
            };
        }
        // Errors come to whoever sent the packet they are about; others are forged.
        if source != self.parsed.flow.destination || (protocol != PROTO_TCP && protocol != PROTO_UDP) {
            return Err(Reason::PassVipOther);
        }
        let [high, low, to_high, to_low] = self.frame.bytes(ports_at).map_err(other)?;
        let flow = &mut self.parsed.flow;
        (flow.source, flow.protocol) = (destination, protocol);
        (flow.destination_port, flow.source_port) = ([high, low], [to_high, to_low]);
        Ok(())
    }

    /// Turns an echo request into its answer; returns what it is counted under.
    pub(super) fn answer_echo(&mut self) -> Verdict<Reason> {
        let eth: Eth = self.frame.read(0)?;
        self.frame.write(0, &Eth { destination: eth.source, source: eth.destination, ..eth })?;
        let (at, kind) = if self.parsed.is_v4 {
            let mut ip: Ipv4 = self.frame.read(L3_AT)?;
            let from = [ip.ttl, ip.protocol];
            ip.ttl = TTL;
            // Exchanging the addresses changes no sum.
            ip.checksum = checksum::adjusted(ip.checksum, from, [ip.ttl, ip.protocol]);
            (ip.source, ip.destination) = (ip.destination, ip.source);
            self.frame.write(L3_AT, &ip)?;
            (V4_AT, Icmp::ECHO_REPLY)
        } else {
            let mut ip: Ipv6 = self.frame.read(L3_AT)?;
            ip.hop_limit = TTL;
            (ip.source, ip.destination) = (ip.destination, ip.source);
            self.frame.write(L3_AT, &ip)?;
            (V6_AT, Icmp::V6_ECHO_REPLY)
        };
        let mut icmp: Icmp = self.frame.read(at)?;
        let from = [icmp.kind, icmp.code];
        icmp.kind = kind;
        icmp.checksum = checksum::adjusted(icmp.checksum, from, [icmp.kind, icmp.code]);
        if icmp.checksum == [0, 0] {
            // Over nothing but zeroes only the other form of zero is right.
            icmp.checksum = [0xff, 0xff];
        }
        let client = self.parsed.flow.source;
        self.trace.step(Stage::Icmp, |names| {
            ("the echo request is answered".into(), format!("to {}", called(names, &client)))
        });
        self.frame.write(at, &icmp)?;
        Ok(Reason::IcmpEcho)
    }
}
