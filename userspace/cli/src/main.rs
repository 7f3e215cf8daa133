//! `weir`: the operator's command.
//!
//! It changes nothing but files of the configuration directory (and has the daemons take one they hold back), and decides nothing: what it shows comes from the
//! daemons' status sockets and from the same pure code that the daemons run.
#![forbid(unsafe_code)]

mod accept;
mod access;
mod bgp;
mod capture;
mod completions;
mod config;
mod cut;
mod explain;
mod lint;
mod live;
mod output;
mod rehearse;
mod status;
mod zone;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Looks after weir: checks configurations, shows what the daemons do, moves zones, explains decisions.
#[derive(Parser)]
#[command(name = "weir", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Lint(lint::Args),
    Config(accept::Args),
    Status(status::Args),
    Zone(zone::Args),
    Access(access::Args),
    Bgp(bgp::Args),
    Explain(Box<explain::Args>),
    Capture(capture::Args),
    /// Builds a laboratory of network namespaces, breaks it, runs missions in it.
    #[command(subcommand)]
    Lab(weir_lab::cli::Command),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Verb::Lint(args) => lint::run(&args),
        Verb::Config(args) => accept::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Zone(args) => zone::run(&args),
        Verb::Access(args) => access::run(&args),
        Verb::Bgp(args) => bgp::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Capture(args) => capture::run(&args),
        Verb::Lab(command) => weir_lab::cli::execute(command),
        Verb::Completions(args) => completions::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("weir: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
