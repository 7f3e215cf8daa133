//! A packet for a VIP: which proxy gets it, and whether this host knows its flow.

use weir_abi::{counters::Reason, hop::KIND_LOCAL, limits::TABLE_LEN, service::PROTO_TCP};

use super::{
    Kind, Packet, Socket, Verdict,
    trace::{Stage, host_of},
};

impl Packet<'_> {
    /// Gives the packet to the owner of its slot: by tunnel, or to the kernel when the owner is this host. Returns what
    /// it is counted under.
    pub(super) fn balance(&mut self) -> Verdict<Reason> {
        let choice = self.image.choose(self.parsed.service, &self.parsed.flow)?;
        self.hash = choice.hash;
        self.trace.step(Stage::Slot, |_| {
            let why = format!("flow hash {:#010x} modulo {TABLE_LEN}, table {}", choice.hash, choice.table);
            (format!("slot {}", choice.bucket), why)
        });
        if choice.slot.owner == 0 {
            return Err(Reason::DropNoBackend);
        }
        let owner = self.image.backend(choice.slot.owner);
        let previous = (choice.slot.previous != 0).then(|| self.image.backend(choice.slot.previous));
        self.trace.step(Stage::Owner, |names| {
            let second = previous.as_ref().map(|previous| host_of(names, Some(previous)));
            let second =
                second.map_or_else(|| "no second hop".into(), |second| format!("second hop {second}"));
            (host_of(names, Some(&owner)), format!("backend {}, {second}", choice.slot.owner))
        });
        self.counted = Some((self.parsed.service, choice.slot.owner));
        if owner.kind != KIND_LOCAL {
            (self.first, self.second) = (owner, previous);
            return Ok(match self.parsed.kind {
                Kind::Error => Reason::EncapIcmp,
                _ if self.parsed.is_fragment => Reason::EncapFragment,
                _ => Reason::Encap,
            });
        }
        // This host is asked first, exactly as a remote owner would be: flows it does not know go to their previous owner.
        match previous {
            Some(previous) if !self.is_known() => {
                (self.first, self.second) = (previous, None);
                Ok(Reason::EncapSecondHop)
            }
            _ => Err(Reason::DeliverLocal),
        }
    }

    /// Whether the flow is at home here: the first hop's own question, asked only when there is a second.
    pub(super) fn is_known(&mut self) -> bool {
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
        self.trace.step(Stage::Chain, |_| {
            let known = if is_known { "known here" } else { "not known here: to the second hop" };
            (known.into(), why.into())
        });
        is_known
    }
}
