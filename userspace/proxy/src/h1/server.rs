//! Connections to servers, kept and used again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    connection::Connection,
    errors::Failure,
    live::Slot,
    server_stream::{ServerStream, same_terms},
    tables::PoolTable,
    tls::ServerTerms,
};

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) stream: ServerStream,
    /// On what terms it was made.
    terms: Option<Arc<ServerTerms>>,
    /// Whether it carried a request before: then the server may close it at any moment, which says nothing about the server.
    pub(crate) reused: bool,
    /// It is one client's.
    is_private: bool,
    pub(crate) slot: Slot,
}

/// One that nobody uses.
#[derive(Debug)]
pub(crate) struct Kept {
    stream: ServerStream,
    terms: Option<Arc<ServerTerms>>,
    since: Instant,
}

impl Kept {
    /// Whether it can still be used: not closed, nothing said unasked, and not too old.
    pub(crate) fn is_usable(&mut self, idle_timeout: Duration, now: Instant) -> bool {
        self.stream.is_silent() && now.saturating_duration_since(self.since) < idle_timeout
    }

    /// Whether it is of the kind the pool wants now.
    pub(crate) fn is_of(&self, pool: &PoolTable) -> bool {
        same_terms(self.terms.as_ref(), pool.tls.as_ref())
    }
}

impl Server {
    /// A kept connection, or a new one.
    pub(crate) async fn obtain(
        slot: Slot,
        pool: &PoolTable,
        client: &Connection,
        now: Instant,
    ) -> Result<Self, (Slot, Failure)> {
        let (terms, is_private) = (pool.tls.clone(), pool.spec.dials_for_one_client());
        if !is_private && let Some(Kept { stream, .. }) = slot.server.take_kept(pool, now) {
            return Ok(Self { stream, terms, reused: true, is_private, slot });
        }
        // Seldom, and then large.
        match Box::pin(ServerStream::open(&slot, pool, client)).await {
            Ok(stream) => Ok(Self { stream, terms, reused: false, is_private, slot }),
            Err(failure) => Err((slot, failure)),
        }
    }

    /// The exchange is complete and both sides go on: kept, unless it is one client's.
    pub(crate) fn keep(self, now: Instant) {
        let Self { stream, terms, slot, is_private, .. } = self;
        if !is_private {
            slot.server.keep(Kept { stream, terms, since: now });
        }
    }
}
