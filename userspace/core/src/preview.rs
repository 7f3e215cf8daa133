//! What a failover would do: the load of every zone before and after, and whether the others can bear it.
//!
//! The unit of load is a zone's own traffic: every zone is taken to have 1.0 of it, since the objects do not say which
//! zone is busier. A zone's capacity is what `routing::assess` says.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use weir_model::{Failover, Name, Snapshot};

use crate::{
    health::HealthView,
    routing::{PoolAssessment, assess_all},
};

/// Rounding of shares that is not worth a refusal.
const TOLERANCE: f64 = 1e-6;

/// The effect of going from one set of failovers to another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Per pool and zone.
    pub pools: BTreeMap<Name, BTreeMap<Name, ZoneLoad>>,
    /// Why an operator should think twice; empty when every zone can carry what it gets.
    pub refusals: Vec<String>,
}

/// The load of one zone in one pool, in units of a zone's own traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ZoneLoad {
    /// Under the failovers in force.
    pub before: f64,
    /// Under the proposed ones.
    pub after: f64,
    /// What it can carry.
    pub capacity: f64,
}

impl ZoneLoad {
    /// What it could still take afterwards; negative when it is overloaded.
    pub fn headroom(&self) -> f64 {
        self.capacity - self.after
    }
}

/// Compares the failovers in force with proposed ones (both complete: a proposed failover is added to those in force).
pub fn preview(
    snapshot: &Snapshot,
    health: &HealthView,
    before: &[&Failover],
    after: &[&Failover],
) -> Preview {
    let now = assess_all(snapshot, health, before);
    let then = assess_all(snapshot, health, after);
    let mut preview = Preview::default();
    for (pool, now) in &now {
        let Some(then) = then.get(pool) else { continue };
        let loads = loads(snapshot, now, then);
        for (zone, load) in &loads {
            if load.after > load.before + TOLERANCE && load.headroom() < -TOLERANCE {
                preview.refusals.push(format!(
                    "pool {pool}: zone {zone} would carry {:.2} of its own traffic, its capacity is {:.2}",
                    load.after, load.capacity
                ));
            }
        }
        let unmoved = then.zones().iter().filter(|zone| {
            let wished = zone.carries() * (1.0 - zone.failover);
            zone.failover > 0.0 && then.home_share(&zone.zone) > wished + TOLERANCE
        });
        for zone in unmoved {
            preview
                .refusals
                .push(format!("pool {pool}: no other zone can take the traffic of {}: it stays", zone.zone));
        }
        preview.pools.insert(pool.clone(), loads);
    }
    preview
}

fn loads(snapshot: &Snapshot, now: &PoolAssessment, then: &PoolAssessment) -> BTreeMap<Name, ZoneLoad> {
    let zones: BTreeSet<&Name> = now.zones().iter().map(|zone| &zone.zone).collect();
    let mut loads: BTreeMap<Name, ZoneLoad> = zones
        .into_iter()
        .map(|zone| {
            let capacity = then.zone(zone).map_or(0.0, |zone| zone.capacity);
            (zone.clone(), ZoneLoad { capacity, ..ZoneLoad::default() })
        })
        .collect();
    for home in snapshot.zones.keys() {
        for (zone, share) in now.shares(Some(home)) {
            loads.entry(zone).or_default().before += share;
        }
        for (zone, share) in then.shares(Some(home)) {
            loads.entry(zone).or_default().after += share;
        }
    }
    loads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::assess::testing::{failover, three_zones};

    #[test]
    fn a_failed_zone_loads_the_others_alike_and_is_refused_beyond_their_capacity() {
        let mut snapshot = three_zones(3);
        let health = HealthView::all_up(&snapshot);
        let proposed = failover("a", "100%");
        let p = preview(&snapshot, &health, &[], &[&proposed]);
        let loads = &p.pools["web"];
        assert_eq!((loads["a"].before, loads["a"].after), (1.0, 0.0));
        assert_eq!((loads["b"].after, loads["c"].after), (1.5, 1.5));
        // 140 % is not enough for one and a half times the traffic.
        assert_eq!(p.refusals.len(), 2, "{:?}", p.refusals);
        assert!(loads["b"].headroom() < 0.0);

        snapshot.pools.get_mut("web").unwrap().overprovision = "150%".parse().unwrap();
        assert_eq!(preview(&snapshot, &health, &[], &[&proposed]).refusals, [""; 0]);
    }

    #[test]
    fn half_a_failover_moves_half() {
        let snapshot = three_zones(3);
        let p = preview(&snapshot, &HealthView::all_up(&snapshot), &[], &[&failover("a", "50%")]);
        assert_eq!(p.refusals, [""; 0]);
        assert_eq!((p.pools["web"]["a"].after, p.pools["web"]["b"].after), (0.5, 1.25));
    }

    #[test]
    fn the_last_zone_cannot_be_failed() {
        let snapshot = three_zones(3);
        let all = [failover("a", "100%"), failover("b", "100%"), failover("c", "100%")];
        let p = preview(
            &snapshot,
            &HealthView::all_up(&snapshot),
            &[&all[0], &all[1]],
            &[&all[0], &all[1], &all[2]],
        );
        assert!(p.refusals.iter().any(|r| r.contains("no other zone")), "{:?}", p.refusals);
    }

    #[test]
    fn ending_a_failover_is_never_refused() {
        let snapshot = three_zones(3);
        let p = preview(&snapshot, &HealthView::all_up(&snapshot), &[&failover("a", "100%")], &[]);
        assert_eq!(p.refusals, [""; 0]);
        assert_eq!((p.pools["web"]["a"].before, p.pools["web"]["a"].after), (0.0, 1.0));
    }
}
