//! What each daemon says of itself: the JSON on its status socket, read by the other daemons and by `weir status`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Generation, Name, ProbeVia, Problem, Timestamp, units};

/// Which configuration is in force, and what is wrong with a newer one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The generation in force.
    pub generation: Generation,
    /// Since when.
    pub applied_at: Option<Timestamp>,
    /// Problems of a newer configuration that was refused; empty when there is none.
    pub refused: Vec<Problem>,
    /// Its generation, when it makes sense and is refused only because it takes most VIPs off the network: `weir config accept` has it
    /// taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<Generation>,
}

/// The state of one health check target as seen from one daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not known yet; treated as down for announcing, as up for a pool without checks.
    #[default]
    Unknown,
    /// Serves.
    Up,
    /// Does not.
    Down,
    /// Asks for no new flows.
    Draining,
}

/// What `weir-l4` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct L4Status {
    /// The node it runs on.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Interfaces with the balancer attached, and how.
    pub interfaces: Vec<InterfaceStatus>,
    /// VIPs read back from the kernel after the last apply: what is in this map, the datapath forwards.
    pub vips: BTreeMap<Name, L4VipStatus>,
    /// Proxies this balancer may send to, by node.
    pub proxies: BTreeMap<Name, Health>,
    /// Servers of pools that VIPs point at directly, by pool.
    #[serde(default)]
    pub servers: BTreeMap<Name, BTreeMap<Name, Health>>,
    /// What those two rest on: each way in which each of them is probed.
    #[serde(default)]
    pub probes: Vec<ProbeStatus>,
    /// What the last start found pinned and kept.
    pub adopted: bool,
    /// Whether owners of slots are about to change: the second phase of a change is due.
    pub changing: bool,
    /// Operations of the last plan, by kind; empty when the kernel already was as wished.
    pub last_plan: Vec<String>,
    /// Errors of the last apply; empty when it succeeded.
    pub errors: Vec<String>,
    /// Packets by reason, all CPUs.
    pub reasons: BTreeMap<String, u64>,
    /// Packets blocked by access list; `(default)` where no list named the source, `(moment)` by what is in no file.
    #[serde(default)]
    pub access_hits: BTreeMap<String, u64>,
    /// What programs have blocked for the moment: the first of them.
    #[serde(default)]
    pub blocked: Vec<BlockedStatus>,
    /// How many they are.
    #[serde(default)]
    pub blocked_count: u64,
}

/// One way in which a proxy or server is probed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// The node or server.
    pub target: Name,
    /// The pool of a server; `None` for the proxy of a node.
    pub pool: Option<Name>,
    /// The way.
    pub via: ProbeVia,
    /// What it says; the target is up when all of its ways say so.
    pub health: Health,
    /// Why.
    pub reason: String,
}

/// A prefix blocked for the moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockedStatus {
    /// The sources.
    pub prefix: ipnet::IpNet,
    /// For how long still.
    pub seconds_left: u64,
    /// Why; empty when an earlier process was told.
    pub reason: String,
    /// Who asked for it.
    pub from: String,
}

/// An interface with the balancer attached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
}

/// One VIP in the datapath.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct L4VipStatus {
    /// The generation whose apply was confirmed by reading back.
    pub generation: Generation,
    /// Its addresses in the kernel.
    pub addresses: Vec<IpAddr>,
    /// The pool whose servers it points straight at.
    #[serde(default)]
    pub pool: Option<Name>,
    /// Healthy proxies, or servers, its flows are spread over.
    pub healthy_proxies: u32,
    /// What SYNs in the tunnels found of its services, by [`service_name`]; a healthy host that answers suffices.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceStatus>,
    /// Packets and bytes forwarded, all services and CPUs.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What asking for one service of a VIP found, rise and fall counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Whether it answers; `Unknown` while nobody has asked.
    pub health: Health,
    /// Why.
    pub reason: String,
}

/// What a TCP service at an address of a VIP is called in status documents.
pub fn service_name(at: SocketAddr) -> String {
    format!("tcp {at}")
}

/// What `weir-proxy` says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// The node it runs on; empty when it stands alone.
    pub node: String,
    /// Its zone; empty when it has none.
    pub zone: String,
    /// Process id.
    pub pid: u32,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Whether it is draining before a stop.
    pub draining: bool,
    /// Per VIP: can a request that arrives there be answered by some server in some zone?
    pub vips: BTreeMap<Name, VipDelivery>,
    /// Listeners by name.
    pub listeners: BTreeMap<Name, ListenerStatus>,
    /// Pools by name.
    pub pools: BTreeMap<Name, PoolStatus>,
}

/// Whether a VIP can be delivered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VipDelivery {
    /// Every critical pool behind it has a server in some zone.
    pub deliverable: bool,
    /// The first pool without one.
    pub reason: String,
    /// Some critical pool behind it has its servers in other zones only.
    #[serde(default)]
    pub is_remote: bool,
    /// What the proxy found when it asked its own listeners at the VIP, by [`service_name`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceStatus>,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The socket addresses it accepts on.
    pub addresses: Vec<String>,
    /// Steered by the datapath (VIP listeners only).
    pub steered: bool,
    /// Open connections.
    pub connections: u64,
    /// Requests (connections, in tcp mode) so far.
    pub requests: u64,
    /// Why it does not listen; empty when it does.
    pub error: String,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its servers by name.
    pub servers: BTreeMap<Name, ServerStatus>,
    /// Per home zone: what share of its traffic each zone serves now, 0 to 1.
    pub shares: BTreeMap<Name, BTreeMap<Name, f64>>,
    /// Whether its breaker is open, or tries requests one by one.
    #[serde(default)]
    pub circuit_open: bool,
    /// Requests the breaker refused.
    #[serde(default)]
    pub circuit_refused: u64,
    /// Requests that were not sent again because the budget of retries was spent.
    #[serde(default)]
    pub retries_refused: u64,
    /// Requests that wait for a slot at a server.
    #[serde(default)]
    pub waiting: u64,
    /// Requests that were asked of a second server, too.
    #[serde(default)]
    pub hedges: u64,
    /// Those that it answered first.
    #[serde(default)]
    pub hedges_won: u64,
}

/// One server of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// What checks see.
    pub health: Health,
    /// Why.
    pub reason: String,
    /// Requests in flight.
    pub active: u64,
    /// Requests so far.
    pub requests: u64,
    /// Failed requests so far.
    pub failures: u64,
    /// The share of its weight it gets now, in hundredths: less while it starts slowly, or when its agent says so.
    #[serde(default)]
    pub weight_percent: u32,
    /// Whether it is ejected because of its answers, or tried out after that.
    #[serde(default)]
    pub ejected: bool,
    /// How often it was ejected.
    #[serde(default)]
    pub ejections: u64,
}

/// What the BGP agent says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BgpStatus {
    /// The node it runs on.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Peers by name.
    pub peers: BTreeMap<Name, PeerStatus>,
    /// VIPs by name: announced or not, and why.
    pub vips: BTreeMap<Name, AnnounceStatus>,
    /// How many VIPs may go because of health.
    #[serde(default)]
    pub withdrawals: WithdrawalStatus,
}

/// The budget of withdrawals because of health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawalStatus {
    /// VIPs that may be withdrawn within a minute.
    pub limit_per_minute: u64,
    /// VIPs that were within the last.
    pub last_minute: u64,
    /// VIPs that stay announced because of it.
    pub waiting: u64,
    /// How often one had to wait.
    pub deferred: u64,
}

/// One BGP session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The router's address.
    pub address: String,
    /// State of the session in the words of RFC 4271 §8.2.2.
    pub state: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Prefixes announced on it now.
    pub announced: Vec<String>,
    /// Why it last went down; empty when it never did.
    pub last_error: String,
    /// How often it was established.
    pub established_count: u64,
    /// The router's autonomous system.
    #[serde(default)]
    pub asn: u32,
    /// Ours.
    #[serde(default)]
    pub local_asn: u32,
    /// What was agreed with the router; absent while the session is down.
    #[serde(default)]
    pub agreed: Option<AgreedStatus>,
    /// The routes announced on it now, with their attributes.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
    /// Routes the router is not told although they are wanted, and why: too many, no next hop, a family it has not.
    #[serde(default)]
    pub refused: BTreeMap<String, String>,
    /// The last NOTIFICATION we sent; empty when there was none.
    #[serde(default)]
    pub last_sent: String,
    /// The last NOTIFICATION of the router.
    #[serde(default)]
    pub last_received: String,
    /// Messages, all types.
    #[serde(default)]
    pub messages_sent: u64,
    /// The same from the router.
    #[serde(default)]
    pub messages_received: u64,
    /// UPDATEs.
    #[serde(default)]
    pub updates_sent: u64,
    /// The same from the router.
    #[serde(default)]
    pub updates_received: u64,
    /// UPDATEs of the router with an error that RFC 7606 forgives.
    #[serde(default)]
    pub updates_malformed: u64,
    /// Prefixes the router has announced since the session is up, all ignored.
    #[serde(default)]
    pub prefixes_received: u64,
    /// The last of them, oldest first, `-` before those withdrawn; only with `keep_received`.
    #[serde(default)]
    pub received: Vec<String>,
    /// Its BFD session; none is configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdStatus>,
}

/// The BFD session beside a BGP session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BfdStatus {
    /// Our state, in the words of RFC 5880 §4.1.
    pub state: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The router's state, as it last said.
    pub remote_state: String,
    /// From one packet of ours to the next, before jitter; absent while none are sent.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub transmit_interval: Option<Duration>,
    /// From one packet of the router to the next; absent until it was heard.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<Duration>,
    /// Silence of the router for this long is death; absent until it was heard.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub detection_time: Option<Duration>,
    /// Why it last went down, and what the router said of it; empty when it never did.
    pub diagnostic: String,
    /// How often it came up.
    pub ups: u64,
    /// How often the path died: neither side had switched it off.
    pub failures: u64,
    /// No BGP session is begun before it is up.
    pub holds_bgp: bool,
    /// Why there is no session although one is wanted, as a socket that cannot be opened; empty when there is one.
    pub error: String,
}

/// What the two sides of a session agreed on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgreedStatus {
    /// The router's BGP identifier.
    pub router_id: String,
    /// `ipv4`, `ipv6`.
    pub families: Vec<String>,
    /// In seconds; 0 for no timers.
    pub hold_time_s: u64,
    /// Capabilities both have, by name.
    pub capabilities: Vec<String>,
}

/// A route as it was announced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The prefix.
    pub prefix: String,
    /// The next hop.
    pub next_hop: String,
    /// The AS path.
    pub as_path: Vec<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; iBGP only.
    pub local_pref: Option<u32>,
    /// Communities, large ones among them.
    pub communities: Vec<String>,
}

/// Whether a VIP is announced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnnounceStatus {
    /// The verdict.
    pub announced: bool,
    /// Why.
    pub reason: String,
    /// How well, while it is.
    #[serde(default)]
    pub tier: Tier,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The addresses of it that are announced.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// How well a VIP is announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// As the peer objects say.
    #[default]
    Normal,
    /// Somebody else had better have it.
    Worse,
    /// About to be withdrawn: with the community GRACEFUL_SHUTDOWN. RFC 8326 §4.
    GracefulShutdown,
}
