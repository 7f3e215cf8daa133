//! How long whoever is waited for may take, with one deadline that is only looked at while nothing moves.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Instant;
use weir_core::pace::{Pace, PaceLimits, TooSlow};
use weir_model::Listener;

use super::deadline::Deadline;

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Client,
    /// And for how long.
    Server(Duration),
}

/// Who took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutOfTime {
    Client(TooSlow),
    Server,
}

/// What has moved so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Changes with every byte that moves, in either direction.
    pub(super) moves: u64,
    /// Bytes of the body the client is waited for with.
    pub(super) bytes: u64,
}

/// The patience with both sides of one body.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// For whom it is waited, and what had moved when that began.
    waits: Option<(Whom, u64)>,
    pace: Pace,
}

impl Patience {
    /// Whoever was waited for is not any more; others have times of their own.
    pub(super) fn rest(&mut self) {
        if self.waits.take().is_some() {
            self.pace.rest(Instant::now().into_std());
        }
    }

    /// Nothing goes on without somebody: ready when they have had their time. The clock is looked at when something has moved since
    /// the last time, and otherwise not before the deadline.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut deadline: Pin<&mut Deadline>,
        listener: &Listener,
        whom: Whom,
        moved: Moved,
    ) -> Poll<OutOfTime> {
        if self.waits != Some((whom, moved.moves)) {
            self.waits = Some((whom, moved.moves));
            let now = Instant::now();
            deadline.as_mut().set(match whom {
                Whom::Client => self.pace.wait(&limits(listener), moved.bytes, now.into_std()).into(),
                Whom::Server(limit) => {
                    self.pace.rest(now.into_std());
                    now + limit
                }
            });
        }
        ready!(deadline.poll(cx));
        Poll::Ready(match whom {
            Whom::Server(_) => OutOfTime::Server,
            Whom::Client => {
                let why = self.pace.judge(&limits(listener), moved.bytes, Instant::now().into_std());
                OutOfTime::Client(why.unwrap_or(TooSlow::Silent))
            }
        })
    }
}

fn limits(listener: &Listener) -> PaceLimits {
    PaceLimits {
        silence: listener.client_timeout,
        rate_min: listener.body_rate_min,
        grace: listener.body_rate_grace,
    }
}
