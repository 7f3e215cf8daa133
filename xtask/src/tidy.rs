//! The rules of the house that a program can check. They are tests of this crate too, so `cargo test` holds them.

use anyhow::{Context, Result};

use crate::run::{cargo, run};

/// Formatting and lints; the rules below run with the unit tests.
pub(crate) fn run_tidy() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"])).context("format with `cargo fmt --all`")?;
    run(cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--exclude",
        "weir-ebpf",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    run(cargo().args(["test", "--quiet", "--package", "xtask"]))
}

#[cfg(test)]
mod rules;
