//! What each event does in each state: the one `match` of the machine, and the one door for transitions.

use super::collision::survivor;
use super::event::Fsm;
use super::lane::{ConnId, Link, Role, State, StateName, Timer};
use super::negotiate::negotiate;
use super::received::Received;
use super::{Event, Session, Transmit};
use crate::wire::{
    Families, Family, Notification, Open, Refresh, UpdateReport, encode_keepalive, fsm_subcode,
};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// RFC 4271 §8.2.2: "sets the HoldTimer to a large value … a HoldTimer value of 4 minutes is suggested".
const LARGE_HOLD: Duration = Duration::from_secs(240);

impl Session {
    /// Take one event, and say so when the state of the session is another after it.
    pub(super) fn step(&mut self, role: Role, event: Fsm, now: Instant) {
        let before = self.state();
        self.apply(role, event, now);
        let after = self.state();
        if before != after {
            self.emit(Event::State { from: before, to: after });
        }
    }

    fn apply(&mut self, role: Role, event: Fsm, now: Instant) {
        let state = std::mem::replace(&mut self.lane_mut(role).state, State::Idle);
        let was = state.name();
        let next = self.transition(role, state, event, now);
        self.enter(role, was, next, now);
    }

    fn transition(&mut self, role: Role, state: State, event: Fsm, now: Instant) -> State {
        match (state, event) {
            // ── start and stop ──
            (State::Idle, Fsm::ManualStart | Fsm::IdleHoldTimerExpires) => self.begin(role, now),
            (state, Fsm::ManualStart | Fsm::IdleHoldTimerExpires) => state,

            (State::Idle | State::Active, Fsm::ManualStop { .. } | Fsm::ManualRestart { .. }) => {
                self.park(role)
            }
            (State::Connect { conn }, Fsm::ManualStop { .. } | Fsm::ManualRestart { .. }) => self.close(conn),
            (
                State::OpenSent { link } | State::OpenConfirm { link, .. },
                Fsm::ManualStop { text } | Fsm::ManualRestart { text },
            ) => self.notify_and_close(link.conn, &Notification::administrative_shutdown(&text)),
            (State::Established { link, negotiated }, Fsm::ManualRestart { text })
                if negotiated.graceful_restart =>
            {
                // RFC 4724 §4: without the N bit of both sides a NOTIFICATION would cost the routes; the end of the connection
                // does not.
                if negotiated.hard_reset {
                    self.notify_and_close(link.conn, &Notification::administrative_reset(&text))
                } else {
                    self.close(link.conn)
                }
            }
            (
                State::Established { link, negotiated },
                Fsm::ManualStop { text } | Fsm::ManualRestart { text },
            ) => {
                // Withdraw before the Cease: a peer with graceful restart would keep the routes.
                self.rib.set_routes(Default::default());
                while let Some(bytes) = self.next_message(negotiated.update_context) {
                    self.transmits.push_back(Transmit::Bytes(link.conn, bytes));
                }
                let shutdown = Notification::administrative_shutdown(&text);
                // RFC 8538 §3: any other Cease would be a graceful restart.
                let notification = if negotiated.hard_reset { shutdown.hard_reset() } else { shutdown };
                self.notify_and_close(link.conn, &notification)
            }

            // ── the path ──
            (State::Idle | State::Active, Fsm::BfdDown) => self.park(role),
            (State::Connect { conn }, Fsm::BfdDown) => self.close(conn),
            (State::OpenSent { link } | State::OpenConfirm { link, .. }, Fsm::BfdDown) => {
                self.refuse(role, link.conn, &Notification::bfd_down(), false, now)
            }
            (State::Established { link, .. }, Fsm::BfdDown) => {
                self.refuse(role, link.conn, &Notification::bfd_down(), true, now)
            }

            // ── connections ──
            (State::Connect { conn }, Fsm::ConnectRetryTimerExpires) => {
                self.close(conn);
                self.connect(now)
            }
            (State::Active, Fsm::ConnectRetryTimerExpires) => match role {
                Role::Outgoing => self.connect(now),
                Role::Incoming => State::Active,
            },
            // Not armed in these states.
            (
                state @ (State::Idle
                | State::OpenSent { .. }
                | State::OpenConfirm { .. }
                | State::Established { .. }),
                Fsm::ConnectRetryTimerExpires,
            ) => state,

            (State::Connect { conn }, Fsm::TcpCrAcked) => self.open(role, conn, now),
            // Only Connect has a connection of which this can be said.
            (
                state @ (State::Idle
                | State::Active
                | State::OpenSent { .. }
                | State::OpenConfirm { .. }
                | State::Established { .. }),
                Fsm::TcpCrAcked,
            ) => state,

            (State::Active, Fsm::TcpConnectionConfirmed { conn }) => self.open(role, conn, now),
            (State::Idle, Fsm::TcpConnectionConfirmed { conn }) => match self.lane(role.other()).state {
                // RFC 4271 §6.8: "a connection collision with an existing BGP connection that is in the Established state
                // causes closing of the newly created connection".
                State::Established { .. } | State::OpenConfirm { .. } | State::OpenSent { .. } => {
                    self.notify_and_close(conn, &Notification::connection_collision())
                }
                // Stopped or in idle-hold: RFC 4271 §8.2.2 "refuses all incoming BGP connections".
                State::Idle | State::Connect { .. } | State::Active => self.close(conn),
            },
            (state @ State::Established { .. }, Fsm::TcpConnectionConfirmed { conn }) => {
                self.notify_and_close(conn, &Notification::connection_collision());
                state
            }
            // The peer has begun anew before we noticed the end of the old connection: the new one counts.
            (
                State::OpenSent { link } | State::OpenConfirm { link, .. },
                Fsm::TcpConnectionConfirmed { conn },
            ) => {
                self.notify_and_close(link.conn, &Notification::connection_collision());
                self.open(role, conn, now)
            }
            // Only the outgoing lane has this state, and incoming connections are not its business.
            (state @ State::Connect { .. }, Fsm::TcpConnectionConfirmed { conn }) => {
                self.close(conn);
                state
            }

            (State::Connect { .. }, Fsm::TcpConnectionFails { why }) => {
                self.ended(role, format!("connect: {why}"), false);
                self.wait_for_peer(role, now)
            }
            // RFC 4271 §8.2.2: OpenSent and a lost connection lead back to Active, not to Idle.
            (State::OpenSent { .. }, Fsm::TcpConnectionFails { why }) => {
                self.ended(role, format!("connection lost before open: {why}"), false);
                self.wait_for_peer(role, now)
            }
            (State::OpenConfirm { .. }, Fsm::TcpConnectionFails { why }) => {
                self.fall(role, format!("connection lost: {why}"), false, None, now)
            }
            (State::Established { .. }, Fsm::TcpConnectionFails { why }) => {
                self.fall(role, format!("connection lost: {why}"), true, None, now)
            }
            (state @ (State::Idle | State::Active), Fsm::TcpConnectionFails { .. }) => state,

            (State::Connect { conn }, Fsm::OpenCollisionDump) => self.close(conn),
            (State::Active | State::Idle, Fsm::OpenCollisionDump) => self.park(role),
            (State::OpenSent { link } | State::OpenConfirm { link, .. }, Fsm::OpenCollisionDump) => {
                self.emit(Event::Collision { lost: role });
                self.notify_and_close(link.conn, &Notification::connection_collision())
            }
            // CollisionDetectEstablishedState (RFC 4271 §8.1.1) is not offered.
            (state @ State::Established { .. }, Fsm::OpenCollisionDump) => state,

            // ── timers of a connection ──
            (State::OpenSent { link } | State::OpenConfirm { link, .. }, Fsm::HoldTimerExpires) => {
                self.refuse(role, link.conn, &Notification::hold_timer_expired(), false, now)
            }
            (State::Established { link, .. }, Fsm::HoldTimerExpires) => {
                self.refuse(role, link.conn, &Notification::hold_timer_expired(), true, now)
            }
            (State::OpenSent { link } | State::OpenConfirm { link, .. }, Fsm::SendHoldTimerExpires) => {
                self.refuse(role, link.conn, &Notification::send_hold_timer_expired(), false, now)
            }
            (State::Established { link, .. }, Fsm::SendHoldTimerExpires) => {
                self.refuse(role, link.conn, &Notification::send_hold_timer_expired(), true, now)
            }
            (State::OpenConfirm { link, negotiated }, Fsm::KeepaliveTimerExpires) => {
                self.keepalive(role, link.conn, negotiated.keepalive_interval(), now);
                State::OpenConfirm { link, negotiated }
            }
            (State::Established { link, negotiated }, Fsm::KeepaliveTimerExpires) => {
                self.keepalive(role, link.conn, negotiated.keepalive_interval(), now);
                State::Established { link, negotiated }
            }
            (
                state @ (State::Idle | State::Connect { .. } | State::Active),
                Fsm::HoldTimerExpires | Fsm::SendHoldTimerExpires | Fsm::KeepaliveTimerExpires,
            )
            | (state @ State::OpenSent { .. }, Fsm::KeepaliveTimerExpires) => state,

            // ── messages ──
            (State::OpenSent { link }, Fsm::BgpOpen(open)) => self.receive_open(role, link, &open, now),
            (State::OpenConfirm { link, negotiated }, Fsm::KeepAliveMsg) => {
                // The timer was armed with the agreed time when the OPEN came; a KEEPALIVE is a sign of life.
                self.arm_hold(role, negotiated.hold_time, now);
                let mut link = link;
                if negotiated.update_context.extended_message {
                    link.reader.allow_extended();
                }
                State::Established { link, negotiated }
            }
            (State::Established { link, negotiated }, Fsm::KeepAliveMsg) => {
                self.arm_hold(role, negotiated.hold_time, now);
                State::Established { link, negotiated }
            }
            (State::Established { link, negotiated }, Fsm::UpdateMsg(report)) => {
                self.arm_hold(role, negotiated.hold_time, now);
                self.receive_update(report);
                match self.received.exceeded() {
                    None => State::Established { link, negotiated },
                    Some((max, prefix)) => {
                        let family = Family::of(prefix.addr());
                        let pause = Some(self.config.max_prefixes_pause);
                        let notification = Notification::maximum_prefixes(family, max);
                        self.notify_and_close(link.conn, &notification);
                        let reason = format!("we sent {notification}: more than {max} prefixes");
                        self.fall(role, reason, true, pause, now)
                    }
                }
            }
            (State::Established { link, negotiated }, Fsm::RouteRefresh(refresh)) => {
                // Whether it was agreed or not: what comes is answered. Begin and End are about routes we do not keep.
                if let Refresh::Request(family) = refresh {
                    self.stats.refreshes += 1;
                    self.rib.refresh(family, negotiated.enhanced_route_refresh);
                    self.emit(Event::RefreshRequested);
                }
                State::Established { link, negotiated }
            }
            // A message that has no place in this state. RFC 4271 §6.6, RFC 6608.
            (
                State::OpenSent { link },
                Fsm::KeepAliveMsg
                | Fsm::UpdateMsg(_)
                | Fsm::UpdateMsgErr(_)
                | Fsm::RouteRefresh(_)
                | Fsm::RouteRefreshErr(_),
            ) => self.refuse(role, link.conn, &Notification::fsm_error(fsm_subcode::OPEN_SENT), false, now),
            (
                State::OpenConfirm { link, .. },
                Fsm::BgpOpen(_)
                | Fsm::UpdateMsg(_)
                | Fsm::UpdateMsgErr(_)
                | Fsm::RouteRefresh(_)
                | Fsm::RouteRefreshErr(_),
            ) => {
                self.refuse(role, link.conn, &Notification::fsm_error(fsm_subcode::OPEN_CONFIRM), false, now)
            }
            (State::Established { link, .. }, Fsm::BgpOpen(_)) => {
                self.refuse(role, link.conn, &Notification::fsm_error(fsm_subcode::ESTABLISHED), true, now)
            }
            // A message that is wrong in itself.
            (
                State::OpenSent { link } | State::OpenConfirm { link, .. },
                Fsm::BgpHeaderErr(notification) | Fsm::BgpOpenMsgErr(notification),
            ) => self.refuse(role, link.conn, &notification, false, now),
            (
                State::Established { link, .. },
                Fsm::BgpHeaderErr(notification)
                | Fsm::BgpOpenMsgErr(notification)
                | Fsm::UpdateMsgErr(notification)
                | Fsm::RouteRefreshErr(notification),
            ) => self.refuse(role, link.conn, &notification, true, now),
            // RFC 4271 §6: a NOTIFICATION is never answered by one.
            (State::OpenSent { link } | State::OpenConfirm { link, .. }, Fsm::NotifMsg(notification)) => {
                self.close(link.conn);
                let reason = format!("peer sent {notification}");
                self.last_received = Some(notification);
                self.fall(role, reason, false, None, now)
            }
            (State::Established { link, .. }, Fsm::NotifMsg(notification)) => {
                self.close(link.conn);
                let reason = format!("peer sent {notification}");
                self.last_received = Some(notification);
                self.fall(role, reason, true, None, now)
            }
            // No connection, no messages.
            (
                state @ (State::Idle | State::Connect { .. } | State::Active),
                Fsm::BgpOpen(_)
                | Fsm::BgpHeaderErr(_)
                | Fsm::BgpOpenMsgErr(_)
                | Fsm::NotifMsg(_)
                | Fsm::KeepAliveMsg
                | Fsm::UpdateMsg(_)
                | Fsm::UpdateMsgErr(_)
                | Fsm::RouteRefresh(_)
                | Fsm::RouteRefreshErr(_),
            ) => state,
        }
    }

    /// The door: timers, the RIB and the other lane follow the state.
    fn enter(&mut self, role: Role, was: StateName, next: State, now: Instant) {
        let is = next.name();
        let up = match &next {
            State::Established { negotiated, .. } if was != StateName::Established => Some(*negotiated),
            _ => None,
        };
        let lane = self.lane_mut(role);
        lane.state = next;
        lane.timers.keep_for(is);
        if was == StateName::Established && is != StateName::Established {
            self.rib.session_down();
            self.established_since = None;
        }
        if let Some(negotiated) = up {
            self.rib.session_up(negotiated.families, negotiated.update_context.extended_next_hop);
            self.received = Received::new(self.config.max_prefixes, self.config.keep_received);
            self.disabled = Families::default();
            self.restarting = false;
            self.established_since = Some(now);
            self.stats.established += 1;
            self.emit(Event::Established(negotiated));
            self.apply(role.other(), Fsm::OpenCollisionDump, now);
        }
    }

    fn begin(&mut self, role: Role, now: Instant) -> State {
        if !self.started
            || self.held_by_bfd
            || matches!(self.lane(role.other()).state, State::Established { .. })
        {
            return State::Idle;
        }
        match role {
            Role::Outgoing if self.config.passive => State::Idle,
            Role::Outgoing => self.connect(now),
            Role::Incoming => State::Active,
        }
    }

    /// To Idle for as long as nobody calls: stopped, or the other lane is in use.
    fn park(&mut self, role: Role) -> State {
        self.lane_mut(role).timers.arm(Timer::IdleHold, None);
        State::Idle
    }

    fn connect(&mut self, now: Instant) -> State {
        let conn = ConnId::Outgoing(self.next_outgoing);
        self.next_outgoing += 1;
        self.transmits.push_back(Transmit::Connect(conn));
        self.arm_connect_retry(now);
        State::Connect { conn }
    }

    fn wait_for_peer(&mut self, role: Role, now: Instant) -> State {
        if role == Role::Outgoing {
            self.arm_connect_retry(now);
        }
        State::Active
    }

    fn open(&mut self, role: Role, conn: ConnId, now: Instant) -> State {
        let open = self.config.open(self.restarting).encode();
        self.send(conn, open);
        self.lane_mut(role).timers.arm(Timer::Hold, Some(now + LARGE_HOLD));
        State::OpenSent { link: Link::new(conn) }
    }

    fn receive_open(&mut self, role: Role, link: Link, open: &Open, now: Instant) -> State {
        let negotiated = match negotiate(&self.config, open) {
            Ok(negotiated) => negotiated,
            Err(notification) => return self.refuse(role, link.conn, &notification, false, now),
        };
        // RFC 4271 §6.8 demands a look at connections in OpenConfirm and allows one at OpenSent; now that the identifier is
        // known the sooner is the better: fewer moments in which the two sides can see different pictures.
        let collides = match self.lane(role.other()).state {
            State::Established { .. } => true,
            State::OpenSent { .. } | State::OpenConfirm { .. } => {
                let local = (self.config.bgp_id, self.config.local_asn);
                let wins = survivor(local, (open.bgp_id, open.asn)) == role;
                if wins {
                    self.apply(role.other(), Fsm::OpenCollisionDump, now);
                }
                !wins
            }
            State::Idle | State::Connect { .. } | State::Active => false,
        };
        if collides {
            self.emit(Event::Collision { lost: role });
            return self.notify_and_close(link.conn, &Notification::connection_collision());
        }
        self.arm_hold(role, negotiated.hold_time, now);
        self.keepalive(role, link.conn, negotiated.keepalive_interval(), now);
        State::OpenConfirm { link, negotiated }
    }

    /// Say why, close, and fall.
    fn refuse(
        &mut self,
        role: Role,
        conn: ConnId,
        notification: &Notification,
        was_established: bool,
        now: Instant,
    ) -> State {
        self.notify_and_close(conn, notification);
        self.fall(role, format!("we sent {notification}"), was_established, None, now)
    }

    /// To Idle after a failure, with `pause` or that of DampPeerOscillations (RFC 4271 §8.1.1).
    fn fall(
        &mut self,
        role: Role,
        reason: String,
        was_established: bool,
        pause: Option<Duration>,
        now: Instant,
    ) -> State {
        let stable = self.established_since.filter(|_| was_established);
        if stable.is_some_and(|since| now.saturating_duration_since(since) >= self.config.idle_hold_max) {
            self.failures_in_a_row = 0;
        }
        let usual = self.config.idle_hold.saturating_mul(1 << self.failures_in_a_row.min(16));
        let usual = self.jittered(usual.min(self.config.idle_hold_max));
        let asked = pause;
        let pause = asked.unwrap_or(usual);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.ended(role, reason, was_established);
        self.lane_mut(role).timers.arm(Timer::IdleHold, Some(now + pause));
        // A lane parked in favour of this one has its chance again; when a pause was asked for, none before it is over.
        let other = self.lane_mut(role.other());
        if matches!(other.state, State::Idle) && (asked.is_some() || !other.timers.is_armed(Timer::IdleHold))
        {
            other.timers.arm(Timer::IdleHold, Some(now + pause));
        }
        State::Idle
    }

    fn ended(&mut self, role: Role, reason: String, was_established: bool) {
        self.stats.failures += 1;
        self.emit(Event::Ended { role, reason, was_established });
    }

    fn receive_update(&mut self, report: UpdateReport) {
        self.stats.updates_received += 1;
        self.stats.prefixes_ignored += report.announced as u64;
        if let Some(family) = report.disable {
            self.disabled.set(family, true);
        }
        if let Some(finding) = report.finding {
            self.stats.updates_malformed += 1;
            self.emit(Event::MalformedUpdate(finding));
        }
    }

    fn notify_and_close(&mut self, conn: ConnId, notification: &Notification) -> State {
        self.last_sent = Some(notification.clone());
        self.send(conn, notification.encode());
        self.close(conn)
    }

    /// Nothing of a connection is left in the queue but what stands before its Close.
    fn close(&mut self, conn: ConnId) -> State {
        self.transmits.push_back(Transmit::Close(conn));
        State::Idle
    }

    fn keepalive(&mut self, role: Role, conn: ConnId, interval: Option<Duration>, now: Instant) {
        // At most one KEEPALIVE waits: a shell that cannot write does not collect them.
        let bytes = encode_keepalive();
        let waiting = |t: &Transmit| matches!(t, Transmit::Bytes(c, b) if *c == conn && *b == bytes);
        if !self.transmits.iter().any(waiting) {
            self.send(conn, bytes);
        }
        let at = interval.map(|interval| now + self.jittered(interval));
        self.lane_mut(role).timers.arm(Timer::Keepalive, at);
    }

    fn send(&mut self, conn: ConnId, bytes: Bytes) {
        self.stats.sent += 1;
        self.transmits.push_back(Transmit::Bytes(conn, bytes));
    }

    fn arm_hold(&mut self, role: Role, hold_time: Duration, now: Instant) {
        let at = (!hold_time.is_zero()).then(|| now + hold_time);
        self.lane_mut(role).timers.arm(Timer::Hold, at);
    }

    fn arm_connect_retry(&mut self, now: Instant) {
        let pause = self.jittered(self.config.connect_retry);
        self.outgoing.timers.arm(Timer::ConnectRetry, Some(now + pause));
    }

    /// RFC 4271 §10: "The suggested default amount of jitter SHALL be determined by multiplying the base value of the
    /// appropriate timer by a random factor, which is uniformly distributed in the range from 0.75 to 1.0."
    fn jittered(&mut self, base: Duration) -> Duration {
        // splitmix64.
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        base.mul_f64(0.75 + 0.25 * (z >> 11) as f64 / (1u64 << 53) as f64)
    }
}
