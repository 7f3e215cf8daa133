//! Probes the proxies this balancer may send to: `weir-core`'s health machines, given sockets and a clock.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep_until};
use weir_core::{
    hash,
    health::{HealthMachine, Timing},
};
use weir_model::{Name, Node, Snapshot, status::Health};
use weir_runtime::probe::{self, ProbeResult, ProbeTarget};

/// Probes of all proxies.
pub(crate) struct Prober {
    machines: BTreeMap<Name, (ProbeTarget, HealthMachine)>,
    running: JoinSet<(Name, ProbeTarget, u64, ProbeResult)>,
    seed: u64,
}

impl Prober {
    /// Probes nobody yet; `node` spreads the probes of many balancers.
    pub(crate) fn new(node: &Name) -> Self {
        Self {
            machines: BTreeMap::new(),
            running: JoinSet::new(),
            seed: hash::bytes(node.as_str().as_bytes()),
        }
    }

    /// Probes the nodes that share a group with `node`; what is known of those that stay is kept.
    pub(crate) fn set_targets(&mut self, snapshot: &Snapshot, node: &Name) {
        // A proxy is asked for the groups it shares with this node: it is up when it serves all their VIPs, which a proxy
        // that has not read the same configuration yet does not.
        let mut shared: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
        for (group, spec) in snapshot.groups.iter().filter(|(_, spec)| spec.nodes.contains(node)) {
            for member in &spec.nodes {
                shared.entry(member).or_default().push(group);
            }
        }
        let mut targets = BTreeMap::new();
        for (member, groups) in shared {
            if let Some(spec) = snapshot.nodes.get(member)
                && let Some(address) = spec.tunnel_address()
            {
                let target = ProbeTarget::readiness(SocketAddr::new(address, spec.probe_port), &groups);
                targets.insert(member.clone(), (target, timing(spec)));
            }
        }
        let now = Instant::now();
        self.machines
            .retain(|name, (target, _)| targets.get(name).is_some_and(|(wanted, _)| wanted == target));
        for (name, (target, timing)) in targets {
            let seed = self.seed ^ hash::bytes(name.as_str().as_bytes());
            let (_, machine) =
                self.machines.entry(name).or_insert_with(|| (target, HealthMachine::new(timing, seed, now)));
            machine.set_timing(timing, now);
        }
    }

    /// What is known of the proxies.
    pub(crate) fn health(&self) -> BTreeMap<Name, Health> {
        self.machines.iter().map(|(name, (_, machine))| (name.clone(), machine.health())).collect()
    }

    /// Runs probes until the health of a proxy changes. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            let now = Instant::now();
            let mut changed = false;
            for (name, (target, machine)) in &mut self.machines {
                machine.handle_timeout(now);
                if let Some(probe) = machine.poll_probe(now) {
                    let (name, target) = (name.clone(), target.clone());
                    self.running.spawn(async move {
                        let result = probe::run(&target, probe.timeout).await;
                        (name, target, probe.id, result)
                    });
                }
                if let Some(change) = machine.poll_event() {
                    let (from, to) = (change.from, change.to);
                    tracing::info!(proxy = %name, "proxy was {from:?}, is {to:?}: {}", change.reason);
                    changed = true;
                }
            }
            if changed {
                return;
            }
            let next = self.machines.values().filter_map(|(_, machine)| machine.poll_timeout()).min();
            // Nobody to probe: the caller's other events bring new targets.
            let next = next.unwrap_or(now + Duration::from_secs(3600));
            tokio::select! {
                () = sleep_until(next.into()) => {}
                Some(done) = self.running.join_next() => {
                    if let Ok((name, target, id, result)) = done
                        && let Some((probed, machine)) = self.machines.get_mut(&name)
                        && *probed == target
                    {
                        machine.handle_result(id, result.into(), Instant::now());
                    }
                }
            }
        }
    }

    /// Waits until something is known of every proxy, at most `limit`.
    pub(crate) async fn first_round(&mut self, limit: Duration) {
        let all = async {
            while self.machines.values().any(|(_, machine)| machine.health() == Health::Unknown) {
                self.changed().await;
            }
        };
        // After the limit the unknown ones count as not up, and become up when they answer.
        let _in_time = tokio::time::timeout(limit, all).await;
    }
}

fn timing(node: &Node) -> Timing {
    Timing {
        interval: node.probe_interval,
        timeout: node.probe_timeout,
        rise: node.probe_rise,
        fall: node.probe_fall,
    }
}
