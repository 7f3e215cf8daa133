//! The daemons of a balancer host: how they are found, started and ended. The only file that knows their command lines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{fabric::UPLINK, netns::NetNs, sys};

/// How long a daemon may take to stop when asked; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How long the operator's command may take.
const OPERATE_WITHIN: Duration = Duration::from_secs(10);
/// The operator's command.
const OPERATOR: &str = "weir";

/// An access log grows by 12 KB a second at 30 requests; at 8 MiB, ten minutes, a laboratory that stays up empties it.
const ACCESS_LOG_LEN_MAX: u64 = 8 << 20;

/// What runs on a balancer host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The datapath's agent.
    L4,
    /// The proxy.
    Proxy,
    /// The BGP agent.
    Bgp,
}

impl Kind {
    /// All of them, in the order they are started.
    pub(crate) const ALL: [Self; 3] = [Self::Proxy, Self::L4, Self::Bgp];

    /// The program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::L4 => "weir-l4",
            Self::Proxy => "weir-proxy",
            Self::Bgp => "weir-bgp",
        }
    }

    /// The name of its status socket in the run directory of its node.
    pub(crate) fn socket(self) -> &'static str {
        match self {
            Self::L4 => "l4.sock",
            Self::Proxy => "proxy.sock",
            Self::Bgp => "bgp.sock",
        }
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    dir: PathBuf,
    ebpf: PathBuf,
}

impl Programs {
    /// Looks beside the running program (or in `WEIR_BIN`), and for the kernel programs in `ebpf/weir` next to that
    /// directory (or at `WEIR_EBPF`); says what is missing.
    pub(crate) fn find() -> Result<Self> {
        let own = std::env::current_exe().context("find the running program")?;
        // Test binaries and examples stand one directory deeper.
        let own = own.parent().map(|dir| {
            if dir.ends_with("deps") || dir.ends_with("examples") { dir.parent().unwrap_or(dir) } else { dir }
        });
        let dir = match (std::env::var_os("WEIR_BIN"), own) {
            (Some(dir), _) => dir.into(),
            (None, Some(dir)) => dir.to_owned(),
            (None, None) => bail!("the running program has no directory"),
        };
        let ebpf = std::env::var_os("WEIR_EBPF").map_or_else(|| dir.join("../ebpf/weir"), PathBuf::from);
        let programs = Kind::ALL.iter().map(|kind| kind.program()).chain([OPERATOR]);
        for path in programs.map(|name| dir.join(name)).chain([ebpf.clone()]) {
            if !path.is_file() {
                bail!("{} is missing: run `cargo xtask lab`, or build it first", path.display());
            }
        }
        Ok(Self { dir, ebpf })
    }
}

impl Programs {
    /// Runs the operator's command; what it printed, and whether it said yes.
    pub(crate) async fn operate(&self, arguments: &[&std::ffi::OsStr]) -> Result<(bool, String)> {
        let mut command = Command::new(self.dir.join(OPERATOR));
        let output = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
        let output =
            timeout(OPERATE_WITHIN, output).await.context("the operator's command does not end")??;
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok((output.status.success(), text.concat()))
    }
}

/// What a daemon needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// The programs.
    pub(crate) programs: Programs,
    /// The configuration directory.
    pub(crate) config: PathBuf,
    /// The node's name.
    pub(crate) node: String,
    /// The node's run directory: sockets, steering and logs.
    pub(crate) run: PathBuf,
    /// Where its maps and links are pinned.
    pub(crate) pins: PathBuf,
}

impl Site {
    fn command(&self, kind: Kind) -> std::process::Command {
        let mut command = std::process::Command::new(self.programs.dir.join(kind.program()));
        command.arg(&self.config).arg("--node").arg(&self.node).arg("--run-dir").arg(&self.run);
        if kind == Kind::Proxy {
            command.arg("--access-log").arg(self.access_log());
        }
        if kind == Kind::L4 {
            command.arg("--interface").arg(UPLINK).arg("--pin-dir").arg(&self.pins);
            command.arg("--ebpf").arg(&self.programs.ebpf);
        }
        command
    }

    /// The path of a status socket.
    pub(crate) fn socket(&self, kind: Kind) -> PathBuf {
        self.run.join(kind.socket())
    }

    /// Where the proxy writes its access log.
    fn access_log(&self) -> PathBuf {
        self.run.join("access.log")
    }

    /// Empties an access log that has grown beyond its bound; the proxy appends.
    pub(crate) fn trim_access_log(&self) {
        let path = self.access_log();
        if fs::metadata(&path).is_ok_and(|file| file.len() > ACCESS_LOG_LEN_MAX) {
            // Not being able to is no reason to end.
            let _ = fs::OpenOptions::new().write(true).truncate(true).open(&path);
        }
    }

    /// The path of a log.
    pub(crate) fn log(&self, kind: Kind) -> PathBuf {
        self.run.join(format!("{}.log", kind.program()))
    }
}

/// A running daemon.
pub(crate) struct Daemon {
    kind: Kind,
    child: Child,
}

impl Daemon {
    /// Starts it in `namespace`. Must be called from a thread that lives as long as the laboratory: the daemon dies
    /// with it.
    pub(crate) fn start(kind: Kind, site: &Site, namespace: &NetNs) -> Result<Self> {
        let log = site.log(kind);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = site.command(kind);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::confine(&mut command, namespace.fd());
        let child = Command::from(command)
            .spawn()
            .with_context(|| format!("start {} of {}", kind.program(), site.node))?;
        Ok(Self { kind, child })
    }

    /// Process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Which daemon it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it still runs; if not, how it ended.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("kill {}", self.kind.program()))
    }

    /// SIGTERM, then SIGKILL when it does not listen.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        if timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            self.kill().await?;
        }
        Ok(())
    }
}

/// The last lines of a log, for somebody who wonders why.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
