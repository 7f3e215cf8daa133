//! What a laboratory looks like right now: as data for `-o json`, as text for people.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    bird::Router,
    daemon::Kind,
    lab::{Lab, Times},
    load::Record,
    topology::{self, Role, VIP4, VIP6, zone_name},
};

/// The span of requests that counts as now.
const NOW: Duration = Duration::from_secs(2);

/// Everything at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LabStatus {
    /// The laboratory's name.
    pub(crate) name: String,
    /// The process that owns it.
    pub(crate) pid: u32,
    /// Its directory: configuration, sockets, logs.
    pub(crate) directory: String,
    /// How long it took to build, in seconds.
    pub(crate) times: Times,
    /// Requests sent so far.
    pub(crate) requests_total: u64,
    /// From which neighbours core has the VIP.
    pub(crate) core_routes: Vec<String>,
    /// The zones.
    pub(crate) zones: Vec<ZoneStatus>,
}

/// One zone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ZoneStatus {
    /// Its name.
    pub(crate) zone: String,
    /// Process id of its router, while that runs.
    pub(crate) router: Option<u32>,
    /// BGP sessions of its router: neighbour and whether established.
    pub(crate) sessions: BTreeMap<String, bool>,
    /// Neighbours the router has the VIP's IPv4 address from.
    pub(crate) announced4: Vec<String>,
    /// Neighbours the router has the VIP's IPv6 address from.
    pub(crate) announced6: Vec<String>,
    /// Balancer hosts: link and running daemons.
    pub(crate) balancers: BTreeMap<String, BalancerStatus>,
    /// Backends: serving or not, and requests so far.
    pub(crate) backends: BTreeMap<String, BackendStatus>,
    /// What its clients see.
    pub(crate) clients: ClientStatus,
}

/// A balancer host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BalancerStatus {
    /// Whether its link is up.
    pub(crate) link: bool,
    /// The daemons that run, with their process ids.
    pub(crate) daemons: BTreeMap<String, u32>,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BackendStatus {
    /// Whether it listens.
    pub(crate) serving: bool,
    /// Requests answered so far.
    pub(crate) requests: u64,
}

/// The clients of a zone over the last two seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClientStatus {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Failed requests per second.
    pub(crate) errors: f64,
    /// Median duration, in milliseconds.
    pub(crate) median_ms: f64,
    /// By which zone's servers they were answered, as shares of all.
    pub(crate) served: BTreeMap<String, f64>,
    /// The newest error.
    pub(crate) error: Option<String>,
}

impl LabStatus {
    /// Looks everywhere.
    pub(crate) async fn of(lab: &Lab) -> Result<Self> {
        let journal = lab.load.journal();
        let mark = journal.mark();
        // Two seconds of all zones' requests, and the slack of a busy machine.
        let span = u64::from(lab.load.rate()) * u64::from(lab.topology.zones) * 4 + 100;
        let now = Instant::now();
        let recent: Vec<Record> = journal
            .since(mark.saturating_sub(span))
            .into_iter()
            .filter(|record| now.duration_since(record.began + record.took) <= NOW)
            .collect();
        let mut zones = Vec::new();
        for zone in lab.topology.zones() {
            zones.push(ZoneStatus::of(lab, zone, &recent).await?);
        }
        let core = lab.console("core").await?;
        Ok(Self {
            name: lab.name.clone(),
            pid: std::process::id(),
            directory: lab.dir().display().to_string(),
            times: lab.times,
            requests_total: mark,
            core_routes: core.announcers(VIP4.into()).await.unwrap_or_default(),
            zones,
        })
    }

    /// A table for people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "laboratory {}  first request after {:.1} s, ready after {:.1} s, {} requests so far\n\
             core has the VIP from: {}\n\n\
             {:<5} {:<10} {:<24} {:<30} {:<22} {:>7} {:>6} {:>8}  served by\n",
            self.name,
            self.times.first_request,
            self.times.ready,
            self.requests_total,
            list(&self.core_routes),
            "zone",
            "sessions",
            "vip announced by",
            "balancers",
            "backends",
            "req/s",
            "err/s",
            "median",
        );
        for zone in &self.zones {
            text += &zone.to_line();
        }
        for zone in &self.zones {
            if let Some(error) = &zone.clients.error {
                let _ = writeln!(text, "{}: {error}", zone.zone);
            }
        }
        text
    }

    /// One line for logs.
    pub(crate) fn to_line(&self) -> String {
        let mut line = format!("{} requests", self.requests_total);
        for zone in &self.zones {
            let established = zone.sessions.values().filter(|up| **up).count();
            let _ = write!(
                line,
                " | {}: {:.0} req/s, {:.1} err/s, {:.1} ms, sessions {established}/{}, vip from {}, served by {}",
                zone.zone,
                zone.clients.rate,
                zone.clients.errors,
                zone.clients.median_ms,
                zone.sessions.len(),
                list(&zone.announced4),
                shares(&zone.clients.served),
            );
        }
        line
    }
}

impl ZoneStatus {
    async fn of(lab: &Lab, zone: u8, recent: &[Record]) -> Result<Self> {
        let console = lab.console(&topology::router_name(zone)).await?;
        // A router that does not run has no sessions: that is a status, not an error.
        let sessions = console.sessions().await.unwrap_or_default();
        let mut balancers = BTreeMap::new();
        for (host, balancer) in lab.balancers.lock().await.iter_mut().filter(|(host, _)| host.zone == zone) {
            let running = balancer.running();
            let pid = |kind: Kind| Some((kind.program().to_owned(), balancer.pid(kind)?));
            let daemons = running.into_iter().filter_map(pid).collect();
            balancers.insert(host.to_string(), BalancerStatus { link: balancer.is_joined(), daemons });
        }
        let mut backends = BTreeMap::new();
        for (host, backend) in lab.backends.lock().await.iter().filter(|(host, _)| host.zone == zone) {
            let status = BackendStatus { serving: backend.is_serving(), requests: backend.requests() };
            backends.insert(host.to_string(), status);
        }
        debug_assert_eq!(balancers.len(), lab.topology.of(Role::Balancer, Some(zone)).count());
        Ok(Self {
            zone: zone_name(zone),
            router: lab.routers.lock().await.get(&topology::router_name(zone)).and_then(Router::pid),
            sessions: sessions.into_iter().map(|session| (session.name, session.established)).collect(),
            announced4: console.announcers(VIP4.into()).await.unwrap_or_default(),
            announced6: console.announcers(VIP6.into()).await.unwrap_or_default(),
            balancers,
            backends,
            clients: ClientStatus::of(recent.iter().filter(|record| record.zone == zone)),
        })
    }

    fn to_line(&self) -> String {
        let balancers: Vec<String> = self
            .balancers
            .iter()
            .map(|(name, status)| match (status.link, status.daemons.len()) {
                (false, _) => format!("{name} cut off"),
                (true, 3) => format!("{name} up"),
                (true, running) => format!("{name} {running}/3"),
            })
            .collect();
        let serving = self.backends.values().filter(|backend| backend.serving).count();
        let established = self.sessions.values().filter(|up| **up).count();
        format!(
            "{:<5} {:<10} {:<24} {:<30} {:<22} {:>7.0} {:>6.1} {:>6.1} ms  {}\n",
            self.zone,
            format!("{established} of {}", self.sessions.len()),
            list(&self.announced4),
            balancers.join(", "),
            format!("{serving} of {} serve", self.backends.len()),
            self.clients.rate,
            self.clients.errors,
            self.clients.median_ms,
            shares(&self.clients.served),
        )
    }
}

impl ClientStatus {
    fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        let records: Vec<&Record> = records.collect();
        let per_second = |count: usize| count as f64 / NOW.as_secs_f64();
        let mut took: Vec<Duration> = records.iter().map(|record| record.took).collect();
        took.sort();
        let mut served: BTreeMap<String, f64> = BTreeMap::new();
        for answer in records.iter().filter_map(|record| record.outcome.as_ref().ok()) {
            *served.entry(zone_name(answer.zone)).or_default() += 1.0 / records.len() as f64;
        }
        Self {
            rate: per_second(records.len()),
            errors: per_second(records.iter().filter(|record| record.outcome.is_err()).count()),
            median_ms: took.get(took.len() / 2).map_or(0.0, |took| took.as_secs_f64() * 1000.0),
            served,
            error: records.iter().rev().find_map(|record| record.outcome.as_ref().err().cloned()),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".into() } else { names.join(" ") }
}

fn shares(served: &BTreeMap<String, f64>) -> String {
    if served.is_empty() {
        return "nobody".into();
    }
    served.iter().map(|(zone, share)| format!("{zone} {:.0}%", share * 100.0)).collect::<Vec<_>>().join(", ")
}
