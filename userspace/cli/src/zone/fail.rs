//! `weir zone fail`: preview, then a failover object as a file of its own.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use weir_core::preview::{Preview, preview};
use weir_model::{Failover, Name, Percent, SourceFile, Timestamp, units};

use super::{Target, active, load_table};
use crate::{
    config::{self, Config},
    live,
    output::{self, Format},
};

/// Moves traffic out of a zone until it is restored or the time is over.
///
/// Shows first what every zone will carry (100% is a zone's own traffic) and refuses what is beyond capacity. Writes
/// failover-NAME.toml into the configuration directory. Exit status: 0 when done, 1 when refused.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// How much of its traffic leaves.
    #[arg(long, default_value = "100%", value_parser = percent)]
    percent: Percent,
    /// For how long, as in 30m or 2d.
    #[arg(long = "for", default_value = "1h", value_name = "DURATION", value_parser = units::duration::parse)]
    duration: Duration,
    /// Why, for the colleague who finds it at night.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Who does it.
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    author: String,
    /// Does it even beyond the capacity of the other zones.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    preview: &'a Preview,
    refused: bool,
    written: Vec<String>,
    expires: Timestamp,
    undo: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Args { target, .. } = args;
    let config = Config::read(&target.dir)?;
    let zones = target.zones(&config.snapshot)?;
    if args.duration.is_zero() {
        bail!("--for 0s ends before it begins");
    }
    let now = SystemTime::now();
    let seen = live::seen(&config.snapshot, &target.run_dir)?;

    let mut files = config.files.clone();
    let mut written = Vec::new();
    for zone in &zones {
        let name = object_name(zone, target.pool.as_ref())?;
        let failover = Failover {
            zone: zone.clone(),
            scope: target.scope(),
            percent: args.percent,
            created: Timestamp(now),
            expires: Timestamp(now + args.duration),
            reason: args.reason.clone(),
            author: args.author.clone(),
        };
        let path = format!("failover-{name}.toml");
        let text = toml::to_string(&BTreeMap::from([("failover", BTreeMap::from([(name, failover)]))]))
            .context("write the failover as TOML")?;
        let file = SourceFile { path, text };
        files.retain(|other| other.path != file.path);
        files.push(file.clone());
        written.push(file);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    // A name taken in another file, or a percentage that makes no sense, shows here and not in the daemons' logs.
    let then = config.with_files(&files)?;

    let preview = preview(&then, &seen.health, &active(&config.snapshot, now), &active(&then, now));
    let refused = !preview.refusals.is_empty() && !args.force;
    let undo = format!("weir zone restore {}", target.arguments());
    let write = !refused && !target.dry_run;
    if write {
        for file in &written {
            config::replace_file(&config.dir.join(&file.path), &file.text)?;
        }
    }
    let paths = || written.iter().map(|file| file.path.clone());
    match target.output {
        Format::Json => output::emit_json(&Report {
            preview: &preview,
            refused,
            written: if write { paths().collect() } else { Vec::new() },
            expires: Timestamp(now + args.duration),
            undo,
        })?,
        Format::Table => {
            let mut text = format!("{}\n{}\n", load_table(&preview, target.pool.as_ref()), seen.origin);
            for refusal in &preview.refusals {
                text.push_str(&format!("warning: {refusal}\n"));
            }
            let paths = paths().collect::<Vec<_>>().join(", ");
            let until = humantime::format_rfc3339_seconds(now + args.duration);
            text.push_str(&match (refused, target.dry_run) {
                (true, _) => "refused: beyond capacity; --force does it all the same\n".to_owned(),
                (false, true) => format!("dry run: {paths} not written\n"),
                (false, false) => format!("wrote {paths}; ends by itself at {until}\nundo: {undo}\n"),
            });
            output::emit(&text)?;
        }
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn object_name(zone: &Name, pool: Option<&Name>) -> Result<Name> {
    let text = pool.map_or_else(|| zone.to_string(), |pool| format!("{zone}-{pool}"));
    text.parse().context("name of the failover")
}

fn percent(text: &str) -> Result<Percent, String> {
    let percent: Percent = text.parse()?;
    if percent == Percent::whole(0) || percent > Percent::FULL {
        return Err(format!("{percent} is out of range: more than 0%, at most 100%"));
    }
    Ok(percent)
}
