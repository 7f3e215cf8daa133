//! A packet that does not fit into its tunnel becomes the message that tells its client what would.

use weir_abi::{
    checksum,
    counters::Reason,
    gue,
    headers::{Eth, Icmp, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6},
};

use super::{
    Kind, L3_AT, Packet, Verdict,
    frame::{Header, folded, sum},
    icmp::{ICMP_LEN, TTL, is_answerable},
    trace::Stage,
};

/// How much of the packet is told back.
const QUOTE_LEN: usize = 256;

/// DSCP of internetwork control, as RFC 1812 §4.3.2.5 has errors sent.
const TOS: u8 = 0xc0;
/// RFC 791 §3.2 and RFC 8200 §5: what every link carries. Nobody sends less because he is told to.
const V4_MTU_MIN: u32 = 68;
const V6_MTU_MIN: u32 = 1280;

impl Packet<'_> {
    /// Turns the packet into the message; returns what it is counted under.
    pub(super) fn tell_what_fits(&mut self) -> Verdict<Reason> {
        let second = self.second.unwrap_or_default();
        let fits = self.mtu.saturating_sub(gue::overhead(&self.first, &second));
        self.may_tell(fits)?;
        let eth: Eth = self.frame.read(0)?;
        self.frame.truncate(L3_AT + QUOTE_LEN);
        let quote = self.frame.from(L3_AT);
        let message = if self.parsed.is_v4 {
            let came: Ipv4 = self.frame.read(L3_AT)?;
            message4(came.destination, came.source, fits, quote)
        } else {
            let came: Ipv6 = self.frame.read(L3_AT)?;
            message6(came.destination, came.source, fits, quote)
        };
        // Behind the message's own headers, the packet begins as it came.
        self.frame.grow(message.len())?;
        self.frame.write(0, &Eth { destination: eth.source, source: eth.destination, ..eth })?;
        self.frame.write_bytes(L3_AT, &message)?;
        self.trace.step(Stage::Icmp, |_| ("the client is told".into(), format!("{fits} bytes would fit")));
        Ok(Reason::IcmpTooBig)
    }

    /// Whether the client may be told at all.
    fn may_tell(&mut self, fits: u32) -> Verdict<()> {
        let parsed = &self.parsed;
        // RFC 1122 §3.2.2, RFC 4443 §2.4: no errors about errors, nor about any fragment but the first.
        let why_not = if parsed.kind == Kind::Error || parsed.is_later {
            Some("no errors about errors or later fragments")
        } else if !is_credible(fits, parsed.is_v4) {
            Some("what would fit is less than every link carries")
        } else if self.frame.len() < L3_AT + QUOTE_LEN {
            Some("it is too short to be quoted")
        } else if parsed.is_v4 && !self.frame.read::<Ipv4>(L3_AT)?.is_unfragmentable() {
            Some("it may be fragmented")
        } else if !is_answerable(&parsed.flow.source) {
            Some("nobody can be answered there")
        } else if !self.host.may_tell {
            Some("too many were told already")
        } else {
            None
        };
        let Some(why_not) = why_not else { return Ok(()) };
        self.trace.step(Stage::Icmp, |_| ("the client is not told".into(), why_not.into()));
        Err(Reason::DropTooBig)
    }
}

/// Whether `mtu` is what a link of the family may have.
pub(super) const fn is_credible(mtu: u32, is_v4: bool) -> bool {
    mtu >= if is_v4 { V4_MTU_MIN } else { V6_MTU_MIN }
}

/// IP and ICMP headers of the message about the IPv4 packet that begins with `quote`.
pub(super) fn message4(source: [u8; 4], destination: [u8; 4], fits: u32, quote: &[u8]) -> Vec<u8> {
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: TOS,
        total_len: ((20 + ICMP_LEN + quote.len()) as u16).to_be_bytes(),
        id: [0, 0],
        fragment: [0x40, 0],
        ttl: TTL,
        protocol: PROTO_ICMP,
        checksum: [0, 0],
        source,
        destination,
    };
    ip.checksum = checksum::ipv4(&ip);
    let [_, _, high, low] = fits.to_be_bytes();
    message(&ip, [Icmp::UNREACHABLE, Icmp::FRAGMENTATION_NEEDED], [0, 0, high, low], 0, quote)
}

/// The same about an IPv6 packet.
pub(super) fn message6(source: [u8; 16], destination: [u8; 16], fits: u32, quote: &[u8]) -> Vec<u8> {
    let len = ICMP_LEN + quote.len();
    let ip = Ipv6 {
        version_class_label: [0x60 | TOS >> 4, TOS << 4, 0, 0],
        payload_len: (len as u16).to_be_bytes(),
        next_header: PROTO_ICMPV6,
        hop_limit: TTL,
        source,
        destination,
    };
    // RFC 8200 §8.1: both addresses, the length and the protocol count too.
    let pseudo = sum(&source) + sum(&destination) + len as u32 + u32::from(PROTO_ICMPV6);
    message(&ip, [Icmp::V6_TOO_BIG, 0], fits.to_be_bytes(), pseudo, quote)
}

/// `ip`, and behind it ICMP with the checksum of the whole message on top of `pseudo`.
fn message(ip: &impl Header, [kind, code]: [u8; 2], rest: [u8; 4], pseudo: u32, quote: &[u8]) -> Vec<u8> {
    let mut icmp = Icmp { kind, code, checksum: [0, 0], rest };
    let mut headers = Vec::new();
    icmp.put(&mut headers);
    icmp.checksum = folded(pseudo + sum(&headers) + sum(quote));
    headers.clear();
    ip.put(&mut headers);
    icmp.put(&mut headers);
    headers
}
