//! Tunnels that end at this host: whose are opened, and what is in them.

use weir_abi::{
    Address, checksum,
    counters::Reason,
    gue::{Chain, Gue, LEN_CHAIN4, LEN_CHAIN6, LEN_PLAIN, VARIANT_1_IPV4, VARIANT_1_IPV6},
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, PROTO_ICMP, PROTO_ICMPV6, PROTO_IPIP, PROTO_IPV6},
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_NONE},
    service::SERVICE_DIRECT,
    tunnel::{ACCEPT_GUE, ACCEPT_IPIP, TUNNELS_IPIP_OF_PEERS, TUNNELS_OF_OTHERS},
};

use super::{
    Kind, L3_AT, Packet, Verdict,
    classify::DESTINATION_OPTIONS,
    trace::{Stage, called},
};

/// Both bits of ECN; as a value, congestion experienced.
const ECN: u8 = 3;
/// Bytes of a GUE header, and of the chain in front of a second hop's address.
pub(super) const GUE_LEN: usize = 4;
pub(super) const CHAIN_LEN: usize = 4;

impl Packet<'_> {
    /// Admits a UDP datagram to this host's GUE port: of peers always, of others where the configuration says so.
    pub(super) fn admit_gue(&mut self) -> Verdict<()> {
        let is_admitted = self.is_admitted(ACCEPT_GUE, true);
        self.tell_admission("GUE", is_admitted);
        if !is_admitted {
            return Err(Reason::DropGueUntrusted);
        }
        self.parsed.l4_at += 8; // UDP
        (self.parsed.is_ipip, self.parsed.kind) = (false, Kind::Tunnel);
        Ok(())
    }

    /// Judges what comes to this host's own address and is neither TCP nor UDP: a tunnel without UDP, or an error about one of
    /// this host's.
    pub(super) fn without_udp(&mut self) -> Verdict<()> {
        let icmp = if self.parsed.is_v4 { PROTO_ICMP } else { PROTO_ICMPV6 };
        if self.parsed.flow.protocol == icmp {
            self.tunnel_error()
        } else if self.admit_ipip() {
            Ok(())
        } else {
            Err(Reason::PassNotVip)
        }
    }

    /// Whether a packet is an IPIP tunnel that is opened here. Any other is not ours to judge.
    fn admit_ipip(&mut self) -> bool {
        let tunnels = self.image.config.tunnels;
        if tunnels == 0 {
            return false;
        }
        let parsed = &mut self.parsed;
        if !parsed.is_v4 && parsed.flow.protocol == DESTINATION_OPTIONS {
            // RFC 2473 §4.1.1: one header of eight bytes may hold the tunnel encapsulation limit.
            let Ok([next_header, len]) = self.frame.bytes(parsed.l4_at) else { return false };
            parsed.flow.protocol = next_header;
            parsed.l4_at += 8;
            if len != 0 {
                return false;
            }
        }
        if !matches!(parsed.flow.protocol, PROTO_IPIP | PROTO_IPV6) {
            return false;
        }
        let is_admitted = self.is_admitted(ACCEPT_IPIP, tunnels & TUNNELS_IPIP_OF_PEERS != 0);
        self.tell_admission("IPIP", is_admitted);
        (self.parsed.is_ipip, self.parsed.kind) = (true, Kind::Tunnel);
        is_admitted
    }

    /// Whether a tunnel of a kind is opened: `of_peers` for peers, else where its source says so.
    fn is_admitted(&mut self, kind: u32, of_peers: bool) -> bool {
        let (image, from) = (self.image, self.parsed.flow.source);
        self.parsed.is_foreign = !image.peers.contains(&from);
        if !self.parsed.is_foreign {
            return of_peers;
        }
        image.config.tunnels & TUNNELS_OF_OTHERS != 0 && image.accepted_from(from) & kind != 0
    }

    fn tell_admission(&mut self, kind: &str, is_admitted: bool) {
        let (from, is_foreign) = (self.parsed.flow.source, self.parsed.is_foreign);
        self.trace.step(Stage::Decap, |names| {
            let decision =
                if is_admitted { "a tunnel that ends here" } else { "a tunnel that is not opened" };
            let whose = if is_foreign { "no peer" } else { "a peer" };
            (decision.into(), format!("{kind} from {}, {whose}", called(names, &from)))
        });
    }

    /// Opens the tunnel and delivers what is inside, or sends it to its second hop and returns what that is counted under;
    /// nothing when it is for the balancer to send on.
    pub(super) fn open_tunnel(&mut self) -> Verdict<Option<Reason>> {
        let is_congested = self.parsed.tos & ECN == ECN;
        self.strip()?;
        let second = (self.first.kind != KIND_NONE).then_some(self.first);
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
        if matches!(self.parsed.kind, Kind::Echo | Kind::Own | Kind::Tunnel) {
            return Err(Reason::DropGueNotVip);
        }
        if is_congested && self.parsed.tos & ECN != ECN {
            self.mark_congestion()?;
        }
        if self.parsed.is_foreign && self.flags() & SERVICE_DIRECT != 0 {
            // Another balancer's choice was this one.
            return Ok(None);
        }
        if self.stays() {
            return Err(Reason::DecapDeliver);
        }
        self.hash = self.parsed.flow.hash();
        Ok(Some(Reason::DecapSecondHop))
    }

    /// Takes the outer headers off; the second hop they carry becomes the first host of the route.
    fn strip(&mut self) -> Verdict<()> {
        let (protocol, inner_at) = if self.parsed.is_ipip {
            (self.parsed.flow.protocol, self.parsed.l4_at)
        } else {
            self.look_inside()?
        };
        let ethertype = match protocol {
            PROTO_IPIP => ETHERTYPE_IPV4,
            PROTO_IPV6 => ETHERTYPE_IPV6,
            _ => return Err(Reason::DropGueMalformed),
        };
        let eth: Eth = self.frame.read(0)?;
        if !self.frame.shrink(inner_at - L3_AT) {
            return Err(Reason::DropGueMalformed);
        }
        self.frame.write(0, &Eth { ethertype, ..eth })
    }

    /// The protocol of what is behind a GUE header, and where it begins; takes the second hop.
    fn look_inside(&mut self) -> Verdict<(u8, usize)> {
        let malformed = |_| Reason::DropGueMalformed;
        let gue_at = self.parsed.l4_at;
        let gue: Gue = self.frame.read(gue_at).map_err(malformed)?;
        let (chain_at, address_at) = (gue_at + GUE_LEN, gue_at + GUE_LEN + CHAIN_LEN);
        if self.parsed.is_foreign {
            // Whom strangers name as second hop is not whom this host sends packets to.
            return match (gue.version_control_len >> 4, gue.version_control_len) {
                (VARIANT_1_IPV4, _) => Ok((PROTO_IPIP, gue_at)),
                (VARIANT_1_IPV6, _) => Ok((PROTO_IPV6, gue_at)),
                (_, LEN_PLAIN) => Ok((gue.protocol, chain_at)),
                _ => Err(Reason::DropGueMalformed),
            };
        }
        match gue.version_control_len {
            LEN_PLAIN => Ok((gue.protocol, chain_at)),
            LEN_CHAIN4 => {
                let kind = self.chain_kind(chain_at, [KIND_GUE4, KIND_IPIP4])?;
                let address = Address::v4(self.frame.bytes(address_at).map_err(malformed)?);
                self.first = Backend { address, kind, _pad: [0; 3] };
                Ok((gue.protocol, address_at + 4))
            }
            LEN_CHAIN6 => {
                let kind = self.chain_kind(chain_at, [KIND_GUE6, KIND_IPIP6])?;
                let address = Address::v6(self.frame.bytes(address_at).map_err(malformed)?);
                self.first = Backend { address, kind, _pad: [0; 3] };
                Ok((gue.protocol, address_at + 16))
            }
            _ => Err(Reason::DropGueMalformed),
        }
    }

    fn chain_kind(&mut self, at: usize, kinds: [u8; 2]) -> Verdict<u8> {
        let chain: Chain = self.frame.read(at).map_err(|_| Reason::DropGueMalformed)?;
        self.is_back = chain.index == 2;
        let is_whole = matches!((chain.index, chain.count), (1, 2) | (2, 3));
        if kinds.contains(&chain.kind) && is_whole { Ok(chain.kind) } else { Err(Reason::DropGueMalformed) }
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
}
