//! From zones and their capacity to a precomputed plan per home zone: what stays, and who takes the rest.
//!
//! Who takes the rest of a home zone's traffic, first line with a member:
//!
//! 1. other zones without failover that carry all their own traffic, by spill weight;
//! 2. those among them with spill weight 0, evenly;
//! 3. the home zone itself, unless it is under failover: sending away what nobody has room for would only mix clients;
//! 4. other zones without failover that carry anything, by spill weight and what they carry;
//! 5. the home zone, failover or not: an operator's wish moves traffic, it does not refuse it;
//! 6. any other zone that carries anything.

use std::cmp::Ordering;

use weir_model::Name;

use super::assess::ZoneAssessment;
use crate::hash::ClientKey;

/// One plan per zone, and one for clients that have no home or an unknown one.
#[derive(Clone, Debug)]
pub(super) struct Plans {
    homes: Vec<(Name, Plan)>,
    homeless: Plan,
}

/// Where the traffic of one home zone goes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    home: Option<usize>,
    home_share: f64,
    /// Takers of the rest.
    rest: Vec<Taker>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Taker {
    zone: usize,
    seed: u64,
    weight: f64,
    distance: u32,
}

impl Plans {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a Name>, zones: &[ZoneAssessment]) -> Self {
        let homes = names.map(|name| (name.clone(), Plan::new(Some(name), zones))).collect();
        Self { homes, homeless: Plan::new(None, zones) }
    }

    pub(super) fn of(&self, home: Option<&Name>) -> &Plan {
        let index = home.and_then(|home| self.homes.binary_search_by(|(name, _)| name.cmp(home)).ok());
        index.and_then(|index| self.homes.get(index)).map_or(&self.homeless, |(_, plan)| plan)
    }
}

impl Plan {
    fn new(name: Option<&Name>, zones: &[ZoneAssessment]) -> Self {
        let home = name.and_then(|name| zones.iter().position(|zone| zone.zone == *name));
        let (carries, failover) =
            home.and_then(|home| zones.get(home)).map_or((0.0, 0.0), |zone| (zone.carries(), zone.failover));
        let takers = |wanted: &dyn Fn(&ZoneAssessment) -> bool, weight: &dyn Fn(&ZoneAssessment) -> f64| {
            zones
                .iter()
                .enumerate()
                .filter(|(index, zone)| Some(*index) != home && zone.capacity > 0.0 && wanted(zone))
                .map(|(index, zone)| Taker {
                    zone: index,
                    seed: zone.seed,
                    weight: weight(zone),
                    distance: name.and_then(|name| zone.distance.get(name)).copied().unwrap_or(1),
                })
                .collect::<Vec<_>>()
        };
        let free = |zone: &ZoneAssessment| zone.failover == 0.0;
        let roomy = |zone: &ZoneAssessment| free(zone) && zone.capacity >= 1.0;
        let by_capacity = |zone: &ZoneAssessment| f64::from(zone.spill_weight.max(1)) * zone.carries();
        let stay = || Self { home, home_share: 1.0, rest: Vec::new() };
        let go = |rest| Self { home, home_share: carries * (1.0 - failover), rest };

        let first = takers(&|zone| roomy(zone) && zone.spill_weight > 0, &|z| f64::from(z.spill_weight));
        if !first.is_empty() {
            return go(first);
        }
        let second = takers(&roomy, &|_| 1.0);
        if !second.is_empty() {
            return go(second);
        }
        if carries > 0.0 && failover == 0.0 {
            return stay();
        }
        let fourth = takers(&free, &by_capacity);
        if !fourth.is_empty() {
            return go(fourth);
        }
        if carries > 0.0 {
            return stay();
        }
        go(takers(&|_| true, &by_capacity))
    }

    /// The index of the zone that serves a client: no lock, no allocation.
    pub(super) fn pick(&self, client: ClientKey) -> Option<usize> {
        if client.position() < self.home_share {
            return self.home;
        }
        if let [only] = self.rest.as_slice() {
            return Some(only.zone);
        }
        let best = |a: &(f64, Taker), b: &(f64, Taker)| match a.0.total_cmp(&b.0) {
            // Distance never favours a zone; it only decides where two are exactly equal.
            Ordering::Equal => b.1.distance.cmp(&a.1.distance).then(b.1.zone.cmp(&a.1.zone)),
            order => order,
        };
        let scored = self.rest.iter().map(|taker| (client.score(taker.seed, taker.weight), *taker));
        scored.max_by(best).map(|(_, taker)| taker.zone)
    }

    pub(super) fn home_share(&self) -> f64 {
        self.home_share
    }

    /// Zone index and share, zones without a share left out.
    pub(super) fn shares(&self) -> Vec<(usize, f64)> {
        let total: f64 = self.rest.iter().map(|taker| taker.weight).sum();
        let rest = self.rest.iter().map(|t| (t.zone, (1.0 - self.home_share) * t.weight / total));
        let home = self.home.map(|home| (home, self.home_share));
        home.into_iter().chain(rest).filter(|(_, share)| *share > 0.0).collect()
    }
}
