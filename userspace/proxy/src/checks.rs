//! Active health checks: one task per server and pool drives `weir_core`'s machine with real probes. `self_check` drives it too.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep_until};
use weir_core::{
    hash,
    health::{HealthMachine, Outcome, Timing, Transition},
};
use weir_model::{Name, Snapshot, status::Health};
use weir_runtime::probe::{self, ProbeTarget};

use crate::live::{Live, ServerLive, random};

/// What a check has found out.
#[derive(Clone, Debug)]
pub(crate) struct HealthEvent {
    pub(crate) pool: Name,
    pub(crate) server: Name,
    /// What was probed: an event of a target that has changed since is stale.
    pub(crate) target: ProbeTarget,
    pub(crate) health: Health,
    /// The share of its weight its agent asks for, in hundredths.
    pub(crate) weight_percent: u32,
    pub(crate) reason: String,
}

/// The running checks.
pub(crate) struct Checks {
    running: BTreeMap<(Name, Name), Running>,
    events: mpsc::Sender<HealthEvent>,
}

struct Running {
    target: ProbeTarget,
    timing: Timing,
    live: Arc<ServerLive>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    pub(crate) fn new(events: mpsc::Sender<HealthEvent>) -> Self {
        Self { running: BTreeMap::new(), events }
    }

    /// Starts what `snapshot` wants, stops what it does not, leaves alone what has not changed. Files that checks name
    /// lie in `dir`.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, live: &Live, dir: &Path) {
        let mut old = std::mem::take(&mut self.running);
        for (key, live) in &live.servers {
            let Some(pool) = snapshot.pools.get(&key.0) else { continue };
            let Some(check) = &pool.check else { continue };
            let target =
                ProbeTarget::check(check, live.address, dir).announced(pool.send_proxy, live.address);
            let timing = Timing::from(check);
            let same = |r: &Running| r.target == target && r.timing == timing && Arc::ptr_eq(&r.live, live);
            let running = old.remove(key).filter(same).unwrap_or_else(|| {
                let checking = Checking {
                    pool: key.0.clone(),
                    live: Arc::clone(live),
                    target: target.clone(),
                    events: self.events.clone(),
                };
                let seed = random() ^ hash::bytes(live.name.as_str().as_bytes());
                let task = tokio::spawn(drive(checking, timing, seed));
                Running { target, timing, live: Arc::clone(live), task }
            });
            self.running.insert(key.clone(), running);
        }
    }

    /// Whether an event speaks of a check as it is now.
    pub(crate) fn is_current(&self, event: &HealthEvent) -> bool {
        let key = (event.pool.clone(), event.server.clone());
        self.running.get(&key).is_some_and(|running| running.target == event.target)
    }

    /// Whether a server is checked at all.
    pub(crate) fn has(&self, key: &(Name, Name)) -> bool {
        self.running.contains_key(key)
    }
}

struct Checking {
    pool: Name,
    live: Arc<ServerLive>,
    target: ProbeTarget,
    events: mpsc::Sender<HealthEvent>,
}

impl Subject for Checking {
    async fn look(&self, limit: Duration) -> Option<Outcome> {
        let outcome = Outcome::from(probe::run(&self.target, limit).await);
        if matches!(outcome, Outcome::Pass | Outcome::Said(_)) {
            self.live.clear_suspicion();
        }
        Some(outcome)
    }

    async fn tell(&self, change: Transition) -> bool {
        let event = HealthEvent {
            pool: self.pool.clone(),
            server: self.live.name.clone(),
            target: self.target.clone(),
            health: change.to,
            weight_percent: change.weight_percent,
            reason: change.reason,
        };
        self.events.send(event).await.is_ok()
    }

    async fn wake(&self) {
        self.live.failed.notified().await;
    }

    fn woken(&self, machine: &mut HealthMachine) {
        machine.report_failure(Instant::now());
    }
}

/// What a check looks at, and who wants to know of it.
pub(crate) trait Subject: Send + Sync {
    /// Looks once; `None` when that cannot be done.
    fn look(&self, limit: Duration) -> impl Future<Output = Option<Outcome>> + Send;
    /// Tells of a change; `false` when nobody wants to know any more.
    fn tell(&self, change: Transition) -> impl Future<Output = bool> + Send;
    /// Waits for a reason to look before it is time. Cancel safe.
    fn wake(&self) -> impl Future<Output = ()> + Send;
    /// There was one.
    fn woken(&self, machine: &mut HealthMachine);
}

/// Drives a machine with real looks at its subject, as long as somebody wants to know.
pub(crate) async fn drive(subject: impl Subject, timing: Timing, seed: u64) {
    let mut machine = HealthMachine::new(timing, seed, Instant::now());
    loop {
        let now = Instant::now();
        machine.handle_timeout(now);
        if let Some(due) = machine.poll_probe(now) {
            match subject.look(due.timeout).await {
                Some(outcome) => machine.handle_result(due.id, outcome, Instant::now()),
                None => machine.handle_unmade(due.id, Instant::now()),
            }
        }
        if let Some(change) = machine.poll_event()
            && !subject.tell(change).await
        {
            return;
        }
        let Some(next) = machine.poll_timeout() else { continue };
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = subject.wake() => subject.woken(&mut machine),
        }
    }
}
