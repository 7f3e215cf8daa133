//! Announced addresses of VIPs → the routes one peer should have, with its attributes. Pure.

use ipnet::IpNet;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use weir_bgp::{PREPEND_MAX, Route, RouteSet};
use weir_model::status::Tier;
use weir_model::{Community, GroupMode, Name, Node, Peer, Snapshot};

/// How much each step of being worse lengthens the path: more than the usual difference between two paths in a fabric.
const WORSE_PREPEND: u8 = 3;

/// How much each step lowers LOCAL_PREF towards internal peers, where the path says nothing.
const WORSE_LOCAL_PREF_LOSS: u32 = 25;

/// LOCAL_PREF when the peer object names none.
const LOCAL_PREF_DEFAULT: u32 = 100;

/// A host route per address, and the addresses for which the node has no next hop. `link_local` is our address on the link of
/// a link-local session.
pub(crate) fn routes<'a>(
    snapshot: &'a Snapshot,
    node_name: &Name,
    peer: &Peer,
    link_local: Option<Ipv6Addr>,
    addresses: impl Iterator<Item = (&'a Name, IpAddr, Tier)>,
) -> (RouteSet, Vec<IpAddr>) {
    let mut set = RouteSet::new();
    let mut without_next_hop = Vec::new();
    let Some(node) = snapshot.nodes.get(node_name) else {
        return (set, without_next_hop);
    };
    for (vip, address, tier) in addresses {
        match next_hop(node, peer, link_local, address) {
            Some(next_hop) => {
                let standby = is_standby(snapshot, vip, node_name);
                set.insert(IpNet::from(address), attributes(peer, next_hop, standby, tier));
            }
            None => without_next_hop.push(address),
        }
    }
    (set, without_next_hop)
}

/// The node's own address of the family; else the one we speak from. On a link-local session the link-local address, for IPv6 and
/// where it was asked for IPv4 too: the router may have no route to any other, and BIRD and FRR take it alone. IPv4 goes behind
/// IPv6 elsewhere when the node has no IPv4 address.
fn next_hop(node: &Node, peer: &Peer, link_local: Option<Ipv6Addr>, address: IpAddr) -> Option<IpAddr> {
    let own = |ipv4: bool| {
        let own = if ipv4 { node.address.map(IpAddr::V4) } else { node.address6.map(IpAddr::V6) };
        own.or(peer.local_address.filter(|local| local.is_ipv4() == ipv4))
    };
    let link_local = link_local.map(IpAddr::V6);
    match address {
        IpAddr::V6(_) => link_local.or(own(false)),
        IpAddr::V4(_) if peer.takes_extended_next_hop() => link_local.or(own(true)).or(own(false)),
        IpAddr::V4(_) => own(true),
    }
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
    let leaves = peer.graceful_shutdown || tier == Tier::GracefulShutdown;
    if leaves {
        // RFC 8326 §4.2: the lowest there is.
        local_pref = 0;
    }
    let plain =
        Route::new(next_hop).with_med(peer.med).with_local_pref(local_pref).with_graceful_shutdown(leaves);
    let (mut communities, mut large) = (Vec::new(), Vec::new());
    // The model has checked form and number.
    for community in peer.communities.iter().filter_map(|text| text.parse().ok()) {
        match community {
            Community::Standard(value) => communities.push(value),
            Community::Large(global, local1, local2) => large.push((global, local1, local2)),
        }
    }
    plain
        .clone()
        .with_prepend(prepend)
        .and_then(|route| route.with_communities(communities))
        .and_then(|route| route.with_large_communities(large))
        .unwrap_or(plain)
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
communities = ["65000:100", "no-export", "65000:1:2"]
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
            None,
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
        assert_eq!((standby.med(), standby.communities()), (Some(7), &[0xfde8_0064, 0xffff_ff01][..]));
        assert_eq!(standby.large_communities(), [(65000, 1, 2)]);
    }

    #[test]
    fn on_a_link_local_session_both_families_go_behind_the_link_local_address() {
        let text = CONFIG.replace("address = \"10.0.1.1\"", "interface = \"eth0\"");
        let snapshot = Snapshot::read(&[SourceFile { path: "a.toml".into(), text }])
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        let (vip, _) = snapshot.vips.first_key_value().unwrap();
        let link_local: Ipv6Addr = "fe80::2".parse().unwrap();
        for node in ["n1", "n2"] {
            let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
            let (set, without) = routes(
                &snapshot,
                &node.parse().unwrap(),
                &snapshot.peers["tor"],
                Some(link_local),
                addresses.into_iter().map(|address| (vip, address, Tier::Normal)),
            );
            assert!(without.is_empty());
            for route in set.values() {
                assert_eq!(route.next_hop(), IpAddr::V6(link_local));
            }
        }
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
        assert!(leaving.graceful_shutdown());
        assert!(!worse.graceful_shutdown());
        assert_eq!((leaving.local_pref(), leaving.med()), (0, Some(7)));
    }
}
