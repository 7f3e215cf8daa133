//! What outlives a configuration change: counters, kept connections and round-robin turns of pools and servers.
//!
//! The tables are rebuilt whole on every change and point into here. Limits are the process's, and so is what they count;
//! connections are kept by each thread for itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use weir_core::{
    balance::{Balancer, Method},
    hash,
};
use weir_model::{Name, Snapshot};

use crate::{
    h1::Kept,
    multiplexed::{Shared, Stream},
    passive::{PoolPassive, ServerPassive},
    tables::PoolTable,
    worker::PerThread,
};

/// One server in one pool.
#[derive(Debug)]
pub(crate) struct ServerLive {
    pub(crate) name: Name,
    pub(crate) zone: Name,
    pub(crate) address: SocketAddr,
    pub(crate) pool: Arc<PoolLive>,
    /// Requests in flight; each has a connection of its own.
    active: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Avoided until then, in milliseconds of [`now_ms`].
    suspect_until_ms: AtomicU64,
    /// What became of requests to it.
    pub(crate) passive: ServerPassive,
    /// Tells the check of this server that a live request failed.
    pub(crate) failed: Notify,
    threads: PerThread<OnThread>,
}

/// What one thread has of a server. The lock is for those who sweep; nobody waits for it otherwise.
#[derive(Debug, Default)]
struct OnThread {
    requests: AtomicU64,
    idle: Mutex<Idle>,
    /// Held while a connection of HTTP/2 is made, which others will share.
    dialling: tokio::sync::Mutex<()>,
}

/// Connections nobody uses; the one used last, which is the least likely to have been closed, is the last.
#[derive(Debug, Default)]
struct Idle {
    kept: Vec<Kept>,
    /// Connections of HTTP/2, in use or not.
    shared: Vec<Shared>,
}

/// One pool.
#[derive(Debug, Default)]
pub(crate) struct PoolLive {
    /// Requests in flight at its servers, as each thread saw them come and go.
    active: PerThread<AtomicU64>,
    /// Requests that wait for a slot.
    pub(crate) waiting: AtomicU64,
    /// Requests that were asked of a second server, too, and those that it answered first.
    pub(crate) hedges: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    /// What became of requests to it.
    pub(crate) passive: PoolPassive,
    /// The queue: who waits first holds this, and alone looks for a slot. tokio's mutex goes to those who want it in turn.
    pub(crate) first: tokio::sync::Mutex<()>,
    /// A slot became free.
    pub(crate) released: Notify,
    balancers: Mutex<BTreeMap<Name, (Method, Arc<Balancer>)>>,
}

/// The right to one connection to a server; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) server: Arc<ServerLive>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.server.active.fetch_sub(1, SeqCst);
        self.server.pool.active.mine().fetch_sub(1, Relaxed);
        // Whoever begins to wait says so before looking once more.
        if self.server.pool.waiting.load(SeqCst) > 0 {
            self.server.pool.released.notify_waiters();
        }
    }
}

impl Slot {
    /// Takes a slot while fewer than `max` are taken.
    pub(crate) fn take(server: &Arc<ServerLive>, max: u32) -> Option<Self> {
        let more = |active| (active < u64::from(max)).then_some(active + 1);
        server.active.fetch_update(SeqCst, Relaxed, more).ok()?;
        server.pool.active.mine().fetch_add(1, Relaxed);
        Some(Self { server: Arc::clone(server) })
    }
}

impl ServerLive {
    fn new(name: &Name, zone: &Name, address: SocketAddr, pool: &Arc<PoolLive>) -> Self {
        Self {
            name: name.clone(),
            zone: zone.clone(),
            address,
            pool: Arc::clone(pool),
            active: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            suspect_until_ms: AtomicU64::new(0),
            passive: ServerPassive::default(),
            failed: Notify::new(),
            threads: PerThread::default(),
        }
    }

    pub(crate) fn active(&self) -> u64 {
        self.active.load(SeqCst)
    }

    /// One more request is sent to it.
    pub(crate) fn count_request(&self) {
        self.threads.mine().requests.fetch_add(1, Relaxed);
    }

    /// Requests sent to it so far.
    pub(crate) fn requests(&self) -> u64 {
        self.threads.iter().map(|thread| thread.requests.load(Relaxed)).sum()
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

    /// A connection this thread has kept.
    pub(crate) fn take_kept(&self, pool: &PoolTable, now: Instant) -> Option<Kept> {
        let mut idle = self.threads.mine().lock();
        let limit = pool.spec.idle_timeout;
        std::iter::from_fn(|| idle.kept.pop())
            .find_map(|mut kept| (kept.is_of(pool) && kept.is_usable(limit, now)).then_some(kept))
    }

    /// Keeps a connection whose exchange is complete.
    pub(crate) fn keep(&self, kept: Kept) {
        self.threads.mine().lock().kept.push(kept);
    }

    /// A stream on a connection of HTTP/2 that this thread has.
    pub(crate) fn take_stream(&self, pool: &PoolTable) -> Option<Stream> {
        let mut idle = self.threads.mine().lock();
        idle.shared.retain(|shared| shared.is_of(pool));
        idle.shared.iter().find_map(Shared::stream)
    }

    /// Others may have streams on it, too.
    pub(crate) fn share(&self, shared: Shared) {
        self.threads.mine().lock().shared.push(shared);
    }

    /// Held by whoever makes a connection of HTTP/2 on this thread.
    pub(crate) fn dialling(&self) -> &tokio::sync::Mutex<()> {
        &self.threads.mine().dialling
    }

    /// Closes connections of any thread that were not used for `idle_timeout`, or that the server closed.
    pub(crate) fn sweep(&self, idle_timeout: Duration) {
        let now = Instant::now();
        for thread in self.threads.iter() {
            let mut idle = thread.lock();
            idle.kept.retain_mut(|kept| kept.is_usable(idle_timeout, now));
            idle.shared.retain(|shared| shared.is_usable(idle_timeout));
        }
    }

    /// Closes every kept connection.
    pub(crate) fn close_idle(&self) {
        for thread in self.threads.iter() {
            let closed = std::mem::take(&mut *thread.lock());
            drop(closed);
        }
    }
}

impl OnThread {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolLive {
    /// Requests in flight at its servers.
    pub(crate) fn active(&self) -> u64 {
        // One may end on another thread than it began on: only the sum means something.
        self.active.iter().fold(0, |sum, part| sum.wrapping_add(part.load(Relaxed)))
    }

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
                let Some(pool_live) = self.pools.get(pool) else { continue };
                let key = (pool.clone(), name.clone());
                let same =
                    |live: &Arc<ServerLive>| live.address == server.address && live.zone == server.zone;
                let new = || Arc::new(ServerLive::new(name, &server.zone, server.address, pool_live));
                let live = old.remove(&key).filter(same).unwrap_or_else(new);
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
