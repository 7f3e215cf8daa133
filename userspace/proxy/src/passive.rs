//! What becomes of requests, and what follows for their servers and their pool: ejection, the pool's breaker, the budget of retries.
//!
//! When a circuit opens is `weir_core`'s; here are the counters it looks at and the words an operator reads.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use weir_core::{
    health::{
        circuit::{Bad, Circuit, Limits, State},
        eject::{self, Sample},
    },
    retry_budget::RetryBudget,
};
use weir_model::{Ejection, Name};

use crate::{
    errors::Refusal,
    live::{ServerLive, now_ms},
    tables::{PoolTable, Tables},
};

/// Of a server.
#[derive(Debug, Default)]
pub(crate) struct ServerPassive {
    circuit: Circuit,
    /// Requests that went wrong.
    bad: AtomicU64,
    ejections: AtomicU64,
    why: Mutex<String>,
}

impl ServerPassive {
    /// Whether a request may be sent to it, as far as it is about those before.
    pub(crate) fn admits(&self) -> bool {
        self.circuit.is_closed() || self.circuit.admits(now_ms())
    }

    /// How often it was ejected.
    pub(crate) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Why it gets no requests, or only trials; `None` when it is as any other.
    pub(crate) fn ejected(&self) -> Option<String> {
        let why = || self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.circuit.state(now_ms()) {
            State::Closed => None,
            State::Open(left) => Some(format!("ejected for another {} ms: {}", left.as_millis(), why())),
            State::Trial => Some(format!("tried out after its ejection: {}", why())),
        }
    }

    fn set_why(&self, why: &str) {
        why.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Of a pool.
#[derive(Debug, Default)]
pub(crate) struct PoolPassive {
    breaker: Circuit,
    budget: RetryBudget,
    /// Requests that were not retried since the budget was spent.
    pub(crate) retries_refused: AtomicU64,
    /// Requests refused by the breaker.
    pub(crate) refused: AtomicU64,
    /// Held while it is decided whether one more may be ejected.
    ejecting: Mutex<()>,
}

impl PoolPassive {
    /// Whether the breaker is open.
    pub(crate) fn is_open(&self) -> bool {
        !self.breaker.is_closed()
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolTable {
    /// Forgets what a pool that ejects nobody, or has no breaker, once knew.
    pub(crate) fn forget_circuits(&self) {
        if self.spec.eject.is_none() {
            self.servers.values().for_each(|server| server.passive.circuit.reset());
        }
        if self.spec.breaker.is_none() {
            self.live.passive.breaker.reset();
        }
    }

    /// A request comes, which may have to be refused at once.
    pub(crate) fn enter(&self) -> Result<(), Refusal> {
        let passive = &self.live.passive;
        if self.spec.retry_budget.is_some() {
            passive.budget.note_request(now_ms());
        }
        let Some(spec) = self.spec.breaker.as_ref().filter(|_| passive.is_open()) else { return Ok(()) };
        let now = now_ms();
        if passive.breaker.enter(&spec.into(), now) {
            return Ok(());
        }
        passive.refused.fetch_add(1, Relaxed);
        Err(Refusal::CIRCUIT_OPEN)
    }

    /// Whether a request may be sent once more.
    pub(crate) fn may_retry(&self) -> bool {
        let Some(spec) = &self.spec.retry_budget else { return true };
        let may = self.live.passive.budget.take(spec, now_ms());
        if !may {
            self.live.passive.retries_refused.fetch_add(1, Relaxed);
        }
        may
    }

    /// A server that is tried out has got the request that does it.
    pub(crate) fn note_sent(&self, server: &ServerLive) {
        if let Some(spec) = &self.spec.eject
            && !server.passive.circuit.is_closed()
        {
            // Two threads may have chosen it at once; a second trial does no harm.
            let _first = server.passive.circuit.enter(&spec.into(), now_ms());
        }
    }

    /// A request has been answered, or has not.
    pub(crate) fn note_answer(&self, server: &ServerLive, is_good: bool) {
        if let Some(spec) = &self.spec.eject {
            self.judge(server, spec, is_good);
        }
        let Some(spec) = &self.spec.breaker else { return };
        let (breaker, limits, now) = (&self.live.passive.breaker, Limits::from(spec), now_ms());
        if is_good {
            if breaker.good(&limits, now) {
                tracing::info!("a circuit breaker has closed after {}", server.name);
            }
            return;
        }
        let opened = match breaker.bad(&limits, now) {
            Bad::Nothing => return,
            Bad::Enough(_) => breaker.open(&limits, now),
            Bad::Reopened(time) => time,
        };
        tracing::warn!(
            "a circuit breaker is open for {opened:?}: requests fail, the last at {}",
            server.name
        );
    }

    fn judge(&self, server: &ServerLive, spec: &Ejection, is_good: bool) {
        let (passive, limits, now) = (&server.passive, Limits::from(spec), now_ms());
        if is_good {
            if passive.circuit.good(&limits, now) {
                tracing::info!("{} is back after its ejection", server.name);
            }
            return;
        }
        passive.bad.fetch_add(1, Relaxed);
        match passive.circuit.bad(&limits, now) {
            Bad::Nothing => {}
            Bad::Enough(bad) => self.eject(server, spec, &format!("{bad} bad answers in a row")),
            Bad::Reopened(time) => {
                passive.ejections.fetch_add(1, Relaxed);
                passive.set_why("the trial failed");
                tracing::warn!("{} is ejected for another {time:?}: the trial failed", server.name);
            }
        }
    }

    /// Takes a server out, if the pool can spare it.
    fn eject(&self, server: &ServerLive, spec: &Ejection, why: &str) {
        let _one_at_a_time = self.live.passive.lock();
        let (usable, out) = self.usable_and_out();
        if !server.passive.circuit.is_closed() || !eject::may_eject(spec, usable, out) {
            return;
        }
        let time = server.passive.circuit.open(&spec.into(), now_ms());
        server.passive.ejections.fetch_add(1, Relaxed);
        server.passive.set_why(why);
        tracing::warn!("{} is ejected for {time:?}: {why}", server.name);
    }

    /// The servers that may serve as far as checks and operators are concerned, and those of them that are out.
    fn usable_and_out(&self) -> (usize, usize) {
        let candidates = self.assessment.zones().iter().flat_map(|zone| zone.candidates.servers());
        let live = candidates.filter_map(|candidate| self.servers.get(&candidate.name));
        live.fold((0, 0), |(usable, out), server| {
            (usable + 1, out + usize::from(!server.passive.circuit.is_closed()))
        })
    }
}

/// Judges servers by the share of their answers that were good, interval by interval.
#[derive(Debug, Default)]
pub(crate) struct Intervals(BTreeMap<Name, Interval>);

#[derive(Debug)]
struct Interval {
    ends: Instant,
    /// What was counted when it began: requests, bad ones, ejections.
    counted: BTreeMap<Name, [u64; 3]>,
}

impl Intervals {
    /// Ends those whose time is over.
    pub(crate) fn look(&mut self, tables: &Tables, now: Instant) {
        self.0.retain(|pool, _| tables.pools.get(pool).is_some_and(|pool| pool.spec.eject.is_some()));
        for (name, pool) in &tables.pools {
            let Some(spec) = &pool.spec.eject else { continue };
            let last = self.0.get(name);
            if last.is_none_or(|interval| interval.ends <= now) {
                let counted = pool.servers.values().map(|server| (server.name.clone(), counted(server)));
                let next = Interval {
                    ends: now + spec.interval.max(Duration::from_secs(1)),
                    counted: counted.collect(),
                };
                if let Some(last) = last {
                    pool.end_interval(spec, &last.counted, &next.counted);
                }
                self.0.insert(name.clone(), next);
            }
        }
    }
}

fn counted(server: &Arc<ServerLive>) -> [u64; 3] {
    let passive = &server.passive;
    [server.requests(), passive.bad.load(Relaxed), passive.ejections()]
}

impl PoolTable {
    fn end_interval(
        &self,
        spec: &Ejection,
        before: &BTreeMap<Name, [u64; 3]>,
        after: &BTreeMap<Name, [u64; 3]>,
    ) {
        let (usable, out) = self.usable_and_out();
        let samples = after.iter().filter_map(|(server, [requests, bad, _])| {
            let [requests_before, bad_before, _] = before.get(server)?;
            // A server at another address begins anew.
            let requests = requests.saturating_sub(*requests_before);
            Some(Sample { server, requests, bad: bad.saturating_sub(*bad_before).min(requests) })
        });
        let in_use = samples.filter(|sample| {
            self.servers.get(sample.server).is_some_and(|server| server.passive.circuit.is_closed())
        });
        for sample in eject::outliers(spec, in_use, usable, out) {
            if let Some(server) = self.servers.get(sample.server) {
                let why =
                    format!("{:.1}% of {} answers were good", sample.success_rate() * 100.0, sample.requests);
                self.eject(server, spec, &why);
            }
        }
        for server in self.servers.values() {
            let ejections = before.get(&server.name).map(|[.., ejections]| *ejections);
            if ejections == Some(server.passive.ejections()) {
                server.passive.circuit.calm();
            }
        }
    }
}
