//! VIPs: the addresses clients connect to, and which of their ports are served.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{MssClamp, Name, Rate, units};

/// A virtual address (or an IPv4 and IPv6 pair of them) with its services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// The addresses, usually one of each family.
    pub addresses: Vec<IpAddr>,
    /// The nodes that announce and balance it, and whose proxies serve it unless there is a pool.
    pub group: Name,
    /// Straight to the servers of this pool instead, in tunnels that end there; they answer from the VIP themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// What is served: `tcp/443`, `udp/53`, `tcp/8000-8099`, `udp/any`.
    pub services: Vec<Service>,
    /// Traffic that arrives here belongs to this zone, whoever sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home_zone: Option<Name>,
    /// Over which proxies of the group, or servers of the pool, a balancer spreads the flows.
    #[serde(default)]
    pub spread: Spread,
    /// How long a slot that changed its proxy remembers the previous one, so that its flows survive.
    #[serde(with = "units::duration", default = "default_flow_hold")]
    pub flow_hold: Duration,
    /// Whether hosts remember their UDP flows, so that these too survive changes. Turn it off where every datagram stands for
    /// itself, as in DNS: it costs a lookup for each.
    #[serde(default = "yes")]
    pub udp_flows: bool,
    /// Whether packets of QUIC connections go to the server their connection id names (draft-ietf-quic-load-balancers,
    /// plaintext, config 0, server id of two bytes: `quic_id` of the node or server), wherever the client moves.
    #[serde(default)]
    pub quic: bool,
    /// Sources served by the proxies of other groups; the longest prefix decides. Such groups serve the VIP, but do not announce it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRoute>,
    /// How many connections each source may open, at each balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections_per_source: Option<SourceLimit>,
    /// What is done about floods of SYNs.
    #[serde(default)]
    pub syn_protection: SynProtection,
    /// How large the segments are that its proxies let clients send. Servers of a `pool` say so themselves.
    #[serde(default)]
    pub mss_clamp: MssClamp,
    /// When it is announced by BGP.
    #[serde(default)]
    pub announce: Announce,
}

impl Vip {
    /// The group that announces it, then those that serve sources of their own.
    pub fn groups(&self) -> impl Iterator<Item = &Name> {
        std::iter::once(&self.group).chain(self.sources.iter().map(|route| &route.group))
    }
}

/// Sources that are served by a group of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRoute {
    /// The sources.
    pub prefixes: Vec<IpNet>,
    /// Whose proxies serve them.
    pub group: Name,
}

/// New connections of a source: an IPv4 address, or an IPv6 network of 64 bits. TCP only: a UDP datagram opens nothing that could
/// be told from what goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceLimit {
    /// So many a second,
    pub rate: u32,
    /// after so many at once.
    pub burst: u32,
}

/// What is done about floods of SYNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynProtection {
    /// Whether SYNs are answered with cookies while the proxy's queue of half-open connections is full, before they cost it
    /// anything. (The kernel's own cookies do not depend on it.)
    #[serde(default = "yes")]
    pub cookies: bool,
    /// Below this rate of SYNs, per CPU and port of the VIP, they are not thought of.
    #[serde(default = "default_cookies_above")]
    pub cookies_above: Rate,
    /// SYNs beyond this rate, per CPU and port of the VIP, are dropped, good or bad: the last resort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Rate>,
}

impl Default for SynProtection {
    fn default() -> Self {
        Self { cookies: true, cookies_above: default_cookies_above(), max: None }
    }
}

/// Over which proxies or servers a balancer spreads a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// The nodes of the group in the balancer's own zone; the servers there while one of them is healthy.
    #[default]
    Zone,
    /// All nodes of the group, all servers of the pool.
    Group,
}

/// When a VIP is announced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// The rule.
    #[serde(default)]
    pub mode: AnnounceMode,
    /// How long the verdict must be good before it is announced.
    #[serde(with = "units::duration", default = "default_rise")]
    pub rise: Duration,
    /// How long the verdict must be bad before it is withdrawn.
    #[serde(with = "units::duration", default = "default_fall")]
    pub fall: Duration,
    /// `rise` doubles with each withdrawal, up to this, and halves with each minute announced; equal to `rise` for no damping.
    #[serde(with = "units::duration", default = "default_rise_max")]
    pub rise_max: Duration,
    /// Which of the services that are asked for must answer. A VIP of which nothing is asked needs none.
    #[serde(default)]
    pub services: NeededServices,
    /// What it is worth while they do not, or while a critical pool behind it has no server in any zone.
    #[serde(default)]
    pub unserved: UnservedAnnounce,
    /// What it is worth where only servers of other zones can answer.
    #[serde(default)]
    pub remote: RemoteAnnounce,
    /// How long it is announced with the community GRACEFUL_SHUTDOWN (RFC 8326) before it is withdrawn, so that routers find
    /// another way first; up to 10 min, 0 for not at all.
    #[serde(with = "units::duration", default)]
    pub graceful_shutdown: Duration,
    /// What the last node of the group that announces it does when its verdict is bad.
    #[serde(default)]
    pub last: LastAnnouncer,
    /// What it is worth where it stays announced although its verdict is bad.
    #[serde(default)]
    pub kept: KeptAnnounce,
}

impl Default for Announce {
    fn default() -> Self {
        Self {
            mode: AnnounceMode::default(),
            rise: default_rise(),
            fall: default_fall(),
            rise_max: default_rise_max(),
            services: NeededServices::default(),
            unserved: UnservedAnnounce::default(),
            remote: RemoteAnnounce::default(),
            graceful_shutdown: Duration::ZERO,
            last: LastAnnouncer::default(),
            kept: KeptAnnounce::default(),
        }
    }
}

/// Which services of a VIP must answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeededServices {
    /// Every one, at every address of the VIP.
    #[default]
    All,
    /// One of them, at one address.
    Any,
}

/// What a VIP is worth while its services do not answer, or a critical pool has no server in any zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnservedAnnounce {
    /// Nothing.
    #[default]
    Withdraw,
    /// Less than another node's, as with [`RemoteAnnounce::Worse`].
    Worse,
}

/// What a VIP is worth where only servers of other zones can answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteAnnounce {
    /// As much as any: the balancers of all zones go on sharing the traffic.
    #[default]
    Same,
    /// Less, by a longer path and a lower LOCAL_PREF: zones with servers of their own get the traffic.
    Worse,
    /// Nothing.
    Withdraw,
}

/// What the last announcer does when its verdict is bad. An operator's word (drain, `never`, a VIP removed) is done either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastAnnouncer {
    /// Goes on: an answer of whatever kind is better than none. Does not matter in a group of one, which has nobody to ask.
    #[default]
    Keep,
    /// Withdraws: somebody outside of the group has it too.
    Withdraw,
}

/// What a VIP is worth that stays announced although its verdict is bad: by the last announcer, or beyond
/// [`Node::withdrawals_per_minute`](crate::Node::withdrawals_per_minute).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptAnnounce {
    /// As much as before.
    #[default]
    Same,
    /// Less, by a longer path and a lower LOCAL_PREF: whoever has a good verdict gets the traffic.
    Worse,
}

/// The rule by which a VIP is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnnounceMode {
    /// When this node's datapath confirmed the VIP and it can be delivered.
    #[default]
    Gated,
    /// Always: for speakers that stand alone.
    Always,
    /// Never: an operator took it off the network.
    Never,
}

/// A transport protocol the balancer understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Inclusive range of ports; a single port is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// Whether `port` lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether the two ranges share a port.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// One protocol and port range of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Service {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports.
    pub ports: PortRange,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        match self.ports {
            PortRange::ANY => write!(f, "{protocol}/any"),
            PortRange { first, last } if first == last => write!(f, "{protocol}/{first}"),
            PortRange { first, last } => write!(f, "{protocol}/{first}-{last}"),
        }
    }
}

impl TryFrom<String> for Service {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} is not a service: write \"tcp/443\", \"udp/53\", \"tcp/8000-8099\" or \"tcp/any\""
            )
        };
        let (protocol, ports) = text.split_once('/').ok_or_else(bad)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(bad()),
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0).ok_or_else(bad);
        let ports = match ports.split_once('-') {
            None if ports == "any" => PortRange::ANY,
            None => port(ports).map(|port| PortRange { first: port, last: port })?,
            Some((first, last)) => PortRange { first: port(first)?, last: port(last)? },
        };
        if ports.first > ports.last {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Self { protocol, ports })
    }
}

impl From<Service> for String {
    fn from(service: Service) -> Self {
        service.to_string()
    }
}

fn yes() -> bool {
    true
}

fn default_cookies_above() -> Rate {
    Rate::per_second(10_000)
}

fn default_flow_hold() -> Duration {
    Duration::from_secs(3600)
}

fn default_rise() -> Duration {
    Duration::from_millis(200)
}

fn default_fall() -> Duration {
    Duration::from_millis(500)
}

fn default_rise_max() -> Duration {
    Duration::from_secs(60)
}
