//! The loop: an event only wakes it; it computes the whole image, applies the difference, and says what is in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use tokio::time::{MissedTickBehavior, interval, sleep};
use weir_abi::{Address, guard::GUARDED_ACCESS};
use weir_core::{
    explain,
    health::HealthView,
    image::{FLIP_CALM, Image, Lowered, Lowering, TableHistory, VIP_LINGER, guards, lower},
    plan::{Op, diff},
};
use weir_model::{
    Generation, Name, Problem, Problems, Snapshot, Vip,
    status::{ConfigStatus, Health, InterfaceStatus, L4Status, L4VipStatus, ProbeStatus},
};
use weir_runtime::{
    access, inspect,
    metrics::{Counter, Gauge, Registry},
    shutdown,
    source::Source,
    status::{self, Publisher, Site},
    steer,
};

use crate::{
    attach,
    capture::Tap,
    counters::{self, Counters},
    inspect::Inspector,
    kernel::{Kernel, KernelError},
    links::{self, Links},
    load,
    memory::Memory,
    moment::Moment,
    options::Options,
    probes::{self, Prober},
    routes::Routes,
    test_run::TestRunner,
};

mod steering;

/// How long the first apply waits for the first answers of the proxies.
const FIRST_PROBES_MAX: Duration = Duration::from_secs(1);
/// Counters in the status are at most this old.
const TICK: Duration = Duration::from_secs(1);
/// How often everything is read back and compared, whether or not anything happened.
const FULL_PASS: Duration = Duration::from_secs(60);
/// Operations of the last plan shown in the status.
const PLAN_SHOWN_MAX: usize = 50;

/// Runs until a signal; the datapath stays.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let stop = shutdown::on_signals().context("listen for signals")?;
    let registry = Registry::default();
    let mut source = Source::open(&options.config, &registry)?;
    let routes = Routes::open().await?;
    let mut loaded = load::load(&options.ebpf, &options.pin_dir)?;
    let kernel = Kernel::new(&mut loaded.ebpf, routes)?;
    let counters = Counters::open(&options.pin_dir).context("open the counters")?;
    counters.register(&registry);
    let probed = Arc::new(Mutex::new(Vec::new()));
    let shown = Arc::clone(&probed);
    registry.collect(move |text| probes::expose(text, &shown.lock().unwrap_or_else(PoisonError::into_inner)));
    let current = kernel.read_back().await?;
    if loaded.adopted {
        tracing::info!(vips = current.vip_addresses().len(), "adopted the pinned datapath");
    }
    let mut memory = Memory::open(options.run_dir.join("tables"))?;
    let mut links = Links::open().context("listen for changes of interfaces")?;
    let (publisher, feed) = status::publisher(&L4Status::default());
    let mtu = current.config.mtu;
    let mut daemon = Daemon {
        mtu,
        node: options.name().clone(),
        is_server: options.is_server(),
        kernel,
        dir: options.config.clone(),
        prober: Prober::new(options.name()).context("open the sockets of probes")?,
        runner: None,
        probed,
        snapshot: Arc::new(Snapshot::default()),
        history: memory.load(&current),
        memory,
        current,
        lingering: BTreeMap::new(),
        confirmed: BTreeMap::new(),
        last: None,
        counters,
        publisher,
        metrics: Metrics::new(&registry),
        interfaces: Vec::new(),
        adopted: loaded.adopted,
        last_plan: Vec::new(),
        errors: Vec::new(),
        moment: Moment::default(),
        clamps: BTreeMap::new(),
    };
    let first = source.candidate().await;
    let seen = options.view(&first).map_err(anyhow::Error::msg)?;
    daemon.probe(&seen);
    daemon.prober.first_round(FIRST_PROBES_MAX).await;
    daemon.put_in_force(&seen).await.map_err(|problem| anyhow::anyhow!(problem))?;
    source.accept(&first);
    // Attached only now: a program on empty maps would pass what the one before it forwarded.
    for interface in &options.interface {
        let mut status = attach::xdp(&mut loaded.ebpf, interface, &options.pin_dir, options.generic)?;
        status.mtu = daemon.kernel.mtu(interface).await?;
        links::warn_of_mtu(&status);
        tracing::info!(interface, mode = status.mode, mtu = status.mtu, "balancer attached");
        daemon.interfaces.push(status);
    }
    daemon.mtu = links::tunnel_mtu(&daemon.interfaces);
    daemon.recompute().await;
    daemon.look_at_clamps();
    attach::steer(&mut loaded.ebpf, &options.pin_dir)?;
    let mut steering =
        steer::Listener::bind(&options.run_dir.join(steer::SOCKET)).await.context("steering socket")?;
    let tap = Tap::new(&mut loaded.ebpf)?;
    let runner = TestRunner::new(loaded.ebpf, options.interface.first().map_or("lo", String::as_str));
    daemon.runner = Some(runner.clone());
    daemon.look_at_programs().await;
    let mut inspector = Inspector::new(runner, tap);
    let inspections = options.run_dir.join(inspect::SOCKET);
    let mut inspections = inspect::Listener::bind(&inspections).await.context("inspection socket")?;
    let mut access =
        access::Listener::bind(&options.run_dir.join(access::SOCKET)).await.context("access socket")?;
    daemon.confirm();
    let mut config = source.status();
    daemon.publish(&config.borrow_and_update().clone());
    let mut site = Site::new(feed, registry, || status::Health::Ok);
    source.permits().take_on(&mut site);
    let path = options.run_dir.join("l4.sock");
    let _server =
        status::serve_unix(&path, site.clone()).await.with_context(|| path.display().to_string())?;
    if let Some(address) = options.metrics {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("metrics on {address}"))?;
        tokio::spawn(status::serve_tcp(listener, site));
    }

    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut full_pass = interval(FULL_PASS);
    full_pass.set_missed_tick_behavior(MissedTickBehavior::Delay);
    full_pass.reset();
    loop {
        let until_wake = daemon.until_wake();
        tokio::select! {
            () = stop.wait() => break,
            candidate = source.candidate() => {
                let done = match options.view(&candidate) {
                    Ok(seen) => daemon.take(&seen).await,
                    Err(what) => Err(what),
                };
                match done {
                    Ok(()) => source.accept(&candidate),
                    Err(what) => source.refuse(Problems(vec![whole_directory(what)])),
                }
                daemon.confirm();
            }
            () = daemon.prober.changed() => {
                daemon.recompute().await;
                daemon.confirm();
            }
            request = steering.next() => daemon.steer(request),
            asked = inspections.next() => {
                let boot_s = daemon.memory.now().as_secs() as u32;
                inspector.answer(asked, &daemon.current, &explain::names(&daemon.snapshot), boot_s);
            }
            asked = access.next() => daemon.block(asked).await,
            () = sleep(until_wake) => daemon.recompute().await,
            _ = tick.tick() => {
                daemon.end_lingering().await;
                daemon.look_at_programs().await;
            }
            () = links.changed() => daemon.look_at_links().await,
            _ = full_pass.tick() => daemon.full_pass().await,
            _ = config.changed() => {}
        }
        if daemon.look_at_clamps() {
            steering.again();
        }
        daemon.publish(&config.borrow_and_update().clone());
    }
    tracing::info!("stopped; the datapath goes on forwarding");
    Ok(())
}

/// Removes everything from the kernel.
pub(crate) async fn unload(options: &Options) -> anyhow::Result<()> {
    let routes = Routes::open().await?;
    for vip in routes.read().await? {
        routes.delete(IpAddr::from(vip)).await?;
    }
    match std::fs::remove_dir_all(&options.pin_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| options.pin_dir.display().to_string())
        }
        _ => Ok(()),
    }
}

fn whole_directory(what: String) -> Problem {
    Problem {
        file: String::new(),
        line: 0,
        path: String::new(),
        what,
        hint: "the last good configuration stays".into(),
    }
}

struct Metrics {
    applies: Counter,
    failures: Counter,
    operations: Counter,
    vips: Gauge,
}

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            applies: registry.counter("weir_l4_applies_total", "Plans applied.", &[]),
            failures: registry.counter("weir_l4_apply_failures_total", "Plans that failed half-way.", &[]),
            operations: registry.counter("weir_l4_operations_total", "Operations applied.", &[]),
            vips: registry.gauge("weir_l4_vips", "VIPs the datapath has confirmed.", &[]),
        }
    }
}

struct Daemon {
    node: Name,
    /// Whether that is a server, which opens tunnels and balances nothing.
    is_server: bool,
    kernel: Kernel,
    /// Where the configuration lies.
    dir: PathBuf,
    prober: Prober,
    /// Runs frames through the programs, once they are attached.
    runner: Option<TestRunner>,
    /// What probes say, for the metrics.
    probed: Arc<Mutex<Vec<ProbeStatus>>>,
    snapshot: Arc<Snapshot>,
    current: Image,
    /// Of the tables in the kernel.
    history: BTreeMap<u32, TableHistory>,
    memory: Memory,
    /// VIPs this node had until lately, and until when they stay in the datapath.
    lingering: BTreeMap<Name, (Vip, Instant)>,
    /// VIPs in the kernel, with the generation that was confirmed.
    confirmed: BTreeMap<Name, (Generation, Vec<IpAddr>)>,
    last: Option<Lowered>,
    counters: Arc<Counters>,
    publisher: Publisher<L4Status>,
    metrics: Metrics,
    interfaces: Vec<InterfaceStatus>,
    /// What tunnels have to fit into; until the interfaces are known, what the datapath was told before.
    mtu: u32,
    /// The largest segments clients are to send, by the address they send to; told to each listener when it is registered.
    clamps: BTreeMap<IpAddr, u16>,
    adopted: bool,
    last_plan: Vec<String>,
    errors: Vec<String>,
    moment: Moment,
}

impl Daemon {
    /// Probes whom `snapshot` says.
    fn probe(&mut self, snapshot: &Snapshot) {
        if !self.is_server {
            self.prober.set_targets(snapshot, &self.node, &self.dir);
        }
    }

    /// Puts a new snapshot in force, with the probes it wants.
    async fn take(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        self.probe(snapshot);
        let done = self.put_in_force(snapshot).await;
        if done.is_err() {
            self.probe(&self.snapshot.clone());
        }
        done
    }

    /// What is known of the proxies; a server is one of its own.
    fn proxies(&self) -> BTreeMap<Name, Health> {
        if self.is_server {
            return BTreeMap::from([(self.node.clone(), Health::Up)]);
        }
        self.prober.proxies()
    }

    /// Applies a new snapshot; on refusal the old one stays in force.
    async fn put_in_force(&mut self, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let lingering = self.lingering.clone();
        self.linger(snapshot);
        let lowered = match self.lower(snapshot) {
            Ok(lowered) => lowered,
            Err(what) => {
                self.lingering = lingering;
                return Err(what);
            }
        };
        let before = std::mem::replace(&mut self.snapshot, Arc::clone(snapshot));
        let Err(error) = self.apply(lowered).await else { return Ok(()) };
        // Half of the plan may be in the kernel: go back to what was good.
        self.snapshot = before;
        self.lingering = lingering;
        self.recompute().await;
        Err(error.to_string())
    }

    /// What `snapshot` takes from this node stays until routers and peers know.
    fn linger(&mut self, snapshot: &Snapshot) {
        let until = Instant::now() + VIP_LINGER;
        for (name, vip) in self.snapshot.vips_served_by(&self.node) {
            self.lingering.insert(name.clone(), (vip.clone(), until));
        }
        let has: BTreeSet<&Name> = snapshot.vips_served_by(&self.node).map(|(name, _)| name).collect();
        self.lingering.retain(|name, _| !has.contains(name));
    }

    /// The same snapshot with what is known now.
    async fn recompute(&mut self) {
        let done = match self.lower(&self.snapshot.clone()) {
            Ok(lowered) => self.apply(lowered).await.map_err(|error| error.to_string()),
            Err(what) => Err(what),
        };
        if let Err(what) = done {
            tracing::error!("{what}");
            // What wanted to be done by now is left to the next event, at the latest to the full pass.
            if let Some(last) = &mut self.last {
                last.wake = None;
            }
        }
    }

    fn lower(&self, snapshot: &Snapshot) -> Result<Lowered, String> {
        let health = self.proxies();
        let servers = HealthView::from(self.prober.servers());
        let lingering = self.lingering.iter().map(|(name, (vip, _))| (name.clone(), vip.clone())).collect();
        let input = Lowering {
            snapshot,
            node: &self.node,
            health: &health,
            servers: &servers,
            current: &self.current,
            history: &self.history,
            now: self.memory.now(),
            lingering: &lingering,
        };
        let mut lowered = lower(input).map_err(|error| error.to_string())?;
        lowered.image.config.mtu = self.mtu;
        guards(&input, SystemTime::now(), &mut lowered).map_err(|error| error.to_string())?;
        Ok(lowered)
    }

    async fn apply(&mut self, lowered: Lowered) -> Result<(), KernelError> {
        let plan = diff(&self.current, &lowered.image);
        self.errors.clear();
        if !plan.is_empty() {
            self.last_plan = plan.iter().take(PLAN_SHOWN_MAX).map(Op::to_string).collect();
            tracing::info!(operations = plan.len(), "applying a plan");
            self.metrics.applies.add(1);
        }
        for op in &plan {
            if let Err(error) = self.kernel.apply(op).await {
                self.metrics.failures.add(1);
                self.errors.push(format!("{op}: {error}"));
                // What is there now is between two images: the next pass reads it back and goes on from there.
                self.current = self.kernel.read_back().await?;
                self.remember(&lowered);
                return Err(error);
            }
            tracing::debug!("{op}");
            self.metrics.operations.add(1);
            self.current.apply(op);
        }
        self.remember(&lowered);
        let mut labels = counters::labels(&self.snapshot, &self.node, &self.current);
        labels.lists = lowered.lists.iter().map(|(number, name)| (*number, (name.clone(), 0))).collect();
        self.counters.set_labels(labels);
        self.last = Some(lowered);
        Ok(())
    }

    /// What is known of a table is true once the kernel has it.
    fn remember(&mut self, lowered: &Lowered) {
        self.history.retain(|index, _| self.current.tables.contains_key(index));
        for (index, history) in &lowered.history {
            if self.current.tables.get(index) == lowered.image.tables.get(index) {
                self.history.insert(*index, history.clone());
            }
        }
        self.memory.save(&self.history, &self.current);
    }

    /// How long the image stays what it is when nothing happens.
    fn until_wake(&self) -> Duration {
        let wake = self.last.as_ref().and_then(|last| last.wake);
        wake.map_or(FULL_PASS, |wake| wake.saturating_sub(self.memory.now()))
    }

    /// Forgets VIPs that have lingered.
    async fn end_lingering(&mut self) {
        let (now, before) = (Instant::now(), self.lingering.len());
        self.lingering.retain(|_, (_, until)| *until > now);
        if self.lingering.len() < before {
            self.recompute().await;
        }
    }

    /// Whether the balancer is still on every interface.
    async fn look_at_programs(&mut self) {
        let Some(runner) = &self.runner else { return };
        let mut own = Ok(runner.clone());
        for interface in &self.interfaces {
            let there = self.kernel.xdp(&interface.name).await;
            if !matches!(there, Ok(there) if there.is_some() && there == runner.balancer_id()) {
                own = Err(format!("the balancer is not attached to {}", interface.name));
            }
        }
        self.prober.set_own(own);
    }

    /// Something about interfaces changed: perhaps an MTU.
    async fn look_at_links(&mut self) {
        let before = self.mtu;
        self.look_at_mtu().await;
        if self.mtu != before {
            self.recompute().await;
        }
    }

    /// Whether somebody changed the MTU of an interface.
    async fn look_at_mtu(&mut self) {
        for interface in &mut self.interfaces {
            match self.kernel.mtu(&interface.name).await {
                Ok(mtu) if mtu != interface.mtu => {
                    interface.mtu = mtu;
                    tracing::info!(interface = interface.name, mtu, "MTU changed");
                    links::warn_of_mtu(interface);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("MTU of {}: {error}", interface.name),
            }
        }
        self.mtu = links::tunnel_mtu(&self.interfaces);
    }

    /// Reads everything back and mends what differs, whoever changed it.
    async fn full_pass(&mut self) {
        self.look_at_mtu().await;
        match self.kernel.read_back().await {
            Ok(image) => {
                if image != self.current {
                    tracing::warn!("the kernel's maps or routes were changed by somebody else: mending");
                }
                self.current = image;
                self.recompute().await;
                self.confirm();
            }
            Err(error) => tracing::error!("read back: {error}"),
        }
    }

    /// A VIP whose every part is in the kernel may be announced.
    fn confirm(&mut self) {
        let generation = self.snapshot.generation;
        let there = self.current.vip_addresses();
        self.confirmed.clear();
        for (name, vip) in self.snapshot.vips_served_by(&self.node) {
            let whole = vip.addresses.iter().all(|address| {
                let address = Address::from(*address);
                there.contains(&address) && self.current.routes.contains(&address)
            });
            if whole && self.errors.is_empty() {
                self.confirmed.insert(name.clone(), (generation, vip.addresses.clone()));
            }
        }
        self.metrics.vips.set(self.confirmed.len() as f64);
    }

    /// Does what a program asks for the moment: in the kernel at once, and counted with the rest from the next look on.
    async fn block(&mut self, asked: access::Asked) {
        let op = match self.moment.op(&asked.request, &self.current, self.memory.now()) {
            Ok(op) => op,
            Err(what) => return asked.answer(access::Reply::Error(what)),
        };
        if let Err(error) = self.kernel.apply(&op).await {
            return asked.answer(access::Reply::Error(error.to_string()));
        }
        tracing::info!("for the moment: {op}");
        self.current.apply(&op);
        if let Op::PutAccess(_, rule) = &op
            && self.current.config.guarded & GUARDED_ACCESS != 0
            && let Some(last) = &mut self.last
        {
            // Somebody must wake up when it ends.
            let ends = Duration::from_secs(rule.until_s.into());
            last.wake = [last.wake, Some(ends)].into_iter().flatten().min();
        } else {
            // Lists begin to be looked at with the first entry.
            self.recompute().await;
        }
        asked.answer(access::Reply::Ok);
    }

    fn publish(&self, config: &ConfigStatus) {
        let traffic = self.counters.vips();
        let vips = self.confirmed.iter().map(|(name, (generation, addresses))| {
            let traffic = traffic.get(name).copied().unwrap_or_default();
            let healthy = self.last.as_ref().filter(|last| !last.panicking.contains(name));
            let healthy = healthy.and_then(|last| last.owners.get(name)).map_or(0, BTreeSet::len);
            let status = L4VipStatus {
                generation: *generation,
                addresses: addresses.clone(),
                pool: self.snapshot.vips.get(name).and_then(|vip| vip.pool.clone()),
                healthy_proxies: healthy as u32,
                services: self.prober.services(name),
                packets: traffic.packets,
                bytes: traffic.bytes,
            };
            (name.clone(), status)
        });
        let (blocked, blocked_count) = self.moment.shown(&self.current, self.memory.now());
        let probes = self.prober.status();
        self.probed.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&probes);
        self.publisher.publish(&L4Status {
            node: self.node.to_string(),
            pid: std::process::id(),
            config: config.clone(),
            interfaces: self.interfaces.clone(),
            vips: vips.collect(),
            proxies: self.proxies(),
            servers: self.prober.servers(),
            probes,
            adopted: self.adopted,
            changing: self.until_wake() <= FLIP_CALM,
            last_plan: self.last_plan.clone(),
            errors: self.errors.clone(),
            reasons: self.counters.reasons(),
            access_hits: self.counters.access_hits(),
            blocked,
            blocked_count,
        });
    }
}
