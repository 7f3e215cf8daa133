//! What the proxy says of itself: [`ProxyStatus`] and the metrics derived from it.

use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use weir_core::health::HealthView;
use weir_model::{
    Name,
    status::{
        ConfigStatus, Health, ListenerStatus, PoolStatus, ProxyStatus, ServerStatus, ServiceStatus,
        VipDelivery, service_name,
    },
};
use weir_runtime::{metrics::Text, steer::Registered};

use crate::{
    listen::Listeners,
    self_check::{SelfChecks, own_address},
    tables::{PoolTable, Tables},
};

/// Where the proxy stands and whether it is about to go.
pub(crate) struct Place<'a> {
    pub(crate) node: Option<&'a Name>,
    pub(crate) zone: Option<&'a Name>,
    pub(crate) draining: bool,
}

/// Where connections come in, and what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Doors<'a> {
    pub(crate) listeners: &'a Listeners,
    pub(crate) registered: &'a Registered,
    pub(crate) self_checks: &'a SelfChecks,
}

/// The status now.
pub(crate) fn status(
    place: Place<'_>,
    config: ConfigStatus,
    tables: &Tables,
    doors: Doors<'_>,
    health: &HealthView,
    reasons: &BTreeMap<(Name, Name), String>,
) -> ProxyStatus {
    let text = |name: Option<&Name>| name.map_or(String::new(), Name::to_string);
    let vips = place.node.into_iter().flat_map(|node| tables.snapshot.vips_served_by(node));
    let pools = tables
        .pools
        .iter()
        .map(|(name, pool)| (name.clone(), pool_status(name, pool, tables, health, reasons)));
    ProxyStatus {
        node: text(place.node),
        zone: text(place.zone),
        pid: std::process::id(),
        config,
        draining: place.draining,
        // What points straight at servers is none of the proxy's.
        vips: vips
            .filter(|(_, vip)| vip.pool.is_none())
            .map(|(name, _)| {
                let services = services(name, place.node, tables, doors);
                (name.clone(), VipDelivery { services, ..delivery(name, place.zone, tables) })
            })
            .collect(),
        listeners: listener_status(doors.listeners, doors.registered),
        pools: pools.collect(),
    }
}

/// What the proxy found at the VIP where its listeners should be.
fn services(
    vip: &Name,
    node: Option<&Name>,
    tables: &Tables,
    Doors { listeners, registered, self_checks }: Doors<'_>,
) -> BTreeMap<String, ServiceStatus> {
    let Some(node) = node.and_then(|node| tables.snapshot.nodes.get(node)) else { return BTreeMap::new() };
    let of_vip = listeners.of_vips().filter(|(_, _, state)| state.load().spec.vip.as_ref() == Some(vip));
    let asked = of_vip.filter(|(at, ..)| own_address(node, *at).is_some());
    let status = asked.map(|(at, registration, _)| {
        let unknown = || {
            let reason = match registered.get(&registration) {
                Some(Ok(())) => "not asked yet".into(),
                Some(Err(what)) => format!("not steered: {what}"),
                None => "not steered yet".into(),
            };
            ServiceStatus { health: Health::Unknown, reason }
        };
        (service_name(at), self_checks.known(at).cloned().unwrap_or_else(unknown))
    });
    status.collect()
}

fn delivery(vip: &Name, zone: Option<&Name>, tables: &Tables) -> VipDelivery {
    let undeliverable = |reason| VipDelivery { reason, ..VipDelivery::default() };
    let pools = tables.snapshot.pools_of_vip(vip);
    if pools.is_empty() {
        return undeliverable("no listener serves it".into());
    }
    let mut is_remote = false;
    for pool in pools {
        let table = tables.pools.get(pool);
        if table.is_some_and(|table| !table.spec.critical) {
            continue;
        }
        let assessment = table.map(|table| &table.assessment);
        let Some(assessment) = assessment.filter(|assessment| assessment.is_deliverable()) else {
            return undeliverable(format!("pool {pool} has no server in any zone"));
        };
        is_remote |=
            zone.is_some_and(|zone| assessment.zone(zone).is_none_or(|zone| zone.candidates.is_empty()));
    }
    VipDelivery { deliverable: true, is_remote, ..VipDelivery::default() }
}

fn listener_status(listeners: &Listeners, registered: &Registered) -> BTreeMap<Name, ListenerStatus> {
    let status = |(name, state): (&Name, &std::sync::Arc<crate::listener::ListenerState>)| {
        let mut status = ListenerStatus {
            connections: state.live.connections(),
            requests: state.live.requests.sum(),
            ..ListenerStatus::default()
        };
        let mut waiting = None;
        for (place, local) in listeners.places_of(name) {
            status.addresses.push(local.to_string());
            if let Some(registration) = place.registration() {
                match registered.get(&registration) {
                    Some(Ok(())) => status.steered = true,
                    Some(Err(what)) => waiting = Some(format!("{place} is not steered: {what}")),
                    None => waiting = Some(format!("{place} is not steered yet")),
                }
            }
        }
        if let Some(waiting) = waiting {
            (status.steered, status.error) = (false, waiting);
        } else if status.addresses.is_empty() {
            status.error = "its VIP is not served by this node".into();
        }
        (name.clone(), status)
    };
    listeners.states().iter().map(status).collect()
}

fn pool_status(
    name: &Name,
    pool: &PoolTable,
    tables: &Tables,
    health: &HealthView,
    reasons: &BTreeMap<(Name, Name), String>,
) -> PoolStatus {
    let verdicts = pool.assessment.zones().iter().flat_map(|zone| &zone.servers);
    let server = |verdict: &weir_core::routing::ServerVerdict| {
        let live = pool.servers.get(&verdict.name)?;
        let seen = match (health.get(name, &verdict.name), &pool.spec.check) {
            (Health::Unknown, None) => Health::Up,
            (health, _) => health,
        };
        let mut reason = verdict.reason.clone();
        if let Some(why) = reasons.get(&(name.clone(), verdict.name.clone())) {
            reason = format!("{reason}: {why}");
        }
        let weight_percent = health.weight(name, &verdict.name);
        if weight_percent != 100 {
            reason = format!("{reason}; gets {weight_percent}% of its weight");
        }
        let ejected = live.passive.ejected();
        if let Some(why) = &ejected {
            reason = format!("{why}; {reason}");
        }
        let status = ServerStatus {
            weight_percent,
            ejected: ejected.is_some(),
            ejections: live.passive.ejections(),
            health: seen,
            reason,
            active: live.active(),
            requests: live.requests(),
            failures: live.failures.load(Relaxed),
        };
        Some((verdict.name.clone(), status))
    };
    let shares = tables.snapshot.zones.keys().map(|home| (home.clone(), pool.assessment.shares(Some(home))));
    let passive = &pool.live.passive;
    PoolStatus {
        servers: verdicts.filter_map(server).collect(),
        shares: shares.collect(),
        circuit_open: passive.is_open(),
        circuit_refused: passive.refused.load(Relaxed),
        retries_refused: passive.retries_refused.load(Relaxed),
        waiting: pool.live.waiting.load(Relaxed),
        hedges: pool.live.hedges.load(Relaxed),
        hedges_won: pool.live.hedges_won.load(Relaxed),
    }
}

/// What the status says, for those who read metrics only.
pub(crate) fn metrics(text: &mut Text, status: &ProxyStatus) {
    let name = "weir_proxy_connections";
    text.family(name, "gauge", "Connections of clients that are open.");
    for (listener, state) in &status.listeners {
        text.value(name, &[("listener", listener.as_str())], state.connections as f64);
    }
    let name = "weir_proxy_service_up";
    text.family(
        name,
        "gauge",
        "Whether the proxy finds its own listener answering at an address of the VIP.",
    );
    for (vip, delivery) in &status.vips {
        for (service, state) in delivery.services.iter().filter(|(_, state)| state.health != Health::Unknown)
        {
            let labels = [("vip", vip.as_str()), ("service", service.as_str())];
            text.value(name, &labels, f64::from(u8::from(state.health == Health::Up)));
        }
    }
    type Value = fn(&ServerStatus) -> f64;
    let families: [(&str, &str, &str, Value); 7] = [
        ("weir_proxy_server_weight_percent", "gauge", "Share of its weight the server gets now.", |s| {
            f64::from(s.weight_percent)
        }),
        (
            "weir_proxy_server_ejected",
            "gauge",
            "Whether the server is ejected, or tried out after it.",
            |s| f64::from(u8::from(s.ejected)),
        ),
        ("weir_proxy_server_ejections_total", "counter", "How often the server was ejected.", |s| {
            s.ejections as f64
        }),
        ("weir_proxy_server_up", "gauge", "Whether checks see the server up.", |s| {
            f64::from(u8::from(s.health == Health::Up))
        }),
        ("weir_proxy_server_active", "gauge", "Requests in flight at the server.", |s| s.active as f64),
        ("weir_proxy_server_requests_total", "counter", "Requests sent to the server.", |s| {
            s.requests as f64
        }),
        ("weir_proxy_server_failures_total", "counter", "Requests to the server that failed.", |s| {
            s.failures as f64
        }),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (pool, state) in &status.pools {
            for (server, state) in &state.servers {
                let labels = [("pool", pool.as_str()), ("server", server.as_str())];
                text.value(name, &labels, value(state));
            }
        }
    }
    type OfPool = fn(&PoolStatus) -> f64;
    let families: [(&str, &str, &str, OfPool); 6] = [
        (
            "weir_proxy_hedges_total",
            "counter",
            "Requests asked of a second server, the first having taken its time.",
            |p| p.hedges as f64,
        ),
        ("weir_proxy_hedges_won_total", "counter", "Those that the second server answered first.", |p| {
            p.hedges_won as f64
        }),
        ("weir_proxy_pool_waiting", "gauge", "Requests that wait for a slot at a server of the pool.", |p| {
            p.waiting as f64
        }),
        ("weir_proxy_circuit_open", "gauge", "Whether the breaker of the pool is open.", |p| {
            f64::from(u8::from(p.circuit_open))
        }),
        ("weir_proxy_circuit_refused_total", "counter", "Requests the breaker refused.", |p| {
            p.circuit_refused as f64
        }),
        (
            "weir_proxy_retries_refused_total",
            "counter",
            "Requests not sent again, the budget being spent.",
            |p| p.retries_refused as f64,
        ),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (pool, state) in &status.pools {
            text.value(name, &[("pool", pool.as_str())], value(state));
        }
    }
    let name = "weir_proxy_zone_share";
    text.family(name, "gauge", "Share of a home zone's traffic that a zone serves.");
    for (pool, state) in &status.pools {
        for (home, shares) in &state.shares {
            for (zone, share) in shares {
                let labels = [("pool", pool.as_str()), ("home", home.as_str()), ("zone", zone.as_str())];
                text.value(name, &labels, *share);
            }
        }
    }
}
