//! What a session is begun with, out of its objects: addresses, the wishes of its socket, and the configuration of BGP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use weir_bgp::{Config, Families, GracefulRestart, PeeringRole, RouteSet, StateName};
use weir_model::{AddressFamily, Name, Node, PeerRole, Secret};

use super::Running;
use crate::neighbour;
use crate::peer::Orders;
use crate::sockopt::Wishes;

/// The pause after a lost session, doubled with each failure in a row. Short, because a VIP without its routers serves nobody;
/// the session's own upper bound keeps a quarrel with a router from becoming a storm.
const IDLE_HOLD: Duration = Duration::from_millis(250);

/// How long a session of a range is shown, and keeps its place, after its router has gone.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// fe80::/10.
pub(super) const LINK_LOCAL: ipnet::Ipv6Net =
    ipnet::Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// The interface of a link-local session.
pub(super) struct Link {
    pub(super) index: u32,
    /// Our link-local address on it.
    pub(super) own: Ipv6Addr,
}

impl Link {
    pub(super) fn of(object: &weir_model::Peer) -> Result<Option<Self>, String> {
        let Some(interface) = object.interface.as_deref().filter(|_| object.is_link_local()) else {
            return Ok(None);
        };
        let index = nix::net::if_::if_nametoindex(interface)
            .map_err(|error| format!("interface {interface}: {}", error.desc()))?;
        let own = neighbour::link_local(interface)
            .ok_or_else(|| format!("interface {interface} has no link-local address yet"))?;
        Ok(Some(Self { index, own }))
    }
}

pub(super) fn wishes(object: &weir_model::Peer, key: Option<Secret>) -> Wishes {
    let min_ttl = object.ttl_security.min_ttl();
    // RFC 5082 §3: "sent with TTL … set to 255".
    Wishes { ttl: min_ttl.map(|_| 255).or(object.multihop), min_ttl, key }
}

pub(super) fn remote(address: IpAddr, object: &weir_model::Peer, link: Option<&Link>) -> SocketAddr {
    match (address, link) {
        (IpAddr::V6(ip), Some(link)) => SocketAddrV6::new(ip, object.port, 0, link.index).into(),
        (ip, _) => SocketAddr::new(ip, object.port),
    }
}

/// The node's own address of the family of `of`.
pub(super) fn own_address(node: &Node, of: IpAddr) -> Option<IpAddr> {
    match of {
        IpAddr::V4(_) => node.address.map(IpAddr::V4),
        IpAddr::V6(_) => node.address6.map(IpAddr::V6),
    }
}

pub(super) fn listening_address(node: &Node, object: &weir_model::Peer, link: Option<&Link>) -> IpAddr {
    if let Some(link) = link {
        return link.own.into();
    }
    let any: IpAddr =
        if object.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    object.local_address.or(own_address(node, any)).unwrap_or(any)
}

/// The sessions of a range that are in use, or were a short while ago.
pub(super) fn kept_of_range(object: &Name, before: &BTreeMap<Name, Running>) -> Vec<(Name, SocketAddr)> {
    let stays = |running: &Running| {
        let view = running.peer.view.borrow();
        view.state >= StateName::OpenSent || view.since.elapsed().is_ok_and(|since| since < GONE_AFTER)
    };
    before
        .iter()
        .filter(|(_, running)| running.object == *object && stays(running))
        .map(|(name, running)| (name.clone(), running.plan.remote))
        .collect()
}

/// `NAME-ADDRESS`, with the colons of IPv6 as dashes: the model bounds the name so that it fits.
pub(super) fn session_name(object: &Name, address: IpAddr) -> Option<Name> {
    format!("{object}-{}", address.to_string().replace(':', "-")).parse().ok()
}

/// What the session of an object is told. Before the routes are `settled`, End-of-RIB is kept back where it matters.
pub(crate) fn orders(object: &weir_model::Peer, config: &Config, routes: RouteSet, settled: bool) -> Orders {
    Orders {
        routes,
        max_routes: object.max_routes.map(|max| max as usize),
        hold_end_of_rib: object.graceful_restart.is_some() && !settled,
        config: config.clone(),
    }
}

pub(super) fn config(node: &Node, name: &Name, peer: &weir_model::Peer, restarting: bool) -> Config {
    let bgp_id = node.address.unwrap_or_else(|| identifier(name));
    let families = Families {
        ipv4: peer.families.contains(&AddressFamily::Ipv4),
        ipv6: peer.families.contains(&AddressFamily::Ipv6),
    };
    let role = |role| match role {
        PeerRole::Provider => PeeringRole::Provider,
        PeerRole::Customer => PeeringRole::Customer,
        PeerRole::Peer => PeeringRole::Peer,
        PeerRole::Rs => PeeringRole::RouteServer,
        PeerRole::RsClient => PeeringRole::RouteServerClient,
    };
    Config {
        families,
        // The model bounds it to 65,535 s.
        hold_time_s: u16::try_from(peer.hold_time.as_secs()).unwrap_or(u16::MAX),
        passive: peer.is_passive(),
        connect_retry: peer.connect_retry,
        idle_hold: IDLE_HOLD,
        graceful_restart: peer.graceful_restart.as_ref().map(|ours| GracefulRestart {
            restarting,
            notification: ours.notification,
            restart_time_s: u16::try_from(ours.time.as_secs()).unwrap_or(4095),
            families,
            // The datapath forwards without us.
            forwarding_preserved: true,
        }),
        extended_next_hop: peer.takes_extended_next_hop(),
        role: peer.role.map(role),
        role_strict: peer.role_strict,
        send_hold: peer.send_hold_time,
        max_prefixes: peer.max_prefixes_received,
        max_prefixes_pause: peer.max_prefixes_pause,
        keep_received: peer.keep_received,
        ..Config::new(peer.local_asn, bgp_id, peer.asn)
    }
}

/// A BGP identifier for a node without an IPv4 address: FNV-1a of its name, in 240.0.0.0/4, which no address is in.
fn identifier(name: &Name) -> Ipv4Addr {
    let hash = name
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from(hash | 0xf000_0000)
}
