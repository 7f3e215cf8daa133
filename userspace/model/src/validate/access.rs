//! What is wrong with access lists and with the protection of VIPs.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::Checker;
use crate::{AccessAction, Name};

impl Checker<'_> {
    pub(super) fn access(&mut self) {
        let mut prefixes: BTreeMap<(Option<&Name>, IpNet), &Name> = BTreeMap::new();
        for (name, list) in &self.objects.access {
            for (index, vip) in list.vips.iter().enumerate() {
                self.known(("access", name, &format!("vips.{index}")), "vip", &self.objects.vip, vip);
                if list.vips[..index].contains(vip) {
                    self.problem(
                        "access",
                        name,
                        &format!("vips.{index}"),
                        format!("vip {vip} is named twice"),
                        "",
                    );
                }
            }
            if list.default == AccessAction::Block {
                if list.action == AccessAction::Block {
                    let hint = "use action = \"allow\", and name those who may";
                    self.problem(
                        "access",
                        name,
                        "default",
                        "a list of blocked sources blocks all others too".into(),
                        hint,
                    );
                }
                if list.vips.is_empty() {
                    let what = "would close every VIP, those to come too".into();
                    self.problem("access", name, "default", what, "name the VIPs");
                }
            }
            for (index, entry) in list.entries.iter().enumerate() {
                let field = format!("entries.{index}");
                let prefix = entry.prefix.trunc();
                if prefix != entry.prefix {
                    let what = format!("{} has bits beyond its length", entry.prefix);
                    self.problem("access", name, &field, what, format!("write {prefix}"));
                }
                if let IpAddr::V6(address) = prefix.addr()
                    && address.to_ipv4_mapped().is_some()
                {
                    let what = format!("{prefix} is an IPv4 prefix in the clothes of an IPv6 one");
                    self.problem("access", name, &field, what, "write it as an IPv4 prefix");
                }
                let scopes = list.vips.iter().map(Some).chain(list.vips.is_empty().then_some(None));
                for scope in scopes {
                    if let Some(other) = prefixes.insert((scope, prefix), name) {
                        let of = scope.map_or(String::new(), |vip| format!(" for vip {vip}"));
                        let what = format!("{prefix} is already in access list {other}{of}");
                        self.problem("access", name, &field, what, "one of them has to go");
                    }
                }
            }
        }
    }

    pub(super) fn sources(&mut self) {
        for (name, vip) in &self.objects.vip {
            let mut prefixes = BTreeMap::new();
            for (index, route) in vip.sources.iter().enumerate() {
                let field = format!("sources.{index}");
                self.known(
                    ("vip", name, &format!("{field}.group")),
                    "group",
                    &self.objects.group,
                    &route.group,
                );
                for prefix in &route.prefixes {
                    if prefix.trunc() != *prefix {
                        let what = format!("{prefix} has bits beyond its length");
                        self.problem("vip", name, &field, what, format!("write {}", prefix.trunc()));
                    }
                    if let Some(other) = prefixes.insert(prefix.trunc(), &route.group) {
                        let what = format!("{prefix} is already served by group {other}");
                        self.problem("vip", name, &field, what, "a source has one group");
                    }
                }
            }
            if !vip.sources.is_empty() && vip.pool.is_some() {
                let what = "has no proxies to choose from: it points straight at servers".to_owned();
                self.problem("vip", name, "sources", what, "remove sources, or pool");
            }
        }
    }

    pub(super) fn protection(&mut self) {
        for (name, vip) in &self.objects.vip {
            if let Some(limit) = &vip.new_connections_per_source {
                self.within(("vip", name, "new_connections_per_source.rate"), limit.rate, 1, 1_000_000);
                self.within(("vip", name, "new_connections_per_source.burst"), limit.burst, 1, 1_000_000);
            }
        }
    }
}
