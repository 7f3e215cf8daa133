//! What one daemon knows of all servers.

use std::collections::BTreeMap;

use weir_model::{Name, Snapshot, status::Health};

/// What one daemon knows of all servers, per pool; a server it knows nothing of is [`Health::Unknown`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthView {
    pools: BTreeMap<Name, BTreeMap<Name, Health>>,
    /// Shares of their weights servers are to get just now, in hundredths, where that is not all.
    weights: BTreeMap<Name, BTreeMap<Name, u32>>,
}

impl HealthView {
    /// Every server up: what a reader without daemons assumes.
    pub fn all_up(snapshot: &Snapshot) -> Self {
        let mut view = Self::default();
        for (name, server) in &snapshot.servers {
            for pool in &server.pools {
                view.set(pool, name, Health::Up);
            }
        }
        view
    }

    /// Notes the health of a server in a pool.
    pub fn set(&mut self, pool: &Name, server: &Name, health: Health) {
        self.pools.entry(pool.clone()).or_default().insert(server.clone(), health);
    }

    /// The health of a server in a pool.
    pub fn get(&self, pool: &Name, server: &Name) -> Health {
        self.pools.get(pool).and_then(|servers| servers.get(server)).copied().unwrap_or_default()
    }

    /// Notes the share of its weight, in hundredths, that a server in a pool is to get: its agent says so, or it has just come up.
    pub fn set_weight(&mut self, pool: &Name, server: &Name, percent: u32) {
        self.weights.entry(pool.clone()).or_default().insert(server.clone(), percent);
    }

    /// Every server gets all of its weight.
    pub fn reset_weights(&mut self) {
        self.weights.clear();
    }

    /// The share of its weight, in hundredths, that a server in a pool is to get.
    pub fn weight(&self, pool: &Name, server: &Name) -> u32 {
        self.weights.get(pool).and_then(|servers| servers.get(server)).copied().unwrap_or(100)
    }

    /// Forgets servers and pools that `snapshot` no longer has.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        let is_in =
            |pool: &Name, name: &Name| snapshot.servers.get(name).is_some_and(|s| s.pools.contains(pool));
        self.pools.retain(|pool, servers| {
            servers.retain(|name, _| is_in(pool, name));
            snapshot.pools.contains_key(pool)
        });
        self.weights.retain(|pool, servers| {
            servers.retain(|name, _| is_in(pool, name));
            !servers.is_empty()
        });
    }
}

impl From<BTreeMap<Name, BTreeMap<Name, Health>>> for HealthView {
    fn from(pools: BTreeMap<Name, BTreeMap<Name, Health>>) -> Self {
        Self { pools, weights: BTreeMap::new() }
    }
}
