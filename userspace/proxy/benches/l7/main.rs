//! Measures the proxy beside HAProxy and nginx in the same run: `cargo xtask bench l7 [--json] [--only CASE]`.
//!
//! ```text
//!  core A: the three proxies, one of them at work ◄──► core B: load ──► proxy ──► origin, one thread for both
//! ```
//!
//! The measure is the CPU time of the proxy's process, user and system, for each unit of work: it depends less on the
//! machine's other guests than a rate does. Rounds of the three take turns, and the median counts.
//!
//! `WEIR_PROXY` names another binary to measure in place of the one built with this.

mod config;
mod cores;
mod load;
mod origin;
mod proxies;
mod rounds;
mod tls;

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use weir_lab::figures::Asked;

use crate::{
    cores::{Cores, raise_open_files},
    proxies::{Rig, pin},
    rounds::Bench,
    tls::Certificate,
};

/// Files open at once: a connection of each idle client, here or in a proxy; the busy ones and the rest are few.
const OPEN_FILES: u64 = 16_384;

/// What a shell says of a program that Ctrl-C ended.
const BROKEN_OFF: u8 = 130;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::read(&arguments);
    match run(&asked) {
        Ok(Some(code)) => code,
        Ok(None) => ExitCode::from(BROKEN_OFF),
        Err(error) => {
            eprintln!("bench l7: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// None when it was broken off; the proxies and their files are gone in any case.
fn run(asked: &Asked) -> Result<Option<ExitCode>> {
    let cores = Cores::find()?;
    pin(cores.load)?;
    raise_open_files(OPEN_FILES)?;
    let certificate = Certificate::make()?;
    let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let rig = Rig { origin: origin::start().await?, certificate: &certificate, cores };
        let mut bench = Bench::new(asked, rig);
        tokio::select! {
            done = bench.run() => done?,
            _ = interrupt.recv() => return Ok(None),
            _ = terminate.recv() => return Ok(None),
        }
        print!("{}", asked.render(&bench.figures));
        Ok(Some(if bench.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }))
    })
}
