//! `cargo xtask bench`: figures beside a reference measured in the same run.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{
    ebpf,
    run::{cargo, run},
    setup,
};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// l4: packets and tables; zones: decisions of smart routing, and the choice of a server; bgp: from verdicts and dead hosts
    /// to the wire and to the kernels of BIRD and FRR; l7: requests, handshakes, connections and memory of the proxy beside
    /// HAProxy and nginx
    #[arg(value_enum)]
    what: What,
    /// Print a list of {case, unit, ours, reference, ratio}; for l7 of {case, unit, ours, haproxy, nginx}
    #[arg(long)]
    json: bool,
    /// Measure only what has a case whose name contains this
    #[arg(long, value_name = "CASE")]
    only: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    L4,
    Zones,
    Bgp,
    L7,
}

/// Measures with a release build.
pub(crate) fn run_bench(arguments: &Arguments) -> Result<()> {
    setup::toolchain()?;
    let mut command = cargo();
    match arguments.what {
        What::L4 => weir_bench(&mut command, "l4")?,
        What::Zones => weir_bench(&mut command, "zones")?,
        What::Bgp => {
            setup::net()?;
            command.args(["bench", "--quiet", "--package", "weir-bgp-agent", "--bench", "bgp", "--"]);
        }
        What::L7 => {
            setup::rivals()?;
            command.args(["bench", "--quiet", "--package", "weir-proxy", "--bench", "l7", "--"]);
        }
    }
    if arguments.json {
        command.arg("--json");
    }
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    run(&mut command).context("measure")
}

/// Hot paths, with the kernel programs.
fn weir_bench(command: &mut Command, what: &str) -> Result<()> {
    command.env("WEIR_EBPF", ebpf::build()?);
    command.args(["run", "--quiet", "--release", "--package", "weir-tests", "--bin", "weir-bench"]);
    command.args(["--", what]);
    Ok(())
}
