//! Announced addresses of VIPs → the routes one peer should have, with its attributes. Pure.

use crate::announce::Tier;
use ipnet::IpNet;
use std::net::IpAddr;
use weir_bgp::{PREPEND_MAX, Route, RouteSet};
use weir_model::{GroupMode, Name, Node, Peer, Snapshot};

/// How much each step of being worse lengthens the path: more than the usual difference between two paths in a fabric.
const WORSE_PREPEND: u8 = 3;

/// How much each step lowers LOCAL_PREF towards internal peers, where the path says nothing.
const WORSE_LOCAL_PREF_LOSS: u32 = 25;

/// GRACEFUL_SHUTDOWN, RFC 8326 §4.1.
const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// LOCAL_PREF when the peer object names none.
const LOCAL_PREF_DEFAULT: u32 = 100;

/// A host route per address, and the addresses for which the node has no next hop.
pub(crate) fn routes<'a>(
    snapshot: &'a Snapshot,
    node_name: &Name,
    peer: &Peer,
    addresses: impl Iterator<Item = (&'a Name, IpAddr, Tier)>,
) -> (RouteSet, Vec<IpAddr>) {
    let mut set = RouteSet::new();
    let mut without_next_hop = Vec::new();
    let Some(node) = snapshot.nodes.get(node_name) else {
        return (set, without_next_hop);
    };
    for (vip, address, tier) in addresses {
        match next_hop(node, peer, address) {
            Some(next_hop) => {
                let standby = is_standby(snapshot, vip, node_name);
                set.insert(IpNet::from(address), attributes(peer, next_hop, standby, tier));
            }
            None => without_next_hop.push(address),
        }
    }
    (set, without_next_hop)
}

/// The node's own address of the family; else the one we speak from.
fn next_hop(node: &Node, peer: &Peer, address: IpAddr) -> Option<IpAddr> {
    let own = match address {
        IpAddr::V4(_) => node.address.map(IpAddr::V4),
        IpAddr::V6(_) => node.address6.map(IpAddr::V6),
    };
    own.or(peer.local_address.filter(|local| local.is_ipv4() == address.is_ipv4()))
}

fn is_standby(snapshot: &Snapshot, vip: &Name, node: &Name) -> bool {
    let group = snapshot.vips.get(vip).and_then(|vip| snapshot.groups.get(&vip.group));
    group.is_some_and(|group| group.mode == GroupMode::ActiveStandby && group.nodes.first() != Some(node))
}

fn attributes(peer: &Peer, next_hop: IpAddr, standby: bool, tier: Tier) -> Route {
    let mut prepend = peer.prepend.min(PREPEND_MAX);
    let mut local_pref = peer.local_pref.unwrap_or(LOCAL_PREF_DEFAULT);
    // A standby is worse than any active node, one without servers of its own worse than its like, and who leaves worst of all.
    let steps = u8::from(standby) * 2 + u8::from(tier != Tier::Normal);
    prepend = prepend.saturating_add(steps * WORSE_PREPEND).min(PREPEND_MAX);
    local_pref = local_pref.saturating_sub(u32::from(steps) * WORSE_LOCAL_PREF_LOSS);
    // Both are within their bounds: prepend by min(), communities by count below.
    let mut communities: Vec<u32> = peer.communities.iter().filter_map(|text| community(text)).collect();
    if tier == Tier::GracefulShutdown {
        communities.insert(0, GRACEFUL_SHUTDOWN);
        // RFC 8326 §4.2: the lowest there is.
        local_pref = 0;
    }
    communities.truncate(weir_bgp::COMMUNITIES_MAX);
    let plain = Route::new(next_hop).with_med(peer.med).with_local_pref(local_pref);
    plain.clone().with_prepend(prepend).and_then(|route| route.with_communities(communities)).unwrap_or(plain)
}

/// `65000:100` → a number. The model has checked the form.
fn community(text: &str) -> Option<u32> {
    let (asn, value) = text.split_once(':')?;
    Some(u32::from(asn.parse::<u16>().ok()?) << 16 | u32::from(value.parse::<u16>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_model::SourceFile;

    const CONFIG: &str = r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "10.0.1.2"
[node.n2]
zone = "z1"
address = "10.0.1.3"
address6 = "2001:db8:1::3"
[group.g]
nodes = ["n1", "n2"]
mode = "active-standby"
[vip.web]
addresses = ["192.0.2.1", "2001:db8::1"]
group = "g"
services = ["tcp/80"]
[peer.tor]
node = "n2"
address = "10.0.1.1"
asn = 65000
local_asn = 65001
med = 7
prepend = 1
communities = ["65000:100"]
"#;

    fn routes_of(node: &str) -> (RouteSet, Vec<IpAddr>) {
        routes_in(node, Tier::Normal)
    }

    fn routes_in(node: &str, tier: Tier) -> (RouteSet, Vec<IpAddr>) {
        let file = SourceFile { path: "a.toml".into(), text: CONFIG.into() };
        let snapshot = Snapshot::read(&[file]).unwrap_or_else(|problems| panic!("{problems:?}"));
        let (vip, _) = snapshot.vips.first_key_value().unwrap();
        let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let peer = &snapshot.peers["tor"];
        routes(
            &snapshot,
            &node.parse().unwrap(),
            peer,
            addresses.into_iter().map(|address| (vip, address, tier)),
        )
    }

    #[test]
    fn the_next_hop_is_the_node_in_the_family_of_the_vip() {
        let (set, without) = routes_of("n2");
        assert!(without.is_empty());
        let hops: Vec<(String, String)> =
            set.iter().map(|(prefix, route)| (prefix.to_string(), route.next_hop().to_string())).collect();
        let expected = [("192.0.2.1/32", "10.0.1.3"), ("2001:db8::1/128", "2001:db8:1::3")];
        assert_eq!(hops, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn an_address_without_a_next_hop_is_named_and_not_announced() {
        let (set, without) = routes_of("n1");
        assert_eq!(set.len(), 1);
        assert_eq!(without, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_standby_has_a_worse_path() {
        let v4: IpNet = "192.0.2.1/32".parse().unwrap();
        let active = &routes_of("n1").0[&v4];
        let standby = &routes_of("n2").0[&v4];
        assert_eq!((active.prepend(), standby.prepend()), (1, 7));
        assert!(standby.local_pref() < active.local_pref());
        assert_eq!((standby.med(), standby.communities()), (Some(7), &[0xfde8_0064][..]));
    }

    #[test]
    fn each_tier_is_worse_than_the_one_before() {
        let v4: IpNet = "192.0.2.1/32".parse().unwrap();
        let route = |node, tier| routes_in(node, tier).0[&v4].clone();
        let worth = |route: &Route| (route.local_pref(), std::cmp::Reverse(route.prepend()));
        let (normal, worse, leaving) =
            (route("n1", Tier::Normal), route("n1", Tier::Worse), route("n1", Tier::GracefulShutdown));
        assert!(worth(&normal) > worth(&worse) && worth(&worse) > worth(&leaving));
        assert!(
            worth(&worse) > worth(&route("n2", Tier::Normal)),
            "a standby only when the active one is gone"
        );
        assert!(leaving.communities().contains(&GRACEFUL_SHUTDOWN));
        assert!(!worse.communities().contains(&GRACEFUL_SHUTDOWN));
        assert_eq!((leaving.local_pref(), leaving.med()), (0, Some(7)));
    }
}
