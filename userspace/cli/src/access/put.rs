//! `weir access block` and `allow`: an access list of one entry, as a file of its own.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use weir_model::{AccessAction, AccessEntry, AccessList, SourceFile, Timestamp, units};

use super::{Target, word};
use crate::{
    config::{self, Config},
    output::{self, Format},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// For how long, as in 10m or 2d; without, until it is removed.
    #[arg(long = "for", value_name = "DURATION", value_parser = units::duration::parse)]
    duration: Option<Duration>,
    /// Why, for the colleague who finds it at night.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Who does it.
    #[arg(long, env = "USER", default_value = "unknown", hide_env_values = true)]
    author: String,
}

#[derive(Serialize)]
struct Report {
    written: Option<String>,
    until: Option<Timestamp>,
    undo: String,
}

pub(crate) fn run(args: &Args, action: AccessAction) -> Result<ExitCode> {
    let Args { target, .. } = args;
    let config = Config::read(&target.dir)?;
    target.check(&config.snapshot)?;
    if args.duration.is_some_and(|duration| duration.is_zero()) {
        bail!("--for 0s ends before it begins");
    }
    let until = args.duration.map(|duration| Timestamp(SystemTime::now() + duration));
    let name = target.name()?;
    let entry = AccessEntry {
        prefix: target.prefix,
        until,
        reason: args.reason.clone(),
        author: args.author.clone(),
    };
    let list = AccessList { action, vips: target.vips(), default: AccessAction::Allow, entries: vec![entry] };
    let path = format!("access-{name}.toml");
    let text = toml::to_string(&BTreeMap::from([("access", BTreeMap::from([(name, list)]))]))
        .context("write the access list as TOML")?;
    let mut files = config.files.clone();
    files.retain(|other| other.path != path);
    files.push(SourceFile { path: path.clone(), text: text.clone() });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    // A prefix another list has already shows here, and not in the daemons' logs.
    config.with_files(&files)?;
    if !target.dry_run {
        config::replace_file(&config.dir.join(&path), &text)?;
    }
    let vip = target.vip.as_ref().map_or(String::new(), |vip| format!(" --vip {vip}"));
    let undo = format!("weir access remove {} {}{vip}", target.dir.display(), target.prefix);
    match target.output {
        Format::Json => {
            output::emit_json(&Report { written: (!target.dry_run).then_some(path), until, undo })?;
        }
        Format::Table if target.dry_run => {
            output::emit(&format!(
                "dry run: {path} not written, would {} {}\n",
                word(action),
                target.prefix
            ))?;
        }
        Format::Table => {
            let ends = until.map_or("until it is removed".to_owned(), |until| {
                format!("ends by itself at {}", humantime::format_rfc3339_seconds(until.0))
            });
            output::emit(&format!("wrote {path}; {ends}\nundo: {undo}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
