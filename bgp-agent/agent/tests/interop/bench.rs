//! Processes under test, each ended by its own pid when it goes out of scope, and waiting with a deadline.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;
use weir_lab::netns::NetNs;
use weir_lab::sys;
use weir_model::status::{BgpStatus, ConfigStatus, Health, L4Status, L4VipStatus};
use weir_model::{Name, Timestamp};
use weir_runtime::metrics::Registry;
use weir_runtime::status::{self, Publisher, UnixServer};

/// Long enough for a busy machine; a test that passes needs a fraction of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Wait until `look` gives something, or fail with what was awaited and what was last seen.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => {
                panic!("{what}: not within {LIMIT:?}; last seen:\n{seen}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A port of `address` that is free now.
pub(crate) fn free_port(address: &str) -> u16 {
    let address: IpAddr = address.parse().unwrap();
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

/// True when `program` is there; else says loudly that the test proves nothing.
pub(crate) fn available(program: &str, test: &str) -> bool {
    let found = Path::new(program).exists();
    if !found {
        eprintln!("SKIPPED: {test}: {program} is not installed");
    }
    found
}

/// A child that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// weir-bgp with a configuration directory of its own.
pub(crate) struct Agent {
    pub(crate) dir: TempDir,
    process: Process,
}

impl Agent {
    /// Start it on `config`, as node n1.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, "n1", |_| ())
    }

    /// Start it as `node`, with something more on its command line, or elsewhere.
    pub(crate) fn start_with(config: &str, node: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::write(dir.path().join("config/weir.toml"), config).unwrap();
        let process = Self::spawn(&dir, node, prepare);
        Self { dir, process }
    }

    fn spawn(dir: &TempDir, node: &str, prepare: impl FnOnce(&mut Command)) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-bgp"));
        command
            .arg(dir.path().join("config"))
            .args(["--node", node, "--run-dir"])
            .arg(dir.path().join("run"))
            .env("RUST_LOG", "debug")
            .stderr(log);
        prepare(&mut command);
        Process(command.spawn().unwrap())
    }

    /// The next process on the same configuration; the one before must have ended.
    pub(crate) fn start_again(&mut self, node: &str, prepare: impl FnOnce(&mut Command)) {
        self.process = Self::spawn(&self.dir, node, prepare);
    }

    /// End it without a word.
    pub(crate) fn kill(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Memory in use, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.dir.path().join("config/weir.toml"), config).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Result<BgpStatus, String> {
        let socket = self.run_dir().join("bgp.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(status::fetch(&socket)).map_err(|error| error.to_string())
    }

    pub(crate) fn metrics(&self) -> String {
        let socket = self.run_dir().join("bgp.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let body = runtime.block_on(status::get(&socket, "/metrics")).unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// Wait for a status that satisfies `good`.
    pub(crate) fn until(&self, what: &str, good: impl Fn(&BgpStatus) -> bool) -> BgpStatus {
        until(what, || match self.status() {
            Ok(status) if good(&status) => Ok(status),
            Ok(status) => Err(format!("{status:#?}\n{}", self.log())),
            Err(error) => Err(format!("{error}\n{}", self.log())),
        })
    }

    /// Wait for the session to be up.
    pub(crate) fn until_established(&self) -> BgpStatus {
        self.until("session established", |status| peer(status).state == "Established")
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.signal(signal);
    }

    /// Wait for its end, whatever it is.
    pub(crate) fn until_ended(&mut self) -> std::process::ExitStatus {
        until("agent ends", || self.process.0.try_wait().unwrap().ok_or_else(|| self.log()))
    }

    /// SIGTERM; returns how long it took to end, which must be with success.
    pub(crate) fn stop(&mut self) -> Duration {
        self.stop_by(nix::sys::signal::Signal::SIGTERM)
    }

    /// The same by another signal.
    pub(crate) fn stop_by(&mut self, signal: nix::sys::signal::Signal) -> Duration {
        let begun = Instant::now();
        self.process.signal(signal);
        let status = self.until_ended();
        assert!(status.success(), "{status}, signal {:?}: {}", status.signal(), self.log());
        begun.elapsed()
    }
}

/// The configuration with as many withdrawals as node n1 likes.
pub(crate) fn unbudgeted(config: &str) -> String {
    config.replace("[node.n1]\n", "[node.n1]\nwithdrawals_per_minute = 1000000\n")
}

/// The one peer of these configurations.
pub(crate) fn peer(status: &BgpStatus) -> weir_model::status::PeerStatus {
    status.peers.get("tor").cloned().unwrap_or_default()
}

/// A router's program: on loopback like any other, in a namespace in real time.
pub(crate) fn router(program: &str, netns: Option<&NetNs>) -> Command {
    let Some(netns) = netns else { return Command::new(program) };
    let mut command = Command::new("chrt");
    command.args(["--fifo", "10", program]);
    sys::confine(&mut command, netns.fd());
    command
}

/// Output of a command as text, or why there is none.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    if status.success() { Ok(text) } else { Err(format!("{text}{}", String::from_utf8_lossy(&stderr))) }
}

/// Objects of a node that stands alone behind one router.
pub(crate) struct Site {
    pub(crate) router_port: u16,
    pub(crate) agent_port: u16,
    /// Further fields of the peer.
    pub(crate) peer: &'static str,
    /// Addresses of the VIP.
    pub(crate) addresses: Vec<&'static str>,
    /// `announce` of the VIP.
    pub(crate) announce: &'static str,
}

pub(crate) const ROUTER: &str = "127.0.0.1";
pub(crate) const AGENT: &str = "127.0.0.2";

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            router_port: free_port(ROUTER),
            agent_port: free_port(AGENT),
            peer: "",
            addresses: vec!["192.0.2.1", "2001:db8::1"],
            announce: "{ mode = \"always\" }",
        }
    }

    pub(crate) fn config(&self) -> String {
        let Self { router_port, agent_port, peer, addresses, announce } = self;
        format!(
            r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "10.0.1.2"
address6 = "2001:db8:1::2"
[group.g]
nodes = ["n1"]
[vip.web]
addresses = {addresses:?}
group = "g"
services = ["tcp/80"]
announce = {announce}
[peer.tor]
node = "n1"
address = "{ROUTER}"
port = {router_port}
asn = 65000
local_asn = 65001
local_address = "{AGENT}"
local_port = {agent_port}
{peer}
"#
        )
    }
}

/// A weir-l4 or weir-proxy that says what the test wants.
pub(crate) struct Daemon<T> {
    pub(crate) publisher: Publisher<T>,
    _server: UnixServer,
}

impl<T: serde::Serialize> Daemon<T> {
    pub(crate) async fn start(agent: &Agent, socket: &str, initial: &T) -> Self {
        let (publisher, feed) = status::publisher(initial);
        let site = status::Site::new(feed, Registry::default(), || status::Health::Ok);
        let server = status::serve_unix(&agent.run_dir().join(socket), site).await.unwrap();
        Self { publisher, _server: server }
    }
}

/// The configuration of a daemon that has applied one.
pub(crate) fn applied() -> ConfigStatus {
    ConfigStatus { applied_at: Some(Timestamp(SystemTime::now())), ..ConfigStatus::default() }
}

/// What weir-l4 of n1 says with these VIPs in its datapath, and so many healthy proxies.
pub(crate) fn datapath_of(
    vips: impl IntoIterator<Item = (Name, Vec<IpAddr>)>,
    healthy_proxies: u32,
) -> L4Status {
    let vip = |addresses| L4VipStatus { healthy_proxies, addresses, ..L4VipStatus::default() };
    L4Status {
        config: applied(),
        vips: vips.into_iter().map(|(name, addresses)| (name, vip(addresses))).collect(),
        proxies: [("n1".parse().unwrap(), if healthy_proxies > 0 { Health::Up } else { Health::Down })]
            .into(),
        ..L4Status::default()
    }
}

/// So many addresses of VIPs, out of 198.18.0.0/15.
pub(crate) fn many_addresses(count: u32) -> Vec<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    (0..count).map(|number| Ipv4Addr::from(first + number)).collect()
}

/// Objects `vip.v0`, `vip.v1`, … with an address each, that follow the datapath at once.
pub(crate) fn gated_vips(addresses: &[Ipv4Addr]) -> String {
    let vip = |(number, address): (usize, &Ipv4Addr)| {
        format!(
            "[vip.v{number}]\naddresses = [\"{address}\"]\ngroup = \"g\"\nservices = [\"tcp/80\"]\n\
             announce = {{ rise = \"0s\", fall = \"0s\" }}\n"
        )
    };
    addresses.iter().enumerate().map(vip).collect()
}

/// What weir-l4 says of them, with so many healthy proxies.
pub(crate) fn datapath_of_many(addresses: &[Ipv4Addr], healthy_proxies: u32) -> L4Status {
    let vip = |(number, address): (usize, &Ipv4Addr)| {
        (format!("v{number}").parse().unwrap(), vec![IpAddr::V4(*address)])
    };
    datapath_of(addresses.iter().enumerate().map(vip), healthy_proxies)
}
