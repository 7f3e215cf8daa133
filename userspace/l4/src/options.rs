//! The command line.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use weir_model::{Name, Snapshot};
use weir_runtime::telemetry::Format;

/// Puts weir's XDP balancer into the kernel and keeps it as the configuration wants it.
///
/// Needs root (CAP_BPF, CAP_NET_ADMIN) and a bpf file system. Stopping it does not stop forwarding: a restart adopts
/// what is pinned. `--unload` removes everything.
#[derive(Debug, clap::Parser)]
#[command(version)]
pub(crate) struct Options {
    /// Directory of TOML files; watched, applied when it changes, kept when it becomes wrong.
    pub(crate) config: PathBuf,
    /// Name of the node this host is.
    #[arg(long, required_unless_present = "server", conflicts_with = "server")]
    node: Option<Name>,
    /// Name of the server this host is, in place of a node: opens the tunnels of VIPs that point straight at it.
    #[arg(long)]
    server: Option<Name>,
    /// Interface packets come in on; may be given several times.
    #[arg(long, required_unless_present = "unload")]
    pub(crate) interface: Vec<String>,
    /// Where the status and steering sockets are made.
    #[arg(long, default_value = "/run/weir")]
    pub(crate) run_dir: PathBuf,
    /// Directory on a bpf file system for programs and maps.
    #[arg(long, default_value = "/sys/fs/bpf/weir")]
    pub(crate) pin_dir: PathBuf,
    /// The kernel programs, as `cargo xtask build-ebpf` makes them.
    #[arg(long, env = "WEIR_EBPF", default_value = "/usr/lib/weir/weir.bpf.o")]
    pub(crate) ebpf: PathBuf,
    /// Use generic XDP even where the driver has native support: slower, for drivers with broken support.
    #[arg(long)]
    pub(crate) generic: bool,
    /// Serve Prometheus metrics on this address too, not only on the status socket.
    #[arg(long)]
    pub(crate) metrics: Option<SocketAddr>,
    /// What is logged, as in "info,weir_l4=debug"; before RUST_LOG.
    #[arg(long)]
    pub(crate) log: Option<String>,
    /// How log lines look: text or json.
    #[arg(long, default_value = "text")]
    pub(crate) log_format: Format,
    /// Remove programs, maps and routes from the kernel and leave.
    #[arg(long)]
    pub(crate) unload: bool,
}

impl Options {
    /// What this host is called.
    pub(crate) fn name(&self) -> &Name {
        // clap lets exactly one of them through.
        match (&self.node, &self.server) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => unreachable!("neither --node nor --server"),
        }
    }

    /// Whether this host is a server.
    pub(crate) fn is_server(&self) -> bool {
        self.server.is_some()
    }

    /// The configuration as this host sees it.
    pub(crate) fn view(&self, snapshot: &Arc<Snapshot>) -> Result<Arc<Snapshot>, String> {
        match &self.server {
            None => Ok(Arc::clone(snapshot)),
            Some(server) => match snapshot.of_server(server) {
                Some(seen) => Ok(Arc::new(seen)),
                None => Err(format!("there is no server {server}")),
            },
        }
    }
}
