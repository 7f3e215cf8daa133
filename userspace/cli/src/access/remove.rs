//! `weir access remove`: takes an entry out of the directory, and out of what daemons block for the moment.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use weir_model::{Name, SourceFile};
use weir_runtime::access::{self, Reply, Request};

use super::Target;
use crate::{
    config::{self, Config},
    cut, live,
    output::{self, Format},
};

/// Removes the entry of a prefix.
///
/// Lists with other entries are their author's: this one is taken out there. With --run-dir what programs have blocked for
/// the moment is let in again too.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Run directory of a weir-l4 to ask too.
    #[arg(long, value_name = "DIR")]
    run_dir: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Report<'a> {
    removed: &'a [Name],
    unblocked: usize,
    dry_run: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Args { target, run_dir } = args;
    let config = Config::read(&target.dir)?;
    target.check(&config.snapshot)?;
    let mut removed = Vec::new();
    for (name, list) in &config.snapshot.access {
        let has = list.entries.iter().any(|entry| entry.prefix == target.prefix);
        if !has || list.vips != target.vips() {
            continue;
        }
        if list.entries.len() > 1 {
            bail!("access list {name} has other entries too: take {} out of it there", target.prefix);
        }
        removed.push(name.clone());
    }
    let (mut files, mut changed) = (Vec::new(), Vec::new());
    for file in &config.files {
        match cut::without(file, "access", &removed)? {
            None => files.push(file.clone()),
            Some(text) => {
                let file = SourceFile { path: file.path.clone(), text };
                if !file.text.trim().is_empty() {
                    files.push(file.clone());
                }
                changed.push(file);
            }
        }
    }
    config.with_files(&files)?;
    let mut unblocked = 0;
    if !target.dry_run {
        for file in &changed {
            let path = config.dir.join(&file.path);
            match file.text.trim().is_empty() {
                true => config::remove_file(&path)?,
                false => config::replace_file(&path, &file.text)?,
            }
        }
        for run_dir in run_dir {
            let path = run_dir.join(access::SOCKET);
            let request = Request::Unblock { prefix: target.prefix };
            let reply = live::block_on(access::ask(&path, &request))?;
            unblocked += usize::from(reply.with_context(|| path.display().to_string())? == Reply::Ok);
        }
    }
    let found = !removed.is_empty() || unblocked > 0;
    match target.output {
        Format::Json => output::emit_json(&Report { removed: &removed, unblocked, dry_run: target.dry_run })?,
        Format::Table if !found => output::emit(&format!("no entry for {}\n", target.prefix))?,
        Format::Table => {
            let names = removed.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
            let verb = if target.dry_run { "dry run: would remove" } else { "removed" };
            output::emit(&format!("{verb} access list {names}; {unblocked} entries of the moment\n"))?;
        }
    }
    Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
