//! Connections to servers, kept and used again.

use std::{io, time::Duration};

use tokio::{net::TcpStream, time::Instant};
use weir_model::Pool;

use crate::{connection::Connection, dial::connect, errors::Failure, live::Slot};

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) stream: TcpStream,
    /// Whether it carried a request before: then the server may close it at any moment, which says nothing about the server.
    pub(crate) reused: bool,
    /// It is one client's.
    is_private: bool,
    pub(crate) slot: Slot,
}

/// One that nobody uses.
#[derive(Debug)]
pub(crate) struct Kept {
    stream: TcpStream,
    since: Instant,
}

impl Kept {
    /// Whether it can still be used: not closed, nothing said unasked, and not too old.
    pub(crate) fn is_usable(&self, idle_timeout: Duration, now: Instant) -> bool {
        let is_silent =
            matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_silent && now.saturating_duration_since(self.since) < idle_timeout
    }
}

impl Server {
    /// A kept connection, or a new one.
    pub(crate) async fn obtain(
        slot: Slot,
        pool: &Pool,
        client: &Connection,
        now: Instant,
    ) -> Result<Self, (Slot, Failure)> {
        let is_private = pool.dials_for_one_client();
        if !is_private && let Some(Kept { stream, .. }) = slot.server.take_kept(pool.idle_timeout, now) {
            return Ok(Self { stream, reused: true, is_private, slot });
        }
        // Seldom, and then large.
        match Box::pin(connect(&slot, pool, client)).await {
            Ok(stream) => Ok(Self { stream, reused: false, is_private, slot }),
            Err(failure) => Err((slot, failure)),
        }
    }

    /// The exchange is complete and both sides go on: kept, unless it is one client's.
    pub(crate) fn keep(self, now: Instant) {
        if !self.is_private {
            self.slot.server.keep(Kept { stream: self.stream, since: now });
        }
    }
}
