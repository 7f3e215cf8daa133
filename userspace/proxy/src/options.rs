//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use weir_model::{Name, units};
use weir_runtime::telemetry::Format;

/// The L7 proxy of weir: terminates TLS and HTTP, picks a server in the right zone, relays.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-proxy", version)]
pub(crate) struct Options {
    /// Directory of *.toml files.
    pub(crate) config: PathBuf,
    /// The node this proxy runs on: serves the node's VIPs and its probe port, and stands in its zone.
    #[arg(long, env = "WEIR_NODE", conflicts_with = "zone", requires = "run_dir")]
    pub(crate) node: Option<Name>,
    /// The zone this proxy stands in, for a proxy that is no node.
    #[arg(long)]
    pub(crate) zone: Option<Name>,
    /// Directory of the status and steering sockets; without it there is no status socket.
    #[arg(long, env = "WEIR_RUN_DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Serve /metrics, /status and /healthz on this TCP address too.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Threads that carry traffic; by default one for each processor this process may use. 1 to 1024.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Where the access log goes: a file, "-" for standard output, or "off".
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub(crate) access_log: String,
    /// After SIGTERM, say "draining" on /healthz for this long before accepting no more.
    #[arg(long, default_value = "0s", value_parser = units::duration::parse)]
    pub(crate) drain_wait: Duration,
    /// After that, how long open requests may take to finish.
    #[arg(long, default_value = "10s", value_parser = units::duration::parse)]
    pub(crate) stop_timeout: Duration,
    /// What is logged, as in "info,weir_proxy=debug"; goes before RUST_LOG.
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// "text" or "json".
    #[arg(long, default_value = "text")]
    pub(crate) log_format: Format,
}
