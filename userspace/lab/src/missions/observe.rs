//! What missions look at: records of requests, routers' tables, daemons' own words. Nothing here changes anything but
//! [`undo_changes`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::{
    daemon::Kind,
    lab::Lab,
    load::Record,
    missions::Trial,
    topology::{self, Host, Role, VIP4, VIP6, zone_name},
};

/// How long nothing bad may have happened before a change counts as survived.
const QUIET: Duration = Duration::from_millis(1500);
/// Requests seen in that time, at least; fewer prove nothing.
const QUIET_REQUESTS: usize = 20;

/// `Ok` when every session is up, the VIP is announced by every balancer of every zone, all daemons run, and a client of
/// each zone is served in it.
pub(crate) async fn healthy(lab: Arc<Lab>) -> Result<()> {
    let core = lab.console("core").await?.sessions().await?;
    ensure!(core.iter().all(|session| session.established), "core has no session with a router");
    for (host, balancer) in lab.balancers.lock().await.iter_mut() {
        ensure!(balancer.running().len() == Kind::ALL.len(), "a daemon of {host} does not run");
    }
    for zone in lab.topology.zones() {
        let router = topology::router_name(zone);
        let console = lab.console(&router).await?;
        ensure!(console.sessions().await?.iter().all(|s| s.established), "{router} lacks a session");
        for host in lab.topology.of(Role::Balancer, Some(zone)) {
            for vip in [IpAddr::V4(VIP4), VIP6.into()] {
                let announcers = console.announcers(vip).await?;
                ensure!(announcers.contains(&host.to_string()), "{host} does not announce {vip}");
            }
        }
    }
    for zone in lab.topology.zones() {
        for (v6, tls) in [(false, false), (true, true)] {
            let record = lab.request(zone, 1, v6, tls).await?;
            match record.outcome {
                Ok(served) => {
                    let server = served.server;
                    ensure!(served.zone == zone, "{} is served by {server}", record.client);
                }
                Err(error) => bail!("{}: {error}", record.client),
            }
        }
    }
    // Each proxy must have found each server again.
    for host in lab.topology.of(Role::Balancer, None) {
        let status: weir_model::status::ProxyStatus = ask(&lab, host, Kind::Proxy).await?;
        for (name, server) in status.pools.values().flat_map(|pool| &pool.servers) {
            let up = server.health == weir_model::status::Health::Up;
            ensure!(up, "{host} finds {name} not up: {}", server.reason);
        }
        let status: weir_model::status::L4Status = ask(&lab, host, Kind::L4).await?;
        ensure!(!status.changing, "{host} is about to change the owners of slots");
        for (name, health) in &status.proxies {
            let same_zone = name.as_str().starts_with(&format!("z{}lb", host.zone));
            let up = *health == weir_model::status::Health::Up;
            ensure!(up || !same_zone, "{host} finds the proxy of {name} not up");
        }
    }
    Ok(())
}

/// Brings the configuration back to what it was when the laboratory was built.
pub(crate) fn undo_changes(lab: &Lab) -> Result<()> {
    lab.config.reset()
}

/// What a daemon says of itself.
pub(crate) async fn ask<T: DeserializeOwned>(lab: &Lab, host: Host, kind: Kind) -> Result<T> {
    let socket: PathBuf = {
        let balancers = lab.balancers.lock().await;
        balancers.get(&host).with_context(|| format!("{host} is no balancer"))?.site().socket(kind)
    };
    weir_runtime::status::fetch(&socket).await.with_context(|| format!("{} of {host}", kind.program()))
}

/// The mission's window on the background load.
pub(crate) struct Watch {
    mark: u64,
    /// When it was opened: usually the moment before something is broken.
    pub(crate) begun: Instant,
}

impl Watch {
    /// Looks from now on.
    pub(crate) fn open(lab: &Lab) -> Self {
        Self { mark: lab.load.journal().mark(), begun: Instant::now() }
    }

    /// Every request that began since.
    pub(crate) fn records(&self, lab: &Lab) -> Vec<Record> {
        let mut records = lab.load.journal().since(self.mark);
        records.retain(|record| record.began >= self.begun);
        records
    }

    /// Waits until nothing `bad` has begun for a while, and returns when the last bad request began, as time since the
    /// opening (zero if none was). After `within`, an error that names the newest bad request.
    pub(crate) async fn settled(
        &self,
        trial: &Trial,
        within: Duration,
        bad: impl Fn(&Record) -> Option<String>,
    ) -> Result<Duration> {
        loop {
            let records = self.records(&trial.lab);
            let last =
                records.iter().filter_map(|r| bad(r).map(|why| (r.began, why))).max_by_key(|(at, _)| *at);
            let since = last.as_ref().map_or(self.begun, |(at, _)| *at);
            let good = records.iter().filter(|record| record.began > since).count();
            if since.elapsed() >= QUIET && good >= QUIET_REQUESTS {
                return Ok(since.duration_since(self.begun));
            }
            if self.begun.elapsed() > within {
                let why = last.map_or_else(|| "too few requests".to_owned(), |(_, why)| why);
                bail!("clients are not served as expected within {} s: {why}", within.as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until at least `count` requests that began since have finished.
    pub(crate) async fn requests(&self, trial: &Trial, count: usize) -> Result<()> {
        trial
            .until("requests in the background", Duration::from_secs(60), |lab| async move {
                let seen = self.records(&lab).len();
                ensure!(seen >= count, "only {seen} requests");
                Ok(())
            })
            .await?;
        Ok(())
    }
}

/// Failed requests among `records`, with the first reasons and when, since `begun`, they began.
fn failures(records: &[Record], begun: Instant) -> (usize, String) {
    let failed: Vec<&Record> = records.iter().filter(|record| record.outcome.is_err()).collect();
    let reasons: Vec<String> = failed
        .iter()
        .filter_map(|record| {
            let error = record.outcome.as_ref().err()?;
            let kind = if record.tls { "https" } else { "http" };
            let at = record.began.saturating_duration_since(begun).as_secs_f64();
            Some(format!("{} {kind} at {at:.2} s: {error}", zone_name(record.zone)))
        })
        .take(3)
        .collect();
    let text = match failed.len() {
        0 => format!("0 of {}", records.len()),
        count => format!("{count} of {}: {}", records.len(), reasons.join("; ")),
    };
    (failed.len(), text)
}

/// How many of `records` each zone's servers answered.
pub(crate) fn by_zone(records: &[Record]) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for served in records.iter().filter_map(|record| record.outcome.as_ref().ok()) {
        *counts.entry(served.zone).or_default() += 1;
    }
    counts
}

/// `az2 103, az3 97`
pub(crate) fn print_zones(counts: &BTreeMap<u8, usize>) -> String {
    if counts.is_empty() {
        return "nobody".into();
    }
    counts.iter().map(|(zone, count)| format!("{} {count}", zone_name(*zone))).collect::<Vec<_>>().join(", ")
}

/// Which zone served which client; clients served by several have several.
pub(crate) fn placement(records: &[Record]) -> BTreeMap<IpAddr, BTreeSet<u8>> {
    let mut placement: BTreeMap<IpAddr, BTreeSet<u8>> = BTreeMap::new();
    for record in records {
        if let Ok(served) = &record.outcome {
            placement.entry(record.client).or_default().insert(served.zone);
        }
    }
    placement
}

impl Trial {
    /// No request of `records` may have failed.
    pub(crate) fn check_no_failures(&mut self, what: &str, records: &[Record]) {
        let (failed, text) = failures(records, self.begun);
        self.check(what, "0 failed", text, failed == 0 && !records.is_empty());
    }

    /// All of `records` must have been served by `zone`.
    pub(crate) fn check_served_by(&mut self, what: &str, zone: u8, records: &[Record]) {
        let counts = by_zone(records);
        let passed = !records.is_empty() && counts.get(&zone) == Some(&records.len());
        self.check(what, format!("{} {}", zone_name(zone), records.len()), print_zones(&counts), passed);
    }

    /// `records` must be split evenly over `zones`, which serve all of them.
    pub(crate) fn check_even(&mut self, what: &str, zones: &[u8], records: &[Record]) {
        let counts = by_zone(records);
        let fair = records.len() as f64 / zones.len() as f64;
        // 200 clients over two zones: four standard deviations of a fair coin are 28 of 100.
        let even = |zone: &u8| {
            let count = counts.get(zone).copied().unwrap_or(0) as f64;
            (0.7 * fair..=1.3 * fair).contains(&count)
        };
        let strangers = counts.keys().any(|zone| !zones.contains(zone));
        let passed = !records.is_empty() && zones.iter().all(even) && !strangers;
        let names: Vec<String> = zones.iter().map(|zone| zone_name(*zone)).collect();
        let expected = format!("{fair:.0} ± 30 % each of {}", names.join(", "));
        self.check(what, expected, print_zones(&counts), passed);
    }

    /// Each client must be served by the same zone in both, and by one only.
    pub(crate) fn check_same_place(&mut self, what: &str, before: &[Record], after: &[Record]) {
        let (before, after) = (placement(before), placement(after));
        let moved =
            before.iter().filter(|(client, zones)| zones.len() != 1 || after.get(client) != Some(zones));
        let moved = moved.count();
        let seen = format!("{moved} of {} moved", before.len());
        self.check(what, "0 moved", seen, moved == 0 && !before.is_empty());
    }
}
