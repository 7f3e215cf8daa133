//! Whose tunnels a host opens, and of which kinds. The rest of the platform are its peers; others are named by prefix.

use crate::Address;

/// GUE: version 0 without a chain, or variant 1, where the inner packet follows UDP directly.
pub const ACCEPT_GUE: u32 = 1 << 0;
/// IPv4 or IPv6 directly behind the outer IP header.
pub const ACCEPT_IPIP: u32 = 1 << 1;

/// [`Config::tunnels`](crate::Config::tunnels): peers may send IPIP too; GUE they always may.
pub const TUNNELS_IPIP_OF_PEERS: u32 = 1 << 0;
/// [`Config::tunnels`](crate::Config::tunnels): `TUNNEL_SOURCES` has entries.
pub const TUNNELS_OF_OTHERS: u32 = 1 << 1;

/// Key of `TUNNEL_SOURCES`: a prefix of outer source addresses. The longest that matches decides; its value is made of
/// `ACCEPT_` bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelSource {
    /// How many bits of `address` count; of an IPv4 address 96 more than are written.
    pub len_bits: u32,
    /// The prefix.
    pub address: Address,
}
pod!(TunnelSource, 20);
