//! One session: the variables of RFC 5880 §6.8.1 and what packets, time and the operator do to them.
//!
//! ```text
//!                      Init, Down received;            ┌───────────┐
//!    AdminDown ◄─────► Down ─────────────────────────► │   Init    │
//!    operator's will    ▲ │  Down received             └───────────┘
//!                       │ │                                  │ Init or Up received
//!   Detection Time over,│ │ Init received                    ▼
//!   Down or AdminDown   │ └────────────────────────────► ┌──────┐
//!   received            └─────────────────────────────── │  Up  │
//!                                                        └──────┘
//! ```
//!
//! Three sets of timers are told apart. What the operator wants (`config`); what our packets say (`said`), which follows at once
//! unless a Poll Sequence is under way; and what is in force (`transmit_us`, `receive_us`), which follows when the peer has
//! confirmed, wherever RFC 5880 §6.8.3 says that it has to wait.

use crate::packet::{Diagnostic, PACKET_LEN, Packet, State};
use crate::timing::{SLOW_INTERVAL, detection_time, jittered, random, transmit_interval};
use std::num::{NonZeroU8, NonZeroU32};
use std::time::{Duration, Instant};

/// How long after a Poll Sequence the next waits when no packet without F comes; only a peer in Demand mode is that silent.
/// RFC 5880 §6.8.3 asks for a round trip.
const SETTLE: Duration = Duration::from_secs(1);

/// Packets that a change may send ahead of the timer in a burst; one more each [`SLOW_INTERVAL`]. A session takes two or three
/// to come up. Without a bound two sides can chase each other for ever: what says Down and what says Init go round and
/// meet nobody who waits. At the bound a change waits for the timer, as in RFC 5880 without its SHOULD.
const AHEAD_MAX: u32 = 4;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How often to send once up; bfd.DesiredMinTxInterval. Cut to 1 µs … 71 minutes.
    pub transmit_interval: Duration,
    /// How often we can take a packet; bfd.RequiredMinRxInterval.
    pub receive_interval: Duration,
    /// The peer takes us for dead after this many intervals.
    pub detect_mult: NonZeroU8,
    /// Say nothing until the peer does. RFC 5880 §6.1.
    pub passive: bool,
}

impl Config {
    /// The interval both ways.
    pub fn new(interval: Duration, detect_mult: NonZeroU8) -> Self {
        Self { transmit_interval: interval, receive_interval: interval, detect_mult, passive: false }
    }
}

/// A change of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why, as we tell the peer.
    pub diagnostic: Diagnostic,
    /// The state of the peer, as it last said; Down when it is silent.
    pub remote_state: State,
    /// Why the peer is in that state, as it last said.
    pub remote_diagnostic: Diagnostic,
}

impl Transition {
    /// The path died: it was up, and neither side had switched the session off. RFC 5882 §3.2, §4.2.
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && self.to == State::Down && self.remote_state != State::AdminDown
    }
}

/// Counters since the session exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets handed to the shell.
    pub sent: u64,
    /// Packets taken.
    pub received: u64,
    /// Times the session came up.
    pub ups: u64,
}

/// What a session looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Our state.
    pub state: State,
    /// The peer's, as it last said.
    pub remote_state: State,
    /// Why our state last changed.
    pub diagnostic: Diagnostic,
    /// Why the peer's did, as it last said.
    pub remote_diagnostic: Diagnostic,
    /// From one packet of ours to the next, before jitter; `None` while we send none.
    pub transmit_interval: Option<Duration>,
    /// From one packet of the peer to the next; `None` before it was heard.
    pub receive_interval: Option<Duration>,
    /// Silence for this long is death; `None` before the peer was heard.
    pub detection_time: Option<Duration>,
    /// How often the path died; see [`Transition::is_failure`].
    pub failures: u64,
    /// The last time it did.
    pub last_failure: Option<Transition>,
    /// Counters.
    pub stats: Stats,
}

/// The two intervals in our packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Terms {
    transmit_us: u32,
    receive_us: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    Idle,
    /// Our packets carry P until one with F comes.
    Active,
    /// Over, but another would be mistaken for it until a packet without F comes. RFC 5880 §6.8.3.
    Settling {
        until: Instant,
    },
}

/// What the peer last said.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: NonZeroU32,
    detect_mult: NonZeroU8,
    desired_min_tx_us: u32,
    demand: bool,
    /// When.
    heard: Instant,
}

#[derive(Debug)]
pub(crate) struct Session {
    config: Config,
    local_discriminator: NonZeroU32,
    state: State,
    diagnostic: Diagnostic,
    /// `None` before the first packet, and again after a Detection Time of silence.
    remote: Option<Remote>,
    remote_state: State,
    remote_diagnostic: Diagnostic,
    remote_min_rx_us: u32,
    said: Terms,
    transmit_us: u32,
    receive_us: u32,
    poll: Poll,
    last_sent: Option<Instant>,
    /// The interval `next_sent` was drawn from.
    scheduled: Option<Duration>,
    next_sent: Option<Instant>,
    /// When all of [`AHEAD_MAX`] may be used again.
    ahead_full: Instant,
    /// When a change that found none left may be said.
    ahead_next: Option<Instant>,
    /// The last packet but for P and F.
    shown: Option<[u8; PACKET_LEN]>,
    periodic_due: bool,
    final_due: bool,
    random: u64,
    transition: Option<Transition>,
    failures: u64,
    last_failure: Option<Transition>,
    stats: Stats,
}

impl Session {
    pub(crate) fn new(config: Config, local_discriminator: NonZeroU32, seed: u64, now: Instant) -> Self {
        let mut session = Self {
            config,
            local_discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: None,
            remote_state: State::Down,
            remote_diagnostic: Diagnostic::NONE,
            // RFC 5880 §6.8.1: "This variable MUST be initialized to 1."
            remote_min_rx_us: 1,
            said: Terms { transmit_us: 0, receive_us: 0 },
            transmit_us: 0,
            receive_us: 0,
            poll: Poll::Idle,
            last_sent: None,
            scheduled: None,
            next_sent: None,
            ahead_full: now,
            ahead_next: None,
            shown: None,
            periodic_due: false,
            final_due: false,
            random: seed,
            transition: None,
            failures: 0,
            last_failure: None,
            stats: Stats::default(),
        };
        session.follow_config(true);
        session.schedule(now);
        session
    }

    /// RFC 5880 §6.8.6 from the point on where the packet belongs to this session and is not refused.
    pub(crate) fn handle_packet(&mut self, packet: &Packet, now: Instant) {
        self.stats.received += 1;
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator,
            detect_mult: packet.detect_mult,
            desired_min_tx_us: packet.desired_min_tx_us,
            demand: packet.demand,
            heard: now,
        });
        self.remote_state = packet.state;
        self.remote_diagnostic = packet.diagnostic;
        self.remote_min_rx_us = packet.required_min_rx_us;
        match (self.poll, packet.is_final) {
            // "If a Poll Sequence is being transmitted by the local system and the Final (F) bit in the received packet is
            // set, the Poll Sequence MUST be terminated."
            (Poll::Active, true) => self.poll_answered(now),
            (Poll::Settling { .. }, false) => self.poll = Poll::Idle,
            _ => {}
        }
        let next = match (self.state, packet.state) {
            // "If bfd.SessionState is AdminDown, discard the packet."
            (State::AdminDown, _) => State::AdminDown,
            (State::Down, State::Down) => State::Init,
            (State::Down, State::Init) => State::Up,
            (State::Down, State::AdminDown | State::Up) => State::Down,
            (State::Init, State::Init | State::Up) => State::Up,
            (State::Init, State::Down) => State::Init,
            (State::Up, State::Init | State::Up) => State::Up,
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => State::Down,
        };
        let diagnostic = match next {
            State::Down => Diagnostic::NEIGHBOR_SIGNALED_DOWN,
            State::Up => Diagnostic::NONE,
            State::Init | State::AdminDown => self.diagnostic,
        };
        self.enter(next, diagnostic);
        // RFC 5880 §6.8.7: "without respect to the session state".
        self.final_due |= packet.poll;
        self.after(now);
    }

    /// Time has passed. A call without need does nothing.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.detection_deadline().is_some_and(|at| at <= now) {
            self.silence();
        }
        if let Poll::Settling { until } = self.poll
            && until <= now
        {
            self.poll = Poll::Idle;
        }
        if self.next_sent.is_some_and(|at| at <= now) {
            self.send(now);
        }
        self.after(now);
    }

    /// Other timers, without a change of state: by a Poll Sequence where the peer has to follow first. RFC 5880 §6.8.3.
    pub(crate) fn configure(&mut self, config: Config, now: Instant) {
        self.config = config;
        self.after(now);
    }

    /// Switch off. RFC 5880 §6.8.16.
    pub(crate) fn admin_down(&mut self, now: Instant) {
        self.enter(State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
        self.after(now);
    }

    /// Whoever is switched off keeps saying so for this long. RFC 5880 §6.8.16: "for at least a Detection Time"; zero when there
    /// is nobody to tell.
    pub(crate) fn farewell(&self) -> Duration {
        let interval = transmit_interval(self.transmit_us, self.remote_min_rx_us);
        match (self.remote, interval) {
            (Some(_), Some(interval)) => interval * u32::from(self.config.detect_mult.get()),
            _ => Duration::ZERO,
        }
    }

    /// The next packet: an answer to a poll first.
    pub(crate) fn poll_transmit(&mut self) -> Option<[u8; PACKET_LEN]> {
        let plain = self.contents();
        let packet = if std::mem::take(&mut self.final_due) {
            // RFC 5880 §6.8.7: "with the Poll (P) bit clear, and the Final (F) bit set".
            Packet { is_final: true, ..plain }
        } else if std::mem::take(&mut self.periodic_due) {
            Packet { poll: self.poll == Poll::Active, ..plain }
        } else {
            return None;
        };
        self.shown = Some(plain.encode());
        self.stats.sent += 1;
        Some(packet.encode())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let settled = match self.poll {
            Poll::Settling { until } => Some(until),
            Poll::Idle | Poll::Active => None,
        };
        [self.next_sent, self.ahead_next, self.detection_deadline(), settled].into_iter().flatten().min()
    }

    /// The change of state since the last call.
    pub(crate) fn take_transition(&mut self) -> Option<Transition> {
        self.transition.take()
    }

    pub(crate) fn view(&self) -> View {
        let receive =
            |remote: Remote| Duration::from_micros(self.receive_us.max(remote.desired_min_tx_us).into());
        View {
            state: self.state,
            remote_state: self.remote_state,
            diagnostic: self.diagnostic,
            remote_diagnostic: self.remote_diagnostic,
            transmit_interval: self.interval(),
            receive_interval: self.remote.map(receive),
            detection_time: self.detection_time(),
            failures: self.failures,
            last_failure: self.last_failure,
            stats: self.stats,
        }
    }

    fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote?;
        Some(detection_time(remote.detect_mult, self.receive_us, remote.desired_min_tx_us))
    }

    fn detection_deadline(&self) -> Option<Instant> {
        self.remote.zip(self.detection_time()).map(|(remote, time)| remote.heard + time)
    }

    /// A Detection Time without a packet. RFC 5880 §6.8.4, and §6.8.1 for the discriminator.
    fn silence(&mut self) {
        self.remote = None;
        self.remote_state = State::Down;
        self.remote_min_rx_us = 1;
        self.poll = Poll::Idle;
        if matches!(self.state, State::Init | State::Up) {
            self.enter(State::Down, Diagnostic::DETECTION_TIME_EXPIRED);
        }
    }

    /// The one door for changes of state.
    fn enter(&mut self, to: State, diagnostic: Diagnostic) {
        let from = self.state;
        if from == to {
            return;
        }
        self.state = to;
        self.diagnostic = diagnostic;
        let transition = Transition {
            from,
            to,
            diagnostic,
            remote_state: self.remote_state,
            remote_diagnostic: self.remote_diagnostic,
        };
        if transition.is_failure() {
            self.failures += 1;
            self.last_failure = Some(transition);
        }
        if to == State::Up {
            self.stats.ups += 1;
        }
        self.transition = Some(transition);
        // Only what is in force while the session stays up may have to wait for the peer.
        self.follow_config(true);
    }

    /// What every input ends with.
    fn after(&mut self, now: Instant) {
        self.follow_config(false);
        self.schedule(now);
        // RFC 5880 §6.8.7: "A BFD Control packet SHOULD be transmitted during the interval between periodic Control packet
        // transmissions when the contents of that packet would differ from that in the previously transmitted packet (other
        // than the Poll and Final bits)".
        let differs = self.shown != Some(self.contents().encode());
        self.ahead_next = None;
        if differs && self.may_send() && !self.periodic_due {
            let full = self.ahead_full.max(now) + SLOW_INTERVAL;
            let allowed = full - SLOW_INTERVAL * AHEAD_MAX;
            if allowed <= now {
                self.ahead_full = full;
                self.send(now);
            } else {
                self.ahead_next = Some(allowed);
            }
        }
    }

    /// Bring what we say, and what is in force, towards what is wanted.
    fn follow_config(&mut self, state_changed: bool) {
        let us = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX).max(1);
        let slow = if self.state == State::Up { Duration::ZERO } else { SLOW_INTERVAL };
        let wanted = Terms {
            transmit_us: us(self.config.transmit_interval.max(slow)),
            receive_us: us(self.config.receive_interval),
        };
        if self.said == wanted {
            return;
        }
        let held_up = self.state == State::Up && !state_changed;
        if held_up && self.poll != Poll::Idle {
            // RFC 5880 §6.8.3: changes spread over several packets would make the Final ambiguous.
            return;
        }
        self.said = wanted;
        // "If bfd.DesiredMinTxInterval is increased and bfd.SessionState is Up, the actual transmission interval used MUST NOT
        // change until the Poll Sequence described above has terminated."
        if !held_up || wanted.transmit_us < self.transmit_us {
            self.transmit_us = wanted.transmit_us;
        }
        // "If bfd.RequiredMinRxInterval is reduced and bfd.SessionState is Up, the previous value … MUST be used when
        // calculating the Detection Time for the remote system until the Poll Sequence described above has terminated."
        if !held_up || wanted.receive_us > self.receive_us {
            self.receive_us = wanted.receive_us;
        }
        // "… a Poll Sequence MUST be initiated"; with nobody there to answer there is none.
        if self.remote.is_some() {
            self.poll = Poll::Active;
        }
    }

    fn poll_answered(&mut self, now: Instant) {
        self.transmit_us = self.said.transmit_us;
        self.receive_us = self.said.receive_us;
        self.poll = Poll::Settling { until: now + SETTLE };
    }

    /// RFC 5880 §6.6: "Demand mode is active on the remote system".
    fn remote_demand_is_active(&self) -> bool {
        self.remote.is_some_and(|remote| remote.demand)
            && self.state == State::Up
            && self.remote_state == State::Up
    }

    /// RFC 5880 §6.8.7: "A system MUST NOT transmit BFD Control packets if bfd.RemoteDiscr is zero and the system is taking the
    /// Passive role."
    fn may_send(&self) -> bool {
        !(self.config.passive && self.remote.is_none())
    }

    /// From one periodic packet to the next, before jitter; `None` when there are to be none.
    fn interval(&self) -> Option<Duration> {
        if !self.may_send() || (self.remote_demand_is_active() && self.poll != Poll::Active) {
            return None;
        }
        // "A system MUST NOT periodically transmit BFD Control packets if bfd.RemoteMinRxInterval is zero."
        transmit_interval(self.transmit_us, self.remote_min_rx_us)
    }

    /// RFC 5880 §6.8.3: a new interval counts from the last packet, and one that is over already means now.
    fn schedule(&mut self, now: Instant) {
        let interval = self.interval();
        if interval == self.scheduled {
            return;
        }
        self.scheduled = interval;
        self.next_sent = interval.map(|interval| match self.last_sent {
            Some(last) => (last + self.jitter(interval)).max(now),
            None => now,
        });
    }

    fn send(&mut self, now: Instant) {
        self.periodic_due = true;
        self.last_sent = Some(now);
        self.next_sent = self.scheduled.map(|interval| now + self.jitter(interval));
    }

    fn jitter(&mut self, interval: Duration) -> Duration {
        jittered(interval, self.config.detect_mult, random(&mut self.random))
    }

    /// RFC 5880 §6.8.7, but for P and F. C is clear: we die with our control plane.
    fn contents(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            authentication: None,
            demand: false,
            detect_mult: self.config.detect_mult,
            my_discriminator: self.local_discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator.get()),
            desired_min_tx_us: self.said.transmit_us,
            required_min_rx_us: self.said.receive_us,
            required_min_echo_rx_us: 0,
        }
    }
}

#[cfg(test)]
mod tests;
