//! Where things stand: zones, load-balancer nodes, and groups of nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Name, Secret, Server, Timestamp, units};

/// What an operator wants of a node or server; what checks see is kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admin {
    /// Takes its share of the traffic.
    #[default]
    Active,
    /// Existing flows finish, no new ones come.
    Drain,
    /// Takes nothing at all.
    Disabled,
}

/// A failure domain with its own servers and, usually, its own BGP edge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// The place the zone belongs to; zones of one site fail over together by `weir zone fail --site`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Name>,
    /// Clients with these source addresses call this zone home. Prefixes of different zones may nest (the longest wins) but not be equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_prefixes: Vec<IpNet>,
    /// Distance to other zones, in the operator's own unit (say, ms); zones not named are at distance 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub distance: BTreeMap<Name, u32>,
    /// Share of spilled traffic this zone takes relative to other zones; 1 to 1,000.
    #[serde(default = "one")]
    pub spill_weight: u32,
}

/// The tunnel packets are sent to a host in. Over IPv4 or IPv6 as the host's address is, around either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    /// Generic UDP Encapsulation with the previous owner of a flow as second hop: for hosts that run `weir-l4`.
    #[default]
    Gue,
    /// The packet right behind the outer header: for hosts with nothing but their kernel. Carries no second hop: a flow ends
    /// when its slot goes to such a host, or from one such host to another.
    Ipip,
}

/// How a balancer judges whether a host may get packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeVia {
    /// By asking it, and by SYNs to its VIPs that go the way of every packet: in the tunnel, opened by it, answered from the VIP.
    #[default]
    Tunnel,
    /// By asking it at its own address, and nothing else.
    Direct,
}

/// Tunnels of others that are opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptTunnels {
    /// Their outer source addresses.
    pub from: IpNet,
    /// What they send; `gue` without a second hop, in version 0 or variant 1.
    pub kind: Tunnel,
}

/// A load balancer: a host that runs `weir-l4`, `weir-proxy` and `weir-bgp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The zone it stands in.
    pub zone: Name,
    /// Its own IPv4 address: source and target of tunnels, BGP next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its own IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Share of its group's flows; 1 to 1,000.
    #[serde(default = "hundred")]
    pub weight: u32,
    /// What the operator wants of it.
    #[serde(default)]
    pub admin: Admin,
    /// The tunnel in which other nodes send packets to it.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// The server id in QUIC connection ids its servers choose; of all nodes and servers, no two have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_id: Option<u16>,
    /// TCP port on which its proxy answers `/healthz` to the balancers of its group.
    #[serde(default = "default_probe_port")]
    pub probe_port: u16,
    /// Whether balancers also probe the VIPs it serves through the datapath.
    #[serde(default)]
    pub probe_via: ProbeVia,
    /// From one such probe to the next; 10 ms to 1 h.
    #[serde(with = "units::duration", default = "default_probe_interval")]
    pub probe_interval: Duration,
    /// How long one may take.
    #[serde(with = "units::duration", default = "default_probe_timeout")]
    pub probe_timeout: Duration,
    /// Successes in a row that bring it up; 1 to 100.
    #[serde(default = "two")]
    pub probe_rise: u32,
    /// Failures in a row that bring it down; 1 to 100.
    #[serde(default = "two")]
    pub probe_fall: u32,
    /// How many VIPs it may withdraw within a minute because of health; half of its VIPs, and at least two, when absent. 1 to
    /// 16,384.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawals_per_minute: Option<u32>,
}

impl Node {
    /// A server that opens tunnels, as a node; nobody probes it as such.
    pub(crate) fn of_server(server: &Server) -> Self {
        let (address, address6) = match server.address.ip() {
            IpAddr::V4(address) => (Some(address), None),
            IpAddr::V6(address) => (None, Some(address)),
        };
        Self {
            zone: server.zone.clone(),
            address,
            address6,
            weight: 1,
            admin: Admin::Active,
            tunnel: server.tunnel,
            quic_id: server.quic_id,
            probe_port: default_probe_port(),
            probe_via: ProbeVia::Direct,
            probe_interval: default_probe_interval(),
            probe_timeout: default_probe_timeout(),
            probe_rise: two(),
            probe_fall: two(),
            withdrawals_per_minute: None,
        }
    }

    /// The address tunnels to this node end at: IPv4 where there is one.
    pub fn tunnel_address(&self) -> Option<IpAddr> {
        self.address.map(IpAddr::V4).or(self.address6.map(IpAddr::V6))
    }
}

/// How the nodes of a group share its VIPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupMode {
    /// Every node announces every VIP.
    #[default]
    ActiveActive,
    /// The first node (in the order of `nodes`) announces plainly, the others with a worse path.
    ActiveStandby,
}

/// Nodes configured exactly the same, serving the same VIPs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its members.
    pub nodes: Vec<Name>,
    /// How they share the VIPs.
    #[serde(default)]
    pub mode: GroupMode,
    /// Tunnels of foreign balancers its nodes open, for packets to a VIP of theirs; without it only each other's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_tunnels: Vec<AcceptTunnels>,
    /// UDP port on which its nodes tell each other what they announce, so that the last one stays; 0 for not at all.
    #[serde(default = "default_announcers_port")]
    pub announcers_port: u16,
    /// What its nodes sign with what they tell each other, 16 to 80 bytes; unsigned when absent, as believable as source addresses are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcers_key: Option<Secret>,
    /// A file with it in place of the key itself, read anew every second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcers_key_file: Option<PathBuf>,
    /// Until then a change of the configuration may take any number of its VIPs off the network; else one that does so to most is
    /// refused ([`Snapshot::refuses`](crate::Snapshot::refuses)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdraw_freely_until: Option<Timestamp>,
}

impl Group {
    /// Those nodes, sharing plainly.
    pub fn of(nodes: Vec<Name>) -> Self {
        Self {
            nodes,
            mode: GroupMode::default(),
            accept_tunnels: Vec::new(),
            announcers_port: default_announcers_port(),
            announcers_key: None,
            announcers_key_file: None,
            withdraw_freely_until: None,
        }
    }
}

pub(crate) fn one() -> u32 {
    1
}

pub(crate) fn hundred() -> u32 {
    100
}

fn default_announcers_port() -> u16 {
    9181
}

fn default_probe_port() -> u16 {
    9180
}

fn default_probe_interval() -> Duration {
    Duration::from_millis(200)
}

fn default_probe_timeout() -> Duration {
    Duration::from_millis(500)
}

fn two() -> u32 {
    2
}
