//! `cargo xtask bench`: figures beside a reference measured in the same run.

use anyhow::{Context, Result};

use crate::{
    ebpf,
    run::{cargo, run},
    setup,
};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// l4: packets and tables; zones: decisions of smart routing
    #[arg(value_enum)]
    what: What,
    /// Print a list of {case, unit, ours, reference, ratio}
    #[arg(long)]
    json: bool,
    /// Measure only packets whose case's name contains this; l4 only
    #[arg(long, value_name = "CASE")]
    only: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    L4,
    Zones,
}

/// Measures with a release build.
pub(crate) fn run_bench(arguments: &Arguments) -> Result<()> {
    setup::toolchain()?;
    let object = ebpf::build()?;
    let what = match arguments.what {
        What::L4 => "l4",
        What::Zones => "zones",
    };
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "weir-tests",
        "--bin",
        "weir-bench",
        "--",
        what,
    ]);
    if arguments.json {
        command.arg("--json");
    }
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    run(command.env("WEIR_EBPF", object)).context("measure")
}
