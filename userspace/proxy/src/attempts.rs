//! One server after the other, until one answers, the retries are used up, or asking again could do harm.

use tokio::time::Instant;
use weir_core::ClientKey;
use weir_model::{Name, Pool};

use crate::{
    connection::Connection,
    errors::{Failure, Refusal},
    exchange::Exchange,
    live::{ServerLive, Slot},
    request::wait_for_slot,
    tables::{Asking, Choice, PoolTable, Tables},
};

/// The attempts of one request, or of one connection that is relayed.
pub(crate) struct Attempts<'a> {
    pool: &'a PoolTable,
    /// Whether there is another zone to go to.
    has_zones: bool,
    client: ClientKey,
    /// What the pool hashes it by.
    key: Option<ClientKey>,
    home: Option<&'a Name>,
    tried: Vec<Name>,
    avoid: Option<Name>,
    made: u32,
    last: Option<Refusal>,
}

impl<'a> Attempts<'a> {
    /// None was made yet.
    pub(crate) fn new(
        pool: &'a PoolTable,
        tables: &Tables,
        connection: &Connection,
        home: Option<&'a Name>,
    ) -> Self {
        Self {
            pool,
            has_zones: tables.snapshot.zones.len() > 1,
            client: ClientKey::of_address(connection.client.ip()),
            key: None,
            home,
            tried: Vec::new(),
            avoid: None,
            made: 0,
            last: None,
        }
    }

    /// With the key the pool hashes requests by.
    pub(crate) fn by(self, key: Option<ClientKey>) -> Self {
        Self { key, ..self }
    }

    /// The pool.
    pub(crate) fn pool(&self) -> &'a PoolTable {
        self.pool
    }

    /// The settings of the pool.
    pub(crate) fn spec(&self) -> &'a Pool {
        &self.pool.spec
    }

    /// A slot at the next server to ask; or why nobody is asked any more.
    pub(crate) async fn next(&mut self, exchange: &mut Exchange) -> Result<Slot, Refusal> {
        if self.made > self.pool.spec.retries {
            return Err(self.refusal());
        }
        if self.made == 0 {
            self.pool.enter()?;
        } else if !self.pool.may_retry() {
            return Err(self.refusal());
        }
        let asking = Asking {
            home: self.home,
            client: self.client,
            key: self.key,
            tried: &self.tried,
            avoid: self.avoid.as_ref(),
        };
        let slot = match wait_for_slot(self.pool, asking).await {
            Ok((slot, queued)) => {
                exchange.dequeued.get_or_insert_with(Instant::now);
                exchange.note(|noted| noted.asks(&slot.server, queued));
                slot
            }
            // What the servers that were tried had is more telling than that none is left.
            Err(refusal) => return Err(self.last.take().unwrap_or(refusal)),
        };
        exchange.retries = self.made;
        slot.server.count_request();
        self.pool.note_sent(&slot.server);
        self.made += 1;
        Ok(slot)
    }

    /// A slot at another server than `first`, which is asked already: if there is one that is free and trusted, and the budget of
    /// retries has something left.
    pub(crate) fn beside(&self, first: &ServerLive) -> Option<Slot> {
        let tried: Vec<Name> = self.tried.iter().chain([&first.name]).cloned().collect();
        let asking = Asking {
            home: self.home,
            client: self.client,
            key: self.key,
            tried: &tried,
            avoid: self.avoid.as_ref(),
        };
        let Choice::Server(slot) = self.pool.choose(asking) else { return None };
        if slot.server.is_suspect() || !self.pool.may_retry() {
            return None;
        }
        slot.server.count_request();
        self.pool.note_sent(&slot.server);
        Some(slot)
    }

    /// The server has answered with this status.
    pub(crate) fn answered(&self, server: &ServerLive, status: u16) {
        self.pool.note_answer(server, !(500..=599).contains(&status));
    }

    /// The attempt at this server came to nothing.
    pub(crate) fn failed(&mut self, server: &ServerLive, failure: &Failure) {
        tracing::debug!(server = %server.name, "attempt {}: {failure}", self.made - 1);
        server.note_failure(failure.avoid_for());
        if failure.is_servers() {
            self.pool.note_answer(server, false);
        }
        self.last = Some(failure.refusal());
        self.tried.push(server.name.clone());
        // The last attempt goes elsewhere: servers of one zone tend to fail together.
        if (failure.is_silence() || self.made == self.pool.spec.retries) && self.has_zones {
            self.avoid = Some(server.zone.clone());
        }
    }

    /// What the client is told when nobody else is asked.
    pub(crate) fn refusal(&mut self) -> Refusal {
        self.last.take().unwrap_or(Refusal::NO_SERVER)
    }
}
