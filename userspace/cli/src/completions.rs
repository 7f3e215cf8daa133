//! `weir completions`: what a shell needs to complete our command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::{Cli, output};

/// Prints completions for a shell, as in `weir completions bash > /etc/bash_completion.d/weir`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weir", &mut text);
    output::emit(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}
