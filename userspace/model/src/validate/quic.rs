//! QUIC server ids: unique, and there where a VIP relies on them.

use std::collections::BTreeMap;

use super::Checker;
use crate::{Name, Protocol};

impl Checker<'_> {
    pub(super) fn quic(&mut self) {
        let nodes = self.objects.node.iter().map(|(name, node)| ("node", name, node.quic_id));
        let servers = self.objects.server.iter().map(|(name, server)| ("server", name, server.quic_id));
        let mut seen: BTreeMap<u16, (&str, &Name)> = BTreeMap::new();
        for (kind, name, id) in nodes.chain(servers) {
            let Some(id) = id else { continue };
            if let Some((other_kind, other)) = seen.insert(id, (kind, name)) {
                let what = format!("{id} is already the id of {other_kind} {other}");
                self.problem(kind, name, "quic_id", what, "connections of the two would be mixed up");
            }
        }
        for (name, vip) in self.objects.vip.iter().filter(|(_, vip)| vip.quic) {
            if !vip.services.iter().any(|service| service.protocol == Protocol::Udp) {
                self.problem("vip", name, "quic", "has no UDP service".into(), "for example \"udp/443\"");
            }
            let has_id = match &vip.pool {
                Some(pool) => self
                    .objects
                    .server
                    .values()
                    .any(|server| server.pools.contains(pool) && server.quic_id.is_some()),
                None => self.objects.group.get(&vip.group).is_some_and(|group| {
                    let mut nodes = group.nodes.iter().filter_map(|name| self.objects.node.get(name));
                    nodes.any(|node| node.quic_id.is_some())
                }),
            };
            if !has_id {
                let what = "none of its servers has a quic_id: no connection id can name one".to_owned();
                self.problem("vip", name, "quic", what, "give each a number of its own");
            }
        }
    }
}
