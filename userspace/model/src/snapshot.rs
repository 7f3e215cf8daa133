//! The resolved, immutable form of a configuration. Every name in it leads somewhere; inside, nobody checks again.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    AccessList, Failover, Group, Listener, Name, Node, Objects, Peer, Pool, Problems, Server, SourceFile,
    Spread, Vip, Zone, validate,
};

/// Which configuration a daemon has in force: equal text, equal generation, on every host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TryFrom<String> for Generation {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

impl From<Generation> for String {
    fn from(generation: Generation) -> Self {
        generation.to_string()
    }
}

/// A whole configuration that makes sense.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// Hash of the texts it was read from.
    pub generation: Generation,
    /// Zones; at least one whenever there is a node or server.
    pub zones: BTreeMap<Name, Zone>,
    /// Load balancers.
    pub nodes: BTreeMap<Name, Node>,
    /// Groups of them.
    pub groups: BTreeMap<Name, Group>,
    /// Virtual addresses.
    pub vips: BTreeMap<Name, Vip>,
    /// Listeners.
    pub listeners: BTreeMap<Name, Listener>,
    /// Pools.
    pub pools: BTreeMap<Name, Pool>,
    /// Backends.
    pub servers: BTreeMap<Name, Server>,
    /// BGP peers.
    pub peers: BTreeMap<Name, Peer>,
    /// Failovers, those that have ended among them: whether one is in force depends on the clock.
    pub failovers: BTreeMap<Name, Failover>,
    /// Access lists, with entries that have ended among theirs.
    pub access: BTreeMap<Name, AccessList>,
}

impl Snapshot {
    /// Texts → snapshot, or every problem they have.
    pub fn read(files: &[SourceFile]) -> Result<Self, Problems> {
        let (objects, mut problems) = Objects::parse(files);
        validate::check(&objects, &mut problems);
        if !problems.is_empty() {
            problems.sort();
            problems.dedup();
            return Err(Problems(problems));
        }
        Ok(Self {
            generation: generation(files),
            zones: objects.zone,
            nodes: objects.node,
            groups: objects.group,
            vips: objects.vip,
            listeners: objects.listener,
            pools: objects.pool,
            servers: objects.server,
            peers: objects.peer,
            failovers: objects.failover,
            access: objects.access,
        })
    }

    /// The servers of a pool, in the order of their names.
    pub fn servers_of<'a>(&'a self, pool: &'a Name) -> impl Iterator<Item = (&'a Name, &'a Server)> + 'a {
        self.servers.iter().filter(move |(_, server)| server.pools.contains(pool))
    }

    /// The VIPs a node balances and serves, in the order of their names: those it announces, and those whose sources a group of
    /// its own serves.
    pub fn vips_served_by<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = (&'a Name, &'a Vip)> + 'a {
        let has = move |group: &Name| self.groups.get(group).is_some_and(|group| group.nodes.contains(node));
        self.vips.iter().filter(move |(_, vip)| vip.groups().any(has))
    }

    /// The VIPs a node announces, in the order of their names.
    pub fn vips_of<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = (&'a Name, &'a Vip)> + 'a {
        self.vips
            .iter()
            .filter(move |(_, vip)| self.groups.get(&vip.group).is_some_and(|g| g.nodes.contains(node)))
    }

    /// The platform as a server sees it that opens tunnels by `weir-l4`: a group of one, itself, which serves the VIPs that
    /// point straight at its pools. The others it shares pools with are nodes too, since they send it flows of its own.
    /// `None` when there is no such server.
    pub fn of_server(&self, name: &Name) -> Option<Self> {
        let server = self.servers.get(name)?;
        let node = |server: &Server| Node::of_server(server);
        let shares = |other: &Server| other.pools.iter().any(|pool| server.pools.contains(pool));
        let mut nodes = self.nodes.clone();
        let others = self.servers.iter().filter(|(_, other)| shares(other));
        nodes.extend(others.map(|(name, other)| (name.clone(), node(other))));
        nodes.insert(name.clone(), node(server));
        let at_it = |vip: &&Vip| vip.pool.as_ref().is_some_and(|pool| server.pools.contains(pool));
        let vips = self.vips.iter().filter(|(_, vip)| at_it(vip)).map(|(vip_name, vip)| {
            let vip = Vip { group: name.clone(), pool: None, spread: Spread::Group, ..vip.clone() };
            (vip_name.clone(), vip)
        });
        let group = Group::of(vec![name.clone()]);
        Some(Self {
            generation: self.generation,
            zones: self.zones.clone(),
            nodes,
            groups: BTreeMap::from([(name.clone(), group)]),
            vips: vips.collect(),
            ..Self::default()
        })
    }

    /// The VIP that has `address`.
    pub fn vip_at(&self, address: IpAddr) -> Option<(&Name, &Vip)> {
        self.vips.iter().find(|(_, vip)| vip.addresses.contains(&address))
    }

    /// The listener that serves a port of a VIP.
    pub fn listener_at(&self, vip: &Name, port: u16) -> Option<(&Name, &Listener)> {
        self.listeners.iter().find(|(_, l)| l.vip.as_ref() == Some(vip) && l.port == Some(port))
    }

    /// The pools a VIP's listeners can send requests to.
    pub fn pools_of_vip(&self, vip: &Name) -> std::collections::BTreeSet<&Name> {
        self.listeners
            .values()
            .filter(|listener| listener.vip.as_ref() == Some(vip))
            .flat_map(|listener| listener.pool.iter().chain(listener.routes.iter().map(|route| &route.pool)))
            .collect()
    }
}

/// FNV-1a over paths and texts in the order given (the shell sorts by path): stable across processes and versions.
fn generation(files: &[SourceFile]) -> Generation {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    for file in files {
        file.path.hash(&mut hasher);
        file.text.hash(&mut hasher);
    }
    Generation(hasher.finish())
}
