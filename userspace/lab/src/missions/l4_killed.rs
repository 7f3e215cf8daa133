//! Mission 7: all `weir-l4` are killed, then started again. The kernel keeps forwarding: no packet is lost, no flow
//! moves, and the new processes find nothing to change.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use weir_model::status::L4Status;

use super::{
    Trial,
    observe::{Watch, ask},
    streams::Streams,
};
use crate::{
    client,
    daemon::Kind,
    lab::Lab,
    topology::{self, Role, Topology},
};

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
    let counted = quiet(trial).await?;
    let dropped = drops(&lab).await?;
    let watch = Watch::open(&lab);

    lab.kill(&lab.topology.select("l4")?).await?;
    let dead = Watch::open(&lab);
    dead.requests(trial, REQUESTS).await?;
    trial.check_no_failures("requests while every weir-l4 is dead", &dead.records(&lab));
    let during = owners(&lab).await?;
    check_owners(trial, "flows that moved while they were dead", &before, &during);
    streams.check_alive(trial, "streams broken while they were dead").await;

    check_lost(trial, "packets lost while they were dead", &counted)?;
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
    check_lost(trial, "packets lost from the kill to the end", &counted)?;
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

fn check_lost(trial: &mut Trial, what: &str, before: &BTreeMap<String, i64>) -> Result<()> {
    let lost: Vec<(String, i64)> = lost_packets(&trial.lab)?
        .into_iter()
        .map(|(host, count)| (host.clone(), count - before.get(&host).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let places: Vec<String> = lost.iter().map(|(host, count)| format!("{count} of {host}")).collect();
    let seen = if places.is_empty() { "0".into() } else { places.join(", ") };
    trial.check(what, 0, seen, lost.is_empty());
    Ok(())
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

/// Waits until connections that earlier missions cut have been given up, and returns the counters.
async fn quiet(trial: &Trial) -> Result<BTreeMap<String, i64>> {
    let (counted, _) = trial
        .until("no packet is lost before the mission", Duration::from_secs(60), |lab| async move {
            let before = lost_packets(&lab)?;
            // Longer than the longest pause between two attempts of a connection without an owner.
            tokio::time::sleep(Duration::from_secs(2)).await;
            ensure!(lost_packets(&lab)? == before, "packets are still sent again");
            Ok(before)
        })
        .await?;
    Ok(counted)
}

/// Segments that clients sent again and that were not known to be there already (DSACK): a busy machine sends some again
/// too early, which is no loss. Only clients count: what they send goes through the balancers, what they get does not.
fn lost_packets(lab: &Lab) -> Result<BTreeMap<String, i64>> {
    let hosts = lab.topology.of(Role::Client, None);
    hosts
        .map(|host| {
            let netns = &lab.fabric.place(&host.to_string())?.netns;
            netns.run(|| {
                let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
                let sent_again = counter(&read("snmp")?, "Tcp", "RetransSegs")?;
                let needless = counter(&read("netstat")?, "TcpExt", "TCPDSACKRecv")?;
                Ok((host.to_string(), sent_again - needless))
            })
        })
        .collect()
}

/// One number of `/proc/net/snmp` or `netstat`: a line of names, then a line of values, for each group.
fn counter(text: &str, group: &str, name: &str) -> Result<i64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let position = names.split(' ').position(|known| known == name);
    let value = position.and_then(|position| values.split(' ').nth(position));
    Ok(value.with_context(|| format!("the kernel has no counter {group} {name}"))?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text =
            "Ip: Forwarding\nIp: 2\nTcp: InSegs RetransSegs\nTcp: 7 3\nTcpExt: TCPDSACKRecv\nTcpExt: 9\n";
        assert_eq!(counter(text, "Tcp", "RetransSegs").unwrap(), 3);
        assert_eq!(counter(text, "TcpExt", "TCPDSACKRecv").unwrap(), 9);
        assert!(counter(text, "Tcp", "Nothing").is_err());
    }
}
