//! `weir access list`: every entry in force, from the directory and from the daemons.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::Result;
use serde::Serialize;
use weir_model::{Name, Timestamp, status::L4Status};

use super::word;
use crate::{
    config::Config,
    live,
    output::{self, Format, Table},
};

/// Shows every entry in force.
///
/// With --run-dir also what programs have blocked for the moment there, and how many packets each list has blocked.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration directory.
    dir: PathBuf,
    /// Run directory of a weir-l4 to ask.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Serialize)]
struct Row {
    prefix: ipnet::IpNet,
    action: &'static str,
    vips: Vec<Name>,
    list: String,
    until: Option<Timestamp>,
    /// Packets blocked by the list; unknown where no daemon was asked.
    hits: Option<u64>,
    reason: String,
    author: String,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::read(&args.dir)?;
    let now = SystemTime::now();
    let mut statuses = Vec::new();
    for run_dir in &args.run_dir {
        let status = live::block_on(live::fetch::<L4Status>(run_dir, "l4.sock"))?;
        statuses.push(status.map_err(|error| anyhow::anyhow!("{}: {error}", run_dir.display()))?);
    }
    let hits = |list: &str| {
        let seen = statuses.iter().filter_map(|status| status.access_hits.get(list));
        seen.copied().reduce(|a, b| a + b)
    };
    let mut rows = Vec::new();
    for (name, list) in &config.snapshot.access {
        for entry in list.entries.iter().filter(|entry| entry.is_active(now)) {
            rows.push(Row {
                prefix: entry.prefix,
                action: word(list.action),
                vips: list.vips.clone(),
                list: name.to_string(),
                until: entry.until,
                hits: hits(name.as_str()),
                reason: entry.reason.clone(),
                author: entry.author.clone(),
            });
        }
    }
    for status in &statuses {
        for blocked in &status.blocked {
            rows.push(Row {
                prefix: blocked.prefix,
                action: "block",
                vips: Vec::new(),
                list: format!("(moment, {})", status.node),
                until: Some(Timestamp(now + std::time::Duration::from_secs(blocked.seconds_left))),
                hits: status.access_hits.get("(moment)").copied(),
                reason: blocked.reason.clone(),
                author: blocked.from.clone(),
            });
        }
    }
    match args.output {
        Format::Json => output::emit_json(&rows)?,
        Format::Table => {
            let mut table =
                Table::new(["PREFIX", "ACTION", "VIPS", "LIST", "UNTIL", "HITS OF LIST", "BY", "REASON"]);
            for row in rows {
                let vips = row.vips.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
                table.row([
                    row.prefix.to_string(),
                    row.action.to_owned(),
                    if vips.is_empty() { "all".into() } else { vips },
                    row.list,
                    row.until
                        .map_or("-".into(), |until| humantime::format_rfc3339_seconds(until.0).to_string()),
                    row.hits.map_or("-".into(), |hits| hits.to_string()),
                    row.author,
                    row.reason,
                ]);
            }
            output::emit(&table.render())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
