//! The routes one peer should have, the routes it was told, and the UPDATEs that close the gap.
//!
//! Level-triggered: [`RibOut::set_routes`] replaces the whole desired set, and [`RibOut::next_update`] is asked for one message
//! at a time, as fast as the transport takes them. Changing the set in the middle is harmless: what was not sent yet is never sent.
//! Withdrawals go first, then announcements grouped by equal attributes, then End-of-RIB where it is due.

use crate::wire::{
    ATTRIBUTES_ROOM, EncodeError, Families, Family, UpdateContext, encode_announce, encode_end_of_rib,
    encode_withdraw, prefix_len_bytes,
};
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Additional copies of our AS in a path. 16 × 4 bytes keep every attribute within the room reserved for it.
pub const PREPEND_MAX: u8 = 16;

/// Communities on a route; 64 × 4 bytes, for the same reason.
pub const COMMUNITIES_MAX: usize = 64;

/// LOCAL_PREF towards internal peers when nothing was asked for; what routers use by default.
const LOCAL_PREF_DEFAULT: u32 = 100;

/// Prefixes and how each is announced.
pub type RouteSet = BTreeMap<IpNet, Route>;

/// The attributes of an announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    next_hop: IpAddr,
    med: Option<u32>,
    local_pref: u32,
    prepend: u8,
    communities: Vec<u32>,
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
}

impl Route {
    /// A plain route; the next hop must be of the family of the prefixes.
    pub fn new(next_hop: IpAddr) -> Self {
        Self { next_hop, med: None, local_pref: LOCAL_PREF_DEFAULT, prepend: 0, communities: Vec::new() }
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

    /// Set COMMUNITIES, each as `AS << 16 | value`; order and repetition do not matter.
    pub fn with_communities(mut self, mut communities: Vec<u32>) -> Result<Self, RouteError> {
        communities.sort_unstable();
        communities.dedup();
        if communities.len() > COMMUNITIES_MAX {
            return Err(RouteError::Communities(communities.len()));
        }
        self.communities = communities;
        Ok(self)
    }

    /// Where the traffic shall go.
    pub fn next_hop(&self) -> IpAddr {
        self.next_hop
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

    /// COMMUNITIES, ascending.
    pub fn communities(&self) -> &[u32] {
        &self.communities
    }
}

/// Desired against advertised, for one session.
#[derive(Debug, Default)]
pub struct RibOut {
    desired: RouteSet,
    advertised: RouteSet,
    /// Advertised and to be sent again: the peer asked with ROUTE-REFRESH.
    stale: BTreeSet<IpNet>,
    /// The families of the session that is up; none when it is down.
    families: Families,
    end_of_rib_due: Families,
}

impl RibOut {
    /// Replace the desired set. Routes whose next hop is of the other family are left out and their number returned.
    pub fn set_routes(&mut self, mut routes: RouteSet) -> usize {
        let given = routes.len();
        routes.retain(|prefix, route| Family::of(prefix.addr()) == Family::of(route.next_hop));
        let left_out = given - routes.len();
        self.desired = routes;
        left_out
    }

    /// A session came up: the peer knows nothing, everything is due, each family ends with End-of-RIB.
    pub fn session_up(&mut self, families: Families) {
        self.session_down();
        self.families = families;
        self.end_of_rib_due = families;
    }

    /// The session is gone, and with it all the peer knew.
    pub fn session_down(&mut self) {
        self.advertised.clear();
        self.stale.clear();
        self.families = Families::default();
        self.end_of_rib_due = Families::default();
    }

    /// The peer wants a family again. RFC 2918 §4.
    pub fn refresh(&mut self, family: Family) {
        let again = self.advertised.keys().filter(|prefix| Family::of(prefix.addr()) == family);
        self.stale.extend(again);
    }

    /// What the peer has been told and not been told to forget.
    pub fn advertised(&self) -> &RouteSet {
        &self.advertised
    }

    /// The routes this peer should have.
    pub fn desired(&self) -> &RouteSet {
        &self.desired
    }

    /// Nothing is left to send.
    pub fn is_settled(&self) -> bool {
        self.end_of_rib_due == Families::default()
            && self.to_withdraw().next().is_none()
            && self.to_announce().next().is_none()
    }

    /// The next message, `None` when the peer knows all. A route that cannot be written counts as sent, so that it does not
    /// hold up the others.
    pub fn next_update(&mut self, context: UpdateContext) -> Option<Result<Bytes, EncodeError>> {
        if let Some((family, prefixes)) = self.next_withdraw() {
            for prefix in &prefixes {
                self.advertised.remove(prefix);
                self.stale.remove(prefix);
            }
            return Some(encode_withdraw(family, &prefixes));
        }
        if let Some((route, prefixes)) = self.next_announce() {
            for prefix in &prefixes {
                self.advertised.insert(*prefix, route.clone());
                self.stale.remove(prefix);
            }
            return Some(encode_announce(context, &route, &prefixes));
        }
        let family = self.end_of_rib_due.iter().next()?;
        match family {
            Family::Ipv4 => self.end_of_rib_due.ipv4 = false,
            Family::Ipv6 => self.end_of_rib_due.ipv6 = false,
        }
        Some(Ok(encode_end_of_rib(family)))
    }

    fn to_withdraw(&self) -> impl Iterator<Item = &IpNet> {
        self.advertised.keys().filter(|prefix| !self.desired.contains_key(prefix))
    }

    fn to_announce(&self) -> impl Iterator<Item = (&IpNet, &Route)> {
        self.desired.iter().filter(|(prefix, route)| {
            self.families.has(Family::of(prefix.addr()))
                && (self.advertised.get(prefix) != Some(route) || self.stale.contains(prefix))
        })
    }

    fn next_withdraw(&self) -> Option<(Family, Vec<IpNet>)> {
        let family = Family::of(self.to_withdraw().next()?.addr());
        let same = self.to_withdraw().filter(|prefix| Family::of(prefix.addr()) == family);
        Some((family, pack(same)))
    }

    fn next_announce(&self) -> Option<(Route, Vec<IpNet>)> {
        let (_, route) = self.to_announce().next()?;
        let same = self.to_announce().filter(|(_, other)| *other == route).map(|(prefix, _)| prefix);
        Some((route.clone(), pack(same)))
    }
}

/// As many prefixes as one message can take.
fn pack<'a>(prefixes: impl Iterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let mut room = ATTRIBUTES_ROOM;
    prefixes
        .take_while(|prefix| match room.checked_sub(prefix_len_bytes(prefix)) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        })
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{HEADER_LEN, MESSAGE_MAX, decode_update};
    use proptest::prelude::*;

    const EBGP: UpdateContext = UpdateContext { local_asn: 65001, ibgp: false, four_octet_as: true };

    fn route(med: u32) -> Route {
        Route::new("10.0.1.2".parse().unwrap()).with_med(Some(med))
    }

    fn net(n: u32) -> IpNet {
        format!("192.0.{}.{}/32", n / 256, n % 256).parse().unwrap()
    }

    /// Send everything; returns (messages, prefixes announced, prefixes withdrawn, End-of-RIBs).
    fn drain(rib: &mut RibOut) -> (usize, usize, usize, usize) {
        let mut seen = (0, 0, 0, 0);
        while let Some(message) = rib.next_update(EBGP) {
            let message = message.unwrap();
            assert!(message.len() <= MESSAGE_MAX);
            let report = decode_update(&message.slice(HEADER_LEN..), true).unwrap();
            assert!(!report.malformed);
            seen.0 += 1;
            seen.1 += report.announced;
            seen.2 += report.withdrawn;
            seen.3 += usize::from(report.end_of_rib);
        }
        assert!(rib.is_settled());
        seen
    }

    #[test]
    fn a_new_session_gets_everything_and_then_end_of_rib_per_family() {
        let mut rib = RibOut::default();
        rib.set_routes((0..10).map(|n| (net(n), route(n % 2))).collect());
        rib.session_up(Families::BOTH);
        assert_eq!(drain(&mut rib), (4, 10, 0, 2));
        assert_eq!(drain(&mut rib), (0, 0, 0, 0));
    }

    #[test]
    fn only_differences_are_sent() {
        let mut rib = RibOut::default();
        rib.session_up(Families::IPV4);
        rib.set_routes([(net(1), route(1)), (net(2), route(1)), (net(3), route(1))].into());
        assert_eq!(drain(&mut rib), (2, 3, 0, 1));
        rib.set_routes([(net(1), route(1)), (net(2), route(9)), (net(4), route(1))].into());
        assert_eq!(drain(&mut rib), (3, 2, 1, 0));
    }

    #[test]
    fn routes_of_a_family_without_agreement_are_not_sent() {
        let mut rib = RibOut::default();
        let v6 = Route::new("2001:db8:1::2".parse().unwrap());
        rib.set_routes([(net(1), route(1)), ("2001:db8::1/128".parse().unwrap(), v6)].into());
        rib.session_up(Families::IPV4);
        assert_eq!(drain(&mut rib), (2, 1, 0, 1));
        assert_eq!(rib.advertised().len(), 1);
    }

    #[test]
    fn a_next_hop_of_the_other_family_is_left_out() {
        let mut rib = RibOut::default();
        assert_eq!(
            rib.set_routes([("2001:db8::1/128".parse().unwrap(), route(1)), (net(1), route(1))].into()),
            1
        );
        assert_eq!(rib.desired().len(), 1);
    }

    #[test]
    fn a_refresh_sends_the_family_again_without_withdrawing() {
        let mut rib = RibOut::default();
        rib.set_routes([(net(1), route(1)), (net(2), route(1))].into());
        rib.session_up(Families::BOTH);
        drain(&mut rib);
        rib.refresh(Family::Ipv6);
        assert_eq!(drain(&mut rib), (0, 0, 0, 0));
        rib.refresh(Family::Ipv4);
        assert_eq!(drain(&mut rib), (1, 2, 0, 0));
    }

    #[test]
    fn the_largest_route_still_fits_its_message() {
        let communities = (0..COMMUNITIES_MAX as u32).collect();
        let context = UpdateContext { local_asn: 4_200_000_001, ibgp: false, four_octet_as: false };
        for next_hop in ["10.0.1.2", "2001:db8:1::2"] {
            let route =
                Route::new(next_hop.parse().unwrap()).with_med(Some(1)).with_prepend(PREPEND_MAX).unwrap();
            let route = route.with_communities(Vec::clone(&communities)).unwrap();
            let prefix = |n: u32| match route.next_hop() {
                IpAddr::V4(_) => net(n),
                IpAddr::V6(_) => format!("2001:db8::{n:x}/128").parse().unwrap(),
            };
            let mut rib = RibOut::default();
            rib.set_routes((0..5000).map(|n| (prefix(n), route.clone())).collect());
            rib.session_up(Families::BOTH);
            let mut announced = 0;
            while let Some(message) = rib.next_update(context) {
                announced += decode_update(&message.unwrap().slice(HEADER_LEN..), false).unwrap().announced;
            }
            assert_eq!(announced, 5000, "{next_hop}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_changes_the_peer_ends_with_the_desired_set(
            steps in proptest::collection::vec((proptest::collection::btree_map(0u32..40, 0u32..3, 0..30), 0usize..4), 1..12)
        ) {
            let mut rib = RibOut::default();
            rib.session_up(Families::IPV4);
            for (routes, messages) in steps {
                rib.set_routes(routes.iter().map(|(n, med)| (net(*n), route(*med))).collect());
                for _ in 0..messages {
                    let _ = rib.next_update(EBGP);
                }
            }
            drain(&mut rib);
            prop_assert_eq!(rib.advertised(), rib.desired());
        }
    }
}
