//! `weir zone status`: what every zone carries and could carry, and which failovers there are.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use serde::Serialize;
use weir_core::{preview::preview, routing::assess_all};
use weir_model::{Failover, FailoverScope, Name};

use super::active;
use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

/// Shows the load and capacity of every zone per pool, and the failovers.
///
/// 100% is a zone's own traffic.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration directory.
    dir: PathBuf,
    /// Takes the health of servers from the proxies with these run directories.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Serialize)]
struct Report {
    pools: BTreeMap<Name, BTreeMap<Name, ZoneReport>>,
    failovers: BTreeMap<Name, FailoverReport>,
}

#[derive(Serialize)]
struct ZoneReport {
    candidates: usize,
    servers: usize,
    load: f64,
    capacity: f64,
    home_share: f64,
    failover: f64,
}

#[derive(Serialize)]
struct FailoverReport {
    active: bool,
    #[serde(flatten)]
    failover: Failover,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Config { snapshot, .. } = Config::read(&args.dir)?;
    let now = SystemTime::now();
    let seen = live::seen(&snapshot, &args.run_dir)?;
    let in_force = active(&snapshot, now);
    let assessments = assess_all(&snapshot, &seen.health, &in_force);
    let loads = preview(&snapshot, &seen.health, &in_force, &in_force);
    let pools = assessments.iter().map(|(pool, assessment)| {
        let zones = assessment.zones().iter().map(|zone| {
            let load = loads.pools.get(pool).and_then(|zones| zones.get(&zone.zone));
            let report = ZoneReport {
                candidates: zone.candidates.servers().len(),
                servers: zone.servers.len(),
                load: load.map_or(0.0, |load| load.after),
                capacity: zone.capacity,
                home_share: assessment.home_share(&zone.zone),
                failover: zone.failover,
            };
            (zone.zone.clone(), report)
        });
        (pool.clone(), zones.collect())
    });
    let failovers = snapshot.failovers.iter().map(|(name, failover)| {
        let report = FailoverReport { active: failover.is_active(now), failover: failover.clone() };
        (name.clone(), report)
    });
    let report = Report { pools: pools.collect(), failovers: failovers.collect() };
    match args.output {
        Format::Json => output::emit_json(&report)?,
        Format::Table => output::emit(&format!("{}{}\n", tables(&report, now), seen.origin))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tables(report: &Report, now: SystemTime) -> String {
    let percent = |factor: f64| format!("{:.0}%", factor * 100.0);
    let mut loads = Table::new(["POOL", "ZONE", "SERVERS", "LOAD", "CAPACITY", "KEEPS", "FAILOVER"]);
    for (pool, zones) in &report.pools {
        for (name, zone) in zones {
            loads.row([
                pool.to_string(),
                name.to_string(),
                format!("{}/{}", zone.candidates, zone.servers),
                percent(zone.load),
                percent(zone.capacity),
                percent(zone.home_share),
                if zone.failover > 0.0 { percent(zone.failover) } else { "-".into() },
            ]);
        }
    }
    let mut failovers = Table::new(["FAILOVER", "ZONE", "SCOPE", "PERCENT", "ENDS IN", "AUTHOR", "REASON"]);
    for (name, FailoverReport { failover, .. }) in &report.failovers {
        let left = failover.expires.0.duration_since(now).unwrap_or_default();
        failovers.row([
            name.to_string(),
            failover.zone.to_string(),
            match &failover.scope {
                FailoverScope::Everything => "everything".into(),
                FailoverScope::Pool(pool) => format!("pool {pool}"),
            },
            failover.percent.to_string(),
            match left {
                Duration::ZERO => "over".into(),
                left => humantime::format_duration(Duration::from_secs(left.as_secs())).to_string(),
            },
            failover.author.clone(),
            failover.reason.clone(),
        ]);
    }
    let (loads, failovers) = (loads.render(), failovers.render());
    [loads, failovers].into_iter().filter(|text| !text.is_empty()).map(|text| text + "\n").collect()
}
