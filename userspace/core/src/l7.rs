//! Host and path → pool, per listener.
//!
//! First match wins, in the order the operator wrote. The path is compared as it was sent: no percent-decoding and no
//! dot segments, because what the server makes of them is the server's affair.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{Deserialize, Serialize};
use weir_model::{HostPattern, Name, Snapshot};

/// The rules of every listener; built once from a snapshot, then only read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    listeners: HashMap<Name, Rules>,
}

#[derive(Clone, Debug, PartialEq)]
struct Rules {
    routes: Vec<Rule>,
    default: Option<Name>,
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
        let rules = |listener: &weir_model::Listener| Rules {
            routes: listener
                .routes
                .iter()
                .map(|route| Rule {
                    hosts: route.hosts.clone(),
                    path: route.path.trim_end_matches('/').to_owned(),
                    pool: route.pool.clone(),
                    demands_certificate: route.client_certificate,
                })
                .collect(),
            default: listener.pool.clone(),
        };
        Self { listeners: snapshot.listeners.iter().map(|(name, l)| (name.clone(), rules(l))).collect() }
    }

    /// The pool for a request: `host` as [`normal_host`] returns it (empty when there is none), `path` without query.
    pub fn route(&self, listener: &Name, host: &str, path: &str) -> Option<Routed<'_>> {
        let rules = self.listeners.get(listener)?;
        let matched = rules.routes.iter().enumerate().find(|(_, rule)| rule.matches(host, path));
        match (matched, &rules.default) {
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
    use weir_model::SourceFile;

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
