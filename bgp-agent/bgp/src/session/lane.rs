//! One lane of a session: the state of RFC 4271 §8.2.2 for the connections of one direction, and its timers.

use super::negotiate::Negotiated;
use crate::wire::Reader;
use std::time::Instant;

/// Which side opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

impl Role {
    pub(super) const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// A connection, never reused within a session. The session numbers the outgoing ones, the shell the incoming ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnId {
    /// Opened by us.
    Outgoing(u64),
    /// Accepted from the peer.
    Incoming(u64),
}

impl ConnId {
    /// Who opened it.
    pub fn role(self) -> Role {
        match self {
            Self::Outgoing(_) => Role::Outgoing,
            Self::Incoming(_) => Role::Incoming,
        }
    }
}

/// The states of RFC 4271 §8.2.2, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateName {
    /// Refusing connections.
    Idle,
    /// Listening.
    Active,
    /// Waiting for our attempt to connect; a connection of the peer is welcome too.
    Connect,
    /// Waiting for an OPEN.
    OpenSent,
    /// Waiting for a KEEPALIVE.
    OpenConfirm,
    /// Exchanging UPDATEs.
    Established,
}

impl StateName {
    /// The name as the RFC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Active => "Active",
            Self::Connect => "Connect",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) state: State,
    pub(super) timers: Timers,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self { state: State::Idle, timers: Timers::default() }
    }
}

/// A connection over which messages come.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) conn: ConnId,
    pub(super) reader: Reader,
}

impl Link {
    pub(super) fn new(conn: ConnId) -> Self {
        Self { conn, reader: Reader::default() }
    }
}

#[derive(Debug, Clone)]
pub(super) enum State {
    Idle,
    Connect { conn: ConnId },
    Active,
    OpenSent { link: Link },
    OpenConfirm { link: Link, negotiated: Negotiated },
    Established { link: Link, negotiated: Negotiated },
}

impl State {
    pub(super) fn name(&self) -> StateName {
        match self {
            Self::Idle => StateName::Idle,
            Self::Connect { .. } => StateName::Connect,
            Self::Active => StateName::Active,
            Self::OpenSent { .. } => StateName::OpenSent,
            Self::OpenConfirm { .. } => StateName::OpenConfirm,
            Self::Established { .. } => StateName::Established,
        }
    }

    pub(super) fn conn(&self) -> Option<ConnId> {
        match self {
            Self::Idle | Self::Active => None,
            Self::Connect { conn } => Some(*conn),
            Self::OpenSent { link } | Self::OpenConfirm { link, .. } | Self::Established { link, .. } => {
                Some(link.conn)
            }
        }
    }

    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Self::Idle | Self::Active | Self::Connect { .. } => None,
            Self::OpenSent { link } | Self::OpenConfirm { link, .. } | Self::Established { link, .. } => {
                Some(link)
            }
        }
    }
}

/// The timers of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    IdleHold,
    ConnectRetry,
    Hold,
    /// The transport does not take our bytes. RFC 9687.
    SendHold,
    Keepalive,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Timers([Option<Instant>; 5]);

impl Timers {
    const ALL: [Timer; 5] =
        [Timer::IdleHold, Timer::ConnectRetry, Timer::Hold, Timer::SendHold, Timer::Keepalive];

    pub(super) fn arm(&mut self, timer: Timer, at: Option<Instant>) {
        self.0[timer as usize] = at;
    }

    pub(super) fn is_armed(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// Disarm what has no meaning in a state.
    pub(super) fn keep_for(&mut self, state: StateName) {
        for timer in Self::ALL {
            let keep = match timer {
                Timer::IdleHold => state == StateName::Idle,
                Timer::ConnectRetry => matches!(state, StateName::Connect | StateName::Active),
                Timer::Hold | Timer::SendHold => state >= StateName::OpenSent,
                Timer::Keepalive => state >= StateName::OpenConfirm,
            };
            if !keep {
                self.arm(timer, None);
            }
        }
    }

    /// One timer that is due, disarmed. The hold timer before the keepalive timer: a dead peer needs no KEEPALIVE.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        let timer =
            Self::ALL.into_iter().find(|timer| self.0[*timer as usize].is_some_and(|at| at <= now))?;
        self.arm(timer, None);
        Some(timer)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.into_iter().flatten().min()
    }
}
