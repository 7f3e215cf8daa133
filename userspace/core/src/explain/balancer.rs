//! Which proxy a balancer sends a new flow to: the same image and the same flow hash as in the datapath.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use weir_abi::{
    Address,
    flow::Flow,
    hop::{Backend, KIND_LOCAL},
    service::{PROTO_TCP, PROTO_UDP, Slot},
};
use weir_model::{Name, Protocol, Server, Snapshot, status::Health};

use crate::{
    datapath::Names,
    health::HealthView,
    image::{Image, LowerError, Lowering, guards, lower},
};

/// Where a new flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balanced {
    /// The node whose proxy gets it, or the server of the VIP's pool.
    pub owner: Name,
    /// The slot of the Maglev table.
    pub slot: u32,
}

/// The image of a node in which every change has settled; `health` is what it knows of the proxies, `servers` of servers that
/// VIPs point straight at. `wall` is the time by which entries of access lists end; the host boots at that time.
pub fn image(
    snapshot: &Snapshot,
    node: &Name,
    health: &BTreeMap<Name, Health>,
    servers: &HealthView,
    wall: SystemTime,
) -> Result<Image, LowerError> {
    let (current, history, lingering) = (Image::default(), BTreeMap::new(), BTreeMap::new());
    let input = Lowering {
        snapshot,
        node,
        health,
        servers,
        current: &current,
        history: &history,
        now: Duration::ZERO,
        lingering: &lingering,
    };
    let mut lowered = lower(input)?;
    guards(&input, wall, &mut lowered)?;
    // One that has just started looks for flows where they were without it. Here nothing was before.
    for words in lowered.image.tables.values_mut() {
        let settled = |word: &u32| Slot { previous: 0, ..Slot::unpack(*word) }.pack();
        *words = Arc::new(words.iter().map(settled).collect());
    }
    Ok(lowered.image)
}

/// What the addresses of a snapshot are called: servers, VIPs, and nodes by where their tunnels end.
pub fn names(snapshot: &Snapshot) -> Names {
    let vips = snapshot.vips.iter().flat_map(|(name, vip)| vip.addresses.iter().map(move |ip| (*ip, name)));
    let nodes = snapshot.nodes.iter().flat_map(|(name, node)| {
        let v4 = node.address.map(IpAddr::V4);
        v4.into_iter().chain(node.address6.map(IpAddr::V6)).map(move |ip| (ip, name))
    });
    let servers = snapshot.servers.iter().map(|(name, server)| (server.address.ip(), name));
    servers.chain(vips).chain(nodes).map(|(ip, name)| (Address::from(ip), name.to_string())).collect()
}

/// What the balancer on `node` does with a new flow from `source` to `destination`; `health` is what it knows of the
/// proxies, `servers` of servers that VIPs point straight at. `None` when it does not serve the destination, or reaches no proxy.
///
/// Flows that exist already may still be with the slot's previous owner, which only the balancer's own table knows.
pub fn balance(
    snapshot: &Snapshot,
    node: &Name,
    health: &BTreeMap<Name, Health>,
    servers: &HealthView,
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
) -> Option<Balanced> {
    // Who may come is not asked.
    let image = image(snapshot, node, health, servers, SystemTime::UNIX_EPOCH).ok()?;
    let flow = Flow {
        source: Address::from(source.ip()),
        destination: Address::from(destination.ip()),
        source_port: source.port().to_be_bytes(),
        destination_port: destination.port().to_be_bytes(),
        protocol: match protocol {
            Protocol::Tcp => PROTO_TCP,
            Protocol::Udp => PROTO_UDP,
        },
    };
    let service = image.service_at(flow.destination, flow.protocol, destination.port())?;
    let choice = image.choose(service, &flow).ok()?;
    let owner = name_of(snapshot, node, image.backends.get(&choice.slot.owner)?)?;
    Some(Balanced { owner, slot: choice.bucket })
}

/// What the configuration calls a backend.
pub fn name_of(snapshot: &Snapshot, node: &Name, backend: &Backend) -> Option<Name> {
    if backend.kind == KIND_LOCAL {
        return Some(node.clone());
    }
    let has = |address: IpAddr| Address::from(address) == backend.address;
    let nodes = snapshot.nodes.iter().find(|(_, node)| {
        node.address.is_some_and(|v4| has(v4.into())) || node.address6.is_some_and(|v6| has(v6.into()))
    });
    let is_direct = |server: &Server| {
        snapshot.vips.values().any(|vip| vip.pool.as_ref().is_some_and(|pool| server.pools.contains(pool)))
    };
    let servers =
        || snapshot.servers.iter().find(|(_, server)| has(server.address.ip()) && is_direct(server));
    nodes.map(|(name, _)| name).or_else(|| servers().map(|(name, _)| name)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::SourceFile;

    #[test]
    fn every_balancer_of_a_zone_sends_a_flow_to_the_same_healthy_proxy() {
        let text = r#"
            [zone.a]
            [node.n1]
            zone = "a"
            address = "192.0.2.1"
            [node.n2]
            zone = "a"
            address = "192.0.2.2"
            address6 = "2001:db8::2"
            [group.g]
            nodes = ["n1", "n2"]
            [vip.web]
            addresses = ["203.0.113.1"]
            group = "g"
            services = ["tcp/80", "tcp/8000-8099"]
        "#;
        let s = Snapshot::read(&[SourceFile { path: "t.toml".into(), text: text.into() }]).unwrap();
        let name = |text: &str| text.parse::<Name>().unwrap();
        let up = BTreeMap::from([(name("n1"), Health::Up), (name("n2"), Health::Up)]);
        let n2_down = BTreeMap::from([(name("n1"), Health::Up), (name("n2"), Health::Down)]);
        let ask = |node: &str, health: &BTreeMap<Name, Health>, source_port: u16, port: u16| {
            let source = SocketAddr::new([10, 0, 0, 1].into(), source_port);
            let destination = SocketAddr::new([203, 0, 113, 1].into(), port);
            balance(&s, &name(node), health, &HealthView::default(), Protocol::Tcp, source, destination)
        };
        let mut seen = std::collections::BTreeSet::new();
        for source_port in 40_000..40_020 {
            let first = ask("n1", &up, source_port, 8_050).unwrap();
            assert_eq!(ask("n2", &up, source_port, 8_050).unwrap(), first);
            seen.insert(first.owner);
            assert_eq!(ask("n2", &n2_down, source_port, 80).unwrap().owner, "n1");
        }
        assert_eq!(seen.len(), 2);
        assert_eq!(ask("n1", &up, 40_000, 81), None);
        assert_eq!(ask("n9", &up, 40_000, 80), None);
    }
}
