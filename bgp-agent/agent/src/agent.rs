//! The agent: configuration and status in, sessions and routes out. One loop; each turn computes the whole from scratch.

use crate::announce::{Announcer, Verdict, View};
use crate::bfd::Bfd;
use crate::listener::{Caller, Listeners};
use crate::mrt::Recorder;
use crate::peer::{Farewell, STOP_MAX};
use crate::rehearse::Stage;
use crate::report::{Report, Shared};
use crate::sessions::{Apply, Sessions};
use crate::teller::Teller;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tracing::{info, warn};
use weir_model::status::{BgpStatus, ConfigStatus, L4Status, ProxyStatus};
use weir_model::{Name, Snapshot, Timestamp};
use weir_runtime::metrics::Registry;
use weir_runtime::shutdown::{Cause, Shutdown};
use weir_runtime::status::{Publisher, Question, Seen};

/// A full pass at least this often makes a missed wake-up harmless.
const FULL_PASS: Duration = Duration::from_secs(1);

/// How long after its start the agent may take to know its routes. Until then, or until every VIP is announced, routers with
/// graceful restart are not told that what they heard is all: they keep what they have from before. RFC 4724 §4.1 calls it
/// Selection_Deferral_Timer.
const DEFERRAL: Duration = Duration::from_secs(10);

/// Callers from ranges that wait for a turn; more are refused, and the router tries again.
const CALLERS_MAX: usize = 64;

/// VIPs of which one turn writes a line each: beyond that nobody reads them, and fifty thousand lines take longer than the UPDATEs.
const LINES_MAX: usize = 100;

/// What the agent reads.
pub(crate) struct Inputs {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) config: watch::Receiver<ConfigStatus>,
    pub(crate) l4: watch::Receiver<Seen<L4Status>>,
    pub(crate) proxy: watch::Receiver<Seen<ProxyStatus>>,
    /// Configurations somebody wants to know the effect of.
    pub(crate) candidates: mpsc::Receiver<(Snapshot, Question)>,
    pub(crate) shutdown: Shutdown,
}

/// The state between two turns.
pub(crate) struct Agent {
    node: Name,
    started: Instant,
    /// The routes are known: see [`DEFERRAL`].
    settled: bool,
    announcer: Announcer,
    sessions: Sessions,
    bfd: Bfd,
    listeners: Listeners,
    teller: Teller,
    callers: mpsc::Receiver<Caller>,
    changed: Arc<Notify>,
    report: Report,
    /// Addresses without a next hop that were already complained about.
    complained: Vec<(Name, IpAddr)>,
}

impl Agent {
    pub(crate) fn new(
        node: Name,
        registry: &Registry,
        publisher: Publisher<BgpStatus>,
        shared: Shared,
        recorder: Option<Recorder>,
    ) -> Self {
        let refused = registry.counter(
            "weir_bgp_connections_refused_total",
            "Connections to the BGP port that belong to no peer, or came too fast.",
            &[],
        );
        let unbelieved = registry.counter(
            "weir_bgp_neighbour_messages_refused_total",
            "Messages in the name of another node that were not believed, or came too fast.",
            &[],
        );
        let changed = Arc::new(Notify::new());
        let (door, callers) = mpsc::channel(CALLERS_MAX);
        Self {
            report: Report::new(node.clone(), publisher, shared),
            teller: Teller::new(node.clone(), unbelieved),
            sessions: Sessions::new(node.clone(), Arc::clone(&changed), recorder, door, refused.clone()),
            node,
            started: Instant::now(),
            settled: false,
            announcer: Announcer::default(),
            bfd: Bfd::start(registry),
            listeners: Listeners::new(refused),
            callers,
            changed,
            complained: Vec::new(),
        }
    }

    /// Run until the shutdown; then take leave as long as the VIPs' `graceful_shutdown` says, say farewell to every peer and close
    /// within [`STOP_MAX`].
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        loop {
            let snapshot = Arc::clone(&inputs.snapshots.borrow_and_update());
            let config = inputs.config.borrow_and_update().clone();
            let l4 = inputs.l4.borrow_and_update().clone();
            let proxy = inputs.proxy.borrow_and_update().clone();
            let now = Instant::now();
            let turned = self.announce(&snapshot, &l4, &proxy, now);
            self.apply(&snapshot, now);
            // The routers and the other nodes first: who reads the log and the status has time.
            yield_now().await;
            let tell = self.teller.tell(&snapshot, self.announcer.stances(), now);
            self.log(&turned);
            self.publish(&snapshot, config, now);

            let deferral = (!self.settled).then_some(self.started + DEFERRAL);
            let due = self.announcer.poll_timeout().into_iter().chain(deferral);
            // With so many VIPs that a turn takes long, what nobody asked for leaves as long to everything else: the daemons' sockets
            // are read between turns.
            let end = Instant::now();
            let routine = (end + FULL_PASS).min(tell).max(end + (end - now));
            let next = due.chain([routine]).min();
            tokio::select! {
                () = inputs.shutdown.wait() => break,
                _ = inputs.snapshots.changed() => {}
                _ = inputs.config.changed() => {}
                _ = inputs.l4.changed() => {}
                _ = inputs.proxy.changed() => {}
                () = self.changed.notified() => {}
                said = self.teller.next(&snapshot) => {
                    self.announcer.hear(&snapshot, &said.node, said.vips, Instant::now());
                }
                Some(caller) = self.callers.recv() => {
                    let snapshot = Arc::clone(&inputs.snapshots.borrow());
                    self.sessions.call(&snapshot, caller);
                }
                Some((candidate, question)) = inputs.candidates.recv() => {
                    self.rehearse(&snapshot, (&l4, &proxy), candidate, question);
                }
                () = sleep_until(next.unwrap_or(now).into()) => {}
            }
            // What else waits is heard before the next turn, which looks at everything: a turn each would fall behind a large
            // group of which all nodes speak at once. Both queues are bounded.
            while let Some(said) = self.teller.waiting(&snapshot) {
                self.announcer.hear(&snapshot, &said.node, said.vips, Instant::now());
            }
            while let Ok(caller) = self.callers.try_recv() {
                let snapshot = Arc::clone(&inputs.snapshots.borrow());
                self.sessions.call(&snapshot, caller);
            }
        }
        let may_return = inputs.shutdown.cause() == Some(Cause::Terminate);
        let snapshot = Arc::clone(&inputs.snapshots.borrow());
        self.take_leave(&snapshot, &inputs.config.borrow().clone(), may_return).await;
        if !(may_return && self.sessions.any_keeps_routes()) {
            self.teller.farewell(&snapshot);
        }
        self.stop(may_return).await;
    }

    /// Asks the routers to find another way first, where that is wanted (RFC 8326 §4): those that would not keep the routes over a
    /// restart.
    async fn take_leave(&mut self, snapshot: &Snapshot, config: &ConfigStatus, may_return: bool) {
        let reason = "weir-bgp is stopping";
        loop {
            let now = Instant::now();
            let Some(next) = self.announcer.leave(snapshot, reason, now) else { return };
            let addresses: Vec<_> = self.announcer.addresses(snapshot).collect();
            if !self.sessions.take_leave(snapshot, &addresses, may_return) {
                // Nobody to ask.
                return;
            }
            self.publish(snapshot, config.clone(), now);
            let tell = self.teller.tell(snapshot, self.announcer.stances(), now);
            tokio::select! {
                () = self.changed.notified() => {}
                said = self.teller.next(snapshot) => {
                    self.announcer.hear(snapshot, &said.node, said.vips, Instant::now());
                }
                () = sleep_until(next.min(tell).into()) => {}
            }
        }
    }

    fn announce(
        &mut self,
        snapshot: &Snapshot,
        l4: &Seen<L4Status>,
        proxy: &Seen<ProxyStatus>,
        now: Instant,
    ) -> Vec<Name> {
        let view = View {
            snapshot,
            node: &self.node,
            l4: l4.value.as_deref().filter(|_| l4.live),
            proxy: proxy.value.as_deref().filter(|_| proxy.live),
        };
        self.announcer.handle(view, now)
    }

    /// What has turned or should have, VIP by VIP; of a great change the first [`LINES_MAX`], and how many there were.
    fn log(&self, turned: &[Name]) {
        for vip in turned.iter().take(LINES_MAX) {
            match self.announcer.verdicts().get(vip) {
                Some(verdict) if verdict.kept.is_some() => {
                    warn!(%vip, reason = %verdict.reason, "stays announced, although it should be withdrawn");
                }
                Some(verdict) if verdict.announced => info!(%vip, reason = %verdict.reason, "announced"),
                Some(verdict) => warn!(%vip, reason = %verdict.reason, "withdrawn"),
                None => info!(%vip, "withdrawn: no longer a vip of this node"),
            }
        }
        let more = turned.len().saturating_sub(LINES_MAX);
        if more > 0 {
            warn!(more, "further vips turned at once: the status names them all");
        }
    }

    /// Sessions, routes and listeners as the snapshot wants them.
    fn apply(&mut self, snapshot: &Snapshot, now: Instant) {
        self.settled |= now >= self.started + DEFERRAL
            || self.announcer.verdicts().values().all(|verdict| verdict.announced);
        let addresses = self.announcer.addresses(snapshot).collect::<Vec<_>>();
        let Apply { guests, complaints, watched } = self.sessions.apply(snapshot, &addresses, self.settled);
        self.listeners.apply(guests);
        self.bfd.apply(watched);
        for (peer, address) in complaints.iter().filter(|complaint| !self.complained.contains(complaint)) {
            warn!(%peer, %address, "not announced: the node has no address of this family to name as next hop");
        }
        self.complained = complaints;
    }

    /// Answers what a candidate would lead to, in a task of its own.
    fn rehearse(
        &self,
        snapshot: &Snapshot,
        (l4, proxy): (&Seen<L4Status>, &Seen<ProxyStatus>),
        candidate: Snapshot,
        question: Question,
    ) {
        let stage = Stage {
            node: self.node.clone(),
            in_force: Some(snapshot.generation),
            refused: snapshot.refuses(&candidate, Timestamp(SystemTime::now())),
            actors: self.sessions.actors(&candidate),
            candidate: Arc::new(candidate),
            announcer: self.announcer.clone(),
            l4: l4.value.clone().filter(|_| l4.live),
            proxy: proxy.value.clone().filter(|_| proxy.live),
            settled: self.settled,
            now: Instant::now(),
        };
        tokio::spawn(async move {
            let rehearsal = serde_json::to_vec(&stage.play().await);
            question.answer(rehearsal.map_err(|error| error.to_string()));
        });
    }

    fn publish(&mut self, snapshot: &Snapshot, config: ConfigStatus, now: Instant) {
        let verdicts: Vec<(&Name, &Verdict)> = self.announcer.verdicts().iter().collect();
        let addresses: Vec<_> = self.announcer.addresses(snapshot).collect();
        let withdrawals = self.announcer.withdrawals(snapshot, &self.node);
        self.report.publish(config, self.sessions.reports(), &verdicts, &addresses, withdrawals, now);
    }

    /// Asked to stop by a service manager, that may start the next one, the agent leaves the routes where graceful restart was
    /// agreed.
    async fn stop(self, may_return: bool) {
        let farewell = if may_return {
            Farewell::Restart(format!("{} is stopping", self.node))
        } else {
            Farewell::Stop(format!("{} is stopping", self.node))
        };
        let tasks = self.sessions.stop(&farewell);
        let deadline = tokio::time::Instant::now() + STOP_MAX;
        for task in tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                warn!("a peer did not take the farewell in time");
                abort.abort();
            }
        }
        // Last, so that no router sees BFD go before BGP.
        self.bfd.stop().await;
    }
}
