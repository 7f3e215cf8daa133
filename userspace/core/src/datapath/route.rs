//! A packet for a VIP: which proxy gets it.

use weir_abi::{
    counters::Reason,
    hop::KIND_LOCAL,
    limits::TABLE_LEN,
    quic::server_id,
    service::{SERVICE_QUIC, Slot},
};

use super::{
    Kind, Packet, Verdict,
    trace::{Stage, host_of},
};

/// Bytes of a UDP header.
const UDP_LEN: usize = 8;

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
        let slot = self.quic_server().map_or(choice.slot, |owner| Slot { owner, previous: 0 });
        if slot.owner == 0 {
            return Err(Reason::DropNoBackend);
        }
        let owner = self.image.backend(slot.owner);
        let previous = (slot.previous != 0).then(|| self.image.backend(slot.previous));
        self.trace.step(Stage::Owner, |names| {
            let second = previous.as_ref().map(|previous| host_of(names, Some(previous)));
            let second =
                second.map_or_else(|| "no second hop".into(), |second| format!("second hop {second}"));
            (host_of(names, Some(&owner)), format!("backend {}, {second}", slot.owner))
        });
        self.counted = Some((self.parsed.service, slot.owner));
        if owner.kind != KIND_LOCAL {
            (self.first, self.second) = (owner, previous);
            return Ok(match self.parsed.kind {
                Kind::Error => Reason::EncapIcmp,
                _ if self.parsed.is_fragment => Reason::EncapFragment,
                _ => Reason::Encap,
            });
        }
        // This host is asked first, exactly as a remote owner would be: flows it does not know go to their previous owner.
        (self.first, self.is_back) = (previous.unwrap_or_default(), false);
        if self.stays() { Err(Reason::DeliverLocal) } else { Ok(Reason::EncapSecondHop) }
    }

    /// The backend slot of the QUIC server that the connection id of a packet names, if that is there.
    fn quic_server(&mut self) -> Option<u16> {
        if self.flags() & SERVICE_QUIC == 0 || self.parsed.kind != Kind::Datagram {
            return None;
        }
        let id = self.frame.bytes(self.parsed.l4_at + UDP_LEN).ok().and_then(|start| server_id(&start));
        let owner = id.and_then(|id| self.image.quic_servers.get(&id).copied());
        self.trace.step(Stage::Quic, |_| {
            let decision =
                owner.map_or_else(|| "by the flow's hash".into(), |owner| format!("backend {owner}"));
            let why = match (id, owner) {
                (None, _) => "no connection id of a server's choice".into(),
                (Some(id), None) => format!("its connection id names server {id}, which is not there"),
                (Some(id), Some(_)) => format!("its connection id names server {id}"),
            };
            (decision, why)
        });
        owner
    }
}
