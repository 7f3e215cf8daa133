//! The network of a laboratory: namespaces, links, addresses and routes, by netlink. No `ip` is run.
//!
//! What runs in the namespaces is not its business; it can cut a host off and join it again.

use std::{collections::BTreeMap, os::fd::OwnedFd};

use anyhow::{Context, Result, anyhow};

use crate::{
    place::Place,
    sys,
    topology::{self, Host, Role, Topology},
};

/// The interface by which a host (or router) reaches its router.
pub(crate) const UPLINK: &str = "eth0";

/// The network, and what must stay open for it to carry traffic.
pub(crate) struct Fabric {
    places: BTreeMap<String, Place>,
    /// Links of the pass program on the router ports; closing them would stop what balancers send back.
    _ports: Vec<OwnedFd>,
}

impl Fabric {
    /// Builds everything under names that begin with `prefix`.
    pub(crate) async fn build(prefix: &str, topology: Topology) -> Result<Self> {
        let mut places = BTreeMap::new();
        let routers = topology.zones().map(topology::router_name);
        let names = std::iter::once("core".to_owned())
            .chain(routers)
            .chain(topology.hosts().map(|host| host.to_string()));
        for name in names {
            let place = Place::create(&format!("{prefix}{name}"))?;
            place.netns.sysctl(if name == "core" || name.starts_with("tor") { ROUTER } else { HOST })?;
            place.set_up("lo").await?;
            places.insert(name, place);
        }
        let mut fabric = Self { places, _ports: Vec::new() };
        let pass = sys::PassProgram::load()?;
        for zone in topology.zones() {
            fabric.join_router(zone).await?;
            for host in topology.hosts().filter(|host| host.zone == zone) {
                fabric.join_host(host, &pass).await.with_context(|| format!("join {host}"))?;
            }
        }
        Ok(fabric)
    }

    /// The namespace called `name`: `core`, `tor1`, `z1lb1`.
    pub(crate) fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).ok_or_else(|| anyhow!("there is no namespace for {name:?}"))
    }

    async fn join_router(&self, zone: u8) -> Result<()> {
        let (core, router) = (self.place("core")?, self.place(&topology::router_name(zone))?);
        let port = topology::router_name(zone);
        let ((core4, router4), (core6, router6)) = (topology::uplink4(zone), topology::uplink6(zone));
        core.veth(&port, router, UPLINK, topology::FABRIC_MTU).await?;
        core.address(&port, &[(core4.into(), 30), (core6.into(), 64)]).await?;
        router.address(UPLINK, &[(router4.into(), 30), (router6.into(), 64)]).await?;
        core.route(topology::zone_prefix4(zone).into(), router4.into()).await?;
        core.route(topology::zone_prefix6(zone).into(), router6.into()).await?;
        router.default_routes(core4, core6).await
    }

    async fn join_host(&mut self, host: Host, pass: &sys::PassProgram) -> Result<()> {
        let name = host.to_string();
        let (router, place) = (self.place(&topology::router_name(host.zone))?, self.place(&name)?);
        let index = router.veth(&name, place, UPLINK, host.mtu()).await?;
        router.address(&name, &[(host.router4().into(), 30), (host.router6().into(), 64)]).await?;
        self.configure(host).await?;
        if host.role == Role::Client {
            router.route(topology::client_prefix4(host.zone).into(), host.address4().into()).await?;
            router.route(topology::client_prefix6(host.zone).into(), host.address6().into()).await?;
            for prefix in topology::client_prefixes(host.zone) {
                place.local_route(prefix).await?;
            }
            place.netns.run(|| sys::disable_tx_checksum_offload(UPLINK))?;
        }
        if host.role == Role::Balancer {
            let port = router.netns.run(|| {
                sys::disable_tx_checksum_offload(&name)?;
                pass.attach(index)
            })?;
            self._ports.push(port);
        }
        Ok(())
    }

    /// Gives a host its addresses and default routes, whatever of them it lost.
    async fn configure(&self, host: Host) -> Result<()> {
        let place = self.place(&host.to_string())?;
        place.set_up(UPLINK).await?;
        place.address(UPLINK, &[(host.address4().into(), 30), (host.address6().into(), 64)]).await?;
        place.default_routes(host.router4(), host.router6()).await
    }

    /// Takes a host's link down: its router sees the carrier go.
    pub(crate) async fn cut(&self, host: Host) -> Result<()> {
        self.place(&host.to_string())?.set_link(UPLINK, false).await
    }

    /// Takes it up again, with all addresses and routes.
    pub(crate) async fn join(&self, host: Host) -> Result<()> {
        self.configure(host).await
    }
}

/// No duplicate address detection: addresses must be usable at once, and are unique by construction.
const HOST: &[(&str, &str)] = &[
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Connections to the dead are forgotten in seconds: what one mission killed must not trouble the next.
    ("ipv4/tcp_orphan_retries", "2"),
    ("ipv4/tcp_retries2", "6"),
];

/// Hosts' settings, forwarding, and ECMP over the 5-tuple; a next hop without carrier takes no packet even before the
/// routing daemon has said so.
const ROUTER: &[(&str, &str)] = &[
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/ignore_routes_with_linkdown", "1"),
    ("ipv4/conf/default/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/all/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/default/ignore_routes_with_linkdown", "1"),
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
];
