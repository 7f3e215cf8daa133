//! Whose paths are probed, and by which services: what the balancer of a node may send packets to.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weir_abi::{Config, hop::Backend};
use weir_model::{Name, Node, ProbeVia, Protocol, Snapshot, Spread, Vip};

use super::{RATE_MAX, ROUND_MAX};
use crate::{
    health::Timing,
    image::{config, members},
};

/// Who is probed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// The proxy of a node.
    Proxy(Name),
    /// A server of a pool that a VIP points straight at: pool and server.
    Server(Name, Name),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(node) => write!(f, "the proxy of {node}"),
            Self::Server(pool, server) => write!(f, "server {server} of pool {pool}"),
        }
    }
}

/// The way to a host, and what answers at its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The tunnel.
    pub backend: Backend,
    /// TCP services, with their VIPs.
    pub services: BTreeMap<SocketAddr, Name>,
    /// When to probe.
    pub timing: Timing,
}

/// All paths of a balancer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Paths {
    /// What this host is called: the source of probes.
    pub config: Config,
    /// The paths.
    pub of: BTreeMap<Whom, Path>,
}

/// The paths a node may send packets on, as far as something on them is known to answer: ports of VIPs that a listener of the
/// configuration serves, single TCP ports of VIPs straight at servers that are checked.
pub fn paths(snapshot: &Snapshot, node: &Name) -> Paths {
    let Some(here) = snapshot.nodes.get(node) else { return Paths::default() };
    let config = config(here);
    let mut of = BTreeMap::new();
    for (name, vip) in snapshot.vips_served_by(node).filter(|(_, vip)| vip.pool.is_none()) {
        proxies(snapshot, (node, here), (name, vip), &config, &mut of);
    }
    for (name, vip) in snapshot.vips_of(node) {
        servers(snapshot, here, (name, vip), &config, &mut of);
    }
    // At the bound each is probed less often.
    let gap = Duration::from_secs(1) * (of.len() as u32) * (ROUND_MAX as u32) / RATE_MAX;
    for path in of.values_mut() {
        path.timing.interval = path.timing.interval.max(gap);
    }
    Paths { config, of }
}

fn proxies(
    snapshot: &Snapshot,
    (node, here): (&Name, &Node),
    (name, vip): (&Name, &Vip),
    config: &Config,
    of: &mut BTreeMap<Whom, Path>,
) {
    let listeners = snapshot.listeners.values().filter(|listener| listener.vip.as_ref() == Some(name));
    let ports: Vec<u16> = listeners.filter_map(|listener| listener.port).collect();
    let services = services(vip, &ports, config);
    let groups = vip.groups().filter_map(|group| snapshot.groups.get(group));
    for member in groups.flat_map(|group| &group.nodes) {
        let Some(spec) = snapshot.nodes.get(member) else { continue };
        let takes_flows = vip.spread == Spread::Group || spec.zone == here.zone;
        if spec.probe_via == ProbeVia::Tunnel
            && takes_flows
            && let Some(backend) = members::of_node(here, spec, member == node)
        {
            put(of, Whom::Proxy(member.clone()), backend, Timing::from(spec), &services, name);
        }
    }
}

fn servers(
    snapshot: &Snapshot,
    here: &Node,
    (name, vip): (&Name, &Vip),
    config: &Config,
    of: &mut BTreeMap<Whom, Path>,
) {
    let Some(pool) = &vip.pool else { return };
    let Some(check) = snapshot.pools.get(pool).and_then(|pool| pool.check.as_ref()) else { return };
    if check.via == Some(ProbeVia::Direct) {
        return;
    }
    // Of a range nobody knows which ports are served.
    let single = vip.services.iter().filter(|s| s.protocol == Protocol::Tcp && s.ports.first == s.ports.last);
    let ports: Vec<u16> = single.map(|service| service.ports.first).collect();
    let services = services(vip, &ports, config);
    for (server, spec) in snapshot.servers_of(pool) {
        if let Some(backend) = members::of_server(here, spec) {
            let whom = Whom::Server(pool.clone(), server.clone());
            put(of, whom, backend, Timing::from(check), &services, name);
        }
    }
}

/// Ports of a VIP, at addresses this host has one of the same family to ask from.
fn services(vip: &Vip, ports: &[u16], config: &Config) -> Vec<SocketAddr> {
    let can_ask = |address: &&IpAddr| if address.is_ipv4() { config.has_v4 != 0 } else { config.has_v6 != 0 };
    let addresses = vip.addresses.iter().filter(can_ask);
    addresses.flat_map(|address| ports.iter().map(|port| SocketAddr::new(*address, *port))).collect()
}

fn put(
    of: &mut BTreeMap<Whom, Path>,
    whom: Whom,
    backend: Backend,
    timing: Timing,
    services: &[SocketAddr],
    vip: &Name,
) {
    if services.is_empty() {
        return;
    }
    let path = of.entry(whom).or_insert_with(|| Path { backend, services: BTreeMap::new(), timing });
    path.services.extend(services.iter().map(|service| (*service, vip.clone())));
}
