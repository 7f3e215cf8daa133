//! The L7 proxy: terminates TLS and HTTP, picks a server in the right zone, relays.
//!
//! ```text
//!  control ──► tables (one Arc, swapped whole) ◄── request: route → pool → home → zone → server → relay
//!     ▲  └───► listen (sockets by place) ──► accept ──► connection ──► request / tcp
//!  source, checks, steering, signals        └───────────── once for each worker ────┘
//! ```
//!
//! Every decision is `weir_core`'s; here are sockets, timers and bytes.

mod accept;
mod access_log;
mod alarm;
mod attempts;
mod body;
mod checks;
mod connection;
mod control;
mod dial;
mod dialect;
mod errors;
mod exchange;
mod h1;
mod h2;
mod headers;
mod healthz;
mod hold;
mod keep;
mod ledger;
mod limits;
mod listen;
mod listener;
mod live;
mod multiplexed;
mod options;
mod passive;
mod passthrough;
mod proxy_header;
mod relay;
mod report;
mod request;
mod self_check;
mod server_stream;
mod splice;
mod tables;
mod tcp;
mod tls;
mod upstream;
mod weights;
mod worker;

use std::{num::NonZero, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weir_runtime::{
    metrics::Registry,
    shutdown,
    source::Source,
    status::{self, Site},
    telemetry,
};

use crate::{
    access_log::AccessLog,
    control::{Control, Outside},
    hold::{Door, Holder},
    options::Options,
    worker::Workers,
};

/// How long the access log may take to write what is left when the process ends.
const LOG_FLUSH: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match start(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            // The chain in words; where in our code it came about helps no operator.
            eprintln!("weir-proxy: {error}");
            for line in error
                .chain()
                .skip(1)
                .flat_map(|cause| cause.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
            {
                eprintln!("  {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> Result<ExitCode> {
    telemetry::init(options.log.as_deref(), options.log_format).map_err(anyhow::Error::msg)?;
    if options.keep { keep::run(&options) } else { serve(options).map(|()| ExitCode::SUCCESS) }
}

fn serve(options: Options) -> Result<()> {
    let holder = Arc::new(Holder::from_env());
    let registry = Registry::default();
    // Before everything that each of them has a part of.
    let workers = Workers::start(threads(&options)).context("start threads")?;
    let (log, writers) =
        AccessLog::open(&options.access_log, options.access_log_format, &registry).context("access log")?;
    // What decides has a thread of its own: this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let result = runtime.block_on(run(options, holder, registry, log, &workers));
    runtime.shutdown_timeout(LOG_FLUSH);
    // Connections that would not end in time are cut here, and accounted for.
    workers.end(LOG_FLUSH);
    let deadline = std::time::Instant::now() + LOG_FLUSH;
    for writer in writers {
        writer.end(deadline);
    }
    result
}

fn threads(options: &Options) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    options.threads.map_or_else(processors, usize::from)
}

async fn run(
    options: Options,
    holder: Arc<Holder>,
    registry: Registry,
    log: AccessLog,
    workers: &Workers,
) -> Result<()> {
    let shutdown = shutdown::on_signals().context("listen for signals")?;
    let hand_over = signal(SignalKind::user_defined2()).context("listen for signals")?;
    let mut source = Source::open(&options.config, &registry)
        .with_context(|| format!("configuration in {} cannot be used", options.config.display()))?;
    let first = source.candidate().await;
    let permits = source.permits();
    let start = Control::start(options.clone(), Arc::clone(&holder), source, &first, log, workers, &registry);
    let (control, feed) =
        start.with_context(|| format!("configuration in {} cannot be used", options.config.display()))?;

    let healthz = control.healthz();
    let mut site = Site::new(feed, registry, move || healthz.now());
    permits.take_on(&mut site);
    let status = match &options.run_dir {
        Some(run_dir) => {
            let path = run_dir.join("proxy.sock");
            let server = match holder.is_successor() {
                true => status::serve_unix_next(&path, site.clone()).await,
                false => status::serve_unix(&path, site.clone()).await,
            };
            Some(server.with_context(|| format!("status socket {}", path.display()))?)
        }
        None => None,
    };
    let metrics = match options.metrics {
        Some(address) => {
            let door = Door::Metrics(address);
            let listener = match holder.take_one(door) {
                Some(given) => given,
                None => tokio::net::TcpListener::bind(address).await,
            };
            let listener = listener.with_context(|| format!("metrics on {address}"))?;
            holder.store(door, &[&listener]);
            Some(tokio::spawn(status::serve_tcp(listener, site)))
        }
        None => None,
    };
    tracing::info!(pid = std::process::id(), "running");
    control.run(shutdown, Outside { status, metrics, hand_over }).await;
    Ok(())
}
