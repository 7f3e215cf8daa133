//! `weir zone restore`: takes failover objects out of the directory, wherever they stand.

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Result, bail};
use serde::Serialize;
use weir_core::preview::{Preview, preview};
use weir_model::{Name, Objects, SourceFile};

use super::{Target, active, load_table};
use crate::{
    config::{self, Config},
    live,
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
        match without(file, &ended)? {
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

/// The text of a file without these failovers, `None` when it has none of them.
///
/// Cuts the lines from `[failover.NAME]` to the next table. Whether that left the rest as it was is checked by reading
/// both texts; what is written in another form is left to its author.
fn without(file: &SourceFile, ended: &[Name]) -> Result<Option<String>> {
    let (mut wanted, _) = Objects::parse(std::slice::from_ref(file));
    let before = wanted.failover.len();
    wanted.failover.retain(|name, _| !ended.contains(name));
    if wanted.failover.len() == before {
        return Ok(None);
    }
    let mut cutting = false;
    let mut text = String::new();
    for line in file.text.lines() {
        if line.trim_start().starts_with('[') {
            cutting = ended.iter().any(|name| is_table_of(line, name));
        }
        if !cutting {
            text.push_str(line);
            text.push('\n');
        }
    }
    let rest = SourceFile { path: file.path.clone(), text };
    let (objects, problems) = Objects::parse(std::slice::from_ref(&rest));
    let as_json = |objects: &Objects| serde_json::to_value(objects);
    if !problems.is_empty() || as_json(&objects)? != as_json(&wanted)? {
        let names = ended.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        bail!("{} holds failover {names} in a form that is not [failover.NAME]: remove it there", file.path);
    }
    Ok(Some(rest.text))
}

/// Whether a line begins `[failover.NAME]` or a table below it.
fn is_table_of(line: &str, name: &Name) -> bool {
    let header = line.split('#').next().unwrap_or_default().trim();
    let keys = header.trim_matches(|c| c == '[' || c == ']');
    let Some(rest) = keys.trim().strip_prefix("failover.") else { return false };
    let quoted = format!("\"{name}\"");
    [name.as_str(), &quoted]
        .iter()
        .filter_map(|form| rest.strip_prefix(*form))
        .any(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILOVER: &str =
        "zone = \"a\"\ncreated = \"2026-01-31T12:00:00Z\"\nexpires = \"2026-01-31T13:00:00Z\"\n";

    fn cut(text: &str) -> Result<Option<String>> {
        without(&SourceFile { path: "t.toml".into(), text: text.into() }, &["a".parse().unwrap()])
    }

    #[test]
    fn a_failover_is_cut_out_and_its_neighbours_stay() {
        let text = format!(
            "[zone.a]\n[failover.a] # now\n{FAILOVER}[failover.ab]\n{FAILOVER}[failover.a.scope]\npool = \"w\"\n"
        );
        let expected = format!("[zone.a]\n[failover.ab]\n{FAILOVER}");
        assert_eq!(cut(&text).unwrap(), Some(expected));
        assert_eq!(cut("[zone.a]\n").unwrap(), None);
        assert_eq!(cut(&format!("[failover.\"a\"]\n{FAILOVER}")).unwrap(), Some(String::new()));
    }

    #[test]
    fn another_form_is_left_to_its_author() {
        let inline = FAILOVER.trim().replace('\n', ", ");
        assert!(cut(&format!("failover = {{ a = {{ {inline} }} }}\n")).is_err());
        assert!(cut(&format!("[failover]\na = {{ {inline} }}\n")).is_err());
    }
}
