//! What the daemons say now: their status sockets in a run directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use weir_core::health::HealthView;
use weir_model::{
    Name, Snapshot,
    status::{Health, L4Status, ProxyStatus},
};

/// Runs a future to its end on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start runtime")?;
    Ok(runtime.block_on(future))
}

/// A daemon's status from `socket` (such as `proxy.sock`) in a run directory.
pub(crate) async fn fetch<T: DeserializeOwned>(run_dir: &Path, socket: &str) -> Result<T, String> {
    let path = run_dir.join(socket);
    if !path.exists() {
        return Err("not running".into());
    }
    weir_runtime::status::fetch(&path).await.map_err(|error| error.to_string())
}

/// What proxies know of the servers, and the zone of the first of them.
pub(crate) struct Seen {
    pub(crate) health: HealthView,
    pub(crate) zone: Option<String>,
    /// For people: where the health comes from.
    pub(crate) origin: String,
}

/// Asks the proxies of these run directories; without any, every server is taken to be up.
///
/// Where proxies disagree the worse word counts: a preview must not promise capacity that some proxy cannot reach.
pub(crate) fn seen(snapshot: &Snapshot, run_dirs: &[PathBuf]) -> Result<Seen> {
    if run_dirs.is_empty() {
        let origin = "every server taken to be up; --run-dir asks the proxy".to_owned();
        return Ok(Seen { health: HealthView::all_up(snapshot), zone: None, origin });
    }
    let mut view = HealthView::default();
    let mut zone = None;
    let mut note = |pool: &Name, server: &Name, health: Health| {
        let worse = match (view.get(pool, server), health) {
            (Health::Unknown, health) | (health, Health::Unknown) => health,
            (Health::Down, _) | (_, Health::Down) => Health::Down,
            (Health::Draining, _) | (_, Health::Draining) => Health::Draining,
            (Health::Up, Health::Up) => Health::Up,
        };
        view.set(pool, server, worse);
    };
    for run_dir in run_dirs {
        let status: ProxyStatus = block_on(fetch(run_dir, "proxy.sock"))?
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("ask the proxy in {}", run_dir.display()))?;
        zone = zone.or_else(|| (!status.zone.is_empty()).then(|| status.zone.clone()));
        for (pool, pool_status) in &status.pools {
            for (server, server_status) in &pool_status.servers {
                note(pool, server, server_status.health);
            }
        }
        // A proxy may well run without a balancer beside it.
        if let Ok(status) = block_on(fetch::<L4Status>(run_dir, "l4.sock"))? {
            for (pool, servers) in &status.servers {
                servers.iter().for_each(|(server, health)| note(pool, server, *health));
            }
        }
    }
    Ok(Seen { health: view, zone, origin: "health as the proxies and balancers see it".into() })
}

/// What the balancers of these run directories know of the proxies; every proxy up where none answers.
pub(crate) fn proxies(snapshot: &Snapshot, run_dirs: &[PathBuf]) -> Result<BTreeMap<Name, Health>> {
    let mut proxies: BTreeMap<Name, Health> =
        snapshot.nodes.keys().map(|name| (name.clone(), Health::Up)).collect();
    for run_dir in run_dirs {
        // A proxy may well run without a balancer beside it.
        if let Ok(status) = block_on(fetch::<L4Status>(run_dir, "l4.sock"))? {
            proxies.extend(status.proxies);
        }
    }
    Ok(proxies)
}

/// What the balancers of these run directories know of servers that VIPs point straight at; every server up where none answers.
pub(crate) fn servers(snapshot: &Snapshot, run_dirs: &[PathBuf]) -> Result<HealthView> {
    let mut view = HealthView::all_up(snapshot);
    for run_dir in run_dirs {
        if let Ok(status) = block_on(fetch::<L4Status>(run_dir, "l4.sock"))? {
            for (pool, servers) in &status.servers {
                servers.iter().for_each(|(server, health)| view.set(pool, server, *health));
            }
        }
    }
    Ok(view)
}
