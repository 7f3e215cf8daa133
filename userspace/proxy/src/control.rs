//! The controller: one task that owns everything that changes. Configuration, health, the clock and signals come in;
//! tables, sockets, checks and the status follow.

mod leave;
mod probe_ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, interval, sleep_until},
};
use weir_core::health::HealthView;
use weir_model::{Name, Problem, Problems, Snapshot, status::ProxyStatus};
use weir_runtime::{
    metrics::Registry,
    shutdown::Shutdown,
    source::Source,
    status::{Feed, Health, Publisher},
    steer::{self, Registered},
};

use crate::{
    access_log::AccessLog,
    checks::{Checks, HealthEvent},
    connection::{AtomicPhase, Phase, Proxy},
    dial,
    healthz::Healthz,
    hold::Holder,
    ledger::Ledger,
    limits::{HEALTH_QUEUE_MAX, OVERLAP_MAX, READY_WAIT},
    listen::Listeners,
    listener::Crowd,
    live::Live,
    options::Options,
    passive::Intervals,
    report,
    self_check::{Knocks, SelfChecks, ServiceEvent},
    tables::Tables,
    tls,
    weights::Weights,
    worker::Workers,
};

pub(crate) use leave::Outside;

/// The status is looked over, idle connections are swept, and certificate files looked at this often.
const TICK: Duration = Duration::from_secs(1);
/// Between two publications of the status, so that a storm of changes is told in a few sentences.
const PUBLISH_GAP: Duration = Duration::from_millis(20);

pub(crate) struct Control {
    options: Options,
    holder: Arc<Holder>,
    /// Until it was said that we serve: when it is said whatever is missing.
    ready_by: Option<Instant>,
    source: Source,
    proxy: Arc<Proxy>,
    snapshot: Arc<Snapshot>,
    tls: tls::Loaded,
    keyring: tls::Keyring,
    certificates: Arc<ArcSwap<tls::Report>>,
    tls_seen: tls::Fingerprint,
    live: Live,
    health: HealthView,
    weights: Weights,
    intervals: Intervals,
    /// Why a server has the health it has.
    reasons: BTreeMap<(Name, Name), String>,
    checks: Checks,
    events: mpsc::Receiver<HealthEvent>,
    listeners: Listeners,
    self_checks: SelfChecks,
    /// When they begin, while there may be another process that answers in our place.
    self_checks_from: Option<Instant>,
    service_events: mpsc::Receiver<ServiceEvent>,
    /// Closed when the last connection is.
    connections: mpsc::Receiver<Infallible>,
    steering: Option<steer::Client>,
    registered: Registered,
    /// Registrations that have been in force since they were wanted.
    steered: BTreeSet<steer::Registration>,
    healthz: Healthz,
    probe_ports: BTreeMap<SocketAddr, JoinHandle<()>>,
    publisher: Publisher<ProxyStatus>,
    /// The same for the metrics.
    latest: Arc<ArcSwap<ProxyStatus>>,
    publish_due: Option<Instant>,
}

impl Control {
    /// Everything, with the first configuration in force; or every reason why not.
    pub(crate) fn start(
        options: Options,
        holder: Arc<Holder>,
        source: Source,
        first: &Arc<Snapshot>,
        log: AccessLog,
        workers: &Workers,
        registry: &Registry,
    ) -> Result<(Self, Feed), Problems> {
        let knocks = Arc::new(Knocks::default());
        let proxy = Arc::new(Proxy {
            tables: Arc::default(),
            ledger: Ledger::default(),
            log,
            crowd: Arc::new(Crowd::new(options.max_connections)),
            phase: AtomicPhase::default(),
            knocks: Arc::clone(&knocks),
        });
        let (alive, connections) = mpsc::channel(1);
        let (health_events, events) = mpsc::channel(HEALTH_QUEUE_MAX);
        let (found, service_events) = mpsc::channel(HEALTH_QUEUE_MAX);
        let steering = match (&options.node, &options.run_dir) {
            (Some(_), Some(run_dir)) => Some(steer::Client::start(&run_dir.join(steer::SOCKET))),
            _ => None,
        };
        let (publisher, feed) = weir_runtime::status::publisher(&ProxyStatus::default());
        let latest: Arc<ArcSwap<ProxyStatus>> = Arc::default();
        let certificates: Arc<ArcSwap<tls::Report>> = Arc::default();
        let node = options.node.clone();
        let workers = workers.handles().to_vec();
        let mut control = Self {
            listeners: Listeners::new(
                Arc::clone(&proxy),
                registry.clone(),
                Arc::clone(&holder),
                workers,
                alive,
                node,
            ),
            options,
            ready_by: Some(Instant::now() + READY_WAIT),
            self_checks_from: holder.is_successor().then(|| Instant::now() + READY_WAIT + OVERLAP_MAX),
            holder,
            source,
            proxy,
            snapshot: Arc::default(),
            tls: tls::Loaded::default(),
            keyring: tls::Keyring::default(),
            certificates: Arc::clone(&certificates),
            tls_seen: tls::Fingerprint::new(),
            live: Live::default(),
            health: HealthView::default(),
            weights: Weights::default(),
            intervals: Intervals::default(),
            reasons: BTreeMap::new(),
            checks: Checks::new(health_events),
            events,
            self_checks: SelfChecks::new(knocks, found),
            service_events,
            connections,
            steering,
            registered: Registered::new(),
            steered: BTreeSet::new(),
            healthz: Healthz::default(),
            probe_ports: BTreeMap::new(),
            publisher,
            latest: Arc::clone(&latest),
            publish_due: None,
        };
        let counted = Arc::clone(&control.proxy);
        registry.collect(move |text| counted.ledger.write(text));
        registry.collect(move |text| report::metrics(text, &latest.load()));
        registry.collect(move |text| certificates.load().render(text));
        control.apply(first).map_err(Problems)?;
        control.source.accept(first);
        control.publish();
        Ok((control, feed))
    }

    /// What `/healthz` answers, for the status socket.
    pub(crate) fn healthz(&self) -> Healthz {
        self.healthz.clone()
    }

    /// Runs until the shutdown is complete.
    pub(crate) async fn run(mut self, shutdown: Shutdown, mut outside: Outside) {
        let mut config = self.source.status();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut steered = self.steering.as_ref().map(steer::Client::registered);
        let mut stop_at: Option<Instant> = None;
        loop {
            self.tell_ready(&mut outside);
            let (publish_at, ready_by, self_checks_from) =
                (self.publish_due, self.ready_by, self.self_checks_from);
            let expiry = self.next_expiry();
            let next_weight = self.weights.next_step(&self.snapshot, std::time::Instant::now());
            let next_weight = next_weight.map(Instant::from_std);
            let sweep_at = self.listeners.next_sweep().map(Instant::from_std);
            tokio::select! {
                snapshot = self.source.candidate() => match self.apply(&snapshot) {
                    Ok(()) => self.source.accept(&snapshot),
                    Err(problems) => self.source.refuse(Problems(problems)),
                },
                // A refusal, or its end, is news without being a candidate.
                Ok(()) = config.changed() => {}
                Some(event) = self.events.recv() => self.note_health(event),
                Some(event) = self.service_events.recv() => self.self_checks.note(event),
                registered = changed(&mut steered) => {
                    let before = std::mem::replace(&mut self.registered, registered);
                    self.check_ready();
                    self.look_at_steering(&before);
                }
                () = at(expiry) => {
                    tracing::info!("a failover has ended");
                    self.rebuild();
                }
                () = at(next_weight) => self.rebuild(),
                () = at(publish_at) => {
                    self.publish();
                    continue;
                }
                () = at(sweep_at) => self.listeners.sweep(std::time::Instant::now()),
                () = at(ready_by) => {}
                () = at(self_checks_from) => {
                    self.self_checks_from = None;
                    self.look_at_steering(&self.registered.clone());
                }
                Some(()) = outside.hand_over.recv() => {
                    if self.holder.holds() {
                        return self.hand_over(shutdown, outside).await;
                    }
                    tracing::warn!("no hand-over: nobody holds the sockets");
                }
                _ = tick.tick() => self.tick(),
                () = shutdown.wait(), if stop_at.is_none() => {
                    tracing::info!("draining for {:?}", self.options.drain_wait);
                    self.proxy.phase.set(Phase::Draining);
                    self.healthz.state.store(Healthz::DRAINING, Relaxed);
                    stop_at = Some(Instant::now() + self.options.drain_wait);
                }
                () = at(stop_at) => break,
            }
            // Whatever came in: followers hear of it soon, and only if it made a difference.
            self.publish_due.get_or_insert_with(|| Instant::now() + PUBLISH_GAP);
        }
        self.stop().await;
        drop(outside);
    }

    /// Says that we serve, once that is so.
    fn tell_ready(&mut self, outside: &mut Outside) {
        let Some(by) = self.ready_by else { return };
        if self.healthz.now() != Health::Starting || by <= Instant::now() {
            self.ready_by = None;
            outside.take_place();
            self.open_probe_ports();
            self.holder.close_rest();
            self.holder.ready(&format!("serving at {} places", self.listeners.places()));
        }
    }

    /// Puts a snapshot in force, or says everything that speaks against it and changes nothing.
    fn apply(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), Vec<Problem>> {
        let mut problems = self.check_place(snapshot);
        problems.extend(dial::problems(snapshot));
        // Seen before loading: a change in between is noticed at the next tick.
        let tls_seen = tls::fingerprint(self.source.dir(), snapshot);
        let tls = self.keyring.load(self.source.dir(), snapshot).map_err(|more| problems.extend(more));
        let sockets = self.listeners.prepare(snapshot).map_err(|more| problems.extend(more));
        let (Ok(tls), Ok(sockets), true) = (tls, sockets, problems.is_empty()) else { return Err(problems) };

        self.forget_moved_servers(snapshot);
        self.weights.follow(snapshot, &self.snapshot, std::time::Instant::now());
        self.live.update(snapshot);
        self.health.retain(snapshot);
        self.checks.update(snapshot, &self.live, self.source.dir());
        let checks = &self.checks;
        self.reasons.retain(|key, _| checks.has(key));
        self.snapshot = Arc::clone(snapshot);
        (self.tls, self.tls_seen) = (tls, tls_seen);
        self.certificates.store(Arc::new(self.keyring.report()));
        // New tables before new sockets: nobody asks for a listener the tables do not know.
        self.rebuild();
        self.listeners.commit(snapshot, sockets, &self.tls.listeners);
        self.proxy.ledger.retain(|listener| snapshot.listeners.contains_key(listener));
        if let Some(steering) = &self.steering {
            steering.want(self.listeners.entries());
        }
        self.open_probe_ports();
        self.check_ready();
        self.look_at_steering(&self.registered.clone());
        Ok(())
    }

    /// A proxy that was told where it stands must find the place in the configuration.
    fn check_place(&self, snapshot: &Snapshot) -> Vec<Problem> {
        let problem = |path: String, what: &str| Problem {
            file: "weir-proxy".into(),
            line: 0,
            path,
            what: what.into(),
            hint: "given on the command line".into(),
        };
        let node = self.options.node.iter().filter(|node| !snapshot.nodes.contains_key(*node));
        let zone = self.options.zone.iter().filter(|zone| !snapshot.zones.contains_key(*zone));
        node.map(|node| problem(format!("node.{node}"), "there is no such node"))
            .chain(zone.map(|zone| problem(format!("zone.{zone}"), "there is no such zone")))
            .collect()
    }

    fn zone(&self) -> Option<Name> {
        let node = self.options.node.as_ref().and_then(|node| self.snapshot.nodes.get(node));
        node.map(|node| node.zone.clone()).or_else(|| self.options.zone.clone())
    }

    /// What is known of a server at its old address says nothing of the new one.
    fn forget_moved_servers(&mut self, snapshot: &Snapshot) {
        for ((pool, name), live) in &self.live.servers {
            if snapshot.servers.get(name).is_some_and(|server| server.address != live.address) {
                self.health.set(pool, name, weir_model::status::Health::Unknown);
            }
        }
        for (name, pool) in &snapshot.pools {
            // A pool that is no longer checked takes its servers to be up.
            if pool.check.is_none() {
                for (server, _) in snapshot.servers_of(name) {
                    self.health.set(name, server, weir_model::status::Health::Unknown);
                }
            }
        }
    }

    fn rebuild(&mut self) {
        let (ledger, zone) = (&self.proxy.ledger, self.zone());
        let now = SystemTime::now();
        self.weights.tell(&mut self.health, &self.snapshot, std::time::Instant::now());
        let tables =
            Tables::build(&self.snapshot, &self.health, &self.live, (ledger, &self.tls.towards), zone, now);
        self.proxy.tables.store(Arc::new(tables));
        // Those that wait may find a server now.
        for pool in self.live.pools.values() {
            pool.released.notify_waiters();
        }
    }

    fn note_health(&mut self, event: HealthEvent) {
        let mut next = Some(event);
        // All that have come, then one rebuild: when a zone dies, many servers change at once.
        while let Some(event) = next {
            if self.checks.is_current(&event) {
                let HealthEvent { pool, server, health, weight_percent, reason, .. } = event;
                tracing::info!(%pool, %server, "{health:?}: {reason}");
                let key = (pool.clone(), server.clone());
                let before = self.health.get(&pool, &server);
                self.weights.note(key.clone(), before, health, weight_percent, std::time::Instant::now());
                self.health.set(&pool, &server, health);
                if health == weir_model::status::Health::Down
                    && let Some(live) = self.live.servers.get(&key)
                {
                    live.close_idle();
                }
                self.reasons.insert((pool, server), reason);
            }
            next = self.events.try_recv().ok();
        }
        self.rebuild();
    }

    fn next_expiry(&self) -> Option<Instant> {
        let now = SystemTime::now();
        let left = |at: SystemTime| at.duration_since(now).ok();
        let next = self.snapshot.failovers.values().filter_map(|failover| left(failover.expires.0)).min()?;
        // A millisecond later it has surely ended, whatever the clocks' resolutions.
        Instant::now().checked_add(next + Duration::from_millis(1))
    }

    fn tick(&mut self) {
        self.holder.live();
        self.intervals.look(&self.proxy.tables.load(), std::time::Instant::now());
        for ((pool, _), server) in &self.live.servers {
            if let Some(pool) = self.snapshot.pools.get(pool) {
                server.sweep(pool.idle_timeout);
            }
        }
        let seen = tls::fingerprint(self.source.dir(), &self.snapshot);
        if seen != self.tls_seen || self.keyring.is_due(SystemTime::now()) {
            self.tls_seen = seen;
            match self.keyring.load(self.source.dir(), &self.snapshot) {
                Ok(tls) => {
                    tracing::info!("certificates renewed");
                    self.tls = tls;
                    self.rebuild();
                    self.listeners.renew_tls(&self.snapshot, &self.tls.listeners);
                    self.certificates.store(Arc::new(self.keyring.report()));
                }
                Err(problems) => {
                    for problem in problems {
                        tracing::error!("certificates on disk changed, the old ones stay: {problem}");
                    }
                }
            }
        }
    }

    /// With all VIP sockets of a group steered once, the balancers of the group may send traffic. A later loss of
    /// `weir-l4` changes nothing: the kernel keeps the sockets.
    fn check_ready(&mut self) {
        let wanted: BTreeSet<_> =
            self.listeners.entries().into_iter().map(|entry| entry.registration).collect();
        self.steered.retain(|registration| wanted.contains(registration));
        let fresh = self.registered.iter().filter(|(_, result)| result.is_ok()).map(|(known, _)| known);
        self.steered.extend(fresh.filter(|known| wanted.contains(*known)).cloned());
        let missing: BTreeSet<&Name> = wanted
            .difference(&self.steered)
            .filter_map(|registration| self.snapshot.vip_at(registration.address))
            .flat_map(|(_, vip)| vip.groups())
            .collect();
        let node = self.options.node.as_ref();
        let has = |group: &weir_model::Group| node.is_some_and(|node| group.nodes.contains(node));
        let ready = self.snapshot.groups.iter().filter(|(name, group)| has(group) && !missing.contains(name));
        self.healthz.groups.store(Arc::new(ready.map(|(name, _)| name.clone()).collect()));
        if self.healthz.now() == Health::Starting && missing.is_empty() {
            self.healthz.state.store(Healthz::OK, Relaxed);
        }
    }

    /// Listeners that are steered answer at their VIPs, as far as anybody knows: it is checked from then on, and at once whenever
    /// the steering has changed.
    fn look_at_steering(&mut self, before: &Registered) {
        if self.self_checks_from.is_some() {
            return;
        }
        let node = self.options.node.as_ref().and_then(|node| self.snapshot.nodes.get(node));
        let steered =
            self.listeners.of_vips().filter(|(_, registration, _)| self.steered.contains(registration));
        self.self_checks.update(node, steered.map(|(at, _, state)| (at, state)));
        let is_news = |(at, registration, _)| {
            (before.get(&registration) != self.registered.get(&registration)).then_some(at)
        };
        self.self_checks.look_now(&self.listeners.of_vips().filter_map(is_news).collect());
    }

    fn publish(&mut self) {
        self.publish_due = None;
        let tables = self.proxy.tables.load();
        let config = self.source.status().borrow().clone();
        let place = report::Place {
            node: self.options.node.as_ref(),
            zone: tables.zone.as_ref(),
            draining: self.proxy.phase.get() != Phase::Running,
        };
        let doors = report::Doors {
            listeners: &self.listeners,
            registered: &self.registered,
            self_checks: &self.self_checks,
        };
        let status = report::status(place, config, &tables, doors, &self.health, &self.reasons);
        self.publisher.publish(&status);
        self.latest.store(Arc::new(status));
    }
}

/// Waits until then; for ever without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The next state of the registrations; for ever the same without steering.
async fn changed(steered: &mut Option<watch::Receiver<Registered>>) -> Registered {
    if let Some(steered) = steered
        && steered.changed().await.is_ok()
    {
        return steered.borrow_and_update().clone();
    }
    std::future::pending().await
}
