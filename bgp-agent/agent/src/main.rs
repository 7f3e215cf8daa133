//! The health-aware BGP announcer: sockets and timers around weir-bgp.
//!
//! ```text
//!  configuration ─┐
//!  weir-l4 status ├─► announce (pure) ─► routes (pure) ─► one driver per peer ─► router
//!  weir-proxy  ───┘                                          weir_bgp::Session
//! ```

mod agent;
mod announce;
mod bfd;
mod listener;
mod md5;
mod mrt;
mod neighbour;
mod peer;
mod rehearse;
mod report;
mod routes;
mod secrets;
mod sessions;
mod sockopt;
mod teller;

use agent::{Agent, Inputs};
use anyhow::{Context, anyhow};
use clap::Parser;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};
use weir_model::rehearsal::REHEARSAL_PAGE;
use weir_model::{Name, Problems, Snapshot};
use weir_runtime::metrics::Registry;
use weir_runtime::status::{self, Health, Site};
use weir_runtime::{shutdown, source::Source, telemetry};

/// Between two attempts to reach the status socket of a daemon that is away.
const STATUS_RETRY: Duration = Duration::from_millis(100);

/// Announce the VIPs of this node to its routers by BGP, as long as they can be delivered.
///
/// Reads the objects in CONFIG_DIR (*.toml) and reloads them when they change; a bad change is refused and the last good one stays.
/// A VIP is announced when weir-l4 on this host has confirmed it and has a healthy proxy, its services answer both of them,
/// and weir-proxy does not say that no zone can answer; both are heard on the sockets in RUN_DIR. Losing them keeps the last announcement.
///
/// Runs alone as well: a VIP with announce.mode = "always" asks nobody, and peers may have any address and port,
/// so neither weir-l4 nor root is needed.
///
/// SIGTERM and SIGINT withdraw everything, say goodbye to the peers and end within two seconds; before that, VIPs with
/// announce.graceful_shutdown are announced as worst of all for as long as it says. Peers with graceful_restart keep their routes
/// over SIGTERM, for as long as that says; SIGINT takes them back from these too. A second signal ends at once.
#[derive(Debug, Parser)]
#[command(name = "weir-bgp", version)]
struct Options {
    /// Directory of TOML files with the objects (zones, nodes, groups, vips, peers).
    config_dir: PathBuf,

    /// The node object that stands for this host.
    #[arg(long, env = "WEIR_NODE", value_name = "NAME")]
    node: Name,

    /// Directory of the daemons' status sockets: bgp.sock is made there, l4.sock and proxy.sock are read.
    #[arg(long, env = "WEIR_RUN_DIR", value_name = "DIR", default_value = "/run/weir")]
    run_dir: PathBuf,

    /// Serve /metrics, /status and /healthz here as well, for Prometheus.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,

    /// Write every message sent to the routers to this file, as MRT records (RFC 6396).
    #[arg(long, value_name = "FILE")]
    mrt: Option<PathBuf>,

    /// Set the MRT file aside as FILE.1 when it would grow beyond so many bytes; FILE.3 is the oldest kept.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    mrt_max: u64,

    /// Print what it would say to the routers if it started now, as JSON, and end. `weir bgp diff` asks the one that runs.
    #[arg(long)]
    dry_run: bool,

    /// What to log, as in info,weir_bgp=debug; RUST_LOG when absent.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,

    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: telemetry::Format,
}

fn main() -> ExitCode {
    match start(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes, without a backtrace: nearly always it is the operator's to mend.
            eprintln!("weir-bgp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> anyhow::Result<()> {
    // The codec warns of every oddity a peer sends; what matters of it is counted and logged here, once.
    let quiet = std::env::var_os("RUST_LOG").is_none().then_some("info,bgpkit_parser=error");
    telemetry::init(options.log.as_deref().or(quiet), options.log_format).map_err(|error| anyhow!(error))?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(options))
}

/// What would be said from a start, on standard output.
async fn rehearse_alone(options: &Options) -> anyhow::Result<()> {
    let files = weir_runtime::source::read_directory(&options.config_dir).map_err(Problems);
    let candidate = files.and_then(|files| Snapshot::read(&files)).map_err(|problems| {
        anyhow!("configuration in {} cannot be used:\n{problems}", options.config_dir.display())
    })?;
    if !candidate.nodes.contains_key(&options.node) {
        return Err(anyhow!("there is no node {} in {}", options.node, options.config_dir.display()));
    }
    let node = options.node.clone();
    let (door, _callers) = tokio::sync::mpsc::channel(1);
    let refused = Registry::default().counter("refused", "", &[]);
    let sessions = sessions::Sessions::new(node.clone(), Arc::default(), None, door, refused);
    let stage = rehearse::Stage {
        node,
        in_force: None,
        refused: None,
        actors: sessions.actors(&candidate),
        candidate: Arc::new(candidate),
        announcer: announce::Announcer::default(),
        // Whoever cannot be heard has no say.
        l4: status::fetch(&options.run_dir.join("l4.sock")).await.ok().map(Arc::new),
        proxy: status::fetch(&options.run_dir.join("proxy.sock")).await.ok().map(Arc::new),
        settled: true,
        now: Instant::now(),
    };
    let text = serde_json::to_string_pretty(&stage.play().await).context("write JSON")?;
    writeln!(std::io::stdout(), "{text}").context("write to standard output")
}

async fn run(options: Options) -> anyhow::Result<()> {
    if options.dry_run {
        return rehearse_alone(&options).await;
    }
    let shutdown = shutdown::on_signals().context("listen for signals")?;
    let registry = Registry::default();
    let source = Source::open(&options.config_dir, &registry).map_err(|problems| {
        anyhow!("configuration in {} cannot be used:\n{problems}", options.config_dir.display())
    })?;
    let permits = source.permits();
    let (snapshots, config) = source.follow();
    if !snapshots.borrow().nodes.contains_key(&options.node) {
        warn!(node = %options.node, "no such node in the configuration: nothing to announce until there is");
    }

    let (publisher, feed) = status::publisher(&report::initial(&options.node));
    let stopping = shutdown.clone();
    let health = move || if stopping.is_stopping() { Health::Draining } else { Health::Ok };
    let mut site = Site::new(feed, registry.clone(), health);
    permits.take_on(&mut site);
    let (questions, asked) = status::questions();
    site.ask_at(REHEARSAL_PAGE, rehearse::CANDIDATE_LEN_MAX_BYTES, questions);
    let (read, candidates) = tokio::sync::mpsc::channel(1);
    tokio::spawn(rehearse::read_candidates(asked, read));
    let socket = options.run_dir.join("bgp.sock");
    let _server = status::serve_unix(&socket, site.clone())
        .await
        .with_context(|| format!("serve the status on {}", socket.display()))?;
    if let Some(addr) = options.metrics {
        let listener =
            tokio::net::TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
        tokio::spawn(status::serve_tcp(listener, site));
    }

    let shared = report::Shared::default();
    report::register(&registry, shared.clone());
    info!(node = %options.node, config = %options.config_dir.display(), "weir-bgp is up");
    let recorder = match &options.mrt {
        Some(path) => Some(
            mrt::Recorder::open(path, options.mrt_max, &registry)
                .with_context(|| format!("write MRT records to {}", path.display()))?,
        ),
        None => None,
    };
    let agent = Agent::new(options.node, &registry, publisher, shared, recorder);
    agent
        .run(Inputs {
            snapshots,
            config,
            l4: status::follow(&options.run_dir.join("l4.sock"), STATUS_RETRY),
            proxy: status::follow(&options.run_dir.join("proxy.sock"), STATUS_RETRY),
            candidates,
            shutdown,
        })
        .await;
    info!("weir-bgp ends");
    Ok(())
}
