//! `weir`: the operator's command.
//!
//! It changes nothing but files of the configuration directory, and decides nothing: what it shows comes from the
//! daemons' status sockets and from the same pure code that the daemons run.
#![forbid(unsafe_code)]

mod completions;
mod config;
mod explain;
mod lint;
mod live;
mod output;
mod status;
mod zone;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::output::Format;

/// Looks after weir: checks configurations, shows what the daemons do, moves zones, explains decisions.
#[derive(Parser)]
#[command(name = "weir", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Lint(lint::Args),
    Status(status::Args),
    Zone(zone::Args),
    Explain(explain::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Lint(args) => lint::run(&args, cli.output),
        Verb::Status(args) => status::run(&args, cli.output),
        Verb::Zone(args) => zone::run(&args, cli.output),
        Verb::Explain(args) => explain::run(&args, cli.output),
        Verb::Completions(args) => completions::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}
