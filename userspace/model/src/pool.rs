//! Pools and the servers in them: who answers, how they are chosen, and how much they may get. How they are checked: [`Check`].

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Admin, Breaker, Check, CheckKind, CheckTls, DialTcp, Ejection, HashOn, Name, Percent, PoolProtocol,
    PoolTls, RetryBudget, SendProxy, Source, Tunnel, place::hundred, units,
};

/// Servers that give the same answer, in one or several zones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// How a server is chosen within the zone.
    #[serde(default)]
    pub balance: Balance,
    /// What `balance = "hash"` goes by, and only that. A request that has it not goes by its client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// How full a server may be for `hash` and `source` to send it more: with `125%`, a quarter above its share by weight of the
    /// requests in flight. What is beyond goes to the next server of the same key. 101% to 1000%; without it there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounded_load: Option<Percent>,
    /// How many servers `random` draws to take the least loaded of; 1 to 16.
    #[serde(default = "default_random_of")]
    pub random_of: u32,
    /// A server that came up, was added or taken back by an operator gets its weight by and by: a tenth at once, all of it after this; 100 ms to 1 h. Servers
    /// that are up when a proxy starts have it at once.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// The version of HTTP servers are asked by: `http1`, `h2` or `h2c`.
    #[serde(default)]
    pub protocol: PoolProtocol,
    /// TLS to servers; without it they are spoken to in the clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PoolTls>,
    /// How servers are checked; without it they are taken to be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// A zone can carry its own traffic as long as healthy weight × this ≥ total weight: with `140%`, five of seven servers suffice.
    #[serde(default = "default_overprovision")]
    pub overprovision: Percent,
    /// Whether VIPs whose requests go to it are announced only while some zone has a server of it. (A VIP that points straight at a
    /// pool always needs one.)
    #[serde(default = "yes")]
    pub critical: bool,
    /// Weights for spilled traffic per zone, in place of the zones' own `spill_weight`; 0 keeps spill away while another zone can take it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spill_weights: BTreeMap<Name, u32>,
    /// Keeps a browser in its zone by a signed cookie; HTTP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Further servers tried when a request could not be sent, or failed before an answer and is idempotent; 0 to 10.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// What share of the requests these retries may be, so that a pool in trouble does not get more requests than one in health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// A request that is idempotent and without a body, and whose answer has not begun after so long, is asked of a second server
    /// too; the first answer counts. Needs `retry_budget`, which such requests are taken from, and servers of HTTP/1.1; 1 ms to 1 h.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub hedge_after: Option<Duration>,
    /// Takes servers out whose answers to requests are bad, whatever checks say; without it none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eject: Option<Ejection>,
    /// Refuses requests for a while after too many in a row have failed, whichever servers they went to; without it they are tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Connections to one server at once; 1 to 100,000.
    #[serde(default = "default_server_connections")]
    pub max_connections: u32,
    /// Requests that wait when every server is at its limit; one more is answered 503.
    #[serde(default = "default_queue")]
    pub max_queue: u32,
    /// How long a request may wait in that queue.
    #[serde(with = "units::duration", default = "five_seconds")]
    pub queue_timeout: Duration,
    /// How long connecting to a server may take.
    #[serde(with = "units::duration", default = "default_connect_timeout")]
    pub connect_timeout: Duration,
    /// How long a server may take until its response begins.
    #[serde(with = "units::duration", default = "default_response_timeout")]
    pub response_timeout: Duration,
    /// How long a server may send nothing of a response that has begun; 1 ms to 7 days. Longer than what streams of events or of
    /// gRPC say to stay alive.
    #[serde(with = "units::duration", default = "five_minutes")]
    pub server_timeout: Duration,
    /// How long an unused connection to a server is kept.
    #[serde(with = "units::duration", default = "default_idle_timeout")]
    pub idle_timeout: Duration,
    /// Tells servers by a header of the PROXY protocol who the client is, before the first byte. Checks at a server's own port say
    /// that they are the proxy's. A connection with it is one client's and not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_proxy: Option<SendProxy>,
    /// The address connections to servers come from: one of the host's, or `client`; the kernel's choice when absent. Checks come
    /// from the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Options of TCP on connections to servers.
    #[serde(default, skip_serializing_if = "DialTcp::is_default")]
    pub tcp: DialTcp,
}

impl Pool {
    /// Whether a connection to a server says, or is, who the client is: then nobody else may use it.
    pub fn dials_for_one_client(&self) -> bool {
        self.send_proxy.is_some() || self.source == Some(Source::Client)
    }
}

impl Pool {
    /// The check as it is made: at a port where servers are spoken to by TLS, a check by HTTP is, too, and one by TLS that says
    /// nothing else wants the certificate that requests want.
    pub fn effective_check(&self) -> Option<Cow<'_, Check>> {
        let check = self.check.as_ref()?;
        let Some(tls) = &self.tls else { return Some(Cow::Borrowed(check)) };
        let mut check = check.clone();
        let wanted = CheckTls { ca: tls.ca.clone(), name: tls.name.clone() };
        secure(&mut check, &wanted);
        check.and.iter_mut().for_each(|step| secure(step, &wanted));
        Some(Cow::Owned(check))
    }
}

fn secure(check: &mut Check, wanted: &CheckTls) {
    if check.kind == CheckKind::Http && check.port.is_none() {
        check.kind = CheckKind::Https;
    }
    if check.kind.is_tls() && check.port.is_none() && check.tls.is_none() {
        check.tls = Some(wanted.clone());
    }
}

/// How a server is chosen among those that may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn, by weight, spread smoothly.
    #[default]
    RoundRobin,
    /// The one with the fewest requests in flight relative to its weight.
    LeastConnections,
    /// The least loaded of a few (`random_of`, two) drawn at random by weight.
    Random,
    /// By hash of the client address: the same client, the same server.
    Source,
    /// By hash of something a request says (`hash_on`): the same text, the same server.
    Hash,
}

/// Zone stickiness by cookie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// Name of the cookie.
    pub cookie: String,
    /// Secret that signs it, at least 16 bytes; the same on every proxy.
    pub key: String,
    /// How long a browser keeps it.
    #[serde(with = "units::duration", default = "one_day")]
    pub lifetime: Duration,
}

/// A backend: one address that answers for one or more pools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The pools it belongs to.
    pub pools: Vec<Name>,
    /// Where it listens. For a VIP straight at servers only the address counts, and the port for checks.
    pub address: SocketAddr,
    /// The tunnel in which it gets packets for VIPs straight at servers.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// The server id in QUIC connection ids it chooses; of all nodes and servers, no two have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_id: Option<u16>,
    /// The zone it stands in.
    pub zone: Name,
    /// Share of its zone's traffic; 0 (none) to 1,000.
    #[serde(default = "hundred")]
    pub weight: u32,
    /// Serves only while none of the pool's other servers can, in any zone: a zone that lost its servers goes to other zones
    /// before it goes to backups. They count for no zone's capacity until then. (To a VIP straight at servers with
    /// `spread = "zone"` a backup is what a server of another zone is.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// What the operator wants of it.
    #[serde(default)]
    pub admin: Admin,
}

fn yes() -> bool {
    true
}
fn default_overprovision() -> Percent {
    Percent::whole(140)
}
fn default_random_of() -> u32 {
    2
}
fn default_retries() -> u32 {
    2
}
fn default_server_connections() -> u32 {
    1_000
}
fn default_queue() -> u32 {
    1_000
}
fn default_connect_timeout() -> Duration {
    Duration::from_secs(1)
}
fn default_response_timeout() -> Duration {
    Duration::from_secs(30)
}
fn default_idle_timeout() -> Duration {
    Duration::from_secs(30)
}
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
fn five_minutes() -> Duration {
    Duration::from_secs(300)
}
fn one_day() -> Duration {
    Duration::from_secs(86_400)
}
