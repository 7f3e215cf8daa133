//! `cargo xtask lab`: set up, build, and hand over to `weir lab`.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    ebpf,
    run::{cargo, run, target},
    setup,
};

/// Builds what the laboratory runs; returns the command `weir` with its environment.
pub(crate) fn prepare() -> Result<Command> {
    setup::toolchain()?;
    setup::lab()?;
    let object = ebpf::build()?;
    let daemons = ["weir", "weir-l4", "weir-proxy", "weir-bgp-agent"];
    let packages = daemons.iter().flat_map(|name| ["--package", name]);
    run(cargo().args(["build", "--quiet", "--bins"]).args(packages)).context("build weir")?;
    let mut weir = Command::new(target()?.join("debug/weir"));
    weir.env("WEIR_EBPF", object);
    Ok(weir)
}

/// Runs `weir lab` in place of this process, so that Ctrl-C reaches it alone.
pub(crate) fn run_lab(mut arguments: Vec<OsString>) -> Result<ExitCode> {
    if arguments.iter().any(|argument| argument == "--check") {
        arguments = ["run", "--all", "--fresh", "-o", "json"].map(OsString::from).into();
    } else if arguments
        .first()
        .is_none_or(|first| first.to_string_lossy().starts_with('-') && first != "--help")
    {
        // Options without a verb are those of `up`.
        arguments.insert(0, "up".into());
    }
    let mut weir = prepare()?;
    weir.arg("lab").args(arguments);
    let error = weir.exec();
    Err(error).with_context(|| format!("start {}", crate::run::shown(&weir)))
}
