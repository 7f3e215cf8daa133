//! `weir-l4`: puts the datapath into the kernel and keeps it as the configuration wants it.
//!
//! ```text
//!  Snapshot + health of the proxies ─► image::lower ─► plan::diff ─► maps, routes   (weir-core decides, this applies)
//!                                           ▲                            │
//!                                           └──────── read back ─────────┘
//! ```
//!
//! Everything is pinned: when this process is gone, forwarding goes on; when it comes back, it adopts what is there. No
//! other process opens a BPF map.

mod attach;
mod capture;
mod counters;
mod inspect;
mod kernel;
mod links;
mod load;
mod memory;
mod moment;
mod options;
mod probe_sockets;
mod probes;
mod reconcile;
mod routes;
mod test_run;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = options::Options::parse();
    if let Err(error) = weir_runtime::telemetry::init(options.log.as_deref(), options.log_format) {
        eprintln!("weir-l4: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("weir-l4: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = if options.unload {
        runtime.block_on(reconcile::unload(&options))
    } else {
        runtime.block_on(reconcile::run(&options))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-l4: {error:#}");
            ExitCode::FAILURE
        }
    }
}
