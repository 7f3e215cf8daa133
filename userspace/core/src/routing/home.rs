//! The home zone of a client: where it is served as long as that zone can carry it.
//!
//! The first that applies: a valid zone cookie; the `home_zone` of the VIP; the longest client prefix; the zone of the
//! proxy that received the request.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use weir_model::{Name, Snapshot};

/// Client prefixes of all zones, flattened into disjoint ranges: one binary search per lookup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HomeTable {
    zones: Vec<Name>,
    v4: Vec<Range>,
    v6: Vec<Range>,
}

/// From `start` up to the next range's start.
#[derive(Clone, Debug, PartialEq)]
struct Range {
    start: u128,
    /// The longest prefix here and the index of its zone.
    owner: Option<(IpNet, usize)>,
}

/// Why a zone is home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomeReason {
    /// A valid zone cookie.
    Cookie,
    /// The `home_zone` of the VIP.
    Vip,
    /// The client's address lies in this prefix of the zone.
    ClientPrefix(IpNet),
    /// Nothing else applies: the zone of the proxy.
    ReceivingZone,
}

impl fmt::Display for HomeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie => f.write_str("signed zone cookie"),
            Self::Vip => f.write_str("home_zone of the VIP"),
            Self::ClientPrefix(prefix) => write!(f, "client prefix {prefix}"),
            Self::ReceivingZone => f.write_str("zone of the receiving proxy"),
        }
    }
}

impl HomeTable {
    /// The table of a snapshot.
    pub fn build(snapshot: &Snapshot) -> Self {
        let zones: Vec<Name> = snapshot.zones.keys().cloned().collect();
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (index, zone) in snapshot.zones.values().enumerate() {
            for prefix in &zone.client_prefixes {
                let family = if prefix.network().is_ipv4() { &mut v4 } else { &mut v6 };
                family.push((*prefix, index));
            }
        }
        Self { zones, v4: flatten(v4), v6: flatten(v6) }
    }

    /// The zone with the longest prefix that contains `client`.
    pub fn by_prefix(&self, client: IpAddr) -> Option<(&Name, IpNet)> {
        let client = client.to_canonical();
        let ranges = if client.is_ipv4() { &self.v4 } else { &self.v6 };
        let after = ranges.partition_point(|range| range.start <= number(client));
        let (prefix, zone) = ranges.get(after.checked_sub(1)?)?.owner?;
        Some((self.zones.get(zone)?, prefix))
    }

    /// The home zone of a client and why. `cookie` is a zone from a verified cookie; a zone that no longer exists is
    /// passed over. `None` when nothing applies: a proxy that stands alone and has no zone.
    pub fn home(
        &self,
        cookie: Option<&Name>,
        vip_home: Option<&Name>,
        client: IpAddr,
        receiving: Option<&Name>,
    ) -> Option<(&Name, HomeReason)> {
        // The table's own name: it outlives the cookie's.
        let known = |zone: &Name| self.zones.binary_search(zone).ok().and_then(|index| self.zones.get(index));
        cookie
            .and_then(known)
            .map(|zone| (zone, HomeReason::Cookie))
            .or_else(|| vip_home.and_then(known).map(|zone| (zone, HomeReason::Vip)))
            .or_else(|| self.by_prefix(client).map(|(zone, p)| (zone, HomeReason::ClientPrefix(p))))
            .or_else(|| receiving.and_then(known).map(|zone| (zone, HomeReason::ReceivingZone)))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Prefixes of one family nest or are disjoint; walking them by start and length with a stack of the open ones yields
/// the ranges in order.
fn flatten(mut prefixes: Vec<(IpNet, usize)>) -> Vec<Range> {
    prefixes.sort_by_key(|(prefix, _)| (number(prefix.network()), prefix.prefix_len()));
    let mut ranges: Vec<Range> = Vec::new();
    let mut open: Vec<(IpNet, usize)> = Vec::new();
    let mut push = |start: u128, owner| {
        // Where one prefix begins or ends on the first address of another, the later word counts.
        if ranges.last().is_some_and(|last| last.start == start) {
            ranges.pop();
        }
        ranges.push(Range { start, owner });
    };
    let close = |open: &mut Vec<(IpNet, usize)>, push: &mut dyn FnMut(u128, Option<(IpNet, usize)>)| {
        if let Some((closed, _)) = open.pop()
            && let Some(next) = number(closed.broadcast()).checked_add(1)
        {
            push(next, open.last().copied());
        }
    };
    for (prefix, zone) in prefixes {
        let start = number(prefix.network());
        while open.last().is_some_and(|(outer, _)| number(outer.broadcast()) < start) {
            close(&mut open, &mut push);
        }
        open.push((prefix, zone));
        push(start, Some((prefix, zone)));
    }
    while !open.is_empty() {
        close(&mut open, &mut push);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use weir_model::Zone;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn snapshot(zones: &[(&str, &[&str])]) -> Snapshot {
        let zone = |prefixes: &[&str]| Zone {
            client_prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
            ..Zone::default()
        };
        Snapshot { zones: zones.iter().map(|(n, p)| (name(n), zone(p))).collect(), ..Snapshot::default() }
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let table = HomeTable::build(&snapshot(&[("a", &["10.1.0.0/16"]), ("b", &[]), ("c", &[])]));
        let (a, b, c, gone) = (name("a"), name("b"), name("c"), name("gone"));
        let client = "10.1.2.3".parse().unwrap();
        let stranger = "192.0.2.1".parse().unwrap();
        assert_eq!(table.home(Some(&c), Some(&b), client, Some(&b)), Some((&c, HomeReason::Cookie)));
        assert_eq!(table.home(Some(&gone), Some(&b), client, Some(&c)), Some((&b, HomeReason::Vip)));
        let prefix = HomeReason::ClientPrefix("10.1.0.0/16".parse().unwrap());
        assert_eq!(table.home(None, None, client, Some(&c)), Some((&a, prefix)));
        assert_eq!(table.home(None, None, stranger, Some(&c)), Some((&c, HomeReason::ReceivingZone)));
        assert_eq!(table.home(None, None, stranger, None), None);
    }

    #[test]
    fn both_families_and_the_ends_of_the_address_space_are_covered() {
        let table =
            HomeTable::build(&snapshot(&[("a", &["0.0.0.0/0", "::/0"]), ("b", &["255.255.255.255/32"])]));
        for (client, zone) in
            [("255.255.255.255", "b"), ("0.0.0.0", "a"), ("ffff::", "a"), ("::ffff:255.255.255.255", "b")]
        {
            assert_eq!(table.by_prefix(client.parse().unwrap()).unwrap().0, zone);
        }
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(
            prefixes in proptest::collection::btree_map((0u32..=255, 24u8..=32), 0usize..3, 0..40),
            host in 0u32..512,
        ) {
            // Equal prefixes after truncation are refused by the model, so a map keyed by the truncated one.
            let mut unique = std::collections::BTreeMap::new();
            for ((bits, len), zone) in prefixes {
                let net = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 | bits), len).unwrap().trunc();
                unique.insert(IpNet::V4(net), zone);
            }
            let mut s = snapshot(&[("a", &[]), ("b", &[]), ("c", &[])]);
            for (net, zone) in &unique {
                s.zones.get_mut(["a", "b", "c"][*zone]).unwrap().client_prefixes.push(*net);
            }
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | host));
            let expected = unique.iter().filter(|(net, _)| net.contains(&client)).max_by_key(|(net, _)| net.prefix_len());
            let table = HomeTable::build(&s);
            let found = table.by_prefix(client);
            prop_assert_eq!(
                found.map(|(zone, net)| (zone.to_string(), net)),
                expected.map(|(net, zone)| (["a", "b", "c"][*zone].to_owned(), *net))
            );
        }
    }
}
