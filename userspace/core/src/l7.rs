//! Host and path → pool, per listener.
//!
//! First match wins, in the order the operator wrote. The path is compared as it was sent: no percent-decoding and no
//! dot segments, because what the server makes of them is the server's affair.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};
use weir_model::{HostPattern, Listener, Name, Route, Snapshot};

use crate::hash::NameMap;

/// The rules of every listener; built once from a snapshot, then only read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    listeners: NameMap<Name, Rules>,
}

/// Rules that are looked through one after the other: more of them are found by host and path.
const LOOKED_THROUGH_MAX: usize = 8;

#[derive(Clone, Debug, PartialEq)]
struct Rules {
    routes: Vec<Rule>,
    default: Option<Name>,
    /// Of more rules than [`LOOKED_THROUGH_MAX`]: by the host as [`HostPattern`]s spell it without the star; empty for every host.
    by_host: NameMap<String, Paths>,
}

/// Rules for one host: the first of those with the same path.
#[derive(Clone, Debug, Default, PartialEq)]
struct Paths {
    first: NameMap<String, usize>,
    len_max: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Rule {
    hosts: Vec<HostPattern>,
    /// Without a slash at the end; empty matches every path.
    path: String,
    pool: Name,
    demands_certificate: bool,
}

/// Where a request goes, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed<'a> {
    /// The pool.
    pub pool: &'a Name,
    /// The rule that matched.
    pub by: RoutedBy,
    /// Whether only clients that have shown a certificate are served.
    pub demands_certificate: bool,
}

/// Which rule of a listener decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoutedBy {
    /// `routes[n]`, from 0.
    Route(usize),
    /// The listener's own `pool`.
    Default,
}

impl fmt::Display for RoutedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(index) => write!(f, "routes[{index}]"),
            Self::Default => f.write_str("the listener's own pool"),
        }
    }
}

impl RouteTable {
    /// The table of a snapshot.
    pub fn build(snapshot: &Snapshot) -> Self {
        let rules = |listener: &Listener| Rules::of(&listener.routes, listener.pool.clone());
        Self { listeners: snapshot.listeners.iter().map(|(name, l)| (name.clone(), rules(l))).collect() }
    }

    /// The pool for a request: `host` as [`normal_host`] returns it (empty when there is none), `path` without query.
    pub fn route(&self, listener: &Name, host: &str, path: &str) -> Option<Routed<'_>> {
        let rules = self.listeners.get(listener)?;
        let matched = rules.first_match(host, path);
        match (matched.and_then(|index| Some((index, rules.routes.get(index)?))), &rules.default) {
            (Some((index, rule)), _) => Some(Routed {
                pool: &rule.pool,
                by: RoutedBy::Route(index),
                demands_certificate: rule.demands_certificate,
            }),
            (None, Some(pool)) => Some(Routed { pool, by: RoutedBy::Default, demands_certificate: false }),
            (None, None) => None,
        }
    }

    /// The pool of a connection without requests (`protocol = "tcp"`).
    pub fn default_pool(&self, listener: &Name) -> Option<&Name> {
        self.listeners.get(listener)?.default.as_ref()
    }
}

impl Rules {
    fn of(routes: &[Route], default: Option<Name>) -> Self {
        let rule = |route: &Route| Rule {
            hosts: route.hosts.clone(),
            path: route.path.trim_end_matches('/').to_owned(),
            pool: route.pool.clone(),
            demands_certificate: route.client_certificate,
        };
        let routes: Vec<Rule> = routes.iter().map(rule).collect();
        let mut by_host: NameMap<String, Paths> = NameMap::default();
        let indexed = if routes.len() > LOOKED_THROUGH_MAX { &routes[..] } else { &[] };
        for (index, rule) in indexed.iter().enumerate() {
            let mut add = |host: &str| by_host.entry(host.to_owned()).or_default().add(&rule.path, index);
            if rule.hosts.is_empty() {
                add("");
            }
            rule.hosts.iter().for_each(|host| add(host.to_string().trim_start_matches('*')));
        }
        Self { routes, default, by_host }
    }

    /// The first rule that matches.
    fn first_match(&self, host: &str, path: &str) -> Option<usize> {
        if self.by_host.is_empty() {
            return self.routes.iter().position(|rule| rule.matches(host, path));
        }
        let dots = host.bytes().enumerate().filter(|(at, byte)| *at > 0 && *byte == b'.');
        let domains = dots.map(|(at, _)| &host[at..]);
        // Keys that begin with a dot are domains'.
        let keys = [""].into_iter().chain((!host.is_empty() && !host.starts_with('.')).then_some(host));
        let keys = keys.chain(domains);
        keys.filter_map(|key| self.by_host.get(key)?.first_match(path)).min()
    }
}

impl Paths {
    fn add(&mut self, path: &str, index: usize) {
        self.len_max = self.len_max.max(path.len());
        self.first.entry(path.to_owned()).or_insert(index);
    }

    /// As [`Rule::matches`], of all rules at once: by each part of the path that ends where a segment does.
    fn first_match(&self, path: &str) -> Option<usize> {
        let bytes = path.bytes().enumerate().take(self.len_max + 1);
        let slashes = bytes.filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        // Of "*" the empty part.
        let ends = slashes.chain([0, path.len()]).filter(|end| *end <= self.len_max);
        ends.filter_map(|end| self.first.get(&path[..end]).copied()).min()
    }
}

impl Rule {
    fn matches(&self, host: &str, path: &str) -> bool {
        let path_matches = path
            .strip_prefix(self.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // "*" of OPTIONS is below no path, but belongs to the rule for everything.
        (path_matches || self.path.is_empty())
            && (self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.matches(host)))
    }
}

/// A Host field or `:authority` as rules see it: without port and trailing dot, in lower case.
pub fn normal_host(authority: &str) -> Cow<'_, str> {
    let host = match authority.strip_prefix('[') {
        // RFC 3986 §3.2.2: an IPv6 address stands in brackets, its colons are not the port's.
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::select};
    use weir_model::SourceFile;

    const HOSTS: [&str; 5] = ["a.b", "*.b", "*.a.b", "b", "c"];
    const PATHS: [&str; 6] = ["/", "/p", "/p/", "/p/q", "/pq", "/p/q/r"];

    fn table(routes: &str) -> RouteTable {
        let text = format!(
            "[zone.z]\n[pool.a]\n[pool.b]\n[pool.c]\n[listener.l]\nprotocol = \"http\"\nbind = \"127.0.0.1:80\"\n{routes}"
        );
        let file = SourceFile { path: "t.toml".into(), text };
        RouteTable::build(&Snapshot::read(&[file]).unwrap())
    }

    fn at(table: &RouteTable, host: &str, path: &str) -> Option<(String, RoutedBy)> {
        let routed = table.route(&"l".parse().unwrap(), &normal_host(host), path)?;
        Some((routed.pool.to_string(), routed.by))
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let t = table(
            "routes = [
               { hosts = [\"a.example\"], path = \"/api\", pool = \"a\" },
               { hosts = [\"*.example\"], pool = \"b\" },
               { path = \"/api/v2/\", pool = \"c\" },
             ]",
        );
        for (host, path, expected) in [
            ("a.example", "/api", Some(("a", RoutedBy::Route(0)))),
            ("A.Example.:8443", "/api/x", Some(("a", RoutedBy::Route(0)))),
            ("a.example", "/apix", Some(("b", RoutedBy::Route(1)))),
            ("a.example", "/API", Some(("b", RoutedBy::Route(1)))),
            ("example", "/", None),
            ("other", "/api/v2", Some(("c", RoutedBy::Route(2)))),
            ("other", "/api/v2/", Some(("c", RoutedBy::Route(2)))),
            ("other", "/api/v22", None),
            ("", "/api/v2/x", Some(("c", RoutedBy::Route(2)))),
        ] {
            let expected = expected.map(|(pool, by)| (pool.to_owned(), by));
            assert_eq!(at(&t, host, path), expected, "{host} {path}");
        }
    }

    proptest! {
        #[test]
        fn many_rules_are_matched_as_few_are(
            rules in vec((vec(select(HOSTS.to_vec()), 0..3), select(PATHS.to_vec())), 0..40),
            host in select(vec!["", "a.b", "b", "x.a.b", "x.y.a.b", "c", ".b"]),
            path in select(vec!["*", "/", "/p", "/p/", "/p/q", "/p//q", "/pq", "/p/q/r/s", "//", "/P"]),
        ) {
            let rules: Vec<Route> = rules
                .iter()
                .map(|(hosts, path)| Route {
                    hosts: hosts.iter().map(|host| HostPattern::try_from(host.to_string()).unwrap()).collect(),
                    path: path.to_string(),
                    client_certificate: false,
                    pool: "p".parse().unwrap(),
                })
                .collect();
            let mut rules = Rules::of(&rules, None);
            let found = rules.first_match(host, path);
            rules.by_host.clear();
            prop_assert_eq!(found, rules.first_match(host, path));
        }
    }

    #[test]
    fn what_matches_no_rule_goes_to_the_pool_of_the_listener() {
        let t = table("pool = \"c\"\nroutes = [{ path = \"/a\", pool = \"a\" }]");
        assert_eq!(at(&t, "h", "*"), Some(("c".into(), RoutedBy::Default)));
        assert_eq!(t.default_pool(&"l".parse().unwrap()).unwrap(), "c");
        assert_eq!(t.route(&"unknown".parse().unwrap(), "h", "/"), None);
    }

    #[test]
    fn hosts_lose_port_dot_and_case() {
        for (authority, host) in [
            ("Example.ORG:443", "example.org"),
            ("example.org.", "example.org"),
            ("[2001:DB8::1]:80", "2001:db8::1"),
            ("[::1", "::1"),
            (":80", ""),
            ("", ""),
        ] {
            assert_eq!(normal_host(authority), host);
        }
    }
}
