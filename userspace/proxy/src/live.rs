//! What outlives a configuration change: counters, kept connections and round-robin turns of pools and servers.
//!
//! The tables are rebuilt whole on every change and point into here.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use weir_core::{
    balance::{Balancer, Method},
    hash,
};
use weir_model::{Name, Snapshot};

use crate::{body::RequestBody, h1::Kept};

/// One server in one pool.
#[derive(Debug)]
pub(crate) struct ServerLive {
    pub(crate) name: Name,
    pub(crate) zone: Name,
    pub(crate) address: SocketAddr,
    /// Requests in flight; each has a connection of its own.
    active: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Avoided until then, in milliseconds of [`now_ms`].
    suspect_until_ms: AtomicU64,
    /// Tells the check of this server that a live request failed.
    pub(crate) failed: Notify,
    idle: Mutex<VecDeque<Idle>>,
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// One pool.
#[derive(Debug, Default)]
pub(crate) struct PoolLive {
    /// Requests that wait for a slot.
    pub(crate) waiting: AtomicU64,
    /// A slot became free.
    pub(crate) released: Notify,
    balancers: Mutex<BTreeMap<Name, (Method, Arc<Balancer>)>>,
}

/// The right to one connection to a server; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) server: Arc<ServerLive>,
    pool: Arc<PoolLive>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.server.active.fetch_sub(1, Relaxed);
        self.pool.released.notify_one();
    }
}

impl Slot {
    /// Takes a slot while fewer than `max` are taken.
    pub(crate) fn take(server: &Arc<ServerLive>, pool: &Arc<PoolLive>, max: u32) -> Option<Self> {
        let more = |active| (active < u64::from(max)).then_some(active + 1);
        server.active.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self { server: Arc::clone(server), pool: Arc::clone(pool) })
    }
}

impl ServerLive {
    fn new(name: &Name, zone: &Name, address: SocketAddr) -> Self {
        Self {
            name: name.clone(),
            zone: zone.clone(),
            address,
            active: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            suspect_until_ms: AtomicU64::new(0),
            failed: Notify::new(),
            idle: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// A request could not be sent, or broke before its answer. `avoid_for`: how long others should keep away.
    pub(crate) fn note_failure(&self, avoid_for: Duration) {
        self.failures.fetch_add(1, Relaxed);
        if !avoid_for.is_zero() {
            self.suspect_until_ms.fetch_max(now_ms() + avoid_for.as_millis() as u64, Relaxed);
            // Connections to where nobody listens any more are not worth a request.
            self.close_idle();
        }
        self.failed.notify_one();
    }

    /// Whether it refused a connection a moment ago.
    pub(crate) fn is_suspect(&self) -> bool {
        let until = self.suspect_until_ms.load(Relaxed);
        until != 0 && now_ms() < until
    }

    /// A check has passed: what was suspected is disproved.
    pub(crate) fn clear_suspicion(&self) {
        self.suspect_until_ms.store(0, Relaxed);
    }

    /// The same of those that HTTP/1.1 clients are served by.
    pub(crate) fn take_kept(&self, idle_timeout: Duration) -> Option<Kept> {
        let mut kept = self.lock_kept();
        std::iter::from_fn(|| kept.pop()).find(|kept| kept.is_usable(idle_timeout))
    }

    /// Keeps a connection whose exchange is complete.
    pub(crate) fn keep(&self, kept: Kept) {
        self.lock_kept().push(kept);
    }

    /// The connection used last, which is the least likely to have been closed.
    pub(crate) fn take_idle(&self, idle_timeout: Duration) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.lock_idle();
        while let Some(kept) = idle.pop_back() {
            if !kept.sender.is_closed() && kept.since.elapsed() < idle_timeout {
                return Some(kept.sender);
            }
        }
        None
    }

    /// Keeps a connection whose exchange is complete.
    pub(crate) fn keep_sender(&self, sender: SendRequest<RequestBody>) {
        if !sender.is_closed() {
            self.lock_idle().push_back(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes connections that were not used for `idle_timeout`, or that the server closed.
    pub(crate) fn sweep(&self, idle_timeout: Duration) {
        self.lock_idle().retain(|kept| !kept.sender.is_closed() && kept.since.elapsed() < idle_timeout);
        self.lock_kept().retain(|kept| kept.is_usable(idle_timeout));
    }

    /// Closes every kept connection.
    pub(crate) fn close_idle(&self) {
        self.lock_idle().clear();
        self.lock_kept().clear();
    }

    fn lock_kept(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolLive {
    /// The balancer of a zone; a new one when the method has changed.
    pub(crate) fn balancer(&self, zone: &Name, method: Method) -> Arc<Balancer> {
        let mut balancers = self.balancers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || (method, Arc::new(Balancer::new(method, random())));
        let entry = balancers.entry(zone.clone()).or_insert_with(new);
        if entry.0 != method {
            *entry = new();
        }
        Arc::clone(&entry.1)
    }
}

/// Everything that lives, by name.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) pools: BTreeMap<Name, Arc<PoolLive>>,
    pub(crate) servers: BTreeMap<(Name, Name), Arc<ServerLive>>,
}

impl Live {
    /// Keeps what `snapshot` still has, forgets the rest, adds what is new. A server at another address is a new one.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) {
        self.pools.retain(|pool, _| snapshot.pools.contains_key(pool));
        for pool in snapshot.pools.keys() {
            self.pools.entry(pool.clone()).or_default();
        }
        let mut old = std::mem::take(&mut self.servers);
        for (name, server) in &snapshot.servers {
            for pool in &server.pools {
                let key = (pool.clone(), name.clone());
                let same =
                    |live: &Arc<ServerLive>| live.address == server.address && live.zone == server.zone;
                let live = old
                    .remove(&key)
                    .filter(same)
                    .unwrap_or_else(|| Arc::new(ServerLive::new(name, &server.zone, server.address)));
                self.servers.insert(key, live);
            }
        }
        for gone in old.values() {
            gone.close_idle();
        }
    }
}

/// Milliseconds since the process began to ask.
pub(crate) fn now_ms() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    // From 1, because 0 means never.
    BEGIN.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// A random number, good enough to spread load: nobody gains by guessing it.
pub(crate) fn random() -> u64 {
    use std::{cell::Cell, hash::BuildHasher};
    thread_local!(static STATE: Cell<u64> = Cell::new(std::hash::RandomState::new().hash_one(0)));
    STATE.with(|state| {
        state.set(state.get().wrapping_add(1));
        hash::mix(state.get())
    })
}
