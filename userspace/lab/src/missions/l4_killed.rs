//! Mission 7: all `weir-l4` are killed, then started again. The kernel keeps forwarding: no packet is lost, no flow
//! moves, and the new processes find nothing to change.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_model::status::L4Status;

use super::{
    Trial,
    observe::{Watch, ask},
    pulse::Pulse,
    streams::Streams,
};
use crate::{
    client,
    daemon::Kind,
    lab::Lab,
    topology::{self, Role, Topology},
};

/// Connections per zone whose packets are counted.
const CONNECTIONS: u16 = 16;
/// From an answer to the next request of each.
const EVERY: Duration = Duration::from_millis(50);
/// Flows with fixed ports that are opened again and again, per family.
const FLOWS: u16 = 32;
/// Requests that must pass while nobody watches the kernel.
const REQUESTS: usize = 200;

pub(super) async fn run(trial: &mut Trial) -> Result<()> {
    let lab = trial.lab.clone();
    let mut streams = Streams::default();
    streams.open(&lab, 1, 16).await?;
    let before = owners(&lab).await?;
    let balancers: Vec<_> = lab.topology.of(Role::Balancer, None).collect();
    let pulse = Pulse::open(&lab, lab.topology.zones(), CONNECTIONS, EVERY).await?;
    let dropped = drops(&lab).await?;
    let watch = Watch::open(&lab);

    lab.kill(&lab.topology.select("l4")?).await?;
    let dead = Watch::open(&lab);
    dead.requests(trial, REQUESTS).await?;
    trial.check_no_failures("requests while every weir-l4 is dead", &dead.records(&lab));
    let during = owners(&lab).await?;
    check_owners(trial, "flows that moved while they were dead", &before, &during);
    streams.check_alive(trial, "streams broken while they were dead").await;

    pulse.check(trial, "packets lost while they were dead").await;
    lab.restore(&lab.topology.select("l4")?).await?;
    let (_, took) = trial
        .until("every weir-l4 answers", Duration::from_secs(30), |lab| {
            let balancers = balancers.clone();
            async move {
                for host in balancers {
                    let status: L4Status = ask(&lab, host, Kind::L4).await?;
                    ensure!(!status.vips.is_empty(), "weir-l4 of {host} has confirmed nothing");
                }
                Ok(())
            }
        })
        .await?;
    trial.say(format!("every weir-l4 is back after {:.2} s", took.as_secs_f64()));
    let mut adopted = 0;
    let mut changes = Vec::new();
    for host in &balancers {
        let status: L4Status = ask(&lab, *host, Kind::L4).await?;
        adopted += usize::from(status.adopted);
        changes.extend(status.last_plan.iter().map(|operation| format!("{host}: {operation}")));
    }
    trial.check("weir-l4 that adopted what was pinned", balancers.len(), adopted, adopted == balancers.len());
    let seen = if changes.is_empty() { "none".into() } else { changes.join("; ") };
    trial.check("changes they found to make", "none", seen, changes.is_empty());

    let alive = Watch::open(&lab);
    alive.requests(trial, REQUESTS).await?;
    let after = owners(&lab).await?;
    check_owners(trial, "flows that moved after the restart", &before, &after);
    streams.check_alive(trial, "streams broken after the restart").await;
    trial.check_no_failures("requests of all zones all the time", &watch.records(&lab));
    pulse.check(trial, "packets lost from the kill to the end").await;
    let now = drops(&lab).await?;
    let more: Vec<String> = now
        .iter()
        .map(|(reason, count)| (reason, count - dropped.get(reason).copied().unwrap_or(0).min(*count)))
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let seen = if more.is_empty() { "none".into() } else { more.join(", ") };
    trial.check("packets the datapath dropped from the kill to the end", "none", seen, more.is_empty());
    Ok(())
}

fn check_owners(
    trial: &mut Trial,
    what: &str,
    before: &BTreeMap<SocketAddr, String>,
    after: &BTreeMap<SocketAddr, String>,
) {
    let moved = before.iter().filter(|(flow, owner)| after.get(flow) != Some(owner)).count();
    trial.check(what, format!("0 of {}", before.len()), moved, moved == 0 && !before.is_empty());
}

/// Which proxy answers flows with fixed addresses and ports, in each zone.
async fn owners(lab: &Lab) -> Result<BTreeMap<SocketAddr, String>> {
    let mut owners = BTreeMap::new();
    for zone in lab.topology.zones() {
        let resident = lab.load.resident(zone).context("a zone without clients")?;
        let flows = (0..FLOWS).flat_map(|n| [(n, false), (n, true)]);
        for (number, v6) in flows {
            let source = SocketAddr::new(topology::client_address(zone, 1 + number, v6), 10_000 + number);
            let asked = resident.spawn(async move { client::once(source, None, "/").await });
            let greeting = asked.await.context("the client's thread died")??;
            let host = Topology { zones: topology::ZONES_MAX }.host_at(greeting.peer);
            owners.insert(source, host.map_or_else(|| greeting.peer.to_string(), |host| host.to_string()));
        }
    }
    Ok(owners)
}

/// Packets dropped so far on all hosts, by reason; the kernel counts on while nobody reads.
async fn drops(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let mut drops = BTreeMap::new();
    for host in lab.topology.of(Role::Balancer, None) {
        let status: L4Status = ask(lab, host, Kind::L4).await?;
        for (reason, count) in status.reasons.into_iter().filter(|(reason, _)| reason.starts_with("drop")) {
            *drops.entry(reason).or_default() += count;
        }
    }
    Ok(drops)
}
