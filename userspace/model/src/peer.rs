//! BGP peers: the routers a node announces its VIPs to.

mod address;
mod community;
mod secret;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Bfd, Name, units};

pub use address::PeerAddress;
pub use community::Community;
pub use secret::Secret;

/// The longest name of a peer with many routers behind it: each session is named `NAME-ADDRESS`, and that is a name too.
pub const RANGE_NAME_LEN_MAX: usize = 20;

/// A BGP session between one node and one router, or sessions with all routers of a range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The node that keeps the session.
    pub node: Name,
    /// The router's address; a prefix, for whoever calls from there; absent, for whoever is at the other end of `interface`.
    #[serde(default, skip_serializing_if = "PeerAddress::is_unnumbered")]
    pub address: PeerAddress,
    /// The interface the router is behind, for link-local addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
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
    /// Wait for the router to connect, never connect ourselves. So is a range in any case.
    #[serde(default)]
    pub passive: bool,
    /// Sessions of a range at a time; more are refused.
    #[serde(default = "default_sessions_max")]
    pub sessions_max: u32,
    /// Packets of the router must have come over at most so many hops: `true` for 1. RFC 5082.
    #[serde(default)]
    pub ttl_security: TtlSecurity,
    /// The TTL of our packets; what the kernel uses when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multihop: Option<u8>,
    /// The key of TCP MD5 signatures, 1 to 80 bytes. RFC 2385.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file with the key, read anew when it changes; blanks at its end do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Families announced on the session.
    #[serde(default = "both_families")]
    pub families: Vec<AddressFamily>,
    /// IPv4 may go with an IPv6 next hop (RFC 8950); when absent, on link-local sessions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_next_hop: Option<bool>,
    /// Hold time proposed: 0 or 3 s to 65,535 s.
    #[serde(with = "units::duration", default = "default_hold_time")]
    pub hold_time: Duration,
    /// How long the router may leave our bytes unread; the larger of 8 m and twice the hold time when absent. RFC 9687.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub send_hold_time: Option<Duration>,
    /// From one attempt to connect to the next.
    #[serde(with = "units::duration", default = "default_connect_retry")]
    pub connect_retry: Duration,
    /// The router keeps our routes while `weir-bgp` restarts. RFC 4724.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// What we are to the router; eBGP only. RFC 9234.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<PeerRole>,
    /// Refuse a router that does not say what it is.
    #[serde(default)]
    pub role_strict: bool,
    /// MULTI_EXIT_DISC sent with every route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// LOCAL_PREF sent with every route; iBGP only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// How often our AS is repeated in the path beyond once; 0 to 10.
    #[serde(default)]
    pub prepend: u8,
    /// Communities: `65000:100`, large ones as `65000:1:2`, or a well-known name. See [`Community`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// Ask the router to prefer any other path: the routes carry GRACEFUL_SHUTDOWN. RFC 8326.
    #[serde(default)]
    pub graceful_shutdown: bool,
    /// How many routes the router is told at most; more are refused, and said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_routes: Option<u32>,
    /// How many prefixes the router may send; beyond that the session ends and pauses. All are ignored in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes_received: Option<u32>,
    /// For how long it pauses then.
    #[serde(with = "units::duration", default = "default_max_prefixes_pause")]
    pub max_prefixes_pause: Duration,
    /// Show the last prefixes the router sent.
    #[serde(default)]
    pub keep_received: bool,
    /// Watch the path to the router by BFD, and end the session when it is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
}

impl Peer {
    /// A peer with what it must have, and everything else as when it is not written.
    pub fn new(node: Name, address: PeerAddress, asn: u32, local_asn: u32) -> Self {
        Self {
            node,
            address,
            interface: None,
            port: bgp_port(),
            asn,
            local_asn,
            local_address: None,
            local_port: bgp_port(),
            passive: false,
            sessions_max: default_sessions_max(),
            ttl_security: TtlSecurity::default(),
            multihop: None,
            password: None,
            password_file: None,
            families: both_families(),
            extended_next_hop: None,
            hold_time: default_hold_time(),
            send_hold_time: None,
            connect_retry: default_connect_retry(),
            graceful_restart: None,
            role: None,
            role_strict: false,
            med: None,
            local_pref: None,
            prepend: 0,
            communities: Vec::new(),
            graceful_shutdown: false,
            max_routes: None,
            max_prefixes_received: None,
            max_prefixes_pause: default_max_prefixes_pause(),
            keep_received: false,
            bfd: None,
        }
    }

    /// The session runs between link-local addresses.
    pub fn is_link_local(&self) -> bool {
        match &self.address {
            PeerAddress::Host(IpAddr::V6(address)) => address.is_unicast_link_local(),
            PeerAddress::Host(IpAddr::V4(_)) | PeerAddress::Range(_) => false,
            PeerAddress::Unnumbered => true,
        }
    }

    /// Never connects.
    pub fn is_passive(&self) -> bool {
        self.passive || matches!(self.address, PeerAddress::Range(_))
    }

    /// IPv4 may go with an IPv6 next hop.
    pub fn takes_extended_next_hop(&self) -> bool {
        self.extended_next_hop.unwrap_or_else(|| self.is_link_local())
    }
}

/// How many hops away the router may be; 0 for no check. In a file `true`, `false` or a number. RFC 5082.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "TtlSecurityForm", into = "u8")]
pub struct TtlSecurity(pub u8);

#[derive(Deserialize)]
#[serde(untagged, expecting = "true, false or a number of hops from 1 to 254")]
enum TtlSecurityForm {
    Switch(bool),
    Hops(u8),
}

impl From<TtlSecurityForm> for TtlSecurity {
    fn from(form: TtlSecurityForm) -> Self {
        match form {
            TtlSecurityForm::Switch(on) => Self(u8::from(on)),
            TtlSecurityForm::Hops(hops) => Self(hops),
        }
    }
}

impl From<TtlSecurity> for u8 {
    fn from(security: TtlSecurity) -> Self {
        security.0
    }
}

impl TtlSecurity {
    /// The smallest TTL a packet of the router may arrive with; `None` when nothing is checked.
    pub fn min_ttl(self) -> Option<u8> {
        (self.0 > 0).then(|| 255 - (self.0 - 1))
    }
}

/// How the router keeps our routes while we are away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GracefulRestart {
    /// For how long; whole seconds from 1 s to 4,095 s.
    #[serde(with = "units::duration")]
    pub time: Duration,
    /// Also after a NOTIFICATION or an expired hold timer, where the router can. RFC 8538.
    #[serde(default = "yes")]
    pub notification: bool,
}

/// What a side is to the other. RFC 9234 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerRole {
    /// We are its provider.
    Provider,
    /// We are its customer: the usual one for load balancers.
    Customer,
    /// Neither pays the other.
    Peer,
    /// We are a route server.
    Rs,
    /// We are a client of it, a route server.
    RsClient,
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

fn yes() -> bool {
    true
}
fn bgp_port() -> u16 {
    179
}
fn default_sessions_max() -> u32 {
    64
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
fn default_max_prefixes_pause() -> Duration {
    Duration::from_secs(300)
}
