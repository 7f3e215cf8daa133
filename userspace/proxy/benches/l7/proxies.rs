//! The three proxies: started with configurations that ask the same of each, watched, and killed.
//!
//! Each is one process on one core, with one thread that carries the traffic. All log every request to `/dev/null`: the
//! lines are made and written, and no disk is measured.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{config, cores::Cores, tls::Certificate};

/// How long a proxy may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(20);
/// From one look whether it does to the next.
const START_RECHECK: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Weir,
    Haproxy,
    Nginx,
}

impl Kind {
    /// In the order of the columns.
    pub(crate) const ALL: [Self; 3] = [Self::Weir, Self::Haproxy, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir-proxy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// Where a proxy listens, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// HTTP/2 with prior knowledge.
    pub(crate) h2: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

impl Places {
    /// Free ports of an address that no other run uses: all of 127.0.0.0/8 is this host, and the address is made of our
    /// process id. Clients come from 127.0.0.1 and take no port of it.
    fn free() -> Result<Self> {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 1 + a, b, c);
        let held = [(); 4].map(|()| TcpListener::bind((own, 0)));
        let mut places = Vec::new();
        for listener in &held {
            let listener = listener.as_ref().map_err(|error| anyhow::anyhow!("a port of {own}: {error}"))?;
            places.push(listener.local_addr()?);
        }
        let [http, https, h2, tcp] = places[..] else { bail!("four ports were asked for") };
        Ok(Self { http, https, h2, tcp })
    }

    fn all(&self) -> [SocketAddr; 4] {
        [self.http, self.https, self.h2, self.tcp]
    }
}

/// What every proxy is given.
#[derive(Clone, Copy)]
pub(crate) struct Rig<'a> {
    pub(crate) origin: SocketAddr,
    pub(crate) certificate: &'a Certificate,
    pub(crate) cores: Cores,
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) places: Places,
    child: Child,
    clock: ClockId,
    _dir: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All three.
pub(crate) fn start_all(rig: Rig<'_>) -> Result<Vec<Proxy>> {
    Kind::ALL.into_iter().map(|kind| Proxy::start(kind, rig)).collect()
}

impl Proxy {
    /// Starts one, and waits until it listens everywhere.
    pub(crate) fn start(kind: Kind, rig: Rig<'_>) -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for the proxy")?;
        let places = Places::free()?;
        let mut command = command(kind, dir.path(), &places, rig)?;
        let log = dir.path().join("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        // What is started inherits the core.
        pin(rig.cores.proxy)?;
        let child = command.spawn();
        pin(rig.cores.load)?;
        let child = child.with_context(|| format!("start {}", kind.name()))?;
        let pid = Pid::from_raw(child.id().try_into()?);
        let clock = clock_getcpuclockid(pid).context("the clock of its CPU time")?;
        let mut proxy = Self { kind, places, child, clock, _dir: dir };
        proxy
            .wait_until_listening()
            .with_context(|| format!("{}: {}", kind.name(), fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(proxy)
    }

    /// User and system time of all its threads so far, those that have ended included.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        Ok(self.clock.now().with_context(|| format!("{} has ended", self.kind.name()))?.into())
    }

    /// Bytes of memory that it shares with nobody.
    pub(crate) fn private_bytes(&self) -> Result<f64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let kib = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        let kib = kib.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no Private_Dirty")?;
        Ok(kib.parse::<f64>()? * 1024.0)
    }

    fn wait_until_listening(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for place in self.places.all() {
            while TcpStream::connect(place).is_err() {
                if let Some(status) = self.child.try_wait()? {
                    bail!("ended at once: {status}");
                }
                ensure!(Instant::now() < deadline, "does not listen at {place}");
                std::thread::sleep(START_RECHECK);
            }
        }
        Ok(())
    }
}

/// Confines this thread, and what it starts from now on, to a core.
pub(crate) fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("run on core {core} only"))
}

/// How it is started; its files are in `dir`.
fn command(kind: Kind, dir: &Path, places: &Places, rig: Rig<'_>) -> Result<Command> {
    let Certificate { chain_pem, key_pem, .. } = rig.certificate;
    // The process is killed when this one dies, however it dies.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    match kind {
        Kind::Weir => {
            let config = dir.join("config");
            fs::create_dir(&config)?;
            fs::write(config.join("bench.pem"), chain_pem)?;
            fs::write(config.join("bench.key"), key_pem)?;
            fs::write(config.join("bench.toml"), config::weir(places, rig.origin))?;
            command.arg(weir_proxy()).arg(config).args(["--zone", "here", "--access-log", "/dev/null"]);
            command.arg("--run-dir").arg(dir.join("run")).env_remove("RUST_LOG").env_remove("WEIR_NODE");
        }
        Kind::Haproxy => {
            let both = dir.join("bench.pem");
            fs::write(&both, format!("{chain_pem}{key_pem}"))?;
            let config = dir.join("haproxy.cfg");
            fs::write(&config, config::haproxy(places, rig.origin, &both))?;
            command.arg("haproxy").args(["-db", "-f"]).arg(config);
        }
        Kind::Nginx => {
            fs::write(dir.join("bench.pem"), chain_pem)?;
            fs::write(dir.join("bench.key"), key_pem)?;
            let config = dir.join("nginx.conf");
            fs::write(&config, config::nginx(places, rig.origin, dir))?;
            command.arg("nginx").arg("-p").arg(dir).arg("-e").arg(dir.join("errors")).arg("-c").arg(config);
        }
    }
    // Debian keeps daemons where only root looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    Ok(command)
}

/// The one built with this benchmark, or another to compare with.
fn weir_proxy() -> PathBuf {
    std::env::var_os("WEIR_PROXY").map_or_else(|| env!("CARGO_BIN_EXE_weir-proxy").into(), PathBuf::from)
}
