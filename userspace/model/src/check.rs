//! Active health checks of servers: what is tried, how often, and what counts as healthy.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{BodyPattern, ProbeVia, units};

/// An active health check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is tried.
    pub kind: CheckKind,
    /// Method; `http` and `https` only, as all that speaks of requests and responses.
    #[serde(default = "default_method")]
    pub method: String,
    /// Request target.
    #[serde(default = "default_path")]
    pub path: String,
    /// Host field; the server's address when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Version of HTTP.
    #[serde(default)]
    pub version: CheckVersion,
    /// Further fields of the request; at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Status codes that count as healthy: first and last, or several such pairs, as in `[[200, 299], [404, 404]]`.
    #[serde(default)]
    pub expect: StatusRanges,
    /// What the body must contain, within its first 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
    /// A regular expression (without look-around and back-references) that must match somewhere in the body, within its first 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_matches: Option<BodyPattern>,
    /// What TLS must be like; `https` and `tls` only. Without it a handshake suffices, whatever the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<CheckTls>,
    /// Whether balancers also probe the VIPs that point straight at the pool through their tunnels; they do unless this says
    /// `direct`. Only for such pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ProbeVia>,
    /// Port to check, when it is not the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What must pass, too, one after the other and within the same timeout; at most 8. Timing is that of the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub and: Vec<Check>,
    /// From one check to the next, spread by ±10 %; 10 ms to 1 h.
    #[serde(with = "units::duration", default = "one_second")]
    pub interval: Duration,
    /// The same while the last results contradict what is known, but not for long enough; 10 ms to 1 h, `interval` when absent.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub fast_interval: Option<Duration>,
    /// How long one check may take.
    #[serde(with = "units::duration", default = "one_second")]
    pub timeout: Duration,
    /// Successes in a row that bring a server up; 1 to 100.
    #[serde(default = "default_rise")]
    pub rise: u32,
    /// Failures in a row that bring it down; 1 to 100.
    #[serde(default = "default_fall")]
    pub fall: u32,
}

impl Check {
    /// One of a kind, with everything else as it is when nothing is said of it.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            method: default_method(),
            path: default_path(),
            host: None,
            version: CheckVersion::default(),
            headers: BTreeMap::new(),
            expect: StatusRanges::default(),
            body_contains: None,
            body_matches: None,
            tls: None,
            via: None,
            port: None,
            and: Vec::new(),
            interval: one_second(),
            fast_interval: None,
            timeout: one_second(),
            rise: default_rise(),
            fall: default_fall(),
        }
    }

    /// The check and what must pass, too, in the order in which they are made.
    pub fn steps(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.and)
    }
}

/// What a check tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// A TCP connection.
    Tcp,
    /// An HTTP/1 request.
    Http,
    /// The same over TLS.
    Https,
    /// A TLS handshake.
    Tls,
    /// A TCP connection on which the host says in a line how it is, in the words of HAProxy's agent check: `up`, `down`, `fail`,
    /// `stopped` (each perhaps with a reason behind `#`), `drain`, `maint`, `ready`, and `75%` for its share of the weight. What it
    /// does not say stays as it said before. Beside other checks, one that does not answer says nothing; alone, it is down.
    Agent,
}

impl CheckKind {
    /// Whether a request is made.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether there is a handshake.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

/// The version of HTTP a check speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckVersion {
    /// HTTP/1.0.
    #[serde(rename = "1.0")]
    Http10,
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "1.1")]
    Http11,
}

/// What TLS must be like for a check to pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckTls {
    /// A PEM file, relative to the directory of the configuration, with the authorities one of which must have signed the server's
    /// certificate. Without it the certificate is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The name that is asked for (SNI) and, with `ca`, must be in the certificate; the server's address when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Status codes: pairs of a first and a last one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "OneOrMore", into = "OneOrMore")]
pub struct StatusRanges(pub Vec<(u16, u16)>);

impl StatusRanges {
    /// Whether `code` lies within one of them.
    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&code))
    }
}

impl Default for StatusRanges {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected first and last status code, as in [200, 399], or several such pairs")]
enum OneOrMore {
    One((u16, u16)),
    More(Vec<(u16, u16)>),
}

impl From<OneOrMore> for StatusRanges {
    fn from(ranges: OneOrMore) -> Self {
        match ranges {
            OneOrMore::One(range) => Self(vec![range]),
            OneOrMore::More(ranges) => Self(ranges),
        }
    }
}

impl From<StatusRanges> for OneOrMore {
    fn from(StatusRanges(ranges): StatusRanges) -> Self {
        match *ranges {
            [range] => Self::One(range),
            _ => Self::More(ranges),
        }
    }
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}
fn default_method() -> String {
    "GET".into()
}
fn default_path() -> String {
    "/".into()
}
fn default_rise() -> u32 {
    2
}
fn default_fall() -> u32 {
    3
}
