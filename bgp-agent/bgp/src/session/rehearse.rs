//! What a session would say: a change is tried on a copy of it, and the copy gives out its messages.
//!
//! The same code makes them as in the session itself. A session that is not up has no terms yet; [`Session::as_if_up`] begins
//! with those to expect.

use super::lane::{ConnId, Lane, Link, State};
use super::negotiate::{Negotiated, negotiate};
use super::{Config, Session, Transmit};
use crate::wire::{Families, Family, Notification, Open};
use bytes::Bytes;
use std::net::Ipv4Addr;

impl Session {
    /// A session that has just come up, with a router that takes all we offer; of `before`, a session with the same router, what
    /// it took of what was offered then. The error is what one of the two would say to end it at once.
    pub fn as_if_up(config: Config, before: Option<&Self>) -> Result<Self, Notification> {
        let known = before.and_then(|before| Some((before.config(), before.negotiated()?)));
        let negotiated = expected(&config, known)?;
        let mut session = Self::new(config);
        session.started = true;
        session.restarting = false;
        let link = Link::new(ConnId::Outgoing(0));
        session.outgoing = Lane { state: State::Established { link, negotiated }, ..Lane::new() };
        session.rib.session_up(negotiated.families, negotiated.update_context.extended_next_hop);
        Ok(session)
    }

    /// All messages there are to send, as if the transport took them.
    pub fn drain(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.poll_transmit())
            .filter_map(|transmit| match transmit {
                Transmit::Bytes(_, bytes) => Some(bytes),
                Transmit::Connect(_) | Transmit::Close(_) => None,
            })
            .collect()
    }
}

/// The terms to expect.
fn expected(config: &Config, known: Option<(&Config, Negotiated)>) -> Result<Negotiated, Notification> {
    let mut open = Open {
        asn: config.remote_asn,
        // Anybody's but ours.
        bgp_id: known
            .map_or(Ipv4Addr::from(!u32::from(config.bgp_id)), |(_, negotiated)| negotiated.peer_bgp_id),
        ..config.open(false)
    };
    let ours = &mut open.capabilities;
    let Some((offered, agreed)) = known else {
        // What the router says it is we cannot know.
        ours.role = None;
        return negotiate(&Config { role_strict: false, ..config.clone() }, &open);
    };
    let mut families = Families::default();
    for family in [Family::Ipv4, Family::Ipv6] {
        families.set(family, !offered.families.has(family) || agreed.families.has(family));
    }
    ours.families = Some(families);
    ours.four_octet_as = agreed.update_context.four_octet_as;
    ours.extended_message = agreed.update_context.extended_message;
    ours.route_refresh = agreed.route_refresh;
    ours.enhanced_route_refresh = agreed.enhanced_route_refresh;
    if offered.extended_next_hop {
        ours.extended_next_hop = agreed.update_context.extended_next_hop;
    }
    ours.graceful_restart = agreed.peer_graceful_restart;
    ours.role = agreed.peer_role;
    negotiate(config, &open)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // A virtual clock needs one real instant to start from.
mod tests {
    use super::*;
    use crate::{Input, Route, RouteSet};
    use std::time::Instant;

    fn config() -> Config {
        Config { extended_next_hop: true, ..Config::new(65001, Ipv4Addr::new(10, 0, 0, 2), 65000) }
    }

    fn routes() -> RouteSet {
        [("192.0.2.1/32".parse().unwrap(), Route::new("10.0.0.2".parse().unwrap()))].into()
    }

    #[test]
    fn a_copy_says_what_the_session_would_and_the_session_says_it_still() {
        let mut session = Session::as_if_up(config(), None).unwrap();
        session.set_routes(routes());
        let mut copy = session.clone();
        let said = copy.drain();
        assert_eq!(said.len(), 3, "the route, and End-of-RIB of two families");
        assert_eq!(session.drain(), said);
        // A stop is a withdrawal and a Cease, on the copy alone.
        let mut copy = session.clone();
        copy.handle_input(Input::Stop { text: "gone" }, Instant::now());
        let types: Vec<u8> = copy.drain().iter().map(|message| message[18]).collect();
        assert_eq!(types, [2, 3]);
        assert_eq!(session.drain(), Vec::<Bytes>::new());
        assert_eq!(session.rib().advertised().len(), 1);
    }

    #[test]
    fn what_the_router_did_not_take_before_is_not_expected_of_it() {
        let mut before = Session::as_if_up(config(), None).unwrap();
        let State::Established { negotiated, .. } = &mut before.outgoing.state else { panic!("not up") };
        negotiated.families = Families::IPV4;
        negotiated.update_context.four_octet_as = false;
        negotiated.update_context.extended_next_hop = false;
        let again = Session::as_if_up(Config { hold_time_s: 30, ..config() }, Some(&before)).unwrap();
        let terms = again.negotiated().unwrap();
        assert_eq!(terms.families, Families::IPV4);
        assert!(!terms.update_context.four_octet_as && !terms.update_context.extended_next_hop);
        // What was not offered before may be taken now.
        before.config.families = Families::IPV4;
        let terms = Session::as_if_up(config(), Some(&before)).unwrap().negotiated().unwrap();
        assert_eq!(terms.families, Families::BOTH);
    }
}
