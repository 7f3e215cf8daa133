//! A listener as its connections see it, and what of it outlives a change of the configuration.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, futures::Notified};
use weir_model::{Listener, Name};
use weir_runtime::metrics::Counter;

use crate::{
    ledger::Series,
    tables::{Now, Tables},
    tls::Terms,
    worker::PerThread,
};

/// A listener as its connections see it.
#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) name: Name,
    pub(crate) spec: Listener,
    pub(crate) tls: Option<Terms>,
    /// Whether its connections must end: the process stops, or the listener is gone or speaks something else now.
    pub(crate) ending: Arc<Ending>,
    pub(crate) live: Arc<ListenerLive>,
}

/// Counters of a listener, across changes of it.
#[derive(Debug)]
pub(crate) struct ListenerLive {
    connections: AtomicU64,
    pub(crate) requests: PerThread<AtomicU64>,
    pub(crate) handshake_failures: Counter,
    /// What is counted of requests that found no pool.
    pub(crate) unrouted: Arc<Series>,
    /// Wakes those that wait for room.
    pub(crate) closed: Notify,
    /// The tables of the last configuration that had this listener: for requests already on their way when it goes.
    last_tables: ArcSwap<Tables>,
}

/// A word to many connections that cannot be taken back.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    is_asked: AtomicBool,
    asked: Notify,
}

impl Ending {
    /// Asks for the end.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, SeqCst);
        self.asked.notify_waiters();
    }

    /// Whether it was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_asked.load(SeqCst)
    }

    /// Ready when it is asked for from now on: whoever waits for it looks at [`Self::is_asked`] first, and then waits.
    pub(crate) fn notified(&self) -> Notified<'_> {
        self.asked.notified()
    }

    /// Waits until it is asked for.
    pub(crate) async fn wait(&self) {
        let asked = self.notified();
        if !self.is_asked() {
            asked.await;
        }
    }
}

impl ListenerState {
    /// Whether it has as many connections as it may; then no more are accepted.
    pub(crate) fn is_full(&self) -> bool {
        self.live.connections() >= u64::from(self.spec.max_connections)
    }

    /// Counts one more connection if it may have one.
    pub(crate) fn try_open_one(&self) -> bool {
        let more = |open| (open < u64::from(self.spec.max_connections)).then_some(open + 1);
        self.live.connections.fetch_update(SeqCst, Relaxed, more).is_ok()
    }

    /// The tables now, or the last that knew this listener.
    pub(crate) fn tables(&self, now: Now) -> Now {
        if now.listeners.contains_key(&self.name) { now } else { Now::of(self.live.last_tables.load_full()) }
    }
}

impl ListenerLive {
    pub(crate) fn new(handshake_failures: Counter, unrouted: Arc<Series>, tables: Arc<Tables>) -> Self {
        Self {
            connections: AtomicU64::new(0),
            requests: PerThread::default(),
            handshake_failures,
            unrouted,
            closed: Notify::new(),
            last_tables: ArcSwap::new(tables),
        }
    }

    /// Remembers the newest tables that have the listener.
    pub(crate) fn set_last_tables(&self, tables: Arc<Tables>) {
        self.last_tables.store(tables);
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(SeqCst)
    }

    /// Counts one more, beyond every limit.
    pub(crate) fn open_one(&self) {
        self.connections.fetch_add(1, SeqCst);
    }

    pub(crate) fn close_one(&self) {
        self.connections.fetch_sub(1, SeqCst);
        // All sockets that wait: only one of them may have somebody in its queue.
        self.closed.notify_waiters();
    }
}
