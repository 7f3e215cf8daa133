//! A listener as its connections see it, and what of it outlives a change of the configuration.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
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

/// The connections of all listeners together.
#[derive(Debug)]
pub(crate) struct Crowd {
    open: AtomicU64,
    max: u64,
    /// Wakes those that wait for room.
    pub(crate) left: Notify,
}

impl Crowd {
    /// Nobody yet, and so many at most.
    pub(crate) fn new(max: Option<u32>) -> Self {
        Self { open: AtomicU64::new(0), max: max.map_or(u64::MAX, u64::from), left: Notify::new() }
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    fn try_open_one(&self) -> bool {
        self.open.fetch_update(SeqCst, Relaxed, |open| (open < self.max).then_some(open + 1)).is_ok()
    }

    fn close_one(&self) {
        if self.open.fetch_sub(1, SeqCst) >= self.max {
            self.left.notify_waiters();
        }
    }
}

/// Counters of a listener, across changes of it.
#[derive(Debug)]
pub(crate) struct ListenerLive {
    connections: AtomicU64,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) requests: PerThread<AtomicU64>,
    pub(crate) handshake_failures: Counter,
    /// Connections cut because they did not begin with the header of the PROXY protocol they should have begun with.
    pub(crate) bad_headers: Counter,
    /// Connections of HTTP/2 cut because of frames without work.
    pub(crate) floods: Counter,
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
    ears: PerThread<Mutex<Ears>>,
}

/// The tasks of one thread that want to hear of it; as many as there are connections.
#[derive(Debug, Default)]
struct Ears {
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

/// The place of a task among them, on the thread it stays on. For idle connections: smaller than what waits for a [`Notify`].
#[derive(Debug)]
pub(crate) struct Ear<'e> {
    ending: &'e Ending,
    at: Option<u32>,
}

impl Ear<'_> {
    /// Whether the end was asked for; if not, the task is woken when it is.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.at.is_none() {
            let mut ears = self.ending.ears_here();
            let waker = Some(cx.waker().clone());
            self.at = ears.free.pop();
            match self.at {
                Some(at) => ears.wakers[at as usize] = waker,
                None => {
                    self.at = Some(ears.wakers.len() as u32);
                    ears.wakers.push(waker);
                }
            }
        }
        // After there is somebody to wake.
        if self.ending.is_asked() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Ear<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            let mut ears = self.ending.ears_here();
            ears.wakers[at as usize] = None;
            ears.free.push(at);
        }
    }
}

impl Ending {
    /// Asks for the end.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, SeqCst);
        self.asked.notify_waiters();
        for ears in self.ears.iter() {
            let ears = ears.lock().unwrap_or_else(PoisonError::into_inner);
            ears.wakers.iter().flatten().for_each(Waker::wake_by_ref);
        }
    }

    fn ears_here(&self) -> MutexGuard<'_, Ears> {
        self.ears.mine().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An ear for it.
    pub(crate) fn ear(&self) -> Ear<'_> {
        Ear { ending: self, at: None }
    }

    /// Whether it was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.is_asked.load(SeqCst)
    }
}

impl ListenerState {
    /// Whether it, or the process, has as many connections as it may; then no more are accepted.
    pub(crate) fn is_full(&self) -> bool {
        let Crowd { open, max, .. } = &*self.live.crowd;
        self.live.connections() >= u64::from(self.spec.max_connections) || open.load(SeqCst) >= *max
    }

    /// Counts one more connection if it may have one.
    pub(crate) fn try_open_one(&self) -> bool {
        let more = |open| (open < u64::from(self.spec.max_connections)).then_some(open + 1);
        if self.live.connections.fetch_update(SeqCst, Relaxed, more).is_err() {
            return false;
        }
        let is_open = self.live.crowd.try_open_one();
        if !is_open {
            self.live.connections.fetch_sub(1, SeqCst);
        }
        is_open
    }

    /// The tables now, or the last that knew this listener.
    pub(crate) fn tables(&self, now: Now) -> Now {
        if now.listeners.contains_key(&self.name) { now } else { Now::of(self.live.last_tables.load_full()) }
    }
}

impl ListenerLive {
    pub(crate) fn new(
        [handshake_failures, floods, bad_headers]: [Counter; 3],
        unrouted: Arc<Series>,
        tables: Arc<Tables>,
        crowd: Arc<Crowd>,
    ) -> Self {
        Self {
            connections: AtomicU64::new(0),
            crowd,
            requests: PerThread::default(),
            handshake_failures,
            bad_headers,
            floods,
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
        self.crowd.open.fetch_add(1, SeqCst);
    }

    pub(crate) fn close_one(&self) {
        self.connections.fetch_sub(1, SeqCst);
        self.crowd.close_one();
        // All sockets that wait: only one of them may have somebody in its queue.
        self.closed.notify_waiters();
    }
}
