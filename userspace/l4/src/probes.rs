//! Probes the proxies and servers this balancer may send to: `weir-core`'s machines, given sockets and a clock.
//!
//! Each is asked directly, which tells whether it is ready or draining; where the configuration does not say otherwise its path
//! is probed too, as packets take it. It is up when both say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep_until};
use weir_core::{
    hash,
    health::{HealthMachine, Timing, both},
    path_probe::{PathProbes, Transmit, Whom, paths},
};
use weir_model::{
    Name, ProbeVia, Snapshot,
    status::{Health, ProbeStatus, ServiceStatus},
};
use weir_runtime::{
    metrics::Text,
    probe::{self, ProbeResult, ProbeTarget},
};

use crate::{probe_sockets::ProbeSockets, test_run::TestRunner};

/// Probes of all proxies and servers.
pub(crate) struct Prober {
    machines: BTreeMap<Whom, (ProbeTarget, HealthMachine)>,
    running: JoinSet<(Whom, ProbeTarget, u64, ProbeResult)>,
    paths: PathProbes,
    sockets: ProbeSockets,
    own: Own,
    seed: u64,
}

/// What of this host's own datapath no packet of this host meets.
enum Own {
    /// It is about to be put in force.
    Unknown,
    /// It is on all interfaces,
    Attached(TestRunner),
    /// or not, and why.
    Broken(String),
}

impl Prober {
    /// Probes nobody yet; `node` spreads the probes of many balancers.
    pub(crate) fn new(node: &Name) -> io::Result<Self> {
        let seed = hash::bytes(node.as_str().as_bytes());
        Ok(Self {
            machines: BTreeMap::new(),
            running: JoinSet::new(),
            paths: PathProbes::new(seed),
            sockets: ProbeSockets::open()?,
            own: Own::Unknown,
            seed,
        })
    }

    /// Probes the nodes that share a group with `node`, and the servers its VIPs point at; what is known of those that stay
    /// is kept. Files that checks name lie in `dir`.
    pub(crate) fn set_targets(&mut self, snapshot: &Snapshot, node: &Name, dir: &Path) {
        let mut targets = proxies(snapshot, node);
        targets.extend(servers(snapshot, node, dir));
        let now = Instant::now();
        self.machines
            .retain(|whom, (target, _)| targets.get(whom).is_some_and(|(wanted, _)| wanted == target));
        for (whom, (target, timing)) in targets {
            let seed = self.seed ^ hash::bytes(whom.to_string().as_bytes());
            let (_, machine) =
                self.machines.entry(whom).or_insert_with(|| (target, HealthMachine::new(timing, seed, now)));
            machine.set_timing(timing, now);
        }
        self.paths.set_paths(paths(snapshot, node), now);
    }

    /// Whether the program is on all interfaces; else why not.
    pub(crate) fn set_own(&mut self, own: Result<TestRunner, String>) {
        self.own = match own {
            Ok(runner) => Own::Attached(runner),
            Err(why) => Own::Broken(why),
        };
    }

    fn health(&self, whom: &Whom, direct: &HealthMachine) -> Health {
        self.paths.health(whom).map_or(direct.health(), |path| both(direct.health(), path))
    }

    /// What each way of probing says of each target.
    pub(crate) fn status(&self) -> Vec<ProbeStatus> {
        let row = |whom: &Whom, via, health, reason| {
            let (pool, target) = match whom.clone() {
                Whom::Proxy(node) => (None, node),
                Whom::Server(pool, server) => (Some(pool), server),
            };
            ProbeStatus { target, pool, via, health, reason }
        };
        let direct = self.machines.iter().map(|(whom, (_, machine))| {
            row(whom, ProbeVia::Direct, machine.health(), machine.reason().to_owned())
        });
        let paths =
            self.paths.all().map(|(whom, health, reason)| row(whom, ProbeVia::Tunnel, health, reason));
        direct.chain(paths).collect()
    }

    /// What is known of the proxies.
    pub(crate) fn proxies(&self) -> BTreeMap<Name, Health> {
        let proxy = |(whom, (_, machine)): (&Whom, &(_, HealthMachine))| match whom {
            Whom::Proxy(node) => Some((node.clone(), self.health(whom, machine))),
            Whom::Server(..) => None,
        };
        self.machines.iter().filter_map(proxy).collect()
    }

    /// What is known of the servers that are checked, by pool.
    pub(crate) fn servers(&self) -> BTreeMap<Name, BTreeMap<Name, Health>> {
        let mut pools: BTreeMap<Name, BTreeMap<Name, Health>> = BTreeMap::new();
        for (whom, (_, machine)) in &self.machines {
            if let Whom::Server(pool, server) = whom {
                let health = self.health(whom, machine);
                pools.entry(pool.clone()).or_default().insert(server.clone(), health);
            }
        }
        pools
    }

    /// What is known of the services of a VIP, as the proxies or servers that are up answer for them.
    pub(crate) fn services(&self, vip: &Name) -> BTreeMap<String, ServiceStatus> {
        let is_up = |whom: &Whom| {
            let direct = self.machines.get(whom);
            direct.is_some_and(|(_, machine)| self.health(whom, machine) == Health::Up)
        };
        self.paths.services(vip, is_up)
    }

    /// Runs probes until the health of a proxy, server or service changes. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let now = Instant::now();
            let mut changed = false;
            for (whom, (target, machine)) in &mut self.machines {
                machine.handle_timeout(now);
                if let Some(probe) = machine.poll_probe(now) {
                    let (whom, target) = (whom.clone(), target.clone());
                    self.running.spawn(async move {
                        let result = probe::run(&target, probe.timeout).await;
                        (whom, target, probe.id, result)
                    });
                }
                if let Some(change) = machine.poll_event() {
                    let (from, to) = (change.from, change.to);
                    tracing::info!("{whom} was {from:?}, is {to:?}: {}", change.reason);
                    changed = true;
                }
            }
            self.paths.handle_timeout(now);
            while let Some(transmit) = self.paths.poll_transmit() {
                if let Err(why) = self.send(&transmit) {
                    self.paths.handle_unsent(transmit.port, why, now);
                }
            }
            while let Some((whom, change)) = self.paths.poll_event() {
                let (from, to) = (change.from, change.to);
                tracing::info!("the path to {whom} was {from:?}, is {to:?}: {}", change.reason);
                changed = true;
            }
            if self.paths.poll_services_changed() || changed {
                return;
            }
            let next = self.machines.values().filter_map(|(_, machine)| machine.poll_timeout()).min();
            let next = [next, self.paths.poll_timeout()].into_iter().flatten().min();
            // Nobody to probe: the caller's other events bring new targets.
            let next = next.unwrap_or(now + Duration::from_secs(3600));
            tokio::select! {
                () = sleep_until(next.into()) => {}
                packets = self.sockets.hear() => {
                    let now = Instant::now();
                    packets.iter().for_each(|packet| self.paths.handle_packet(packet, now));
                }
                Some(done) = self.running.join_next() => {
                    if let Ok((whom, target, id, result)) = done
                        && let Some((probed, machine)) = self.machines.get_mut(&whom)
                        && *probed == target
                    {
                        machine.handle_result(id, result.into(), Instant::now());
                    }
                }
            }
        }
    }

    fn send(&self, transmit: &Transmit) -> Result<(), String> {
        if let Some(frame) = &transmit.own_tunnel {
            match &self.own {
                Own::Unknown => {}
                Own::Attached(runner) => runner.delivers(frame)?,
                Own::Broken(why) => return Err(why.clone()),
            }
        }
        self.sockets.send(transmit)
    }

    /// Waits until something is known of each of them, at most `limit`.
    pub(crate) async fn first_round(&mut self, limit: Duration) {
        let all = async {
            while self.status().iter().any(|probe| probe.health == Health::Unknown) {
                self.changed().await;
            }
        };
        // After the limit the unknown ones count as not up, and become up when they answer.
        let _in_time = tokio::time::timeout(limit, all).await;
    }
}

/// Adds what probes say to what a scrape shows.
pub(crate) fn expose(text: &mut Text, probes: &[ProbeStatus]) {
    let name = "weir_l4_probe_up";
    text.family(name, "gauge", "Whether a way of probing a proxy or server finds it up (1) or not (0).");
    for probe in probes {
        let pool = probe.pool.as_ref().map_or("", Name::as_str);
        let via = match probe.via {
            ProbeVia::Tunnel => "tunnel",
            ProbeVia::Direct => "direct",
        };
        let labels = [("target", probe.target.as_str()), ("pool", pool), ("via", via)];
        text.value(name, &labels, f64::from(u8::from(probe.health == Health::Up)));
    }
}

type Targets = BTreeMap<Whom, (ProbeTarget, Timing)>;

/// The nodes that share a group with `node`, or serve sources of a VIP it serves.
fn proxies(snapshot: &Snapshot, node: &Name) -> Targets {
    // A proxy is asked for the groups it shares with this node: it is up when it serves all their VIPs, which a proxy
    // that has not read the same configuration yet does not.
    let mut shared: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    let of_vips: BTreeSet<&Name> = snapshot.vips_served_by(node).flat_map(|(_, vip)| vip.groups()).collect();
    let is_ours = |name, spec: &weir_model::Group| spec.nodes.contains(node) || of_vips.contains(name);
    for (group, spec) in snapshot.groups.iter().filter(|(name, spec)| is_ours(*name, spec)) {
        for member in &spec.nodes {
            shared.entry(member).or_default().push(group);
        }
    }
    let target = |(member, groups): (&Name, Vec<&Name>)| {
        let spec = snapshot.nodes.get(member)?;
        let address = SocketAddr::new(spec.tunnel_address()?, spec.probe_port);
        let target = ProbeTarget::readiness(address, &groups);
        Some((Whom::Proxy(member.clone()), (target, Timing::from(spec))))
    };
    shared.into_iter().filter_map(target).collect()
}

/// The servers the node's VIPs point straight at, as far as they are checked.
fn servers(snapshot: &Snapshot, node: &Name, dir: &Path) -> Targets {
    let pools: BTreeSet<&Name> = snapshot.vips_of(node).filter_map(|(_, vip)| vip.pool.as_ref()).collect();
    let checked = pools.into_iter().filter_map(|pool| {
        let check = snapshot.pools.get(pool)?.check.as_ref()?;
        Some(snapshot.servers_of(pool).map(move |(name, server)| {
            let target = ProbeTarget::check(check, server.address, dir);
            (Whom::Server(pool.clone(), name.clone()), (target, Timing::from(check)))
        }))
    });
    checked.flatten().collect()
}
