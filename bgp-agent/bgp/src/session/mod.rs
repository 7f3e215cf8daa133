//! One BGP peer as a sans-IO machine. RFC 4271 §8, §6.8.
//!
//! ```text
//!               start / idle-hold over
//!     ┌──────┐ ──────────────────────► ┌─────────┐ connect failed ┌────────┐
//!  ┌─►│ Idle │                         │ Connect │ ─────────────► │ Active │
//!  │  └──────┘                         └─────────┘ ◄───────────── └────────┘
//!  │     ▲                                  │       connect-retry      │
//!  │     │                        connected │                          │ accepted
//!  │     │ stop, error,                     ▼        OPEN sent         ▼
//!  │     │ NOTIFICATION                ┌──────────────────────────────────┐
//!  │     ├──────────────────────────── │             OpenSent             │
//!  │     │                             └──────────────────────────────────┘
//!  │     │                                  │ OPEN received, KEEPALIVE sent
//!  │     │  hold timer                      ▼
//!  │     ├──────────────────────────── ┌──────────────────────────────────┐
//!  │     │                             │           OpenConfirm            │
//!  │  parked: the other lane won (§6.8)└──────────────────────────────────┘
//!  │     │                                  │ KEEPALIVE received
//!  │     │                                  ▼
//!  │     └──────────────────────────── ┌──────────────────────────────────┐
//!  └─────────────────────────────────  │           Established            │
//!                                      └──────────────────────────────────┘
//! ```
//!
//! RFC 4271 wants one machine per connection, and between two speakers two connections can exist for a moment. So a
//! session has two *lanes*, each with the state above: `Outgoing` runs Idle → Connect ⇄ Active, `Incoming` waits in Active
//! for a connection the listener hands over. Collision detection leaves one of them. The state of the session is
//! that of the more advanced lane.
//!
//! Two deliberate differences from the letter of §8.2.2: a refused connection leads from Connect to Active and not to Idle,
//! so that the peer can reach us at once; and connect-retry is seconds, not two minutes.

mod collision;
mod event;
mod lane;
mod negotiate;
mod received;
mod rehearse;
mod step;
#[cfg(test)]
mod tests;

pub use lane::{ConnId, Role, StateName};
pub use negotiate::Negotiated;
pub use received::{Received, SAMPLES_MAX};

use crate::rib_out::{Refused, RibOut, RouteSet};
use crate::wire::{
    Capabilities, Families, Finding, GracefulRestart, HEADER_LEN, MessageType, Notification, Open,
    PeeringRole, ReceiveContext, Refresh, UpdateContext, decode_update,
};
use bytes::Bytes;
use event::Fsm;
use lane::{Lane, State, Timer};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Events kept for a shell that does not drain them; at the bound the oldest is forgotten.
pub const EVENTS_MAX: usize = 64;

/// Who we are and whom we expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our AS.
    pub local_asn: u32,
    /// Our BGP identifier; not 0.0.0.0.
    pub bgp_id: Ipv4Addr,
    /// The AS the peer must name in its OPEN.
    pub remote_asn: u32,
    /// The families we offer.
    pub families: Families,
    /// The hold time we offer, in seconds: 0 or at least 3.
    pub hold_time_s: u16,
    /// Never connect, only accept.
    pub passive: bool,
    /// Pause between two attempts to connect, shortened by up to a quarter at random.
    pub connect_retry: Duration,
    /// Pause after the first failure; doubled with each further one.
    pub idle_hold: Duration,
    /// The longest pause. A session that was up for as long as this begins again with the shortest.
    pub idle_hold_max: Duration,
    /// The graceful restart capability to offer, if any. Its R bit is sent until the session has come up once.
    pub graceful_restart: Option<GracefulRestart>,
    /// Offer to take IPv4 with an IPv6 next hop, and send it where the peer does too. RFC 8950.
    pub extended_next_hop: bool,
    /// What we are to the peer; external peers only. RFC 9234.
    pub role: Option<PeeringRole>,
    /// Refuse a peer that does not say what it is.
    pub role_strict: bool,
    /// How long the peer may leave our bytes unread; `None` for the larger of 8 minutes and twice the hold time. RFC 9687 §3.3.
    pub send_hold: Option<Duration>,
    /// How many prefixes the peer may announce to us; beyond them the session ends with Cease/1 and pauses.
    pub max_prefixes: Option<u32>,
    /// For how long it pauses then.
    pub max_prefixes_pause: Duration,
    /// Keep the last prefixes of the peer for [`Session::received`].
    pub keep_received: bool,
    /// Seed of the jitter; anything that differs between speakers.
    pub seed: u64,
}

impl Config {
    /// A speaker with the usual timers.
    pub fn new(local_asn: u32, bgp_id: Ipv4Addr, remote_asn: u32) -> Self {
        Self {
            local_asn,
            bgp_id,
            remote_asn,
            families: Families::BOTH,
            hold_time_s: 90,
            passive: false,
            connect_retry: Duration::from_secs(5),
            idle_hold: Duration::from_secs(1),
            idle_hold_max: Duration::from_secs(16),
            graceful_restart: None,
            extended_next_hop: false,
            role: None,
            role_strict: false,
            send_hold: None,
            max_prefixes: None,
            max_prefixes_pause: Duration::from_secs(300),
            keep_received: false,
            seed: u64::from(u32::from(bgp_id)),
        }
    }

    fn open(&self, restarting: bool) -> Open {
        Open {
            asn: self.local_asn,
            hold_time_s: self.hold_time_s,
            bgp_id: self.bgp_id,
            capabilities: Capabilities {
                families: Some(self.families),
                four_octet_as: true,
                route_refresh: true,
                enhanced_route_refresh: true,
                extended_message: true,
                extended_next_hop: self.extended_next_hop,
                graceful_restart: self
                    .graceful_restart
                    .map(|ours| GracefulRestart { restarting: ours.restarting && restarting, ..ours }),
                // RFC 9234 §4.2: "MUST NOT" be sent inside an AS.
                role: self.role.filter(|_| self.local_asn != self.remote_asn),
            },
        }
    }
}

/// What the shell tells the session.
#[derive(Debug)]
pub enum Input<'a> {
    /// The operator wants the session.
    Start,
    /// The operator does not want it: withdraw all, Cease with this text, close.
    Stop {
        /// Shown to the operator of the peer. RFC 9003.
        text: &'a str,
    },
    /// The speaker ends and comes back: where graceful restart was agreed the peer shall keep the routes, so nothing is
    /// withdrawn; elsewhere like [`Input::Stop`].
    Restart {
        /// As in [`Input::Stop`].
        text: &'a str,
    },
    /// The transport has bytes of ours it cannot pass on. Said again it changes nothing.
    SendBlocked(ConnId),
    /// It has passed some on, and nothing or more waits: the send hold timer begins anew with the next
    /// [`Input::SendBlocked`].
    SendProgress(ConnId),
    /// The connection asked for by [`Transmit::Connect`] is there.
    Connected(ConnId),
    /// It is not, and will not be.
    ConnectFailed(ConnId, &'a str),
    /// The listener accepted a connection from the peer; the id is fresh.
    Accepted(ConnId),
    /// A connection ended from the other side or by an error.
    Closed(ConnId, &'a str),
    /// Bytes arrived.
    Bytes(ConnId, &'a [u8]),
    /// The path to the peer is dead, or not known to be alive: end the session, and begin none before [`Input::BfdUp`].
    BfdDown,
    /// The path is alive, or nobody watches it any more.
    BfdUp,
}

/// What the session wants from the shell, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// Open a connection to the peer and report it under this id.
    Connect(ConnId),
    /// Write these bytes: one whole message.
    Bytes(ConnId, Bytes),
    /// Close after everything before it was written, or give up an attempt. Nothing more is said about this id.
    Close(ConnId),
}

/// What happened, for logs, metrics and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The state of the session changed.
    State {
        /// Before.
        from: StateName,
        /// After.
        to: StateName,
    },
    /// The session is up with these terms.
    Established(Negotiated),
    /// A connection ended, and why. Not always a session: an attempt has an end as well.
    Ended {
        /// Which side had opened it.
        role: Role,
        /// In words, for people.
        reason: String,
        /// The session was up until now.
        was_established: bool,
    },
    /// Of two connections with the peer this one was given up. RFC 4271 §6.8.
    Collision {
        /// Which side had opened it.
        lost: Role,
    },
    /// The peer asked for the routes again.
    RefreshRequested,
    /// An UPDATE of the peer had an error that did not cost the session. RFC 7606.
    MalformedUpdate(Finding),
    /// A route could not be written and was skipped.
    EncodeFailed(String),
}

/// Counters since the session object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages received, of any type.
    pub received: u64,
    /// Messages handed to the transport, of any type.
    pub sent: u64,
    /// UPDATEs received.
    pub updates_received: u64,
    /// UPDATEs handed to the transport, End-of-RIB included.
    pub updates_sent: u64,
    /// UPDATEs received with an error.
    pub updates_malformed: u64,
    /// Prefixes the peer announced to us, all ignored.
    pub prefixes_ignored: u64,
    /// ROUTE-REFRESH requests of the peer.
    pub refreshes: u64,
    /// Times the session came up.
    pub established: u64,
    /// Connections that ended other than by our stop.
    pub failures: u64,
    /// Events forgotten because nobody took them.
    pub events_lost: u64,
}

/// One peer. A copy is for looking ahead: see [`Session::drain`].
#[derive(Debug, Clone)]
pub struct Session {
    config: Config,
    started: bool,
    /// RFC 5882 §4.2: no session over a path that BFD calls dead.
    held_by_bfd: bool,
    outgoing: Lane,
    incoming: Lane,
    next_outgoing: u64,
    /// Failures in a row, for the back-off.
    failures_in_a_row: u32,
    established_since: Option<Instant>,
    /// The session has not come up yet since the speaker started.
    restarting: bool,
    jitter: u64,
    rib: RibOut,
    received: Received,
    /// Families of this session the peer has made unreadable.
    disabled: Families,
    last_sent: Option<Notification>,
    last_received: Option<Notification>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stats: Stats,
}

impl Session {
    /// A session at rest; begins with [`Input::Start`].
    pub fn new(config: Config) -> Self {
        Self {
            jitter: config.seed,
            config,
            started: false,
            held_by_bfd: false,
            outgoing: Lane::new(),
            incoming: Lane::new(),
            next_outgoing: 0,
            failures_in_a_row: 0,
            established_since: None,
            restarting: true,
            rib: RibOut::default(),
            received: Received::default(),
            disabled: Families::default(),
            last_sent: None,
            last_received: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Something happened outside. Inputs about connections the session has closed are ignored.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Start => {
                self.started = true;
                self.failures_in_a_row = 0;
                self.both(now, || Fsm::ManualStart);
            }
            Input::Stop { text } => {
                self.started = false;
                self.both(now, || Fsm::ManualStop { text: text.to_owned() });
            }
            Input::Restart { text } => {
                self.started = false;
                self.both(now, || Fsm::ManualRestart { text: text.to_owned() });
            }
            Input::SendBlocked(conn) => self.send_blocked(conn, now),
            Input::SendProgress(conn) => {
                if self.lane(conn.role()).state.conn() == Some(conn) {
                    self.lane_mut(conn.role()).timers.arm(Timer::SendHold, None);
                }
            }
            Input::Connected(conn) => self.about(conn, Fsm::TcpCrAcked, now),
            Input::ConnectFailed(conn, why) | Input::Closed(conn, why) => {
                self.about(conn, Fsm::TcpConnectionFails { why: why.to_owned() }, now);
            }
            Input::Accepted(conn) => self.step(Role::Incoming, Fsm::TcpConnectionConfirmed { conn }, now),
            Input::Bytes(conn, bytes) => self.receive(conn, bytes, now),
            Input::BfdDown => {
                self.held_by_bfd = true;
                self.both(now, || Fsm::BfdDown);
            }
            Input::BfdUp if self.held_by_bfd => {
                self.held_by_bfd = false;
                self.both(now, || Fsm::ManualStart);
            }
            Input::BfdUp => {}
        }
    }

    /// Time has passed. A call without need does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        for role in Role::BOTH {
            while let Some(timer) = self.lane_mut(role).timers.take_expired(now) {
                let event = match timer {
                    Timer::IdleHold => Fsm::IdleHoldTimerExpires,
                    Timer::ConnectRetry => Fsm::ConnectRetryTimerExpires,
                    Timer::Hold => Fsm::HoldTimerExpires,
                    Timer::SendHold => Fsm::SendHoldTimerExpires,
                    Timer::Keepalive => Fsm::KeepaliveTimerExpires,
                };
                self.step(role, event, now);
            }
        }
    }

    /// Replace the routes the peer should have; returns what was not taken of them. Messages come out of
    /// [`Session::poll_transmit`] while the session is up.
    pub fn set_routes(&mut self, routes: RouteSet) -> Refused {
        self.rib.set_routes(routes)
    }

    /// See [`RibOut::set_max_routes`].
    pub fn set_max_routes(&mut self, max: Option<usize>) {
        self.rib.set_max_routes(max);
    }

    /// See [`RibOut::hold_end_of_rib`].
    pub fn hold_end_of_rib(&mut self, hold: bool) {
        self.rib.hold_end_of_rib(hold);
    }

    /// What of the configuration is in no OPEN and may change while the session is up: how much the peer may send, what of
    /// it is kept, timers. A new bound counts from the next session on.
    pub fn set_soft(&mut self, config: &Config) {
        self.config.connect_retry = config.connect_retry;
        self.config.idle_hold = config.idle_hold;
        self.config.idle_hold_max = config.idle_hold_max;
        self.config.send_hold = config.send_hold;
        self.config.max_prefixes = config.max_prefixes;
        self.config.max_prefixes_pause = config.max_prefixes_pause;
        self.config.keep_received = config.keep_received;
    }

    /// The next thing to do. UPDATEs are made only when asked for, so a shell that stops asking while its socket is full
    /// keeps the queue short.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.transmits.pop_front() {
            return Some(transmit);
        }
        let (conn, negotiated) = self.established()?;
        let bytes = self.next_message(negotiated.update_context)?;
        Some(Transmit::Bytes(conn, bytes))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Session::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Role::BOTH.into_iter().filter_map(|role| self.lane(role).timers.next()).min()
    }

    /// The state of the more advanced lane.
    pub fn state(&self) -> StateName {
        self.outgoing.state.name().max(self.incoming.state.name())
    }

    /// What was agreed with the peer, while the session is up.
    pub fn negotiated(&self) -> Option<Negotiated> {
        self.established().map(|(_, negotiated)| negotiated)
    }

    /// The moment the session came up, while it is up.
    pub fn established_since(&self) -> Option<Instant> {
        self.established_since
    }

    /// Desired and advertised routes.
    pub fn rib(&self) -> &RibOut {
        &self.rib
    }

    /// What the peer has sent since the session is up.
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// The last NOTIFICATION we sent.
    pub fn last_sent(&self) -> Option<&Notification> {
        self.last_sent.as_ref()
    }

    /// The last NOTIFICATION of the peer.
    pub fn last_received(&self) -> Option<&Notification> {
        self.last_received.as_ref()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The configuration the session was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn lane(&self, role: Role) -> &Lane {
        match role {
            Role::Outgoing => &self.outgoing,
            Role::Incoming => &self.incoming,
        }
    }

    fn lane_mut(&mut self, role: Role) -> &mut Lane {
        match role {
            Role::Outgoing => &mut self.outgoing,
            Role::Incoming => &mut self.incoming,
        }
    }

    fn established(&self) -> Option<(ConnId, Negotiated)> {
        Role::BOTH.into_iter().find_map(|role| match &self.lane(role).state {
            State::Established { link, negotiated } => Some((link.conn, *negotiated)),
            _ => None,
        })
    }

    fn both(&mut self, now: Instant, event: impl Fn() -> Fsm) {
        for role in Role::BOTH {
            self.step(role, event(), now);
        }
    }

    fn about(&mut self, conn: ConnId, event: Fsm, now: Instant) {
        if self.lane(conn.role()).state.conn() == Some(conn) {
            self.step(conn.role(), event, now);
        }
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Instant) {
        let role = conn.role();
        let Some(link) = self.lane_mut(role).state.link_mut().filter(|link| link.conn == conn) else {
            return;
        };
        link.reader.push(bytes);
        // Each step may have closed this connection, so the link is looked up anew for each message.
        while let Some(link) = self.lane_mut(role).state.link_mut().filter(|link| link.conn == conn) {
            let event = match link.reader.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    self.stats.received += 1;
                    self.decode(role, frame.message_type, &frame.body)
                }
                Err(notification) => Fsm::BgpHeaderErr(notification),
            };
            self.step(role, event, now);
        }
    }

    fn decode(&mut self, role: Role, message_type: MessageType, body: &Bytes) -> Fsm {
        match message_type {
            MessageType::Open => match Open::decode(body) {
                Ok(open) => Fsm::BgpOpen(open),
                Err(notification) => Fsm::BgpOpenMsgErr(notification),
            },
            MessageType::Update => self.decode_update(role, body),
            MessageType::Notification => Fsm::NotifMsg(Notification::decode(body)),
            MessageType::Keepalive => Fsm::KeepAliveMsg,
            MessageType::RouteRefresh => match Refresh::decode(body) {
                Ok(refresh) => Fsm::RouteRefresh(refresh),
                Err(notification) => Fsm::RouteRefreshErr(notification),
            },
        }
    }

    fn decode_update(&mut self, role: Role, body: &Bytes) -> Fsm {
        let State::Established { negotiated, .. } = &self.lane(role).state else {
            // Wrong here, whatever is in it.
            return Fsm::UpdateMsg(Default::default());
        };
        let agreed = negotiated.receive_context;
        let families = Families {
            ipv4: agreed.families.ipv4 && !self.disabled.ipv4,
            ipv6: agreed.families.ipv6 && !self.disabled.ipv6,
        };
        let context = ReceiveContext { families, ..agreed };
        let received = &mut self.received;
        match decode_update(body, context, |prefix, announced| received.note(prefix, announced)) {
            Ok(report) => Fsm::UpdateMsg(report),
            Err(notification) => Fsm::UpdateMsgErr(notification),
        }
    }

    fn send_blocked(&mut self, conn: ConnId, now: Instant) {
        // RFC 9687 §3.3: "the recommended value is the greater of 8 minutes or 2 times the negotiated HoldTime".
        const EIGHT_MINUTES: Duration = Duration::from_secs(8 * 60);
        let lane = self.lane(conn.role());
        if lane.state.conn() != Some(conn) || lane.timers.is_armed(Timer::SendHold) {
            return;
        }
        let hold_time = match &lane.state {
            State::OpenConfirm { negotiated, .. } | State::Established { negotiated, .. } => {
                negotiated.hold_time
            }
            _ => Duration::ZERO,
        };
        let after = self.config.send_hold.unwrap_or(EIGHT_MINUTES.max(hold_time * 2));
        self.lane_mut(conn.role()).timers.arm(Timer::SendHold, Some(now + after));
    }

    fn next_message(&mut self, context: UpdateContext) -> Option<Bytes> {
        loop {
            match self.rib.next_message(context)? {
                Ok(bytes) => {
                    self.stats.sent += 1;
                    self.stats.updates_sent += u64::from(bytes[HEADER_LEN - 1] == MessageType::Update as u8);
                    return Some(bytes);
                }
                Err(error) => self.emit(Event::EncodeFailed(error.to_string())),
            }
        }
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.stats.events_lost += 1;
        }
        self.events.push_back(event);
    }
}
