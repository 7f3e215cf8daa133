//! The routes one peer should have, the routes it was told, and the messages that close the gap.
//!
//! Level-triggered: [`RibOut::set_routes`] replaces the whole desired set, and [`RibOut::next_message`] is asked for one message
//! at a time, as fast as the transport takes them. Changing the set in the middle is harmless: what was not sent yet is never sent.
//! A route whose attributes change is one more announcement, never a withdrawal: RFC 4271 §3.1 makes it replace the former.
//! Withdrawals go first, then announcements grouped by equal attributes, then End-of-RIB where it is due.

mod route;

pub use route::{COMMUNITIES_MAX, LARGE_COMMUNITIES_MAX, PREPEND_MAX, Route, RouteError};

use crate::wire::{
    ATTRIBUTES_ROOM, EncodeError, Families, Family, HEADER_LEN, Refresh, UpdateContext, encode_announce,
    encode_end_of_rib, encode_refresh, encode_withdraw, prefix_len_bytes,
};
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// Prefixes and how each is announced.
pub type RouteSet = BTreeMap<IpNet, Route>;

/// What of a desired set was not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refused {
    /// IPv6 prefixes with an IPv4 next hop.
    pub next_hop: Vec<IpNet>,
    /// Beyond the bound of [`RibOut::set_max_routes`].
    pub over_max: Vec<IpNet>,
}

/// Where a marked refresh of a family stands. RFC 7313 §4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    BeginDue,
    EndDue,
}

/// Desired against advertised, for one session.
#[derive(Debug, Clone, Default)]
pub struct RibOut {
    desired: RouteSet,
    max_routes: Option<usize>,
    advertised: RouteSet,
    /// Advertised and to be sent again: the peer asked with ROUTE-REFRESH.
    stale: BTreeSet<IpNet>,
    /// Advertised and not desired like that; computed once per change, so that a message costs what is in it and not a look
    /// at every route.
    withdraw_due: BTreeSet<IpNet>,
    /// Desired and not advertised like that, or stale.
    announce_due: BTreeSet<IpNet>,
    marked: BTreeMap<Family, Marked>,
    /// The families of the session that is up; none when it is down.
    families: Families,
    /// The session carries IPv4 with an IPv6 next hop.
    extended_next_hop: bool,
    end_of_rib_due: Families,
    end_of_rib_held: bool,
}

impl RibOut {
    /// Replace the desired set; returns what was not taken.
    ///
    /// At the bound of [`RibOut::set_max_routes`] what was desired before goes before what is new, then the order of prefixes
    /// decides: a new VIP never displaces one that is announced.
    pub fn set_routes(&mut self, mut routes: RouteSet) -> Refused {
        let mut refused = Refused::default();
        routes.retain(|prefix, route| {
            let carried = !(prefix.addr().is_ipv6() && route.next_hop().is_ipv4());
            if !carried {
                refused.next_hop.push(*prefix);
            }
            carried
        });
        if let Some(max) = self.max_routes.filter(|max| routes.len() > *max) {
            let (before, new): (Vec<IpNet>, Vec<IpNet>) =
                routes.keys().copied().partition(|prefix| self.desired.contains_key(prefix));
            refused.over_max = before.into_iter().chain(new).skip(max).collect();
            for prefix in &refused.over_max {
                routes.remove(prefix);
            }
        }
        self.desired = routes;
        self.compare();
        refused
    }

    /// How many routes the peer is told at most; takes effect with the next [`RibOut::set_routes`].
    pub fn set_max_routes(&mut self, max: Option<usize>) {
        self.max_routes = max;
    }

    /// Keep End-of-RIB back: a speaker that has restarted and does not know its routes yet must not say that these were all,
    /// or the peer forgets those it kept. RFC 4724 §4.1.
    pub fn hold_end_of_rib(&mut self, hold: bool) {
        self.end_of_rib_held = hold;
    }

    /// A session came up: the peer knows nothing, everything is due, each family ends with End-of-RIB.
    pub fn session_up(&mut self, families: Families, extended_next_hop: bool) {
        self.session_down();
        self.families = families;
        self.extended_next_hop = extended_next_hop;
        self.end_of_rib_due = families;
        self.compare();
    }

    /// The session is gone, and with it all the peer knew.
    pub fn session_down(&mut self) {
        self.advertised.clear();
        self.stale.clear();
        self.withdraw_due.clear();
        self.announce_due.clear();
        self.marked.clear();
        self.families = Families::default();
        self.end_of_rib_due = Families::default();
    }

    /// The peer wants a family again (RFC 2918 §4), between marks if that was agreed (RFC 7313 §4).
    pub fn refresh(&mut self, family: Family, marked: bool) {
        let again = self.advertised.keys().filter(|prefix| Family::of(prefix.addr()) == family);
        self.stale.extend(again);
        self.compare();
        if marked && self.families.has(family) {
            // A request during a refresh begins it anew: the peer takes the second mark for the first.
            self.marked.insert(family, Marked::BeginDue);
        }
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
        (self.end_of_rib_held || self.end_of_rib_due == Families::default())
            && self.marked.is_empty()
            && self.withdraw_due.is_empty()
            && self.announce_due.is_empty()
    }

    /// The next message, UPDATE or the mark of a refresh; `None` when the peer knows all. A route that cannot be written counts
    /// as sent, so that it does not hold up the others.
    pub fn next_message(&mut self, context: UpdateContext) -> Option<Result<Bytes, EncodeError>> {
        if let Some((family, prefixes)) = self.next_withdraw(context) {
            for prefix in &prefixes {
                self.advertised.remove(prefix);
                self.stale.remove(prefix);
                self.withdraw_due.remove(prefix);
            }
            return Some(encode_withdraw(context, family, &prefixes));
        }
        if let Some(mark) = self.next_mark() {
            return Some(Ok(mark));
        }
        if let Some((route, prefixes)) = self.next_announce(context) {
            for prefix in &prefixes {
                self.advertised.insert(*prefix, route.clone());
                self.stale.remove(prefix);
                self.announce_due.remove(prefix);
            }
            return Some(encode_announce(context, &route, &prefixes));
        }
        if self.end_of_rib_held {
            return None;
        }
        let family = self.end_of_rib_due.iter().next()?;
        self.end_of_rib_due.set(family, false);
        Some(Ok(encode_end_of_rib(family)))
    }

    fn next_mark(&mut self) -> Option<Bytes> {
        let families: Vec<Family> = self.marked.keys().copied().collect();
        for family in families {
            let has_stale = self.stale.iter().any(|prefix| Family::of(prefix.addr()) == family);
            match self.marked.get(&family)? {
                // RFC 7313 §4: "it MUST NOT send a BoRR message for the <AFI, SAFI> to the peer before it has sent the
                // End-of-RIB (EoR) marker" where graceful restart was agreed.
                Marked::BeginDue if !self.end_of_rib_due.has(family) => {
                    self.marked.insert(family, Marked::EndDue);
                    return encode_refresh(Refresh::Begin(family));
                }
                Marked::EndDue if !has_stale => {
                    self.marked.remove(&family);
                    return encode_refresh(Refresh::End(family));
                }
                Marked::BeginDue | Marked::EndDue => {}
            }
        }
        None
    }

    fn carries(&self, prefix: &IpNet, route: &Route) -> bool {
        self.families.has(Family::of(prefix.addr()))
            && (prefix.addr().is_ipv4() == route.next_hop().is_ipv4() || self.extended_next_hop)
    }

    /// Find what is due anew.
    fn compare(&mut self) {
        // A route that turned into one the session does not carry goes as well.
        let stays =
            |prefix: &IpNet| self.desired.get(prefix).is_some_and(|route| self.carries(prefix, route));
        let withdraw_due = self.advertised.keys().filter(|prefix| !stays(prefix)).copied().collect();
        let announce_due = self
            .desired
            .iter()
            .filter(|(prefix, route)| {
                self.carries(prefix, route)
                    && (self.advertised.get(prefix) != Some(route) || self.stale.contains(prefix))
            })
            .map(|(prefix, _)| *prefix)
            .collect();
        (self.withdraw_due, self.announce_due) = (withdraw_due, announce_due);
    }

    fn next_withdraw(&self, context: UpdateContext) -> Option<(Family, Vec<IpNet>)> {
        let family = Family::of(self.withdraw_due.first()?.addr());
        let same = self.withdraw_due.iter().filter(|prefix| Family::of(prefix.addr()) == family);
        Some((family, pack(context, same)))
    }

    fn next_announce(&self, context: UpdateContext) -> Option<(Route, Vec<IpNet>)> {
        let first = self.announce_due.first()?;
        let route = self.desired.get(first)?;
        let family = Family::of(first.addr());
        let same = self
            .announce_due
            .iter()
            .filter(|prefix| Family::of(prefix.addr()) == family && self.desired.get(prefix) == Some(route));
        Some((route.clone(), pack(context, same)))
    }
}

/// As many prefixes as one message can take.
fn pack<'a>(context: UpdateContext, prefixes: impl Iterator<Item = &'a IpNet>) -> Vec<IpNet> {
    let mut room = context.message_max() - HEADER_LEN - ATTRIBUTES_ROOM;
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
    use crate::wire::{MESSAGE_MAX, ReceiveContext, UpdateReport};
    use proptest::prelude::*;
    use std::net::IpAddr;

    const EBGP: UpdateContext = UpdateContext {
        local_asn: 65001,
        ibgp: false,
        four_octet_as: true,
        extended_message: false,
        extended_next_hop: false,
        only_to_customer: false,
    };

    fn judge(message: &Bytes, context: ReceiveContext) -> UpdateReport {
        crate::wire::decode_update(&message.slice(HEADER_LEN..), context, |_, _| ()).unwrap()
    }

    fn route(med: u32) -> Route {
        Route::new("10.0.1.2".parse().unwrap()).with_med(Some(med))
    }

    fn net(n: u32) -> IpNet {
        format!("192.0.{}.{}/32", n / 256, n % 256).parse().unwrap()
    }

    /// Send everything; returns (messages, prefixes announced, prefixes withdrawn, End-of-RIBs).
    fn drain(rib: &mut RibOut) -> (usize, usize, usize, usize) {
        let mut seen = (0, 0, 0, 0);
        while let Some(message) = rib.next_message(EBGP) {
            let message = message.unwrap();
            assert!(message.len() <= MESSAGE_MAX);
            let report = judge(&message, ReceiveContext::default());
            assert_eq!(report.finding, None);
            seen.0 += 1;
            seen.1 += report.announced;
            seen.2 += report.withdrawn;
            seen.3 += usize::from(report.end_of_rib.is_some());
        }
        assert!(rib.is_settled());
        seen
    }

    #[test]
    fn a_new_session_gets_everything_and_then_end_of_rib_per_family() {
        let mut rib = RibOut::default();
        rib.set_routes((0..10).map(|n| (net(n), route(n % 2))).collect());
        rib.session_up(Families::BOTH, false);
        assert_eq!(drain(&mut rib), (4, 10, 0, 2));
        assert_eq!(drain(&mut rib), (0, 0, 0, 0));
    }

    #[test]
    fn only_differences_are_sent() {
        let mut rib = RibOut::default();
        rib.session_up(Families::IPV4, false);
        rib.set_routes([(net(1), route(1)), (net(2), route(1)), (net(3), route(1))].into());
        assert_eq!(drain(&mut rib), (2, 3, 0, 1));
        rib.set_routes([(net(1), route(1)), (net(2), route(9)), (net(4), route(1))].into());
        assert_eq!(drain(&mut rib), (3, 2, 1, 0));
    }

    #[test]
    fn fifty_thousand_routes_come_and_go_in_full_messages() {
        let many = |med| -> RouteSet {
            let prefix = |n: u32| IpNet::from(IpAddr::from((0xc612_0000 + n).to_be_bytes()));
            (0..50_000).map(|n| (prefix(n), route(med))).collect()
        };
        let mut rib = RibOut::default();
        rib.session_up(Families::IPV4, false);
        rib.set_routes(many(1));
        // Five bytes each beside a header and the room that attributes may take.
        let messages = 50_000_usize.div_ceil((MESSAGE_MAX - HEADER_LEN - ATTRIBUTES_ROOM) / 5);
        assert_eq!(drain(&mut rib), (messages + 1, 50_000, 0, 1));
        rib.set_routes(many(2));
        assert_eq!(drain(&mut rib), (messages, 50_000, 0, 0));
        rib.set_routes(RouteSet::new());
        assert_eq!(drain(&mut rib), (messages, 0, 50_000, 0));
    }

    #[test]
    fn routes_of_a_family_without_agreement_are_not_sent() {
        let mut rib = RibOut::default();
        let v6 = Route::new("2001:db8:1::2".parse().unwrap());
        rib.set_routes([(net(1), route(1)), ("2001:db8::1/128".parse().unwrap(), v6)].into());
        rib.session_up(Families::IPV4, false);
        assert_eq!(drain(&mut rib), (2, 1, 0, 1));
        assert_eq!(rib.advertised().len(), 1);
    }

    #[test]
    fn a_next_hop_of_the_other_family_is_left_out() {
        let mut rib = RibOut::default();
        let v6: IpNet = "2001:db8::1/128".parse().unwrap();
        assert_eq!(rib.set_routes([(v6, route(1)), (net(1), route(1))].into()).next_hop, [v6]);
        assert_eq!(rib.desired().len(), 1);
    }

    #[test]
    fn a_refresh_sends_the_family_again_without_withdrawing() {
        let mut rib = RibOut::default();
        rib.set_routes([(net(1), route(1)), (net(2), route(1))].into());
        rib.session_up(Families::BOTH, false);
        drain(&mut rib);
        rib.refresh(Family::Ipv6, false);
        assert_eq!(drain(&mut rib), (0, 0, 0, 0));
        rib.refresh(Family::Ipv4, false);
        assert_eq!(drain(&mut rib), (1, 2, 0, 0));
    }

    #[test]
    fn the_largest_route_still_fits_its_message() {
        let communities = (0..COMMUNITIES_MAX as u32).collect();
        let large: Vec<_> = (0..LARGE_COMMUNITIES_MAX as u32).map(|n| (n, n, n)).collect();
        let context =
            UpdateContext { local_asn: 4_200_000_001, four_octet_as: false, only_to_customer: true, ..EBGP };
        let received = ReceiveContext { four_octet_as: false, ..ReceiveContext::default() };
        for next_hop in ["10.0.1.2", "2001:db8:1::2"] {
            let route =
                Route::new(next_hop.parse().unwrap()).with_med(Some(1)).with_prepend(PREPEND_MAX).unwrap();
            let route = route
                .with_communities(Vec::clone(&communities))
                .and_then(|route| route.with_large_communities(large.clone()))
                .unwrap()
                .with_graceful_shutdown(true)
                .with_link_local(Some("fe80::1".parse().unwrap()));
            let prefix = |n: u32| match route.next_hop() {
                IpAddr::V4(_) => net(n),
                IpAddr::V6(_) => format!("2001:db8::{n:x}/128").parse().unwrap(),
            };
            let mut rib = RibOut::default();
            rib.set_routes((0..5000).map(|n| (prefix(n), route.clone())).collect());
            rib.session_up(Families::BOTH, false);
            let mut announced = 0;
            while let Some(message) = rib.next_message(context) {
                announced += judge(&message.unwrap(), received).announced;
            }
            assert_eq!(announced, 5000, "{next_hop}");
        }
    }

    #[test]
    fn a_changed_attribute_is_one_update_and_no_withdrawal() {
        let mut rib = RibOut::default();
        rib.set_routes([(net(1), route(1)), (net(2), route(1))].into());
        rib.session_up(Families::IPV4, false);
        drain(&mut rib);
        let changes: [fn(Route) -> Route; 6] = [
            |route| route.with_med(Some(9)),
            |route| route.with_prepend(3).unwrap(),
            |route| route.with_local_pref(7),
            |route| route.with_communities(vec![1]).unwrap(),
            |route| route.with_large_communities(vec![(1, 2, 3)]).unwrap(),
            |route| route.with_graceful_shutdown(true),
        ];
        for change in changes {
            let routes =
                rib.desired().iter().map(|(prefix, route)| (*prefix, change(route.clone()))).collect();
            rib.set_routes(routes);
            assert_eq!(drain(&mut rib), (1, 2, 0, 0));
        }
    }

    #[test]
    fn ipv4_behind_an_ipv6_next_hop_goes_only_where_it_was_agreed() {
        let hop: IpAddr = "fd00::2".parse().unwrap();
        let v6: IpNet = "2001:db8::1/128".parse().unwrap();
        let mut rib = RibOut::default();
        rib.set_routes([(net(1), Route::new(hop)), (v6, Route::new(hop))].into());
        rib.session_up(Families::BOTH, false);
        assert_eq!(drain(&mut rib), (3, 1, 0, 2));
        rib.session_up(Families::BOTH, true);
        let mut announced = Vec::new();
        while let Some(message) = rib.next_message(UpdateContext { extended_next_hop: true, ..EBGP }) {
            announced.push(judge(&message.unwrap(), ReceiveContext::default()).announced);
        }
        assert_eq!(announced, [1, 1, 0, 0], "a message has one family");
    }

    #[test]
    fn at_the_bound_new_routes_are_refused_and_announced_ones_stay() {
        let mut rib = RibOut::default();
        rib.set_max_routes(Some(2));
        assert_eq!(rib.set_routes([(net(5), route(1)), (net(6), route(1))].into()), Refused::default());
        let more: RouteSet = [(net(1), route(1)), (net(5), route(1)), (net(6), route(1))].into();
        assert_eq!(rib.set_routes(more.clone()).over_max, [net(1)]);
        assert_eq!(rib.desired().keys().copied().collect::<Vec<_>>(), [net(5), net(6)]);
        rib.set_max_routes(Some(3));
        assert_eq!(rib.set_routes(more), Refused::default());
    }

    #[test]
    fn a_marked_refresh_is_sent_between_its_marks() {
        let mut rib = RibOut::default();
        rib.set_routes([(net(1), route(1)), (net(2), route(2))].into());
        rib.session_up(Families::BOTH, false);
        drain(&mut rib);
        rib.refresh(Family::Ipv4, true);
        rib.refresh(Family::Ipv6, true);
        let mut said = Vec::new();
        while let Some(message) = rib.next_message(EBGP) {
            let message = message.unwrap();
            said.push(match message[18] {
                5 => format!("mark {} of {}", message[21], message[20]),
                _ => format!("{} prefixes", judge(&message, ReceiveContext::default()).announced),
            });
        }
        let expected =
            ["mark 1 of 1", "mark 1 of 2", "mark 2 of 2", "1 prefixes", "1 prefixes", "mark 2 of 1"];
        assert_eq!(said, expected);
        assert!(rib.is_settled());
    }

    #[test]
    fn end_of_rib_waits_while_it_is_held_and_a_marked_refresh_waits_for_it() {
        let mut rib = RibOut::default();
        rib.hold_end_of_rib(true);
        rib.session_up(Families::IPV4, false);
        rib.refresh(Family::Ipv4, true);
        assert!(rib.next_message(EBGP).is_none());
        rib.hold_end_of_rib(false);
        let types: Vec<u8> = std::iter::from_fn(|| rib.next_message(EBGP)).map(|m| m.unwrap()[18]).collect();
        assert_eq!(types, [2, 5, 5]);
    }

    proptest! {
        #[test]
        fn whatever_the_changes_the_peer_ends_with_the_desired_set(
            steps in proptest::collection::vec((proptest::collection::btree_map(0u32..40, 0u32..3, 0..30), 0usize..4), 1..12)
        ) {
            let mut rib = RibOut::default();
            rib.session_up(Families::IPV4, false);
            for (routes, messages) in steps {
                rib.set_routes(routes.iter().map(|(n, med)| (net(*n), route(*med))).collect());
                for _ in 0..messages {
                    let _ = rib.next_message(EBGP);
                }
            }
            drain(&mut rib);
            prop_assert_eq!(rib.advertised(), rib.desired());
        }
    }
}
