//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use weir_model::{Name, units};
use weir_runtime::telemetry::Format;

use crate::access_log::{LineFormat, Place};

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
    /// Connections of clients at once, of all listeners together; more wait in the kernel's queues. Beside the limits of listeners.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: Option<u32>,
    /// Where the access log goes: a file, "-" for standard output, "off", or syslog: "udp://127.0.0.1:514?facility=local0" or
    /// "unix:///dev/log", with "&format=rfc5424" for the newer kind. May be given several times.
    #[arg(long, default_value = "-", value_name = "PLACE")]
    pub(crate) access_log: Vec<Place>,
    /// How its lines are written.
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    pub(crate) access_log_format: LineFormat,
    /// After SIGTERM, say "draining" on /healthz for this long before accepting no more.
    #[arg(long, default_value = "0s", value_parser = units::duration::parse)]
    pub(crate) drain_wait: Duration,
    /// After that, how long open requests may take to finish.
    #[arg(long, default_value = "10s", value_parser = units::duration::parse)]
    pub(crate) stop_timeout: Duration,
    /// After a hand-over to a new process (SIGUSR2), how long open requests and tunnels may take to finish.
    #[arg(long, default_value = "5m", value_parser = units::duration::parse)]
    pub(crate) hand_over_timeout: Duration,
    /// Run the proxy in a process of its own, and hold its listening sockets: it is started again when it dies, and SIGUSR2 puts a
    /// new one in its place. Nobody is refused meanwhile.
    #[arg(long)]
    pub(crate) keep: bool,
    /// What is logged, as in "info,weir_proxy=debug"; goes before RUST_LOG.
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// "text" or "json".
    #[arg(long, default_value = "text")]
    pub(crate) log_format: Format,
}
