//! All a request needs to know, as one immutable value: swapped whole when configuration, health or the clock change it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use weir_core::{
    ClientKey,
    balance::{Balancer, Method, Request},
    health::HealthView,
    l7::RouteTable,
    routing::{HomeTable, PoolAssessment, ZoneAssessment, assess_all},
};
use weir_model::{Failover, Name, Pool, Snapshot};

use crate::live::{Live, PoolLive, ServerLive, Slot, random};

/// Routes, homes and pools at one moment.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) routes: RouteTable,
    pub(crate) homes: HomeTable,
    pub(crate) pools: BTreeMap<Name, PoolTable>,
    /// The zone this proxy stands in.
    pub(crate) zone: Option<Name>,
}

/// One pool at one moment.
#[derive(Debug)]
pub(crate) struct PoolTable {
    pub(crate) spec: Pool,
    pub(crate) assessment: PoolAssessment,
    pub(crate) live: Arc<PoolLive>,
    pub(crate) servers: HashMap<Name, Arc<ServerLive>>,
    balancers: HashMap<Name, Arc<Balancer>>,
}

/// Who asks, for the choice of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) home: Option<&'a Name>,
    pub(crate) client: ClientKey,
    /// What the pool hashes it by.
    pub(crate) key: Option<ClientKey>,
    /// Servers this request has tried.
    pub(crate) tried: &'a [Name],
    /// A zone to stay away from while another can serve.
    pub(crate) avoid: Option<&'a Name>,
}

/// What came of the choice.
#[derive(Debug)]
pub(crate) enum Choice {
    /// A slot at this server.
    Server(Slot),
    /// There are servers, all at their limit.
    Full,
    /// No server is left to try.
    Nobody,
}

impl Tables {
    /// The tables of a snapshot at `now`.
    pub(crate) fn build(
        snapshot: &Arc<Snapshot>,
        health: &HealthView,
        live: &Live,
        zone: Option<Name>,
        now: SystemTime,
    ) -> Self {
        let failovers: Vec<&Failover> = snapshot.failovers.values().filter(|f| f.is_active(now)).collect();
        let pools = assess_all(snapshot, health, &failovers)
            .into_iter()
            .filter_map(|(name, assessment)| {
                let table = PoolTable::build(&name, snapshot.pools.get(&name)?, assessment, live)?;
                Some((name, table))
            })
            .collect();
        Self {
            snapshot: Arc::clone(snapshot),
            routes: RouteTable::build(snapshot),
            homes: HomeTable::build(snapshot),
            pools,
            zone,
        }
    }
}

impl PoolTable {
    fn build(name: &Name, spec: &Pool, assessment: PoolAssessment, live: &Live) -> Option<Self> {
        let pool = Arc::clone(live.pools.get(name)?);
        let (zones, method) = (assessment.zones(), Method::from(spec));
        let balancers = zones.iter().map(|z| (z.zone.clone(), pool.balancer(&z.zone, method))).collect();
        let server = |server: &Name| {
            Some((server.clone(), Arc::clone(live.servers.get(&(name.clone(), server.clone()))?)))
        };
        let servers =
            zones.iter().flat_map(|z| &z.servers).filter_map(|verdict| server(&verdict.name)).collect();
        Some(Self { spec: spec.clone(), assessment, live: pool, servers, balancers })
    }

    /// Picks zone and server. Servers that refused a connection a moment ago are asked last.
    pub(crate) fn choose(&self, asking: Asking<'_>) -> Choice {
        let trusted = |server: &ServerLive| !server.is_suspect();
        // The usual case takes no memory: the picked zone has a server that is free.
        let picked = self.assessment.pick_zone(asking.home, asking.client);
        if let Some(zone) = picked.filter(|zone| Some(&zone.zone) != asking.avoid)
            && let Some(slot) = self.choose_in(zone, asking, trusted)
        {
            return Choice::Server(slot);
        }
        let mut order = self.assessment.zone_order(asking.home, asking.client);
        // Stable: the others keep their order.
        order.sort_by_key(|zone| Some(&zone.zone) == asking.avoid);
        let slot = order
            .iter()
            .find_map(|zone| self.choose_in(zone, asking, trusted))
            .or_else(|| order.iter().find_map(|zone| self.choose_in(zone, asking, |_| true)));
        if let Some(slot) = slot {
            return Choice::Server(slot);
        }
        let untried =
            order.iter().flat_map(|zone| zone.candidates.servers()).any(|s| !asking.tried.contains(&s.name));
        if untried { Choice::Full } else { Choice::Nobody }
    }

    fn choose_in(
        &self,
        zone: &ZoneAssessment,
        asking: Asking<'_>,
        wanted: impl Fn(&ServerLive) -> bool,
    ) -> Option<Slot> {
        let balancer = self.balancers.get(&zone.zone)?;
        let max = self.spec.max_connections;
        // Each round either takes a slot or finds that another thread took the last one of a server.
        for _race in 0..=zone.candidates.servers().len() {
            let request =
                Request { client: asking.client, key: asking.key, random: random(), tried: asking.tried };
            let load = |candidate: &weir_core::balance::Candidate| {
                let server = self.servers.get(&candidate.name)?;
                let active = server.active();
                (active < u64::from(max) && wanted(server)).then_some(active)
            };
            let chosen = balancer.choose(&zone.candidates, request, load)?;
            if let Some(slot) = Slot::take(self.servers.get(&chosen.name)?, &self.live, max) {
                return Some(slot);
            }
        }
        None
    }
}
