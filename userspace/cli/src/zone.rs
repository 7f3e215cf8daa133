//! `weir zone`: see what the zones carry, move traffic out of one, let it return.
//!
//! A failover is an object in the configuration directory; the daemons act when the file appears or goes.

mod fail;
mod restore;
mod status;

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::{Result, bail};
use weir_core::preview::Preview;
use weir_model::{Failover, FailoverScope, Name, Snapshot};

use crate::output::{Format, Table};

/// Shows what the zones carry, moves traffic out of one, lets it return.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Status(status::Args),
    Fail(fail::Args),
    Restore(restore::Args),
}

/// Which zones, and where.
#[derive(clap::Args)]
struct Target {
    /// The configuration directory.
    dir: PathBuf,
    /// The zone.
    #[arg(required_unless_present = "site")]
    zone: Option<Name>,
    /// Every zone of this site.
    #[arg(long, conflicts_with = "zone")]
    site: Option<Name>,
    /// Only this pool.
    #[arg(long)]
    pool: Option<Name>,
    /// Takes the health of servers from the proxies with these run directories.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// Shows what would happen and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Status(args) => status::run(args),
        Verb::Fail(args) => fail::run(args),
        Verb::Restore(args) => restore::run(args),
    }
}

impl Target {
    /// The zones meant; an error that names those there are when there is none.
    fn zones(&self, snapshot: &Snapshot) -> Result<Vec<Name>> {
        let known = || snapshot.zones.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        if let Some(pool) = &self.pool
            && !snapshot.pools.contains_key(pool)
        {
            bail!("there is no pool {pool}");
        }
        match (&self.zone, &self.site) {
            (Some(zone), _) if snapshot.zones.contains_key(zone) => Ok(vec![zone.clone()]),
            (Some(zone), _) => bail!("there is no zone {zone}; there are {}", known()),
            (None, site) => {
                let of_site = snapshot.zones.iter().filter(|(_, zone)| zone.site == *site);
                let zones: Vec<Name> = of_site.map(|(name, _)| name.clone()).collect();
                if zones.is_empty() {
                    bail!("no zone belongs to site {}", site.as_ref().map_or("", Name::as_str));
                }
                Ok(zones)
            }
        }
    }

    fn scope(&self) -> FailoverScope {
        self.pool.clone().map_or(FailoverScope::Everything, FailoverScope::Pool)
    }

    /// The same target on a command line, for the undo command.
    fn arguments(&self) -> String {
        let mut text = self.dir.display().to_string();
        for (flag, value) in [("", &self.zone), (" --site", &self.site), (" --pool", &self.pool)] {
            if let Some(value) = value {
                text.push_str(&format!("{flag} {value}"));
            }
        }
        text
    }
}

/// The failovers in force.
fn active(snapshot: &Snapshot, now: SystemTime) -> Vec<&Failover> {
    snapshot.failovers.values().filter(|failover| failover.is_active(now)).collect()
}

/// The loads of a preview, for people.
fn load_table(preview: &Preview, only: Option<&Name>) -> String {
    let mut table = Table::new(["POOL", "ZONE", "LOAD NOW", "LOAD THEN", "CAPACITY", "HEADROOM"]);
    for (pool, zones) in preview.pools.iter().filter(|(pool, _)| only.is_none_or(|only| *pool == only)) {
        for (zone, load) in zones {
            let percent = |factor: f64| format!("{:.0}%", factor * 100.0);
            table.row([
                pool.to_string(),
                zone.to_string(),
                percent(load.before),
                percent(load.after),
                percent(load.capacity),
                percent(load.headroom()),
            ]);
        }
    }
    table.render()
}
