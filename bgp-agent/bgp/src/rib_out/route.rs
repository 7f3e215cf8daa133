//! The attributes of an announcement, each within its bound.

use std::net::{IpAddr, Ipv6Addr};

/// Additional copies of our AS in a path. 16 × 4 bytes keep every attribute within the room reserved for it.
pub const PREPEND_MAX: u8 = 16;

/// Communities on a route; 64 × 4 bytes, for the same reason.
pub const COMMUNITIES_MAX: usize = 64;

/// Large communities on a route; 64 × 12 bytes, for the same reason.
pub const LARGE_COMMUNITIES_MAX: usize = 64;

/// LOCAL_PREF towards internal peers when nothing was asked for; what routers use by default.
const LOCAL_PREF_DEFAULT: u32 = 100;

/// The attributes of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    next_hop: IpAddr,
    link_local: Option<Ipv6Addr>,
    med: Option<u32>,
    local_pref: u32,
    prepend: u8,
    communities: Vec<u32>,
    large_communities: Vec<(u32, u32, u32)>,
    graceful_shutdown: bool,
}

/// An attribute beyond its bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// More than [`PREPEND_MAX`].
    #[error("prepend {0} is more than {PREPEND_MAX}")]
    Prepend(u8),
    /// More than [`COMMUNITIES_MAX`].
    #[error("{0} communities are more than {COMMUNITIES_MAX}")]
    Communities(usize),
    /// More than [`LARGE_COMMUNITIES_MAX`].
    #[error("{0} large communities are more than {LARGE_COMMUNITIES_MAX}")]
    LargeCommunities(usize),
}

impl Route {
    /// A plain route. An IPv4 next hop is for IPv4 prefixes; an IPv6 one for IPv6, and for IPv4 where the session agreed
    /// on RFC 8950.
    pub fn new(next_hop: IpAddr) -> Self {
        Self {
            next_hop,
            link_local: None,
            med: None,
            local_pref: LOCAL_PREF_DEFAULT,
            prepend: 0,
            communities: Vec::new(),
            large_communities: Vec::new(),
            graceful_shutdown: false,
        }
    }

    /// Name a link-local address beside an IPv6 next hop, for a peer on the same link. RFC 2545 §3.
    pub fn with_link_local(mut self, link_local: Option<Ipv6Addr>) -> Self {
        self.link_local = link_local;
        self
    }

    /// Set MULTI_EXIT_DISC; absent means the attribute is not sent.
    pub fn with_med(mut self, med: Option<u32>) -> Self {
        self.med = med;
        self
    }

    /// Set LOCAL_PREF, which internal peers get and external ones do not.
    pub fn with_local_pref(mut self, local_pref: u32) -> Self {
        self.local_pref = local_pref;
        self
    }

    /// Repeat our AS `prepend` more times; no effect towards internal peers.
    pub fn with_prepend(mut self, prepend: u8) -> Result<Self, RouteError> {
        if prepend > PREPEND_MAX {
            return Err(RouteError::Prepend(prepend));
        }
        self.prepend = prepend;
        Ok(self)
    }

    /// Set COMMUNITIES, each as `AS << 16 | value`; order and repetition do not matter. RFC 1997.
    pub fn with_communities(mut self, mut communities: Vec<u32>) -> Result<Self, RouteError> {
        communities.sort_unstable();
        communities.dedup();
        if communities.len() > COMMUNITIES_MAX {
            return Err(RouteError::Communities(communities.len()));
        }
        self.communities = communities;
        Ok(self)
    }

    /// Set LARGE_COMMUNITY, each as (global administrator, local part 1, local part 2). RFC 8092 §3.
    pub fn with_large_communities(mut self, mut large: Vec<(u32, u32, u32)>) -> Result<Self, RouteError> {
        large.sort_unstable();
        large.dedup();
        if large.len() > LARGE_COMMUNITIES_MAX {
            return Err(RouteError::LargeCommunities(large.len()));
        }
        self.large_communities = large;
        Ok(self)
    }

    /// Ask the peer to prefer any other path: the community GRACEFUL_SHUTDOWN, and LOCAL_PREF 0 inside the AS. RFC 8326.
    pub fn with_graceful_shutdown(mut self, graceful_shutdown: bool) -> Self {
        self.graceful_shutdown = graceful_shutdown;
        self
    }

    /// Where the traffic shall go.
    pub fn next_hop(&self) -> IpAddr {
        self.next_hop
    }

    /// The link-local address beside it.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.link_local
    }

    /// MULTI_EXIT_DISC.
    pub fn med(&self) -> Option<u32> {
        self.med
    }

    /// LOCAL_PREF.
    pub fn local_pref(&self) -> u32 {
        self.local_pref
    }

    /// Additional copies of our AS.
    pub fn prepend(&self) -> u8 {
        self.prepend
    }

    /// COMMUNITIES, ascending; without GRACEFUL_SHUTDOWN unless it was put there by its number.
    pub fn communities(&self) -> &[u32] {
        &self.communities
    }

    /// LARGE_COMMUNITY, ascending.
    pub fn large_communities(&self) -> &[(u32, u32, u32)] {
        &self.large_communities
    }

    /// The peer is asked to prefer any other path.
    pub fn graceful_shutdown(&self) -> bool {
        self.graceful_shutdown
    }
}
