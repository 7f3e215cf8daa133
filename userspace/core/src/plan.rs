//! From the [`Image`] that is to the one that shall be: ordered operations, each of which leaves a datapath that works.
//!
//! ```text
//!  peers, backends ─► tables ─► services ─► routes ─► filter, vips │ vips, filter ─► routes ─► services ─► tables ─► backends, peers
//!                      what comes                                  │                what goes
//! ```
//!
//! Laws, held by tests with random images: `diff(a, a)` is empty; applying `diff(a, b)` to `a` gives `b`; after every
//! prefix of a plan each table slot in use names a backend that is there, and each VIP a service and table that are.

use std::{collections::BTreeMap, fmt, sync::Arc};

use weir_abi::{
    Address, Config,
    guard::{ACCESS_BLOCK, AccessRule, Guard, SOURCE_SCOPE_BITS, SourcePrefix},
    hop::Backend,
    service::{Service, VipKey, VipRanges},
    tunnel::TunnelSource,
};

use crate::image::{Image, TableWords};

/// One step; each is atomic in the kernel.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the fields of Image")]
pub enum Op {
    SetConfig(Config),
    PutPeer(Address),
    PutTunnelSource(TunnelSource, u32),
    PutBackend(u16, Backend),
    PutQuicServer(u16, u16),
    PutTable(u32, TableWords),
    PutSourceTable(SourcePrefix, u32),
    PutAccess(SourcePrefix, AccessRule),
    PutGuard(u32, Guard),
    PutService(u32, Service),
    PutFilter(u32, u64),
    PutRoute(Address),
    PutRanges(VipKey, VipRanges),
    PutVip(VipKey, u32),
    DeleteVip(VipKey),
    DeleteRanges(VipKey),
    DeleteRoute(Address),
    DeleteService(u32),
    DeleteGuard(u32),
    DeleteAccess(SourcePrefix),
    DeleteSourceTable(SourcePrefix),
    DeleteTable(u32),
    DeleteQuicServer(u16),
    DeleteBackend(u16),
    DeleteTunnelSource(TunnelSource),
    DeletePeer(Address),
}

/// Steps in their order.
pub type Plan = Vec<Op>;

/// The steps from `current` to `desired`.
pub fn diff(current: &Image, desired: &Image) -> Plan {
    let mut plan = Plan::new();
    if current.config != desired.config {
        plan.push(Op::SetConfig(desired.config));
    }
    plan.extend(desired.peers.difference(&current.peers).map(|peer| Op::PutPeer(*peer)));
    put(&mut plan, &current.tunnel_sources, &desired.tunnel_sources, |source, kinds| {
        Op::PutTunnelSource(*source, *kinds)
    });
    put(&mut plan, &current.backends, &desired.backends, |slot, backend| Op::PutBackend(*slot, *backend));
    put(&mut plan, &current.quic_servers, &desired.quic_servers, |id, slot| Op::PutQuicServer(*id, *slot));
    for (index, words) in &desired.tables {
        let same = current.tables.get(index).is_some_and(|there| Arc::ptr_eq(there, words) || there == words);
        if !same {
            plan.push(Op::PutTable(*index, Arc::clone(words)));
        }
    }
    put(&mut plan, &current.source_tables, &desired.source_tables, |prefix, table| {
        Op::PutSourceTable(*prefix, *table)
    });
    // Who may come, before all others may not; who may not, before the prefix around him may.
    put(&mut plan, &current.access, &desired.access, |prefix, rule| Op::PutAccess(*prefix, *rule));
    put(&mut plan, &current.guards, &desired.guards, |index, guard| Op::PutGuard(*index, *guard));
    put(&mut plan, &current.services, &desired.services, |index, service| Op::PutService(*index, *service));
    plan.extend(desired.routes.difference(&current.routes).map(|route| Op::PutRoute(*route)));
    // Bits too many cost lookups, bits too few a VIP: those that come before it, those that go after it.
    let filter = |image: &Image, word: &u32| image.filter.get(word).copied().unwrap_or_default();
    for (word, bits) in &desired.filter {
        let both = bits | filter(current, word);
        if both != filter(current, word) {
            plan.push(Op::PutFilter(*word, both));
        }
    }
    // A single port hides a range that contains it: it must come before the range goes, and go after the range came.
    put(&mut plan, &current.vips, &desired.vips, |key, index| Op::PutVip(*key, *index));
    put(&mut plan, &current.ranges, &desired.ranges, |key, ranges| Op::PutRanges(*key, *ranges));

    plan.extend(gone(&current.vips, &desired.vips).map(|key| Op::DeleteVip(*key)));
    plan.extend(gone(&current.ranges, &desired.ranges).map(|key| Op::DeleteRanges(*key)));
    for (word, bits) in &current.filter {
        if bits & !filter(desired, word) != 0 {
            plan.push(Op::PutFilter(*word, filter(desired, word)));
        }
    }
    plan.extend(current.routes.difference(&desired.routes).map(|route| Op::DeleteRoute(*route)));
    plan.extend(gone(&current.services, &desired.services).map(|index| Op::DeleteService(*index)));
    plan.extend(
        gone(&current.source_tables, &desired.source_tables).map(|prefix| Op::DeleteSourceTable(*prefix)),
    );
    plan.extend(gone(&current.guards, &desired.guards).map(|index| Op::DeleteGuard(*index)));
    plan.extend(gone(&current.access, &desired.access).map(|prefix| Op::DeleteAccess(*prefix)));
    plan.extend(gone(&current.tables, &desired.tables).map(|index| Op::DeleteTable(*index)));
    plan.extend(gone(&current.quic_servers, &desired.quic_servers).map(|id| Op::DeleteQuicServer(*id)));
    plan.extend(gone(&current.backends, &desired.backends).map(|slot| Op::DeleteBackend(*slot)));
    plan.extend(
        gone(&current.tunnel_sources, &desired.tunnel_sources).map(|source| Op::DeleteTunnelSource(*source)),
    );
    plan.extend(current.peers.difference(&desired.peers).map(|peer| Op::DeletePeer(*peer)));
    plan
}

fn put<K: Ord, V: PartialEq>(
    plan: &mut Plan,
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
    op: impl Fn(&K, &V) -> Op,
) {
    plan.extend(
        to.iter().filter(|(key, value)| from.get(key) != Some(value)).map(|(key, value)| op(key, value)),
    );
}

fn gone<'a, K: Ord, V>(from: &'a BTreeMap<K, V>, to: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a K> {
    from.keys().filter(|key| !to.contains_key(key))
}

impl Image {
    /// What a step does, in memory.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetConfig(config) => self.config = *config,
            Op::PutPeer(peer) => _ = self.peers.insert(*peer),
            Op::PutTunnelSource(source, kinds) => _ = self.tunnel_sources.insert(*source, *kinds),
            Op::PutBackend(slot, backend) => _ = self.backends.insert(*slot, *backend),
            Op::PutQuicServer(id, slot) => _ = self.quic_servers.insert(*id, *slot),
            Op::DeleteQuicServer(id) => _ = self.quic_servers.remove(id),
            Op::PutTable(index, words) => _ = self.tables.insert(*index, Arc::clone(words)),
            Op::PutSourceTable(prefix, table) => _ = self.source_tables.insert(*prefix, *table),
            Op::PutAccess(prefix, rule) => _ = self.access.insert(*prefix, *rule),
            Op::PutGuard(index, guard) => _ = self.guards.insert(*index, *guard),
            Op::PutService(index, service) => _ = self.services.insert(*index, *service),
            Op::PutFilter(word, 0) => _ = self.filter.remove(word),
            Op::PutFilter(word, bits) => _ = self.filter.insert(*word, *bits),
            Op::PutRoute(route) => _ = self.routes.insert(*route),
            Op::PutRanges(key, ranges) => _ = self.ranges.insert(*key, *ranges),
            Op::PutVip(key, index) => _ = self.vips.insert(*key, *index),
            Op::DeleteVip(key) => _ = self.vips.remove(key),
            Op::DeleteRanges(key) => _ = self.ranges.remove(key),
            Op::DeleteRoute(route) => _ = self.routes.remove(route),
            Op::DeleteService(index) => _ = self.services.remove(index),
            Op::DeleteGuard(index) => _ = self.guards.remove(index),
            Op::DeleteSourceTable(prefix) => _ = self.source_tables.remove(prefix),
            Op::DeleteAccess(prefix) => _ = self.access.remove(prefix),
            Op::DeleteTable(index) => _ = self.tables.remove(index),
            Op::DeleteBackend(slot) => _ = self.backends.remove(slot),
            Op::DeleteTunnelSource(source) => _ = self.tunnel_sources.remove(source),
            Op::DeletePeer(peer) => _ = self.peers.remove(peer),
        }
    }
}

/// A prefix of sources, for people.
fn source(prefix: &SourcePrefix) -> String {
    let address = &prefix.source.address;
    let beyond = SOURCE_SCOPE_BITS + if address.is_v4() { 96 } else { 0 };
    let vip = match prefix.source.vip() {
        0 => String::new(),
        vip => format!(" at {vip}"),
    };
    format!("{}/{}{vip}", std::net::IpAddr::from(*address), prefix.len_bits.saturating_sub(beyond))
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |address: &Address| std::net::IpAddr::from(*address);
        let port = |key: &VipKey| u16::from_be_bytes(key.port);
        match self {
            Op::SetConfig(_) => write!(f, "set config"),
            Op::PutPeer(peer) => write!(f, "put peer {}", ip(peer)),
            Op::PutTunnelSource(source, _) => {
                write!(f, "put tunnel source {}, {} of 128 bits", ip(&source.address), source.len_bits)
            }
            Op::PutBackend(slot, backend) => write!(f, "put backend {slot} = {}", ip(&backend.address)),
            Op::PutQuicServer(id, slot) => write!(f, "put quic server {id} = backend {slot}"),
            Op::DeleteQuicServer(id) => write!(f, "delete quic server {id}"),
            Op::PutTable(index, _) => write!(f, "put table {index}"),
            Op::PutSourceTable(prefix, table) => {
                write!(f, "put source {} = table {table}", source(prefix))
            }
            Op::PutAccess(prefix, rule) => {
                let verb = if rule.action == ACCESS_BLOCK { "block" } else { "allow" };
                write!(f, "put access: {verb} {}", source(prefix))
            }
            Op::PutGuard(index, _) => write!(f, "put guard {index}"),
            Op::PutService(index, service) => write!(f, "put service {index} = table {}", service.table),
            Op::PutFilter(word, bits) => write!(f, "put filter {word} = {bits:#x}"),
            Op::PutRoute(route) => write!(f, "put route {}", ip(route)),
            Op::PutRanges(key, ranges) => {
                write!(f, "put {} ranges of {} protocol {}", ranges.count, ip(&key.address), key.protocol)
            }
            Op::PutVip(key, index) => {
                write!(
                    f,
                    "put vip {} protocol {} port {} = service {index}",
                    ip(&key.address),
                    key.protocol,
                    port(key)
                )
            }
            Op::DeleteVip(key) => {
                write!(f, "delete vip {} protocol {} port {}", ip(&key.address), key.protocol, port(key))
            }
            Op::DeleteRanges(key) => {
                write!(f, "delete ranges of {} protocol {}", ip(&key.address), key.protocol)
            }
            Op::DeleteRoute(route) => write!(f, "delete route {}", ip(route)),
            Op::DeleteService(index) => write!(f, "delete service {index}"),
            Op::DeleteGuard(index) => write!(f, "delete guard {index}"),
            Op::DeleteSourceTable(prefix) => write!(f, "delete source {}", source(prefix)),
            Op::DeleteAccess(prefix) => write!(f, "delete access of {}", source(prefix)),
            Op::DeleteTable(index) => write!(f, "delete table {index}"),
            Op::DeleteBackend(slot) => write!(f, "delete backend {slot}"),
            Op::DeleteTunnelSource(source) => {
                write!(f, "delete tunnel source {}, {} of 128 bits", ip(&source.address), source.len_bits)
            }
            Op::DeletePeer(peer) => write!(f, "delete peer {}", ip(peer)),
        }
    }
}

#[cfg(test)]
mod tests;
