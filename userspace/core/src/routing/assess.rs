//! What each zone can do for a pool: health, administrative state and failovers in, candidates and shares out.
//!
//! Per zone, over its active servers with a weight:
//!
//! ```text
//!  capacity = overprovision × healthy weight / total weight       (1.0 = the zone's own traffic)
//!  carries  = min(1, capacity)
//!  share of home = carries × (1 − failover)
//! ```
//!
//! Backups are no part of it until no other server of the pool is healthy in any zone; then they alone are. A proxy that finds out
//! before the checks do asks them, too ([`ZoneAssessment::backups`]).
//!
//! Pure and without a clock: the caller passes the failovers that are in force.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weir_model::{Admin, Failover, FailoverScope, Name, Percent, Pool, Server, Snapshot, status::Health};

use super::pick::Plans;
use crate::{
    balance::Candidates,
    hash::{self, ClientKey},
    health::HealthView,
};

/// How one pool is served now, for every home zone. Immutable; picking from it takes no lock and no memory.
#[derive(Clone, Debug)]
pub struct PoolAssessment {
    mode: Mode,
    zones: Vec<ZoneAssessment>,
    plans: Plans,
}

/// By what right the candidates were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Healthy servers serve.
    Healthy,
    /// No active server is healthy but backups: they serve.
    Backup,
    /// No active server is healthy, but some that are being drained are alive: they serve.
    LastResort,
    /// Not one server is known to be alive: all that are not disabled are tried, since the checks may be what is wrong.
    FailStatic,
    /// There is no server that may be tried.
    Empty,
}

/// One zone's part in a pool.
#[derive(Clone, Debug)]
pub struct ZoneAssessment {
    /// The zone.
    pub zone: Name,
    /// Every server of the pool there, by name.
    pub servers: Vec<ServerVerdict>,
    /// Those that may serve.
    pub candidates: Candidates,
    /// Healthy backups, for requests no candidate of any zone could take: no part of the shares.
    pub backups: Candidates,
    /// Weight of the active servers.
    pub total_weight: u64,
    /// Weight of those that are healthy.
    pub healthy_weight: u64,
    /// What it can carry, in units of its own traffic.
    pub capacity: f64,
    /// The part of what it carries that a failover moves away, 0 to 1.
    pub failover: f64,
    /// Share of spilled traffic relative to other zones; 0 keeps it away while another zone can take it.
    pub spill_weight: u32,
    /// Distances to other zones; see [`Zone::distance`](weir_model::Zone).
    pub(super) distance: BTreeMap<Name, u32>,
    pub(super) seed: u64,
}

/// Whether a server may serve, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVerdict {
    /// The server.
    pub name: Name,
    /// Whether it is a candidate.
    pub candidate: bool,
    /// Why.
    pub reason: String,
}

impl ZoneAssessment {
    /// The share of its own traffic that the zone can carry, 0 to 1, failovers aside.
    pub fn carries(&self) -> f64 {
        self.capacity.min(1.0)
    }
}

/// Assesses one pool; `None` when there is no such pool. `failovers` are those in force.
pub fn assess(
    snapshot: &Snapshot,
    pool: &Name,
    health: &HealthView,
    failovers: &[&Failover],
) -> Option<PoolAssessment> {
    let (name, spec) = snapshot.pools.get_key_value(pool)?;
    Some(build(snapshot, name, spec, snapshot.servers_of(pool), health, failovers))
}

/// Assesses every pool in one pass over the servers.
pub fn assess_all(
    snapshot: &Snapshot,
    health: &HealthView,
    failovers: &[&Failover],
) -> BTreeMap<Name, PoolAssessment> {
    let mut members: BTreeMap<&Name, Vec<(&Name, &Server)>> = BTreeMap::new();
    for (name, server) in &snapshot.servers {
        let pools: BTreeSet<&Name> = server.pools.iter().collect();
        for pool in pools {
            members.entry(pool).or_default().push((name, server));
        }
    }
    let assess = |(name, pool)| {
        let servers = members.remove(name).unwrap_or_default();
        (Name::clone(name), build(snapshot, name, pool, servers.into_iter(), health, failovers))
    };
    snapshot.pools.iter().map(assess).collect()
}

impl PoolAssessment {
    /// By what right the candidates were chosen.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether some server of some zone is known to be able to answer. Without one, requests are still tried
    /// ([`Mode::FailStatic`]), but no client should be invited.
    pub fn is_deliverable(&self) -> bool {
        match self.mode {
            Mode::Healthy | Mode::Backup | Mode::LastResort => true,
            Mode::FailStatic | Mode::Empty => false,
        }
    }

    /// The zones with servers of the pool, by name.
    pub fn zones(&self) -> &[ZoneAssessment] {
        &self.zones
    }

    /// One zone's part; `None` when it has no server of the pool.
    pub fn zone(&self, zone: &Name) -> Option<&ZoneAssessment> {
        self.zones.iter().find(|z| z.zone == *zone)
    }

    /// The zone that serves a client; `None` only when no zone has a candidate.
    pub fn pick_zone(&self, home: Option<&Name>, client: ClientKey) -> Option<&ZoneAssessment> {
        self.zones.get(self.plans.of(home).pick(client)?)
    }

    /// All zones with candidates in the order in which a request tries them: the picked one first.
    pub fn zone_order(&self, home: Option<&Name>, client: ClientKey) -> Vec<&ZoneAssessment> {
        let picked = self.plans.of(home).pick(client);
        let mut rest: Vec<(f64, u32, usize)> = self
            .zones
            .iter()
            .enumerate()
            .filter(|(index, zone)| Some(*index) != picked && !zone.candidates.is_empty())
            .map(|(index, zone)| {
                // Zones that traffic is to leave come last, those in trouble late; a distance only parts equals.
                let weight = zone.carries().max(f64::MIN_POSITIVE) * f64::from(zone.spill_weight.max(1));
                let distance = home.and_then(|home| zone.distance.get(home)).copied().unwrap_or(1);
                let score = client.score(zone.seed, weight);
                (
                    if zone.failover > 0.0 { -1.0 / score.max(f64::MIN_POSITIVE) } else { score },
                    distance,
                    index,
                )
            })
            .collect();
        rest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        picked
            .into_iter()
            .chain(rest.into_iter().map(|(_, _, index)| index))
            .map(|i| &self.zones[i])
            .collect()
    }

    /// What share of a home zone's traffic each zone serves: sums to 1, or is empty when nobody can serve.
    pub fn shares(&self, home: Option<&Name>) -> BTreeMap<Name, f64> {
        let shares = self.plans.of(home).shares();
        shares.into_iter().map(|(index, share)| (self.zones[index].zone.clone(), share)).collect()
    }

    /// The share of its traffic that a home zone keeps; 0 when it has no server.
    pub fn home_share(&self, home: &Name) -> f64 {
        self.plans.of(Some(home)).home_share()
    }
}

fn build<'a>(
    snapshot: &Snapshot,
    pool: &Name,
    spec: &Pool,
    servers: impl Iterator<Item = (&'a Name, &'a Server)>,
    health_view: &HealthView,
    failovers: &[&Failover],
) -> PoolAssessment {
    let mut by_zone: BTreeMap<&Name, Vec<Member<'a>>> = BTreeMap::new();
    for (name, server) in servers {
        let health = match (spec.check.is_some(), health_view.get(pool, name)) {
            (false, Health::Unknown) => Health::Up,
            (_, health) => health,
        };
        let share_percent = health_view.weight(pool, name);
        by_zone.entry(&server.zone).or_default().push(Member { name, server, health, share_percent });
    }
    let members = || by_zone.values().flatten();
    let mode = [Mode::Healthy, Mode::Backup, Mode::LastResort, Mode::FailStatic]
        .into_iter()
        .find(|mode| members().any(|member| member.judge(*mode).is_ok()))
        .unwrap_or(Mode::Empty);
    let zones: Vec<ZoneAssessment> = by_zone
        .iter()
        .map(|(zone, members)| zone_of(snapshot, pool, spec, zone, members, mode, failovers))
        .collect();
    PoolAssessment { mode, plans: Plans::new(snapshot.zones.keys(), &zones), zones }
}

struct Member<'a> {
    name: &'a Name,
    server: &'a Server,
    health: Health,
    /// The share of its weight it is to get just now, in hundredths.
    share_percent: u32,
}

impl Member<'_> {
    /// Whether the server may serve under `mode`; the reason either way.
    fn judge(&self, mode: Mode) -> Result<&'static str, &'static str> {
        match (self.server.admin, self.health, mode) {
            (Admin::Disabled, ..) => Err("disabled"),
            (Admin::Active, Health::Up, Mode::Healthy) if self.server.backup => {
                Err("backup: others of the pool can serve")
            }
            (Admin::Active, Health::Up, Mode::Healthy) if self.server.weight > 0 => Ok("up"),
            (Admin::Active, Health::Up, Mode::Backup) if self.server.backup && self.server.weight > 0 => {
                Ok("backup: no other of the pool is healthy")
            }
            (Admin::Active, Health::Up | Health::Unknown, Mode::Healthy | Mode::Backup)
                if self.server.weight == 0 =>
            {
                Err("weight 0")
            }
            (Admin::Drain, _, Mode::Healthy | Mode::Backup) => Err("drained by the operator"),
            (_, Health::Up | Health::Draining, Mode::LastResort) => {
                Ok("last resort: alive, and no active server is healthy")
            }
            (_, _, Mode::FailStatic) => Ok("fail-static: no server is known to be alive"),
            (_, Health::Down, _) => Err("down"),
            (_, Health::Draining, _) => Err("asks for no new flows"),
            (_, Health::Unknown, _) => Err("not checked yet"),
            (Admin::Active | Admin::Drain, Health::Up, Mode::Healthy | Mode::Backup | Mode::Empty) => {
                Err("not needed")
            }
        }
    }

    /// Weight it takes part with: a server that may serve although its weight is 0 counts as the lightest.
    fn weight(&self) -> u32 {
        self.server.weight.max(1)
    }

    /// The same in hundredths, with what it is to get of it just now.
    fn weight_now(&self) -> u32 {
        (self.weight() * self.share_percent).max(1)
    }

    /// Whether it takes part under `mode`, healthy or not.
    fn counts(&self, mode: Mode) -> bool {
        let is_active = self.server.admin == Admin::Active && self.server.weight > 0;
        match mode {
            Mode::Healthy => is_active && !self.server.backup,
            Mode::Backup => is_active && self.server.backup,
            Mode::LastResort | Mode::FailStatic | Mode::Empty => self.judge(mode).is_ok(),
        }
    }
}

fn zone_of(
    snapshot: &Snapshot,
    pool: &Name,
    spec: &Pool,
    zone: &Name,
    members: &[Member<'_>],
    mode: Mode,
    failovers: &[&Failover],
) -> ZoneAssessment {
    let mut total_weight = 0;
    let mut healthy_weight = 0;
    let mut servers = Vec::with_capacity(members.len());
    // As few bits as do: rounds in turn are as long as weights are large.
    let is_whole = members.iter().all(|member| member.share_percent == 100);
    let weight = |member: &Member<'_>| if is_whole { member.weight() } else { member.weight_now() };
    let candidate = |member: &Member<'_>| (member.name.clone(), member.server.address, weight(member));
    let mut candidates = Vec::new();
    let mut backups = Vec::new();
    for member in members {
        let verdict = member.judge(mode);
        total_weight += if member.counts(mode) { u64::from(member.weight()) } else { 0 };
        if verdict.is_ok() {
            healthy_weight += u64::from(member.weight());
            candidates.push(candidate(member));
        } else if mode == Mode::Healthy && member.judge(Mode::Backup).is_ok() {
            backups.push(candidate(member));
        }
        let (Ok(reason) | Err(reason)) = verdict;
        let candidate = verdict.is_ok();
        servers.push(ServerVerdict { name: member.name.clone(), candidate, reason: reason.to_owned() });
    }
    let capacity = match total_weight {
        0 => 0.0,
        total => healthy_weight as f64 * spec.overprovision.as_factor() / total as f64,
    };
    let place = snapshot.zones.get(zone);
    let spill_weight =
        spec.spill_weights.get(zone).copied().unwrap_or_else(|| place.map_or(1, |place| place.spill_weight));
    ZoneAssessment {
        zone: zone.clone(),
        servers,
        candidates: Candidates::new(candidates),
        backups: Candidates::new(backups),
        total_weight,
        healthy_weight,
        capacity,
        failover: failover_of(zone, pool, failovers).as_factor(),
        spill_weight,
        distance: place.map(|place| place.distance.clone()).unwrap_or_default(),
        seed: hash::bytes(zone.as_str().as_bytes()),
    }
}

/// The strongest failover of a zone that concerns a pool.
fn failover_of(zone: &Name, pool: &Name, failovers: &[&Failover]) -> Percent {
    let concerns = |scope: &FailoverScope| match scope {
        FailoverScope::Everything => true,
        FailoverScope::Pool(name) => name == pool,
    };
    let percents = failovers.iter().filter(|f| f.zone == *zone && concerns(&f.scope)).map(|f| f.percent);
    percents.max().unwrap_or(Percent::whole(0)).min(Percent::FULL)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
