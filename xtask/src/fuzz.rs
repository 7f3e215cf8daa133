//! `cargo xtask fuzz`: libFuzzer on every door, on the pinned toolchain.
//!
//! Without address sanitizer, which no stable toolchain has: the crates behind the doors forbid `unsafe`. Overflows and broken
//! assertions of our own are found.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    run::{cargo, output, root, run, target},
    setup,
};

/// What libFuzzer wants to know of the program it drives.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks";
/// Inputs larger than the largest message that is taken say nothing new.
const LEN_MAX: &str = "-max_len=70000";

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these targets; all of them otherwise. `--list` names them
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Names the targets and ends
    #[arg(long)]
    list: bool,
}

/// Builds the targets and runs one after the other; what they find stays in the corpus below `target/fuzz`.
pub(crate) fn run_fuzz(arguments: &Arguments) -> Result<()> {
    let known = known()?;
    if arguments.list {
        known.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    for wanted in &arguments.targets {
        ensure!(known.contains(wanted), "no target {wanted}: there are {}", known.join(", "));
    }
    setup::fuzz()?;
    let directory = target()?.join("fuzz");
    let triple = host()?;
    // A triple of its own keeps the flags away from build scripts.
    let mut build = cargo();
    build.env("RUSTFLAGS", RUSTFLAGS);
    build.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &triple]);
    run(build.arg("--target-dir").arg(&directory)).context("build the fuzz targets")?;
    let mut failed = Vec::new();
    for name in known.iter().filter(|name| arguments.targets.is_empty() || arguments.targets.contains(name)) {
        let corpus = directory.join("corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
        eprintln!("fuzz: {name} for {} s", arguments.seconds);
        let mut fuzz = std::process::Command::new(directory.join(&triple).join("release").join(name));
        fuzz.current_dir(&directory).arg(&corpus);
        if name == "toml" {
            fuzz.arg(root().join("config/examples/cluster"));
        }
        fuzz.args([LEN_MAX, "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]);
        fuzz.arg(format!("-max_total_time={}", arguments.seconds));
        if let Err(error) = run(&mut fuzz) {
            eprintln!("fuzz: {error:#}; the input is the file named above");
            failed.push(name.as_str());
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("findings in {}", failed.join(", ")) }
}

/// Names of the targets, as the manifest has them.
fn known() -> Result<Vec<String>> {
    let metadata = output(cargo().args([
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("read cargo metadata")?;
    let targets = metadata["packages"][0]["targets"].as_array().context("the fuzz package has no targets")?;
    Ok(targets.iter().filter_map(|target| target["name"].as_str().map(str::to_owned)).collect())
}

/// The triple of this machine.
fn host() -> Result<String> {
    let version = output(std::process::Command::new("rustc").arg("-vV").current_dir(root()))?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc does not say what machine it is for")
}
