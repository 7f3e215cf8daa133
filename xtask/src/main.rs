//! `cargo xtask`: everything a fresh machine needs to build, run, test and measure weir, each by one command.

mod bench;
mod ebpf;
mod fuzz;
mod lab;
mod run;
mod setup;
mod test;
mod tidy;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// Builds, runs, tests and measures weir. Every command installs what it needs first (root and apt), or says what to install.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install toolchain component, bpf-linker and Debian packages; does nothing when all is there
    Setup,
    /// Build the kernel programs to target/ebpf/weir
    BuildEbpf,
    /// Build everything and run the laboratory: three zones on real packets; arguments go to `weir lab`
    #[command(disable_help_flag = true)]
    Lab {
        /// `--check` runs all missions, prints their JSON and tears down; otherwise as for `weir lab` (default: up)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run tests; ends with "N passed, N failed"
    Test {
        /// unit: pure and loopback; net: kernel, namespaces, routers, missions (root); vm: a Debian kernel in QEMU
        #[arg(value_enum, default_value = "all")]
        what: test::What,
    },
    /// Measure hot paths beside a reference of the same run
    Bench(bench::Arguments),
    /// Fuzz what comes from outside, guided by coverage, for as long as you like
    Fuzz(fuzz::Arguments),
    /// Check formatting, lints and the rules of the house
    Tidy,
    /// What CI runs: tidy, then all tests
    Ci,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup => setup::all(),
        Command::BuildEbpf => setup::toolchain().and_then(|()| ebpf::build()).map(|path| {
            println!("{}", path.display());
        }),
        Command::Lab { arguments } => match lab::run_lab(arguments) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Test { what } => test::run_tests(what),
        Command::Bench(arguments) => bench::run_bench(&arguments),
        Command::Fuzz(arguments) => fuzz::run_fuzz(&arguments),
        Command::Tidy => tidy::run_tidy(),
        Command::Ci => tidy::run_tidy().and_then(|()| test::run_tests(test::What::All)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
