//! What one object cannot know of itself: do names lead somewhere, do values agree, are the bounds kept?

mod access;
mod bfd;
mod listeners;
mod peers;
mod pools;
mod quic;
mod tunnels;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{FailoverScope, Name, Objects, Percent, Problem, Protocol, directory::Origin};

/// Checks every object against the others and adds what is wrong to `problems`.
pub(crate) fn check(objects: &Objects, problems: &mut Vec<Problem>) {
    let mut checker = Checker { objects, problems };
    checker.zones();
    checker.nodes_and_groups();
    checker.accepted_tunnels();
    checker.quic();
    checker.vips();
    checker.direct_vips();
    checker.listeners();
    checker.pools();
    checker.servers();
    checker.peers();
    checker.bfd();
    checker.failovers();
    checker.access();
    checker.protection();
    checker.sources();
}

/// "did you mean …" for the closest of `known`, or an empty text when none is close.
pub(crate) fn did_you_mean<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|name| (distance(wrong, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3))
        .map_or_else(String::new, |(_, name)| format!("did you mean {name:?}?"))
}

/// Levenshtein distance; names are at most 63 bytes, longer input is cut.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(64)], &b.as_bytes()[..b.len().min(64)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

struct Checker<'a> {
    objects: &'a Objects,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    fn problem(
        &mut self,
        kind: &'static str,
        name: &Name,
        field: &str,
        what: String,
        hint: impl Into<String>,
    ) {
        let unknown = Origin::default();
        let origin = self.objects.origins.get(&(kind, name.clone())).unwrap_or(&unknown);
        self.problems.push(Problem {
            file: origin.file.clone(),
            line: origin.line(field),
            path: if field.is_empty() { format!("{kind}.{name}") } else { format!("{kind}.{name}.{field}") },
            what,
            hint: hint.into(),
        });
    }

    fn known<T>(
        &mut self,
        at: (&'static str, &Name, &str),
        kind: &str,
        known: &BTreeMap<Name, T>,
        wanted: &Name,
    ) -> bool {
        if known.contains_key(wanted) {
            return true;
        }
        let mut hint = did_you_mean(wanted.as_str(), known.keys().map(Name::as_str));
        if hint.is_empty() {
            hint = format!("add [{kind}.{wanted}]");
        }
        self.problem(at.0, at.1, at.2, format!("there is no {kind} {wanted:?}"), hint);
        false
    }

    fn within<T: PartialOrd + std::fmt::Display>(
        &mut self,
        at: (&'static str, &Name, &str),
        value: T,
        min: T,
        max: T,
    ) {
        if value < min || value > max {
            self.problem(
                at.0,
                at.1,
                at.2,
                format!("{value} is out of range"),
                format!("from {min} to {max}"),
            );
        }
    }

    fn duration_within(
        &mut self,
        at: (&'static str, &Name, &str),
        value: Duration,
        min: Duration,
        max: Duration,
    ) {
        if value < min || value > max {
            let print = crate::units::duration::print;
            let hint = format!("from {} to {}", print(min), print(max));
            self.problem(at.0, at.1, at.2, format!("{} is out of range", print(value)), hint);
        }
    }

    fn zones(&mut self) {
        let mut prefixes = BTreeMap::new();
        for (name, zone) in &self.objects.zone {
            for (index, prefix) in zone.client_prefixes.iter().enumerate() {
                let field = format!("client_prefixes.{index}");
                if prefix.trunc() != *prefix {
                    let hint = format!("write {}", prefix.trunc());
                    self.problem("zone", name, &field, format!("{prefix} has bits beyond its length"), hint);
                }
                if let Some(other) = prefixes.insert(prefix.trunc(), name) {
                    let what = format!("{prefix} is already a prefix of zone {other}");
                    self.problem("zone", name, &field, what, "a client has one home zone");
                }
            }
            for other in zone.distance.keys() {
                self.known(("zone", name, &format!("distance.{other}")), "zone", &self.objects.zone, other);
            }
            self.within(("zone", name, "spill_weight"), zone.spill_weight, 1, 1_000);
        }
    }

    fn nodes_and_groups(&mut self) {
        let mut addresses: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        for (name, node) in &self.objects.node {
            self.known(("node", name, "zone"), "zone", &self.objects.zone, &node.zone);
            self.within(("node", name, "weight"), node.weight, 1, 1_000);
            self.duration_within(("node", name, "probe_interval"), node.probe_interval, 10 * MS, HOUR);
            self.duration_within(("node", name, "probe_timeout"), node.probe_timeout, MS, HOUR);
            self.within(("node", name, "probe_rise"), node.probe_rise, 1, 100);
            self.within(("node", name, "probe_fall"), node.probe_fall, 1, 100);
            if let Some(limit) = node.withdrawals_per_minute {
                self.within(("node", name, "withdrawals_per_minute"), limit, 1, 1_000_000);
            }
            if node.address.is_none() && node.address6.is_none() {
                self.problem("node", name, "", "has no address".into(), "give address, address6 or both");
            }
            let v4 = node.address.map(|a| ("address", IpAddr::V4(a)));
            let v6 = node.address6.map(|a| ("address6", IpAddr::V6(a)));
            for (field, address) in v4.into_iter().chain(v6) {
                if let Some(other) = addresses.insert(address, name) {
                    self.problem(
                        "node",
                        name,
                        field,
                        format!("{address} is already the address of node {other}"),
                        "",
                    );
                }
            }
        }
        for (name, group) in &self.objects.group {
            if let Some(key) = &group.announcers_key {
                self.within(("group", name, "announcers_key"), key.reveal().len(), 16, 80);
                if group.announcers_key_file.is_some() {
                    let what = "there is announcers_key as well".to_owned();
                    self.problem("group", name, "announcers_key_file", what, "keep one of the two");
                }
            }
            let mut seen = BTreeSet::new();
            for (index, node) in group.nodes.iter().enumerate() {
                let field = format!("nodes.{index}");
                self.known(("group", name, &field), "node", &self.objects.node, node);
                if !seen.insert(node) {
                    self.problem("group", name, &field, format!("node {node} is named twice"), "");
                }
            }
        }
    }

    fn vips(&mut self) {
        let mut addresses: BTreeMap<IpAddr, &Name> = BTreeMap::new();
        for (name, vip) in &self.objects.vip {
            self.known(("vip", name, "group"), "group", &self.objects.group, &vip.group);
            if let Some(zone) = &vip.home_zone {
                self.known(("vip", name, "home_zone"), "zone", &self.objects.zone, zone);
            }
            if vip.addresses.is_empty() {
                self.problem("vip", name, "addresses", "has no address".into(), "");
            }
            for (index, address) in vip.addresses.iter().enumerate() {
                let field = format!("addresses.{index}");
                if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                    self.problem(
                        "vip",
                        name,
                        &field,
                        format!("{address} cannot be a VIP"),
                        "use a unicast address",
                    );
                }
                if let Some(other) = addresses.insert(*address, name) {
                    self.problem(
                        "vip",
                        name,
                        &field,
                        format!("{address} is already an address of vip {other}"),
                        "",
                    );
                }
                let node = self.objects.node.iter().find(|(_, node)| {
                    node.address.map(IpAddr::V4) == Some(*address)
                        || node.address6.map(IpAddr::V6) == Some(*address)
                });
                if let Some((node, _)) = node {
                    let what = format!("{address} is the own address of node {node}");
                    self.problem("vip", name, &field, what, "a VIP is an address of its own");
                }
            }
            self.duration_within(
                ("vip", name, "announce.graceful_shutdown"),
                vip.announce.graceful_shutdown,
                Duration::ZERO,
                600_000 * MS,
            );
            if vip.services.is_empty() {
                self.problem(
                    "vip",
                    name,
                    "services",
                    "serves nothing".into(),
                    "for example [\"tcp/80\", \"tcp/443\"]",
                );
            }
            for (index, service) in vip.services.iter().enumerate() {
                let clash = vip.services[..index]
                    .iter()
                    .find(|other| other.protocol == service.protocol && other.ports.overlaps(service.ports));
                if let Some(other) = clash {
                    let field = format!("services.{index}");
                    self.problem("vip", name, &field, format!("{service} overlaps {other}"), "");
                }
            }
            let ranges =
                |p| vip.services.iter().filter(|s| s.protocol == p && s.ports.first != s.ports.last).count();
            if ranges(Protocol::Tcp).max(ranges(Protocol::Udp)) > 8 {
                self.problem(
                    "vip",
                    name,
                    "services",
                    "has more than 8 port ranges of one protocol".into(),
                    "",
                );
            }
        }
    }

    fn listeners(&mut self) {
        let mut places: BTreeMap<String, &Name> = BTreeMap::new();
        for (name, listener) in &self.objects.listener {
            self.listener(name, listener);
            let place = match (&listener.vip, listener.port, listener.bind) {
                (Some(vip), Some(port), None) => format!("{vip} port {port}"),
                (None, None, Some(bind)) => bind.to_string(),
                _ => {
                    let what = "needs either vip and port, or bind".to_owned();
                    self.problem("listener", name, "", what, "for example bind = \"127.0.0.1:8080\"");
                    continue;
                }
            };
            if let Some(other) = places.insert(place.clone(), name) {
                self.problem(
                    "listener",
                    name,
                    "",
                    format!("listens at {place}, as listener {other} does"),
                    "",
                );
            }
        }
    }

    fn failovers(&mut self) {
        for (name, failover) in &self.objects.failover {
            self.known(("failover", name, "zone"), "zone", &self.objects.zone, &failover.zone);
            if let FailoverScope::Pool(pool) = &failover.scope {
                self.known(("failover", name, "scope"), "pool", &self.objects.pool, pool);
            }
            if failover.percent > Percent::FULL {
                self.problem(
                    "failover",
                    name,
                    "percent",
                    format!("{} is more than 100%", failover.percent),
                    "",
                );
            }
            if failover.expires <= failover.created {
                self.problem("failover", name, "expires", "is not after created".into(), "");
            }
        }
    }
}
