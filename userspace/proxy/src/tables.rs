//! All a request needs to know, as one immutable value: swapped whole when configuration, health or the clock change it.

use std::{cell::RefCell, ops::Deref, sync::Arc, time::SystemTime};

use arc_swap::{ArcSwap, Cache};
use weir_core::{
    ClientKey,
    balance::{Balancer, Candidate, Candidates, Method, Request, key},
    hash::NameMap,
    health::HealthView,
    l7::RouteTable,
    routing::{HomeTable, PoolAssessment, ZoneAssessment, assess_all},
};
use weir_model::{Failover, Name, Pool, SendProxy, Snapshot};

use crate::{
    exchange::Exchange,
    ledger::{Ledger, Series},
    live::{Live, PoolLive, ServerLive, Slot, random},
    tls::{ServerTerms, Towards},
};

/// Routes, homes and pools at one moment.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) routes: RouteTable,
    pub(crate) homes: HomeTable,
    pub(crate) listeners: NameMap<Name, ListenerTable>,
    pub(crate) pools: NameMap<Name, PoolTable>,
    /// The zone this proxy stands in.
    pub(crate) zone: Option<Name>,
}

/// The tables at one moment, as one thread holds them: other threads count their own holders, elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Now(Arc<Held>);

/// What a thread holds of tables: one part of them, however many requests have a part of this.
#[derive(Debug)]
struct Held(Arc<Tables>);

/// One listener at one moment.
#[derive(Debug, Default)]
pub(crate) struct ListenerTable {
    /// The home zone of everybody who comes by its VIP.
    pub(crate) vip_home: Option<Name>,
    /// Whether servers may want to know what a client has said in its TLS handshake.
    pub(crate) tells_servers: bool,
    /// What is counted, by pool.
    series: NameMap<Name, Arc<Series>>,
}

/// One pool at one moment.
#[derive(Debug)]
pub(crate) struct PoolTable {
    pub(crate) spec: Pool,
    /// How its servers are shaken hands with; without it they are spoken to in the clear.
    pub(crate) tls: Option<Arc<ServerTerms>>,
    pub(crate) assessment: PoolAssessment,
    pub(crate) live: Arc<PoolLive>,
    pub(crate) servers: NameMap<Name, Arc<ServerLive>>,
    /// Who chooses in a zone, and whom there is to choose from.
    members: NameMap<Name, Members>,
}

/// Those of a zone, in the order of its candidates.
#[derive(Debug)]
struct Members {
    balancer: Arc<Balancer>,
    candidates: Vec<Arc<ServerLive>>,
    backups: Vec<Arc<ServerLive>>,
}

/// Which of a zone's servers are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Candidates,
    Backups,
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

impl Deref for Now {
    type Target = Tables;

    fn deref(&self) -> &Tables {
        &self.0.0
    }
}

impl Now {
    pub(crate) fn of(tables: Arc<Tables>) -> Self {
        Self(Arc::new(Held(tables)))
    }

    /// What is in force.
    pub(crate) fn load(tables: &Arc<ArcSwap<Tables>>) -> Self {
        type Seen = (Cache<Arc<ArcSwap<Tables>>, Arc<Tables>>, Now);
        thread_local!(static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) });
        SEEN.with_borrow_mut(|seen| {
            let (cache, now) = seen.get_or_insert_with(|| {
                let mut cache = Cache::new(Arc::clone(tables));
                let now = Self::of(Arc::clone(cache.load()));
                (cache, now)
            });
            let newest = cache.load();
            if !Arc::ptr_eq(newest, &now.0.0) {
                *now = Self::of(Arc::clone(newest));
            }
            now.clone()
        })
    }
}

impl ListenerTable {
    fn build(name: &Name, snapshot: &Snapshot, ledger: &Ledger) -> Option<Self> {
        let listener = snapshot.listeners.get(name)?;
        let vip = listener.vip.as_ref().and_then(|vip| snapshot.vips.get(vip));
        let mut series = NameMap::default();
        for pool in listener.pool.iter().chain(listener.routes.iter().map(|route| &route.pool)) {
            if !series.contains_key(pool) {
                series.insert(pool.clone(), ledger.series(name, Some(pool)));
            }
        }
        let wants_to_know =
            |pool: &Name| snapshot.pools.get(pool).is_some_and(|pool| pool.send_proxy == Some(SendProxy::V2));
        Some(Self {
            vip_home: vip.and_then(|vip| vip.home_zone.clone()),
            tells_servers: series.keys().any(wants_to_know),
            series,
        })
    }

    /// An exchange of this listener goes to a pool.
    pub(crate) fn goes_to(&self, pool: &Name, exchange: &mut Exchange) {
        if let Some(series) = self.series.get(pool) {
            exchange.part = series.mine();
        }
        exchange.note(|noted| noted.pool = Some(pool.clone()));
    }
}

impl Tables {
    /// The tables of a snapshot at `now`.
    pub(crate) fn build(
        snapshot: &Arc<Snapshot>,
        health: &HealthView,
        live: &Live,
        (ledger, towards): (&Ledger, &Towards),
        zone: Option<Name>,
        now: SystemTime,
    ) -> Self {
        let failovers: Vec<&Failover> = snapshot.failovers.values().filter(|f| f.is_active(now)).collect();
        let pools = assess_all(snapshot, health, &failovers)
            .into_iter()
            .filter_map(|(name, assessment)| {
                let mut table = PoolTable::build(&name, snapshot.pools.get(&name)?, assessment, live)?;
                table.tls = towards.get(&name).cloned();
                Some((name, table))
            })
            .collect();
        let listener = |name: &Name| Some((name.clone(), ListenerTable::build(name, snapshot, ledger)?));
        Self {
            listeners: snapshot.listeners.keys().filter_map(listener).collect(),
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
        let server = |server: &Name| {
            Some((server.clone(), Arc::clone(live.servers.get(&(name.clone(), server.clone()))?)))
        };
        let servers: NameMap<Name, Arc<ServerLive>> =
            zones.iter().flat_map(|z| &z.servers).filter_map(|verdict| server(&verdict.name)).collect();
        // Every candidate is one of the zone's servers, and each of those is live: or else there is nobody to choose.
        let all = |part: &Candidates| {
            let servers = part.servers().iter().map(|server| servers.get(&server.name).cloned());
            servers.collect::<Option<Vec<_>>>().unwrap_or_default()
        };
        let members = |z: &ZoneAssessment| Members {
            balancer: pool.balancer(&z.zone, method),
            candidates: all(&z.candidates),
            backups: all(&z.backups),
        };
        let members = zones.iter().map(|z| (z.zone.clone(), members(z))).collect();
        let table = Self { spec: spec.clone(), tls: None, assessment, live: pool, servers, members };
        table.forget_circuits();
        Some(table)
    }

    /// What a request is hashed by, where the pool wants that.
    pub(crate) fn key<'f>(
        &self,
        target: &str,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Option<ClientKey> {
        key::of(self.spec.hash_on.as_ref()?, target, fields)
    }

    /// Picks zone and server. Servers that refused a connection a moment ago, or are ejected, are asked last, even after backups.
    pub(crate) fn choose(&self, asking: Asking<'_>) -> Choice {
        let trusted = |server: &ServerLive| !server.is_suspect() && server.passive.admits();
        // The usual case takes no memory: the picked zone has a server that is free.
        let picked = self.assessment.pick_zone(asking.home, asking.client);
        if let Some(zone) = picked.filter(|zone| Some(&zone.zone) != asking.avoid)
            && let Some(slot) = self.choose_in(zone, Part::Candidates, asking, trusted)
        {
            return Choice::Server(slot);
        }
        let mut order = self.assessment.zone_order(asking.home, asking.client);
        // Stable: the others keep their order.
        order.sort_by_key(|zone| Some(&zone.zone) == asking.avoid);
        let slot = order
            .iter()
            .find_map(|zone| self.choose_in(zone, Part::Candidates, asking, trusted))
            .or_else(|| self.choose_backup(&order, asking, trusted))
            .or_else(|| {
                order.iter().find_map(|zone| self.choose_in(zone, Part::Candidates, asking, |_| true))
            });
        if let Some(slot) = slot {
            return Choice::Server(slot);
        }
        let servers = order.iter().flat_map(|zone| zone.candidates.servers());
        let untried = servers.into_iter().any(|s| !asking.tried.contains(&s.name));
        if untried { Choice::Full } else { Choice::Nobody }
    }

    /// A backup, when all that is left of the others has just failed: while one of them is merely full, requests wait for it.
    fn choose_backup(
        &self,
        order: &[&ZoneAssessment],
        asking: Asking<'_>,
        trusted: impl Fn(&ServerLive) -> bool + Copy,
    ) -> Option<Slot> {
        let is_there = |candidate: &Candidate| {
            !asking.tried.contains(&candidate.name)
                && self.servers.get(&candidate.name).is_some_and(|s| trusted(s))
        };
        if order.iter().flat_map(|zone| zone.candidates.servers()).any(is_there) {
            return None;
        }
        let is_home = |zone: &&ZoneAssessment| Some(&zone.zone) == asking.home;
        let zones = self.assessment.zones();
        let home_first = zones.iter().filter(is_home).chain(zones.iter().filter(|zone| !is_home(zone)));
        home_first.into_iter().find_map(|zone| self.choose_in(zone, Part::Backups, asking, trusted))
    }

    fn choose_in(
        &self,
        zone: &ZoneAssessment,
        part: Part,
        asking: Asking<'_>,
        wanted: impl Fn(&ServerLive) -> bool,
    ) -> Option<Slot> {
        let members = self.members.get(&zone.zone)?;
        let (candidates, servers) = match part {
            Part::Candidates => (&zone.candidates, &members.candidates),
            Part::Backups => (&zone.backups, &members.backups),
        };
        let max = self.spec.max_connections;
        // Each round either takes a slot or finds that another thread took the last one of a server.
        for _race in 0..=servers.len() {
            let request =
                Request { client: asking.client, key: asking.key, random: random(), tried: asking.tried };
            let load = |candidate: &Candidate| {
                let server = servers.get(candidate.index)?;
                let active = server.active();
                (active < u64::from(max) && wanted(server)).then_some(active)
            };
            let chosen = members.balancer.choose(candidates, request, load)?;
            if let Some(slot) = Slot::take(servers.get(chosen.index)?, max) {
                return Some(slot);
            }
        }
        None
    }
}
