//! Snapshot and health of the proxies and servers → [`Image`].
//!
//! Owners are a pure function of the snapshot and the health: equal on all balancers once a change is through. How each row
//! gets there from what is in the kernel, and what it remembers on the way, is [`super::phases`]' business.
//!
//! A node without a table of a VIP is new to it, or has lost its memory in a crash. The others held it for absent, so flows
//! may be where they would be without it: there its rows look first for what they do not know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weir_abi::{
    ABI_VERSION, Address, Config,
    hop::Backend,
    limits::{
        BACKENDS_MAX, PEERS_MAX, SERVICES_MAX, SOURCE_TABLES_MAX, TABLES_MAX, TUNNEL_SOURCES_MAX,
        VIP_RANGES_MAX,
    },
    service::{
        PROTO_TCP, PROTO_UDP, SERVICE_DIRECT, SERVICE_IN_USE, SERVICE_QUIC, SERVICE_SOURCES,
        SERVICE_UDP_FLOWS, Service, VipKey, VipRange, VipRanges,
    },
    tunnel::{ACCEPT_GUE, ACCEPT_IPIP, TUNNELS_IPIP_OF_PEERS, TUNNELS_OF_OTHERS, TunnelSource},
};
use weir_model::{AcceptTunnels, Name, Node, PortRange, Protocol, Snapshot, Tunnel, Vip, status::Health};

use super::{
    Image, filter_of,
    guards::prefix,
    members::{self, Basis, Member},
    phases::Rules,
    rows::{self, TableHistory},
};
use crate::{health::HealthView, maglev::Weighted};

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Lowering<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// The node the image is for.
    pub node: &'a Name,
    /// What probes say of the proxies, by node.
    pub health: &'a BTreeMap<Name, Health>,
    /// What checks say of the servers VIPs point straight at.
    pub servers: &'a HealthView,
    /// What is in the kernel now: numbers and owners are kept from it.
    pub current: &'a Image,
    /// What the last [`Lowered`] said of the tables that are in the kernel; nothing after a start.
    pub history: &'a BTreeMap<u32, TableHistory>,
    /// Time since a start of the caller's choice, the same for all calls.
    pub now: Duration,
    /// VIPs this node no longer has, still routed to it until its withdrawal has reached every router: their new flows
    /// go to the nodes that have them, the old ones stay.
    pub lingering: &'a BTreeMap<Name, Vip>,
}

/// An image, and what it says about the proxies.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The wished content.
    pub image: Image,
    /// Per VIP: the nodes, or the servers of its pool, that get new flows.
    pub owners: BTreeMap<Name, BTreeSet<Name>>,
    /// VIPs without a healthy proxy or server, spread over all that are not disabled: rather a slow death than a quick one.
    pub panicking: BTreeSet<Name>,
    /// What is to be remembered of the tables once they are in the kernel.
    pub history: BTreeMap<u32, TableHistory>,
    /// Access lists by the number their hits are counted under; from [`super::guards`].
    pub lists: BTreeMap<u16, Name>,
    /// When the same input would give another image.
    pub wake: Option<Duration>,
}

/// Why a snapshot cannot be put into the datapath; what is there stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// The configuration has no such node.
    #[error("there is no node {0}")]
    UnknownNode(Name),
    /// A map is full.
    #[error("{what} need more than the {max} entries the datapath has")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        max: u32,
    },
}

/// Computes the image of a node.
pub fn lower(input: Lowering<'_>) -> Result<Lowered, LowerError> {
    let snapshot = input.snapshot;
    let node = snapshot.nodes.get(input.node).ok_or_else(|| LowerError::UnknownNode(input.node.clone()))?;
    let in_kernel = input.current.backends.iter().rev();
    let mut builder = Builder {
        input,
        node,
        current_slots: in_kernel.map(|(slot, there)| ((there.address, there.kind), *slot)).collect(),
        slots: BTreeMap::new(),
        tables: BTreeMap::new(),
        first_free_service: 0,
        out: Lowered {
            image: Image { config: config(node), tunnel_sources: tunnel_sources(&input), ..Image::default() },
            owners: BTreeMap::new(),
            panicking: BTreeSet::new(),
            history: BTreeMap::new(),
            lists: BTreeMap::new(),
            wake: None,
        },
    };
    // Any node of the platform may be a balancer of a flow: groups change one host after the other.
    for node in snapshot.nodes.values() {
        let addresses = node.address.map(|a| Address::v4(a.octets())).into_iter();
        builder.out.image.peers.extend(addresses.chain(node.address6.map(|a| Address::v6(a.octets()))));
    }
    let tunnel_sources = builder.out.image.tunnel_sources.len();
    bound("accepted tunnels", tunnel_sources, TUNNEL_SOURCES_MAX)?;
    if tunnel_sources > 0 {
        builder.out.image.config.tunnels |= TUNNELS_OF_OTHERS;
    }
    bound("tunnel peers", builder.out.image.peers.len(), PEERS_MAX)?;
    for (name, vip) in snapshot.vips_served_by(input.node) {
        builder.vip(name, vip)?;
    }
    let taken: BTreeSet<_> =
        snapshot.vips_served_by(input.node).flat_map(|(_, vip)| &vip.addresses).collect();
    let lingering = input.lingering.iter();
    let lingering = lingering.filter(|(_, vip)| !vip.addresses.iter().any(|address| taken.contains(address)));
    for (name, vip) in lingering.clone() {
        builder.vip(name, vip)?;
    }
    // Only now: a group's table is that of the VIPs it serves all sources of, where there are any.
    for (_, vip) in snapshot.vips_served_by(input.node).chain(lingering) {
        builder.sources(vip)?;
    }
    bound("prefixes of sources", builder.out.image.source_tables.len(), SOURCE_TABLES_MAX)?;
    let mut out = builder.out;
    out.image.filter = filter_of(out.image.vip_addresses());
    Ok(out)
}

pub(crate) fn config(node: &Node) -> Config {
    Config {
        abi_version: ABI_VERSION,
        has_v4: node.address.is_some().into(),
        has_v6: node.address6.is_some().into(),
        address4: node.address.map_or([0; 4], |address| address.octets()),
        address6: node.address6.map_or(Address::default(), |address| Address::v6(address.octets())),
        mtu: 0, // whoever knows the interfaces says
        tunnels: match node.tunnel {
            Tunnel::Gue => 0,
            Tunnel::Ipip => TUNNELS_IPIP_OF_PEERS,
        },
        guarded: 0, // and `guards` this
    }
}

/// What the groups of the node accept. The datapath finds the longest prefix only, so that each has the kinds of all around
/// it.
fn tunnel_sources(input: &Lowering<'_>) -> BTreeMap<TunnelSource, u32> {
    let groups = input.snapshot.groups.values().filter(|group| group.nodes.contains(input.node));
    let accepted: Vec<_> = groups.flat_map(|group| &group.accept_tunnels).collect();
    let entry = |accept: &AcceptTunnels| {
        let prefix = accept.from.trunc();
        let beyond = if prefix.addr().is_ipv4() { 96 } else { 0 };
        let source = TunnelSource {
            len_bits: u32::from(prefix.prefix_len()) + beyond,
            address: Address::from(prefix.addr()),
        };
        let around = accepted.iter().filter(|other| other.from.contains(&prefix));
        let kinds = around.fold(0, |kinds, other| {
            kinds
                | match other.kind {
                    Tunnel::Gue => ACCEPT_GUE,
                    Tunnel::Ipip => ACCEPT_IPIP,
                }
        });
        (source, kinds)
    };
    accepted.iter().map(|accept| entry(accept)).collect()
}

struct Builder<'a> {
    input: Lowering<'a>,
    node: &'a Node,
    /// Numbers in the kernel.
    current_slots: BTreeMap<(Address, u8), u16>,
    /// Numbers given so far.
    slots: BTreeMap<(Address, u8), u16>,
    /// Tables made so far, by what they are made from.
    tables: BTreeMap<Basis<'a>, u32>,
    /// No service number below this one is free.
    first_free_service: u32,
    out: Lowered,
}

impl<'a> Builder<'a> {
    fn vip(&mut self, name: &'a Name, vip: &'a Vip) -> Result<(), LowerError> {
        let basis = Basis::of(vip);
        let members = members::of(&self.input, self.node, basis);
        let owners = members::owners(&members);
        if owners.iter().any(|owner| !owner.is_up()) {
            self.out.panicking.insert(name.clone());
        }
        self.out.owners.insert(name.clone(), owners.iter().map(|owner| owner.name.clone()).collect());
        let table = match self.tables.get(&basis) {
            Some(table) => *table,
            None => {
                let kept = self.table_in_kernel(vip);
                let table = self.table(vip, basis, &members, &owners, kept)?;
                self.tables.insert(basis, table);
                table
            }
        };
        self.services(vip, table)
    }

    /// The number of a backend: the one it has in the kernel, or the lowest free; 0 for what cannot be reached from here.
    fn slot(&mut self, backend: Option<Backend>) -> Result<u16, LowerError> {
        let Some(backend) = backend else { return Ok(0) };
        let key = (backend.address, backend.kind);
        if let Some(slot) = self.slots.get(&key) {
            return Ok(*slot);
        }
        let current = &self.input.current.backends;
        let used = |slot: u32| {
            u16::try_from(slot)
                .is_ok_and(|slot| current.contains_key(&slot) || self.out.image.backends.contains_key(&slot))
        };
        let slot = match self.current_slots.get(&key) {
            Some(slot) => *slot,
            None => lowest_free("backends", 1, BACKENDS_MAX, used)? as u16,
        };
        self.out.image.backends.insert(slot, backend);
        self.slots.insert(key, slot);
        Ok(slot)
    }

    fn table(
        &mut self,
        vip: &'a Vip,
        basis: Basis<'a>,
        members: &[Member<'a>],
        owners: &[Member<'a>],
        kept: Option<u32>,
    ) -> Result<u32, LowerError> {
        let mut numbers = Vec::with_capacity(owners.len());
        for owner in owners {
            numbers.push(self.slot(owner.backend)?);
        }
        let (mut alive, mut wanted, mut single) = (Vec::new(), Vec::new(), Vec::new());
        for member in members {
            let slot = self.slot(member.backend)?;
            if member.health != Health::Down {
                mark(&mut alive, slot);
                // A drained one finishes its connections, a dead one has none.
                if let Some(id) = member.quic_id.filter(|_| slot != 0) {
                    self.out.image.quic_servers.insert(id, slot);
                }
            }
            if member.backend.is_some_and(|backend| backend.is_ipip()) {
                mark(&mut single, slot);
            }
        }
        if vip.pool.is_none() && !members.iter().any(Member::is_self) {
            // A node that was taken out of the group finishes the flows it has.
            mark(&mut alive, self.slot(members::of_self(self.node))?);
        }
        let weighted: Vec<_> = owners
            .iter()
            .zip(&numbers)
            // Weight 0 keeps those out that cannot be reached from here.
            .map(|(owner, slot)| Weighted {
                id: owner.name.as_str(),
                weight: if *slot == 0 { 0 } else { owner.weight },
            })
            .collect();
        for (slot, _) in numbers.iter().zip(&weighted).filter(|(_, weighted)| weighted.weight > 0) {
            mark(&mut wanted, *slot);
        }
        let index = self.table_index(kept)?;
        let current = self.input.current.tables.get(&index);
        let history = self.input.history.get(&index).filter(|_| current.is_some()).cloned();
        let mut history = history.unwrap_or_else(|| TableHistory::unknown(self.input.now));
        let unchanged = history.wish(&weighted, &numbers);
        if unchanged && let Some(current) = current.filter(|current| history.is_settled_as(current)) {
            self.out.image.tables.insert(index, Arc::clone(current));
            self.out.history.insert(index, history);
            return Ok(index);
        }
        let rules = Rules {
            now: self.input.now,
            stepped: history.stepped,
            started: history.started,
            flow_hold: self.flow_hold(vip, basis),
            alive: &alive,
            wanted: &wanted,
            single: &single,
        };
        let (words, wake) = match current {
            Some(current) => history.step(&rules, current),
            None => {
                let mut without = weighted;
                for (weighted, _) in without.iter_mut().zip(owners).filter(|(_, owner)| owner.is_self()) {
                    weighted.weight = 0;
                }
                history.first(&rules, &rows::targets(&without, &numbers))
            }
        };
        self.out.wake = [self.out.wake, wake].into_iter().flatten().min();
        self.out.image.tables.insert(index, words);
        self.out.history.insert(index, history);
        Ok(index)
    }

    /// The longest of the VIPs that share the table.
    fn flow_hold(&self, vip: &Vip, basis: Basis<'_>) -> Duration {
        let here = self.input.snapshot.vips_served_by(self.input.node).chain(self.input.lingering);
        let sharing = here.filter(|(_, other)| Basis::of(other) == basis);
        sharing.map(|(_, other)| other.flow_hold).max().unwrap_or(vip.flow_hold)
    }

    /// The table kept, or the lowest free one.
    fn table_index(&self, kept: Option<u32>) -> Result<u32, LowerError> {
        let current = self.input.current;
        match kept {
            Some(index) => Ok(index),
            None => lowest_free("tables", 0, TABLES_MAX, |index| {
                current.tables.contains_key(&index) || self.out.image.tables.contains_key(&index)
            }),
        }
    }

    /// The tables that sources with a group of their own are spread by.
    fn sources(&mut self, vip: &'a Vip) -> Result<(), LowerError> {
        let numbers: Vec<u32> = numbers(vip, &self.out.image).collect();
        for route in &vip.sources {
            let basis = Basis::Group(&route.group, vip.spread);
            let members = members::of(&self.input, self.node, basis);
            if members.is_empty() {
                // Nobody of them is here: better served by the others than by nobody.
                continue;
            }
            let table = match self.tables.get(&basis) {
                Some(table) => *table,
                None => {
                    let current = self.input.current;
                    let mut there = numbers
                        .iter()
                        .flat_map(|number| route.prefixes.iter().map(move |net| prefix(*number + 1, *net)));
                    let kept = there.find_map(|key| current.source_tables.get(&key).copied());
                    let kept = kept.filter(|table| self.is_free(*table));
                    let table = self.table(vip, basis, &members, &members::owners(&members), kept)?;
                    self.tables.insert(basis, table);
                    table
                }
            };
            let image = &mut self.out.image;
            for number in &numbers {
                let keys = route.prefixes.iter().map(|net| prefix(*number + 1, *net));
                image.source_tables.extend(keys.map(|key| (key, table)));
                if let Some(service) = image.services.get_mut(number) {
                    service.flags |= SERVICE_SOURCES;
                }
            }
        }
        Ok(())
    }

    /// Whether a table that is in the kernel is nobody else's yet.
    fn is_free(&self, table: u32) -> bool {
        self.input.current.tables.contains_key(&table) && !self.out.image.tables.contains_key(&table)
    }

    /// The table the VIP's services use in the kernel, unless another took it meanwhile.
    fn table_in_kernel(&self, vip: &Vip) -> Option<u32> {
        let current = self.input.current;
        let mut tables = numbers(vip, current)
            .filter_map(|number| current.services.get(&number).map(|service| service.table));
        tables.find(|table| self.is_free(*table))
    }

    fn services(&mut self, vip: &Vip, table: u32) -> Result<(), LowerError> {
        let flags = SERVICE_IN_USE | if vip.pool.is_some() { SERVICE_DIRECT } else { 0 };
        let flags_udp = [(vip.udp_flows, SERVICE_UDP_FLOWS), (vip.quic, SERVICE_QUIC)];
        let flags_udp =
            flags_udp.iter().filter(|(is_on, _)| *is_on).fold(flags, |flags, (_, bit)| flags | bit);
        for address in &vip.addresses {
            let address = Address::from(*address);
            for protocol in [PROTO_TCP, PROTO_UDP] {
                let all = VipKey { address, port: [0, 0], protocol, _pad: 0 };
                let mut ranges = VipRanges::default();
                let flags = if protocol == PROTO_UDP { flags_udp } else { flags };
                for service in
                    vip.services.iter().filter(|service| protocol_number(service.protocol) == protocol)
                {
                    let PortRange { first, last } = service.ports;
                    // Port 0 stands for the ranges themselves.
                    let first = first.max(1);
                    let index = self.service_index(all, first, last)?;
                    self.out.image.services.insert(index, Service { table, flags });
                    if protocol == PROTO_UDP && ranges.fragments == 0 {
                        // All services of a VIP have the same table; the traffic is counted for its first.
                        ranges.fragments = index + 1;
                    }
                    if first == last {
                        self.out.image.vips.insert(VipKey { port: first.to_be_bytes(), ..all }, index);
                    } else {
                        let count = ranges.count as usize;
                        let free = ranges.ranges.get_mut(count);
                        let free =
                            free.ok_or(LowerError::Full { what: "port ranges of a vip", max: ranges.count })?;
                        *free = VipRange { first, last, service: index };
                        ranges.count += 1;
                    }
                }
                self.out.image.ranges.insert(all, ranges);
            }
            self.out.image.routes.insert(address);
        }
        bound("vip addresses", self.out.image.ranges.len(), VIP_RANGES_MAX)
    }

    fn service_index(&mut self, all: VipKey, first: u16, last: u16) -> Result<u32, LowerError> {
        let current = self.input.current;
        let kept = if first == last {
            current.vips.get(&VipKey { port: first.to_be_bytes(), ..all }).copied()
        } else {
            let ranges = current.ranges.get(&all);
            let ranges =
                ranges.and_then(|ranges| ranges.ranges.get(..ranges.count as usize)).unwrap_or_default();
            ranges.iter().find(|range| (range.first, range.last) == (first, last)).map(|range| range.service)
        };
        match kept.filter(|index| !self.out.image.services.contains_key(index)) {
            Some(index) => Ok(index),
            None => {
                let free = lowest_free("services", self.first_free_service, SERVICES_MAX, |index| {
                    current.services.contains_key(&index) || self.out.image.services.contains_key(&index)
                })?;
                self.first_free_service = free + 1;
                Ok(free)
            }
        }
    }
}

/// The numbers of a VIP's services in an image.
fn numbers<'a>(vip: &'a Vip, image: &'a Image) -> impl Iterator<Item = u32> + 'a {
    vip.addresses.iter().flat_map(move |address| {
        let address = Address::from(*address);
        vip.services.iter().filter_map(move |service| {
            let port = service.ports.first.max(1);
            image.service_at(address, protocol_number(service.protocol), port)
        })
    })
}

fn mark(marks: &mut Vec<bool>, slot: u16) {
    let slot = slot as usize;
    if marks.len() <= slot {
        marks.resize(slot + 1, false);
    }
    marks[slot] = true;
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTO_TCP,
        Protocol::Udp => PROTO_UDP,
    }
}

pub(super) fn lowest_free(
    what: &'static str,
    first: u32,
    max: u32,
    used: impl Fn(u32) -> bool,
) -> Result<u32, LowerError> {
    (first..max).find(|number| !used(*number)).ok_or(LowerError::Full { what, max })
}

pub(super) fn bound(what: &'static str, count: usize, max: u32) -> Result<(), LowerError> {
    if count > max as usize { Err(LowerError::Full { what, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
