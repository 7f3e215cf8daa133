//! `weir zone restore`: takes failover objects out of the directory, wherever they stand.

use std::{process::ExitCode, time::SystemTime};

use anyhow::Result;
use serde::Serialize;
use weir_core::preview::{Preview, preview};
use weir_model::{Name, SourceFile};

use super::{Target, active, load_table};
use crate::{
    config::{self, Config},
    cut, live,
    output::{self, Format},
};

/// Ends the failovers of a zone: its clients return.
///
/// Without --pool all failovers of the zone end, with it only that of the pool.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct Report<'a> {
    preview: &'a Preview,
    ended: &'a [Name],
    dry_run: bool,
}

/// What becomes of a file.
enum Change {
    Remove(String),
    Rewrite(SourceFile),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Args { target } = args;
    let config = Config::read(&target.dir)?;
    let zones = target.zones(&config.snapshot)?;
    let now = SystemTime::now();
    let meant = config.snapshot.failovers.iter().filter(|(_, failover)| {
        zones.contains(&failover.zone) && (target.pool.is_none() || failover.scope == target.scope())
    });
    let ended: Vec<Name> = meant.map(|(name, _)| name.clone()).collect();
    let seen = live::seen(&config.snapshot, &target.run_dir)?;

    let mut changes = Vec::new();
    let mut files = Vec::new();
    for file in &config.files {
        match cut::without(file, "failover", &ended)? {
            None => files.push(file.clone()),
            Some(text) if text.trim().is_empty() => changes.push(Change::Remove(file.path.clone())),
            Some(text) => {
                let file = SourceFile { path: file.path.clone(), text };
                files.push(file.clone());
                changes.push(Change::Rewrite(file));
            }
        }
    }
    let then = config.with_files(&files)?;
    let preview = preview(&then, &seen.health, &active(&config.snapshot, now), &active(&then, now));
    if !target.dry_run {
        for change in &changes {
            match change {
                Change::Remove(path) => config::remove_file(&config.dir.join(path))?,
                Change::Rewrite(file) => config::replace_file(&config.dir.join(&file.path), &file.text)?,
            }
        }
    }
    match target.output {
        Format::Json => {
            output::emit_json(&Report { preview: &preview, ended: &ended, dry_run: target.dry_run })?;
        }
        Format::Table if ended.is_empty() => output::emit("no failover to end\n")?,
        Format::Table => {
            let names = ended.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
            let verdict = if target.dry_run { "dry run: would end" } else { "ended" };
            let table = load_table(&preview, target.pool.as_ref());
            output::emit(&format!("{table}\n{}\n{verdict} failover {names}\n", seen.origin))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
