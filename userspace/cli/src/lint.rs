//! `weir lint`: every problem of a configuration directory at once.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use serde::Serialize;
use weir_model::{Name, Objects, Problem, Problems, Snapshot, SourceFile};

use crate::output::{self, Format};

/// Checks a configuration directory and prints every problem with file, line, field and a hint.
///
/// Exit status: 0 without problems, 1 with.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The directory of TOML files.
    dir: PathBuf,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    files: usize,
    objects: usize,
    problems: Vec<Problem>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let report = check(&args.dir);
    match args.output {
        Format::Json => output::emit_json(&report)?,
        Format::Table => {
            let mut text = String::new();
            for problem in &report.problems {
                text.push_str(&output::printable(&problem.to_string()));
                text.push('\n');
            }
            let [objects, files, problems] =
                [(report.objects, "object"), (report.files, "file"), (report.problems.len(), "problem")]
                    .map(count);
            text.push_str(&format!("{}: {objects} in {files}, {problems}\n", args.dir.display()));
            output::emit(&text)?;
        }
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn count((n, noun): (usize, &str)) -> String {
    match n {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

fn check(dir: &Path) -> Report {
    let files = match weir_runtime::source::read_directory(dir) {
        Ok(files) => files,
        Err(problems) => return Report { ok: false, files: 0, objects: 0, problems },
    };
    let mut problems = match Snapshot::read(&files) {
        Ok(_) => Vec::new(),
        Err(Problems(problems)) => problems,
    };
    let (objects, _) = Objects::parse(&files);
    certificates(dir, &files, &objects, &mut problems);
    problems.sort();
    let count = objects.zone.len()
        + objects.node.len()
        + objects.group.len()
        + objects.vip.len()
        + objects.listener.len()
        + objects.pool.len()
        + objects.server.len()
        + objects.peer.len()
        + objects.failover.len();
    Report { ok: problems.is_empty(), files: files.len(), objects: count, problems }
}

/// Certificates are files of their own, which the model does not open.
fn certificates(dir: &Path, files: &[SourceFile], objects: &Objects, problems: &mut Vec<Problem>) {
    for (name, listener) in &objects.listener {
        for (index, pair) in listener.tls.iter().flat_map(|tls| &tls.certificates).enumerate() {
            for (field, path, label) in [
                ("certificate", &pair.certificate, "CERTIFICATE-----"),
                ("key", &pair.key, "PRIVATE KEY-----"),
            ] {
                if let Err((what, hint)) = pem(&dir.join(path), label) {
                    let (file, line) = place(files, name, path);
                    let field = format!("listener.{name}.tls.certificates.{index}.{field}");
                    problems.push(Problem {
                        file,
                        line,
                        path: field,
                        what: format!("{}: {what}", path.display()),
                        hint,
                    });
                }
            }
        }
    }
}

fn pem(path: &Path, label: &str) -> Result<(), (String, String)> {
    let relative = "paths are relative to the configuration directory".to_owned();
    let text = std::fs::read(path).map_err(|error| (format!("cannot be read: {error}"), relative))?;
    if text.windows(label.len()).any(|window| window == label.as_bytes()) {
        Ok(())
    } else {
        Err((format!("has no \"-----BEGIN … {label}\""), "give a PEM file".into()))
    }
}

/// The line that names `path`, within the file that holds the listener.
fn place(files: &[SourceFile], listener: &Name, path: &Path) -> (String, usize) {
    let header = format!("listener.{listener}");
    let shown = path.to_string_lossy();
    let holders = || files.iter().filter(|file| file.text.contains(&header));
    let line = |file: &SourceFile| file.text.lines().position(|line| line.contains(&*shown)).map(|n| n + 1);
    holders()
        .find_map(|file| Some((file.path.clone(), line(file)?)))
        .or_else(|| holders().next().map(|file| (file.path.clone(), 0)))
        .unwrap_or_default()
}
