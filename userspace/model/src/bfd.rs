//! BFD with a router: how fast a dead path is noticed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// A BFD session beside the BGP session of a peer. RFC 5880 to 5883, asynchronous mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bfd {
    /// From one packet of ours to the next, once up: 10 ms to 60 s. The router may slow it down.
    #[serde(with = "units::duration", default = "default_interval")]
    pub interval: Duration,
    /// How often we take a packet of the router: 10 ms to 60 s; as `interval` when absent.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub receive_interval: Option<Duration>,
    /// After this many intervals of silence a side is dead. The router counts ours, and we count the router's.
    #[serde(default = "default_multiplier")]
    pub multiplier: u8,
    /// The router is not on a link of ours: UDP port 4784, and `minimum_ttl` in place of 255.
    #[serde(default)]
    pub multihop: bool,
    /// The least TTL a packet of a multihop router may arrive with: what it sends, 255 for most, less the routers between.
    /// Any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_ttl: Option<u8>,
    /// Say nothing until the router does.
    #[serde(default)]
    pub passive: bool,
    /// No BGP session before BFD is up for the first time. Without it BGP may come up first, and a router without BFD does no harm.
    #[serde(default)]
    pub strict: bool,
}

impl Bfd {
    /// `minimum_ttl` when absent: from anywhere. BIRD sends its multihop packets with 64, whatever RFC 5881 says for one hop.
    pub const MINIMUM_TTL_DEFAULT: u8 = 1;
}

fn default_interval() -> Duration {
    Duration::from_millis(50)
}
fn default_multiplier() -> u8 {
    3
}
