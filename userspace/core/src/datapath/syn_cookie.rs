//! SYN cookies: a SYN that would be delivered to this host is answered here, and nothing is remembered of it.

use weir_abi::{
    checksum,
    counters::Reason,
    headers::{Eth, Ipv4, Ipv6, Tcp},
    limits::SYN_BURST_NS,
    rate,
    service::{PROTO_TCP, SERVICE_SYN_COOKIES},
};

use super::{Action, Kind, L3_AT, Packet, Socket, Verdict, Way, frame::Header, icmp::TTL, trace::Stage};

/// A TCP header with MSS, the only option of an answer.
const ANSWER_LEN: usize = 24;
/// Flags of TCP.
const FIN_RST: u8 = 0x05;
const SYN_ACK: u8 = 0x12;
/// What a connection without window scale begins with, as Linux has it.
const WINDOW: u16 = 64_240;

impl Packet<'_> {
    /// What becomes of a packet that is delivered for `reason`: that, or it is a SYN and turned into its answer.
    pub(super) fn deliver(&mut self, reason: Reason) -> Verdict<(Reason, Action)> {
        let is_asked_for = self.parsed.kind == Kind::Syn
            && !self.parsed.is_fragment
            && self.flags() & SERVICE_SYN_COOKIES != 0;
        if !is_asked_for {
            return Err(reason);
        }
        let made = self.cookie();
        let (decision, why) = match made {
            Ok(_) => ("answered with a cookie", "SYNs come faster than the service is to deliver them"),
            Err(why) => ("delivered", why),
        };
        self.trace.step(Stage::SynCookie, |_| (decision.into(), why.into()));
        let (syn, cookie) = made.map_err(|_| reason)?;
        let came_as: Eth = self.frame.read(0)?;
        self.answer_syn(&came_as, &syn, cookie);
        let action = self.send_answer(&came_as)?;
        Ok((Reason::SynCookie, action))
    }

    /// The SYN, and the kernel's cookie for it; or why it is delivered.
    fn cookie(&mut self) -> Result<(Tcp, u32), &'static str> {
        let interval = u64::from(self.guard().cookie_interval_ns);
        let now = self.host.now_ns;
        let [due, _] = self.host.rates.syns(self.parsed.service);
        if rate::admits(due, now, interval, SYN_BURST_NS) {
            return Err("SYNs are few");
        }
        let at = self.parsed.l4_at;
        let malformed = |_| "its TCP header is not whole";
        let tcp: Tcp = self.frame.read(at).map_err(malformed)?;
        let header_len = usize::from(tcp.data_offset >> 4) * 4;
        if header_len < 20 || self.frame.from(at).len() < header_len {
            return Err("its TCP header is not whole");
        }
        match self.host.socket(&self.parsed.flow, self.parsed.is_v4) {
            Some(Socket::Listener | Socket::AwaitsCookie) => {}
            _ => return Err("no listener was found"),
        }
        if tcp.flags & FIN_RST != 0 {
            return Err("the kernel answers no SYN that ends a connection");
        }
        let cookie =
            self.host.cookie.ok_or("the listener's queue is not full: the kernel wants no cookies")?;
        Ok((tcp, cookie))
    }

    /// Turns the SYN into a SYN-ACK with the cookie.
    fn answer_syn(&mut self, eth: &Eth, syn: &Tcp, cookie: u32) {
        let (flow, guard) = (self.parsed.flow, self.guard());
        let mut wire = Vec::with_capacity(L3_AT + 40 + ANSWER_LEN);
        eth.put(&mut wire);
        let mss = if self.parsed.is_v4 {
            let mut ip = Ipv4 {
                version_ihl: 0x45,
                total_len: (20 + ANSWER_LEN as u16).to_be_bytes(),
                fragment: [0x40, 0],
                ttl: TTL,
                protocol: PROTO_TCP,
                source: flow.destination.v4_octets(),
                destination: flow.source.v4_octets(),
                ..Ipv4::default()
            };
            ip.checksum = checksum::ipv4(&ip);
            ip.put(&mut wire);
            guard.mss4
        } else {
            let ip = Ipv6 {
                version_class_label: [0x60, 0, 0, 0],
                payload_len: (ANSWER_LEN as u16).to_be_bytes(),
                next_header: PROTO_TCP,
                hop_limit: TTL,
                source: flow.destination.octets(),
                destination: flow.source.octets(),
            };
            ip.put(&mut wire);
            guard.mss6
        };
        let mut tcp = Tcp {
            source: flow.destination_port,
            destination: flow.source_port,
            sequence: cookie.to_be_bytes(),
            // The SYN itself takes a number; whatever it carries is sent again.
            acknowledgement: u32::from_be_bytes(syn.sequence).wrapping_add(1).to_be_bytes(),
            data_offset: (ANSWER_LEN as u8 / 4) << 4,
            flags: SYN_ACK,
            window: WINDOW.to_be_bytes(),
            ..Tcp::default()
        };
        // Option 2, four bytes (RFC 9293 §3.7.1).
        let [high, low] = mss.to_be_bytes();
        let option = [2, 4, high, low];
        let mut header = Vec::with_capacity(ANSWER_LEN);
        tcp.put(&mut header);
        option.put(&mut header);
        let mut words = [0; ANSWER_LEN / 2];
        for (word, pair) in words.iter_mut().zip(header.chunks_exact(2)) {
            *word = u16::from_ne_bytes([pair[0], pair[1]]);
        }
        tcp.checksum = checksum::tcp24(&words, &flow.source, &flow.destination).to_ne_bytes();
        tcp.put(&mut wire);
        option.put(&mut wire);
        self.frame.replace(wire);
    }

    /// Writes the Ethernet header towards the client: back to the router the SYN came from, but what came by tunnel goes
    /// where the routing table says clients are.
    fn send_answer(&mut self, came_as: &Eth) -> Verdict<Action> {
        let is_asked = self.by_tunnel && self.tags.is_empty();
        let way = if is_asked { self.host.way(&self.parsed.flow.source) } else { Way::Back };
        let ethertype = came_as.ethertype;
        let (eth, action) = match way {
            Way::Forbidden => return Err(Reason::DropNoRoute),
            Way::Forward { egress, source, destination, .. } => {
                let action = egress.map_or(Action::Transmit, Action::Redirect);
                (Eth { destination, source, ethertype }, action)
            }
            Way::Back => {
                let eth = Eth { destination: came_as.source, source: came_as.destination, ethertype };
                (eth, Action::Transmit)
            }
        };
        self.frame.write(0, &eth)?;
        Ok(action)
    }
}
