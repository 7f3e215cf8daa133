//! The daisy chain: does this host know a flow, or shall it go to the second hop?

use weir_abi::{
    Address,
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_NONE},
    service::{PROTO_TCP, PROTO_UDP, SERVICE_UDP_FLOWS},
};

use super::{Kind, Packet, Socket, trace::Stage};

impl Packet<'_> {
    /// Whether a packet of which this host is a hop stays here; else it goes to the first host of its route.
    pub(super) fn stays(&mut self) -> bool {
        let is_datagram = self.parsed.flow.protocol == PROTO_UDP && self.parsed.kind != Kind::Fragment;
        if is_datagram && self.flags() & SERVICE_UDP_FLOWS != 0 {
            return self.udp_stays();
        }
        self.first.kind == KIND_NONE || self.is_known()
    }

    /// Whether the flow is at home here: the first hop's own question, asked only when there is a second.
    fn is_known(&mut self) -> bool {
        let parsed = &self.parsed;
        let socket = || self.host.socket(&parsed.flow, parsed.is_v4);
        let (is_known, why) = if parsed.flow.protocol == PROTO_TCP {
            match parsed.kind {
                Kind::Syn => (true, "a SYN is for the first hop"),
                kind => match socket() {
                    Some(Socket::Own) => (true, "it has a socket here"),
                    Some(Socket::AwaitsCookie) if kind == Kind::Segment => {
                        (true, "it answers a SYN cookie of the listener")
                    }
                    Some(_) => (false, "only the listener was found"),
                    None => (false, "no socket was found"),
                },
            }
        } else if parsed.kind == Kind::Fragment {
            // It says no port: it stays with the first hop, whatever the order.
            (true, "a fragment of a datagram stays with the first hop")
        } else {
            match socket() {
                Some(_) => (true, "a socket takes the datagram"),
                None => (false, "no socket takes the datagram"),
            }
        };
        self.tell_chain(if is_known { "known here" } else { "not known here: to the second hop" }, why);
        is_known
    }

    /// The same where hosts remember their UDP flows: what neither hop knows is new, and comes back to the first.
    fn udp_stays(&mut self) -> bool {
        let hash = self.parsed.flow.hash_wide();
        if self.host.knows_udp_flow(hash) {
            self.tell_chain("known here", "the UDP flow is remembered here");
            return true;
        }
        if !matches!(self.first.kind, KIND_GUE4 | KIND_GUE6) {
            // An error opens no flow.
            if self.parsed.kind == Kind::Datagram {
                self.host.udp_flows.insert(hash);
            }
            self.tell_chain("at home here", "nobody is behind this host who could give back what is new");
            return true;
        }
        if self.is_back {
            self.is_back = false;
            self.tell_chain("not known here: back to the first hop", "the UDP flow is new, and its owner's");
            return false;
        }
        let config = &self.image.config;
        // In the family in which the second hop is reached, or it might not be able to answer.
        let address =
            if self.first.kind == KIND_GUE4 { Address::v4(config.address4) } else { config.address6 };
        self.second = Some(Backend { address, kind: self.first.kind, _pad: [0; 3] });
        self.is_back = true;
        self.tell_chain(
            "not known here: to the second hop, and back if it is new",
            "no UDP flow is remembered here",
        );
        false
    }

    fn tell_chain(&mut self, decision: &str, why: &str) {
        self.trace.step(Stage::Chain, |_| (decision.into(), why.into()));
    }
}
