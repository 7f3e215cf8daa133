//! All sessions of a host, and to which of them a packet belongs. RFC 5880 §6.3, §6.8.6; RFC 5881 §3; RFC 5883 §4.

use crate::TTL;
use crate::packet::{Discard, PACKET_LEN, Packet};
use crate::session::{Config, Session, Transition, View};
use crate::timing::random;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Sessions of one host: its routers, with room to spare. At the bound no session is added.
pub const SESSIONS_MAX: usize = 256;

/// Events kept for a shell that does not drain them; at the bound the oldest is forgotten. What they say is in the counters too.
pub const EVENTS_MAX: usize = 256;

/// A session that was removed says AdminDown for no longer than this, however slow its timers are.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Our name for a session: bfd.LocalDiscr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(NonZeroU32);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Over which port packets come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hops {
    /// A neighbour on the link. RFC 5881.
    Single,
    /// Behind routers. RFC 5883.
    Multi,
}

/// Between whom a session is; no two have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Our address.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// The index of the interface, for link-local addresses; else 0.
    pub scope_id: u32,
    /// How far.
    pub hops: Hops,
}

/// What the socket knows of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// From where, to where, over which port.
    pub endpoint: Endpoint,
    /// Its TTL or hop limit, if the socket said it.
    pub ttl: Option<u8>,
}

/// A packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// From which session.
    pub session: SessionId,
    /// The payload of the datagram.
    pub payload: [u8; PACKET_LEN],
}

/// What happened, for the client of the session and for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The state of a session changed.
    State(SessionId, Transition),
    /// A removed session has said goodbye: its socket may be closed.
    Gone(SessionId),
    /// A packet was thrown away and counted.
    Discarded(Arrival, Discard),
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddError {
    /// Another has these addresses.
    #[error("a session with this address exists")]
    Taken,
    /// [`SESSIONS_MAX`].
    #[error("more than {SESSIONS_MAX} sessions")]
    TooMany,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    /// Packets with less are refused; [`TTL`] for a single hop.
    minimum_ttl: u8,
    session: Session,
    /// Removed: only says AdminDown until then.
    leaving: Option<Instant>,
}

/// The sessions of a host.
#[derive(Debug)]
pub struct Speaker {
    sessions: BTreeMap<SessionId, Entry>,
    by_endpoint: BTreeMap<Endpoint, SessionId>,
    random: u64,
    discarded: [u64; Discard::LABELS.len()],
    events: VecDeque<Event>,
}

impl Speaker {
    /// Without sessions. `seed` makes jitter and discriminators; it should be a different one at each start, and not to be guessed.
    pub fn new(seed: u64) -> Self {
        Self {
            sessions: BTreeMap::new(),
            by_endpoint: BTreeMap::new(),
            random: seed,
            discarded: [0; Discard::LABELS.len()],
            events: VecDeque::new(),
        }
    }

    /// Begin a session. `minimum_ttl` counts for [`Hops::Multi`]. A session between the same addresses that is leaving is gone
    /// at once.
    pub fn add(
        &mut self,
        endpoint: Endpoint,
        minimum_ttl: u8,
        config: Config,
        now: Instant,
    ) -> Result<SessionId, AddError> {
        if let Some(&old) = self.by_endpoint.get(&endpoint) {
            if self.sessions.get(&old).is_some_and(|entry| entry.leaving.is_none()) {
                return Err(AddError::Taken);
            }
            self.forget(old);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(AddError::TooMany);
        }
        // RFC 5880 §6.8.1: "It MUST be unique across all BFD sessions on this system, and nonzero. It SHOULD be set to a random
        // (but still unique) value to improve security." At most SESSIONS_MAX of 2^32 are taken.
        let id = loop {
            let drawn = NonZeroU32::new(random(&mut self.random) as u32).map(SessionId);
            if let Some(id) = drawn.filter(|id| !self.sessions.contains_key(id)) {
                break id;
            }
        };
        let minimum_ttl = match endpoint.hops {
            Hops::Single => TTL,
            Hops::Multi => minimum_ttl,
        };
        let session = Session::new(config, id.0, random(&mut self.random), now);
        self.sessions.insert(id, Entry { endpoint, minimum_ttl, session, leaving: None });
        self.by_endpoint.insert(endpoint, id);
        Ok(id)
    }

    /// Give a session other timers without a change of its state. RFC 5880 §6.8.3.
    pub fn configure(&mut self, id: SessionId, minimum_ttl: u8, config: Config, now: Instant) {
        if let Some(entry) = self.sessions.get_mut(&id).filter(|entry| entry.leaving.is_none()) {
            if entry.endpoint.hops == Hops::Multi {
                entry.minimum_ttl = minimum_ttl;
            }
            entry.session.configure(config, now);
        }
    }

    /// End a session: it says AdminDown for as long as the peer needs to hear it, and then is [`Event::Gone`].
    pub fn remove(&mut self, id: SessionId, now: Instant) {
        let Some(entry) = self.sessions.get_mut(&id).filter(|entry| entry.leaving.is_none()) else {
            return;
        };
        let farewell = entry.session.farewell().min(FAREWELL_MAX);
        entry.session.admin_down(now);
        entry.leaving = Some(now + farewell);
        self.report(id);
        self.handle_timeout(now);
    }

    /// A datagram came. Bad ones are counted, and become an event.
    pub fn handle_packet(&mut self, arrival: Arrival, payload: &[u8], now: Instant) {
        match self.select(&arrival, payload) {
            Ok((id, packet)) => {
                if let Some(entry) = self.sessions.get_mut(&id) {
                    entry.session.handle_packet(&packet, now);
                    self.report(id);
                }
            }
            Err(discard) => {
                self.discarded[discard.index()] += 1;
                self.emit(Event::Discarded(arrival, discard));
            }
        }
    }

    /// Time has passed. A call without need does nothing. Packets that wait in a socket should be handed in before: a late
    /// shell is no dead peer.
    pub fn handle_timeout(&mut self, now: Instant) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.sessions.get_mut(&id) else { continue };
            entry.session.handle_timeout(now);
            // Its last words have been taken or never will be.
            let over = entry.leaving.is_some_and(|until| until < now);
            self.report(id);
            if over {
                self.forget(id);
            }
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.sessions
            .iter_mut()
            .find_map(|(&session, entry)| Some(Transmit { session, payload: entry.session.poll_transmit()? }))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Speaker::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of = |entry: &Entry| {
            // A leaving session is over when its time is past, not when it is reached.
            let over = entry.leaving.map(|until| until + Duration::from_nanos(1));
            [entry.session.poll_timeout(), over].into_iter().flatten().min()
        };
        self.sessions.values().filter_map(of).min()
    }

    /// How a session stands.
    pub fn view(&self, id: SessionId) -> Option<View> {
        self.sessions.get(&id).map(|entry| entry.session.view())
    }

    /// Whether any session is there, leaving ones included.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Packets thrown away so far, by reason.
    pub fn discarded(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Discard::LABELS.into_iter().zip(self.discarded)
    }

    /// RFC 5880 §6.8.6, all that may refuse the packet, in its order; GTSM first, since what fails it deserves no look.
    fn select(&self, arrival: &Arrival, payload: &[u8]) -> Result<(SessionId, Packet), Discard> {
        // RFC 5881 §5: "all received BFD Control packets MUST be discarded if the received TTL or Hop Limit is not equal to 255".
        let ttl = arrival.ttl.ok_or(Discard::TtlUnknown)?;
        if arrival.endpoint.hops == Hops::Single && ttl != TTL {
            return Err(Discard::Ttl(ttl));
        }
        let packet = Packet::decode(payload)?;
        let id = match NonZeroU32::new(packet.your_discriminator) {
            // "If the Your Discriminator field is nonzero, it MUST be used to select the session … If no session is found, the
            // packet MUST be discarded." Over the other port nothing is found: a single hop is guarded by its TTL.
            Some(discriminator) => {
                let id = SessionId(discriminator);
                let found = self.sessions.get(&id).map(|entry| entry.endpoint.hops);
                (found == Some(arrival.endpoint.hops))
                    .then_some(id)
                    .ok_or(Discard::UnknownDiscriminator(packet.your_discriminator))?
            }
            // "If the Your Discriminator field is zero and the State field is not Down or AdminDown, the packet MUST be
            // discarded."
            None if !matches!(packet.state, crate::State::Down | crate::State::AdminDown) => {
                return Err(Discard::YourDiscriminatorZero(packet.state));
            }
            None => *self.by_endpoint.get(&arrival.endpoint).ok_or(Discard::UnknownPeer)?,
        };
        let least = self.sessions.get(&id).map_or(TTL, |entry| entry.minimum_ttl);
        if ttl < least {
            return Err(Discard::TtlBelowMinimum { ttl, least });
        }
        // "If the A bit is set and no authentication is in use (bfd.AuthType is zero), the packet MUST be discarded."
        match packet.authentication {
            Some(authentication) => Err(Discard::Authenticated(authentication.auth_type)),
            None => Ok((id, packet)),
        }
    }

    fn report(&mut self, id: SessionId) {
        let transition = self.sessions.get_mut(&id).and_then(|entry| entry.session.take_transition());
        if let Some(transition) = transition {
            self.emit(Event::State(id, transition));
        }
    }

    fn forget(&mut self, id: SessionId) {
        if let Some(entry) = self.sessions.remove(&id) {
            self.by_endpoint.remove(&entry.endpoint);
            self.emit(Event::Gone(id));
        }
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests;
