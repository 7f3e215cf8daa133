//! BGP peers: the routers a node announces its VIPs to.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Bfd, Name, units};

/// A BGP session between one node and one router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The node that keeps the session.
    pub node: Name,
    /// The router's address.
    pub address: IpAddr,
    /// The router's TCP port.
    #[serde(default = "bgp_port")]
    pub port: u16,
    /// The router's autonomous system.
    pub asn: u32,
    /// Our autonomous system; equal to `asn` for iBGP.
    pub local_asn: u32,
    /// The address we speak from; the node's own of the same family when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_address: Option<IpAddr>,
    /// The TCP port we listen on for this peer; 0 for not at all.
    #[serde(default = "bgp_port")]
    pub local_port: u16,
    /// Wait for the router to connect, never connect ourselves.
    #[serde(default)]
    pub passive: bool,
    /// Families announced on the session.
    #[serde(default = "both_families")]
    pub families: Vec<AddressFamily>,
    /// Hold time proposed: 0 or 3 s to 65,535 s.
    #[serde(with = "units::duration", default = "default_hold_time")]
    pub hold_time: Duration,
    /// From one attempt to connect to the next.
    #[serde(with = "units::duration", default = "default_connect_retry")]
    pub connect_retry: Duration,
    /// MULTI_EXIT_DISC sent with every route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF sent with every route; iBGP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// How often our AS is repeated in the path beyond once; 0 to 10.
    #[serde(default)]
    pub prepend: u8,
    /// Communities, as `65000:100`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// Watch the path to the router by BFD, and end the session when it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

/// An address family announced on a session (SAFI unicast).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressFamily {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

fn bgp_port() -> u16 {
    179
}
fn both_families() -> Vec<AddressFamily> {
    vec![AddressFamily::Ipv4, AddressFamily::Ipv6]
}
fn default_hold_time() -> Duration {
    Duration::from_secs(9)
}
fn default_connect_retry() -> Duration {
    Duration::from_secs(1)
}
