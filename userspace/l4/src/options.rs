//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use weir_model::Name;
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
    #[arg(long)]
    pub(crate) node: Name,
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
