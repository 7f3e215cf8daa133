//! A laboratory that is up: what runs in it, and the ways to break and mend it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::Mutex;

use crate::{
    backend::Backend,
    bird::{Console, Router},
    client::Trust,
    config::Config,
    daemon::{Daemon, Kind, Programs, Site, tail},
    fabric::Fabric,
    load::{Load, Record, request},
    netns::NetNs,
    sweep::{self, Claim},
    sys,
    topology::{self, CLIENTS, Host, Role, Target, Topology},
};

/// How long a new laboratory may take until every zone is served; the target is 10 s on two idle cores.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Requests of one census in flight at once, per zone.
const CENSUS_IN_FLIGHT: usize = 16;

/// What a laboratory is built from.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its name.
    pub(crate) name: String,
    /// How many zones.
    pub(crate) topology: Topology,
    /// Requests per second and zone.
    pub(crate) rate: u32,
}

/// How long the building took.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Times {
    /// Network, in seconds.
    pub(crate) network: f64,
    /// Until routers, backends and daemons were started.
    pub(crate) started: f64,
    /// Until the first request was served.
    pub(crate) first_request: f64,
    /// Until every zone was served by its own.
    pub(crate) ready: f64,
}

/// The laboratory. Fields are dropped in this order: processes before the network, the network before the claim.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) topology: Topology,
    pub(crate) times: Times,
    pub(crate) programs: Programs,
    pub(crate) config: Config,
    pub(crate) load: Load,
    pub(crate) trust: Trust,
    pub(crate) balancers: Mutex<BTreeMap<Host, Balancer>>,
    pub(crate) backends: Mutex<BTreeMap<Host, Backend>>,
    pub(crate) routers: Mutex<BTreeMap<String, Router>>,
    pub(crate) fabric: Fabric,
    claim: Claim,
}

/// A balancer host.
pub(crate) struct Balancer {
    site: Site,
    netns: NetNs,
    daemons: BTreeMap<Kind, Daemon>,
    /// Whether its link is up.
    joined: bool,
}

impl Balancer {
    /// The sockets and logs of its daemons.
    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// Which daemons run.
    pub(crate) fn running(&mut self) -> Vec<Kind> {
        self.daemons
            .values_mut()
            .filter_map(|daemon| daemon.ended().is_none().then(|| daemon.kind()))
            .collect()
    }

    /// Process id of a daemon.
    pub(crate) fn pid(&self, kind: Kind) -> Option<u32> {
        self.daemons.get(&kind)?.pid()
    }

    /// Whether its link is up.
    pub(crate) fn is_joined(&self) -> bool {
        self.joined
    }

    /// Starts a daemon unless it runs.
    pub(crate) fn start(&mut self, kind: Kind) -> Result<()> {
        if self.daemons.get_mut(&kind).is_some_and(|daemon| daemon.ended().is_none()) {
            return Ok(());
        }
        self.daemons.insert(kind, Daemon::start(kind, &self.site, &self.netns)?);
        Ok(())
    }

    /// SIGKILLs a daemon.
    pub(crate) async fn kill(&mut self, kind: Kind) -> Result<()> {
        match self.daemons.remove(&kind) {
            Some(daemon) => daemon.kill().await,
            None => Ok(()),
        }
    }

    /// Stops a daemon as an operator does.
    pub(crate) async fn stop(&mut self, kind: Kind) -> Result<()> {
        match self.daemons.remove(&kind) {
            Some(daemon) => daemon.stop().await,
            None => Ok(()),
        }
    }

    /// Takes its pinned maps, programs and links away, as a reboot does.
    pub(crate) fn forget_pins(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.site.pins) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.site.pins.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Lab {
    /// Builds a laboratory and waits until every zone is served by its own servers.
    pub(crate) async fn build(plan: &Plan) -> Result<Arc<Self>> {
        let begun = Instant::now();
        let programs = Programs::find()?;
        sys::raise_open_files().context("raise the limit of open files")?;
        let claim = Claim::take(&plan.name)?;
        let (dir, topology) = (claim.dir(), plan.topology);
        let fabric = Fabric::build(&claim.prefix(), topology).await?;
        let network = begun.elapsed().as_secs_f64();

        let config = Config::create(&dir.join("config"), topology)?;
        let router_dir = dir.join("routers");
        std::fs::create_dir_all(&router_dir)?;
        let mut routers = BTreeMap::new();
        for name in topology.zones().map(topology::router_name).chain(["core".to_owned()]) {
            let router = Router::start(&name, topology, fabric.place(&name)?.netns.clone(), &router_dir)?;
            routers.insert(name, router);
        }
        let mut backends = BTreeMap::new();
        for host in topology.of(Role::Backend, None) {
            backends.insert(host, Backend::start(host, &fabric.place(&host.to_string())?.netns).await?);
        }
        let mut balancers = BTreeMap::new();
        for host in topology.of(Role::Balancer, None) {
            let node = host.to_string();
            let run = dir.join(&node);
            std::fs::create_dir_all(&run)?;
            let pins = PathBuf::from(sweep::BPF_DIR).join(format!("{}{node}", claim.prefix()));
            let site = Site { programs: programs.clone(), config: config.dir().into(), node, run, pins };
            let netns = fabric.place(&host.to_string())?.netns.clone();
            let mut balancer = Balancer { site, netns, daemons: BTreeMap::new(), joined: true };
            for kind in Kind::ALL {
                balancer.start(kind)?;
            }
            balancers.insert(host, balancer);
        }
        let clients = topology.of(Role::Client, None);
        let clients: Vec<(u8, NetNs)> = clients
            .map(|host| Ok((host.zone, fabric.place(&host.to_string())?.netns.clone())))
            .collect::<Result<_>>()?;
        let load = Load::new(clients.into_iter())?;
        let trust = Trust::only(config.certificate())?;
        let started = begun.elapsed().as_secs_f64();

        let times = Times { network, started, first_request: 0.0, ready: 0.0 };
        let (balancers, backends, routers) =
            (Mutex::new(balancers), Mutex::new(backends), Mutex::new(routers));
        let name = plan.name.clone();
        let mut lab = Self {
            name,
            topology,
            times,
            programs,
            config,
            load,
            trust,
            balancers,
            backends,
            routers,
            fabric,
            claim,
        };
        if let Err(error) = lab.wait_until_ready(begun).await {
            eprintln!("{}", lab.hints().await);
            lab.stop_processes().await;
            return Err(error);
        }
        lab.load.start(topology, plan.rate, &lab.trust);
        lab.claim.sweep_again();
        Ok(Arc::new(lab))
    }

    /// One probing client per zone, until each was served by its own zone in every way.
    async fn wait_until_ready(&mut self, begun: Instant) -> Result<()> {
        let deadline = begun + READY_WITHIN;
        let mut last = String::new();
        for zone in self.topology.zones() {
            for (v6, tls) in [(false, false), (true, false), (false, true), (true, true)] {
                loop {
                    let record = self.request(zone, 1, v6, tls).await?;
                    match &record.outcome {
                        Ok(_) if self.times.first_request == 0.0 => {
                            self.times.first_request = begun.elapsed().as_secs_f64();
                        }
                        Ok(served) if served.zone == zone => break,
                        Ok(served) => last = format!("{} was served by {}", record.client, served.server),
                        Err(error) => last = format!("{}: {error}", record.client),
                    }
                    if let Some(ended) = self.ended_daemon().await {
                        bail!("{ended}");
                    }
                    if Instant::now() > deadline {
                        bail!("not ready after {} s: {last}", READY_WITHIN.as_secs());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.times.ready = begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// A daemon that should run and does not.
    async fn ended_daemon(&self) -> Option<String> {
        let mut balancers = self.balancers.lock().await;
        balancers.iter_mut().find_map(|(host, balancer)| {
            let running = balancer.running();
            let kind = Kind::ALL.into_iter().find(|kind| !running.contains(kind))?;
            Some(format!("{} of {host} ended at once", kind.program()))
        })
    }

    /// One request now, as logical client `number` of `zone`.
    pub(crate) async fn request(&self, zone: u8, number: u16, v6: bool, tls: bool) -> Result<Record> {
        let resident = self.load.resident(zone).ok_or_else(|| anyhow!("there is no zone {zone}"))?;
        let trust = self.trust.clone();
        let record = resident.spawn(async move { request(zone, number, v6, tls.then_some(&trust)).await });
        record.await.context("the client's thread died")
    }

    /// One request of every logical client of `zone`, by IPv4 and IPv6; every other one encrypted.
    pub(crate) async fn census(&self, zone: u8) -> Result<Vec<Record>> {
        let resident = self.load.resident(zone).ok_or_else(|| anyhow!("there is no zone {zone}"))?;
        let trust = self.trust.clone();
        let all = async move {
            use futures_util::StreamExt;
            let clients = (1..=CLIENTS).flat_map(|number| [(number, false), (number, true)]);
            futures_util::stream::iter(clients)
                .map(|(number, v6)| {
                    let trust = (number % 2 == 0).then(|| trust.clone());
                    async move { request(zone, number, v6, trust.as_ref()).await }
                })
                .buffer_unordered(CENSUS_IN_FLIGHT)
                .collect::<Vec<Record>>()
                .await
        };
        resident.spawn(all).await.context("the client's thread died")
    }

    /// Breaks something: balancer hosts lose their daemons (SIGKILL) and their link, backends stop listening.
    pub(crate) async fn kill(&self, target: &Target) -> Result<()> {
        let mut balancers = self.balancers.lock().await;
        let mut backends = self.backends.lock().await;
        for host in &target.hosts {
            if let Some(balancer) = balancers.get_mut(host) {
                match target.daemon {
                    Some(kind) => balancer.kill(kind).await?,
                    None => {
                        // The link first: a dead host says no goodbye.
                        self.fabric.cut(*host).await?;
                        balancer.joined = false;
                        for kind in Kind::ALL {
                            balancer.kill(kind).await?;
                        }
                    }
                }
            }
            if let Some(backend) = backends.get_mut(host) {
                backend.crash().await;
            }
        }
        Ok(())
    }

    /// Mends it: links, daemons and backends come back.
    pub(crate) async fn restore(&self, target: &Target) -> Result<()> {
        let mut balancers = self.balancers.lock().await;
        let mut backends = self.backends.lock().await;
        for host in &target.hosts {
            if let Some(balancer) = balancers.get_mut(host) {
                if !balancer.joined {
                    self.fabric.join(*host).await?;
                    balancer.joined = true;
                }
                for kind in Kind::ALL {
                    if target.daemon.is_none_or(|daemon| daemon == kind) {
                        balancer.start(kind)?;
                    }
                }
            }
            if let Some(backend) = backends.get_mut(host) {
                backend.set_sick(false);
                backend.serve().await?;
            }
        }
        Ok(())
    }

    /// Mends everything there is.
    pub(crate) async fn restore_all(&self) -> Result<()> {
        let hosts = self.topology.hosts().collect();
        self.restore(&Target { hosts, daemon: None }).await?;
        for router in self.routers.lock().await.values_mut() {
            router.run()?;
        }
        Ok(())
    }

    /// The control socket of a router.
    pub(crate) async fn console(&self, router: &str) -> Result<Console> {
        let routers = self.routers.lock().await;
        Ok(routers.get(router).ok_or_else(|| anyhow!("there is no router {router:?}"))?.console())
    }

    /// The ends of the logs of the daemons of the first host, and of those that do not run.
    pub(crate) async fn hints(&self) -> String {
        let mut text = String::new();
        let mut balancers = self.balancers.lock().await;
        for (index, (host, balancer)) in balancers.iter_mut().enumerate() {
            let running = balancer.running();
            for kind in Kind::ALL {
                if index == 0 || !running.contains(&kind) {
                    let state = if running.contains(&kind) { "runs" } else { "DOES NOT RUN" };
                    let log = tail(&balancer.site.log(kind), 8);
                    text += &format!("--- {} of {host} {state}\n{log}\n", kind.program());
                }
            }
        }
        text
    }

    /// The laboratory's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.claim.dir()
    }

    /// Takes away everything that carries the laboratory's name, while somebody still looks at it.
    pub(crate) fn take_away(&self) {
        self.claim.take_away();
    }

    /// Ends every process in order; the rest goes when the laboratory is dropped.
    pub(crate) async fn stop_processes(&self) {
        for balancer in self.balancers.lock().await.values_mut() {
            for kind in Kind::ALL {
                let _ = balancer.kill(kind).await;
            }
        }
        for router in self.routers.lock().await.values_mut() {
            let _ = router.kill().await;
        }
        for backend in self.backends.lock().await.values_mut() {
            backend.crash().await;
        }
    }
}
