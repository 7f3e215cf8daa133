//! VIPs straight at servers, and whose tunnels are opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Checker;
use crate::{MssClamp, Name, Node, Server, Vip};

impl Checker<'_> {
    pub(super) fn accepted_tunnels(&mut self) {
        for (name, group) in &self.objects.group {
            let mut seen = BTreeSet::new();
            for (index, accept) in group.accept_tunnels.iter().enumerate() {
                let field = format!("accept_tunnels.{index}.from");
                if accept.from.trunc() != accept.from {
                    let what = format!("{} has bits beyond its length", accept.from);
                    self.problem("group", name, &field, what, format!("write {}", accept.from.trunc()));
                }
                if !seen.insert((accept.from.trunc(), accept.kind)) {
                    self.problem("group", name, &field, format!("{} is named twice", accept.from), "");
                }
            }
        }
    }

    pub(super) fn direct_vips(&mut self) {
        for (name, vip) in &self.objects.vip {
            let Some(pool) = &vip.pool else { continue };
            if !self.known(("vip", name, "pool"), "pool", &self.objects.pool, pool) {
                continue;
            }
            if vip.home_zone.is_some() {
                let what = "there is no proxy to choose a zone for its clients".to_owned();
                self.problem("vip", name, "home_zone", what, "remove it");
            }
            if let MssClamp::Bytes(_) = vip.mss_clamp {
                let what = "there is no proxy to tell its clients".to_owned();
                self.problem("vip", name, "mss_clamp", what, "set it on the servers: ip route … advmss");
            }
            let servers: Vec<_> =
                self.objects.server.iter().filter(|(_, server)| server.pools.contains(pool)).collect();
            if servers.is_empty() {
                let hint = format!("add a server with pools = [\"{pool}\"]");
                self.problem("vip", name, "pool", format!("pool {pool} has no servers"), hint);
                continue;
            }
            self.reachable(name, vip, pool, &servers);
        }
        let direct: BTreeSet<&Name> = self.objects.vip.values().filter_map(|vip| vip.pool.as_ref()).collect();
        for pool in direct {
            self.ends_of_tunnels(pool);
        }
    }

    /// Every balancer needs a server it has a tunnel address for.
    fn reachable(&mut self, name: &Name, vip: &Vip, pool: &Name, servers: &[(&Name, &Server)]) {
        let Some(group) = self.objects.group.get(&vip.group) else { return };
        let reaches = |node: &Node, server: &Server| match server.address.ip() {
            IpAddr::V4(_) => node.address.is_some(),
            IpAddr::V6(_) => node.address6.is_some(),
        };
        for (node_name, node) in group.nodes.iter().filter_map(|name| self.objects.node.get_key_value(name)) {
            if !servers.iter().any(|(_, server)| reaches(node, server)) {
                let family = if node.address.is_some() { "IPv4" } else { "IPv6" };
                let what = format!("node {node_name} reaches no server of pool {pool}");
                self.problem(
                    "vip",
                    name,
                    "pool",
                    what,
                    format!("node {node_name} has only an {family} address"),
                );
            }
        }
    }

    /// A tunnel ends at an address that is its server's alone.
    fn ends_of_tunnels(&mut self, pool: &Name) {
        let mut ends: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        for (name, server) in self.objects.server.iter().filter(|(_, server)| server.pools.contains(pool)) {
            let address = server.address.ip();
            if let Some(other) = ends.insert(address, name) {
                let what = format!(
                    "{address} is the address of server {other} too, and a vip points straight at both"
                );
                self.problem(
                    "server",
                    name,
                    "address",
                    what,
                    "a tunnel ends at an address, whatever the port",
                );
            }
            if self.objects.node.contains_key(name) {
                let what = format!("a vip points straight at it, and there is a node {name} too");
                self.problem("server", name, "", what, "give it another name");
            }
            let owns = |node: &Node| {
                [node.address.map(IpAddr::V4), node.address6.map(IpAddr::V6)].contains(&Some(address))
            };
            if let Some((node, _)) = self.objects.node.iter().find(|(_, node)| owns(node)) {
                let what = format!(
                    "{address} is an address of node {node}, and a vip points straight at the server"
                );
                self.problem(
                    "server",
                    name,
                    "address",
                    what,
                    "use a group without pool to balance over nodes",
                );
            }
            if let Some((vip, _)) = self.objects.vip.iter().find(|(_, vip)| vip.addresses.contains(&address))
            {
                let what = format!("{address} is an address of vip {vip}: no tunnel can end there");
                self.problem("server", name, "address", what, "");
            }
        }
    }
}
