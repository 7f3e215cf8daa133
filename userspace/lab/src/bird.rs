//! Routers: BIRD in the namespaces of core and ToRs, its configuration, and its control socket.
//!
//! A ToR accepts VIPs (and nothing else) from its balancers and from core, and prefers its own zone's because their
//! AS path is shorter. Static routes between zones are the fabric's, not BIRD's.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    netns::NetNs,
    sys,
    topology::{self, BALANCER_ASN, CORE_ASN, Host, Role, Topology},
};

/// How long BIRD may take to answer on its control socket.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// One router's BIRD.
pub struct Router {
    name: String,
    netns: NetNs,
    dir: PathBuf,
    child: Option<Child>,
}

/// One line of `show protocols` about a BGP neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// The neighbour's name: `z1lb1`, `core`, `tor2`.
    pub(crate) name: String,
    /// Whether routes are exchanged.
    pub(crate) established: bool,
}

impl Router {
    /// Writes the configuration of `name` into `dir` and starts BIRD.
    pub(crate) fn start(name: &str, topology: Topology, netns: NetNs, dir: &Path) -> Result<Self> {
        let text = match name.strip_prefix("tor").and_then(|zone| zone.parse().ok()) {
            Some(zone) => tor_config(topology, zone, dir),
            None => core_config(topology, dir),
        };
        Self::with(name, &text, netns, dir)
    }

    /// The same with this configuration.
    pub fn with(name: &str, text: &str, netns: NetNs, dir: &Path) -> Result<Self> {
        let path = dir.join(format!("{name}.conf"));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let mut router = Self { name: name.into(), netns, dir: dir.into(), child: None };
        router.run()?;
        Ok(router)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(format!("{}.sock", self.name))
    }

    /// Starts the process, unless it runs.
    pub(crate) fn run(&mut self) -> Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let _ = fs::remove_file(self.socket());
        let file = |suffix: &str| self.dir.join(format!("{}.{suffix}", self.name));
        let log = fs::OpenOptions::new().create(true).append(true).open(file("log"))?;
        let program = program()?;
        let mut command = std::process::Command::new(&program);
        command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(self.socket()).arg("-P").arg(file("pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::confine(&mut command, self.netns.fd());
        let child = Command::from(command).spawn();
        self.child = Some(child.with_context(|| format!("start {} for {}", program.display(), self.name))?);
        Ok(())
    }

    /// Asks BIRD to stop, which takes its routes out of the kernel, and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id() {
            let _ = kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        if timeout(ANSWER_WITHIN, child.wait()).await.is_err() {
            child.kill().await.with_context(|| format!("kill the BIRD of {}", self.name))?;
        }
        Ok(())
    }

    /// Ends BIRD without asking; its routes stay in the kernel.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await.with_context(|| format!("kill the BIRD of {}", self.name)),
            None => Ok(()),
        }
    }

    /// The process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// Somebody to ask, detached from the process.
    pub fn console(&self) -> Console {
        Console { name: self.name.clone(), socket: self.socket() }
    }
}

/// BIRD's control socket.
#[derive(Clone, Debug)]
pub struct Console {
    name: String,
    socket: PathBuf,
}

impl Console {
    /// Says one command and returns the lines of the answer.
    pub async fn ask(&self, command: &str) -> Result<Vec<String>> {
        let conversation = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            // "0001 BIRD 2.0.12 ready."
            lines.next_line().await?;
            write.write_all(format!("{command}\n").as_bytes()).await?;
            let mut answer = Vec::new();
            while let Some(line) = lines.next_line().await? {
                // A line begins with a four-digit code and '-' (more follow) or ' ' (the last), or with a blank
                // (continues). Codes 0xxx end an answer well, 8xxx and 9xxx are errors.
                let (code, rest) = line.split_at_checked(5).unwrap_or(("", line.trim_start()));
                let done = code.ends_with(' ') && code.starts_with(|c: char| c.is_ascii_digit());
                if done && code.starts_with(['8', '9']) {
                    bail!("{rest}");
                }
                answer.push(if code.starts_with(' ') { line.trim().to_owned() } else { rest.to_owned() });
                if done {
                    break;
                }
            }
            anyhow::Ok(answer)
        };
        timeout(ANSWER_WITHIN, conversation)
            .await
            .map_err(anyhow::Error::from)
            .and_then(|answer| answer)
            .with_context(|| format!("ask the BIRD of {} for {command:?}", self.name))
    }

    /// Its BGP sessions.
    pub(crate) async fn sessions(&self) -> Result<Vec<Session>> {
        Ok(parse_sessions(&self.ask("show protocols").await?))
    }

    /// From which neighbours it has a route to `address`, the best ones first.
    pub async fn announcers(&self, address: std::net::IpAddr) -> Result<Vec<String>> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        match self.ask(&format!("show route {address}/{length}")).await {
            Ok(lines) => Ok(parse_announcers(&lines)),
            // "Network not found": no route is an answer too.
            Err(error) if format!("{error:#}").contains("not found") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn parse_sessions(lines: &[String]) -> Vec<Session> {
    lines
        .iter()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, kind) = (words.next()?, words.next()?);
            (kind == "BGP").then(|| Session { name: name.into(), established: line.contains("Established") })
        })
        .collect()
}

/// `198.51.100.10/32     unicast [z1lb1 10:22:33.123] * (100) [AS65100i]`
fn parse_announcers(lines: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in lines {
        let name = line.split_once("unicast [").and_then(|(_, rest)| rest.split([' ', ']']).next());
        if let Some(name) = name
            && !found.iter().any(|known| known == name)
        {
            found.push(name.to_owned());
        }
    }
    found
}

fn program() -> Result<PathBuf> {
    let from_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&from_path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir| dir.join("bird"))
        .find(|path| path.is_file())
        .context("bird is not installed (Debian: apt-get install bird2)")
}

fn common(router_id: &str, name: &str, dir: &Path) -> String {
    format!(
        "log \"{log}\" all;\n\
         router id {router_id};\n\
         protocol device {{ scan time 5; }}\n\
         protocol direct {{ ipv4; ipv6; }}\n\
         protocol kernel k4 {{ ipv4 {{ import none; export where source = RTS_BGP; }}; merge paths yes limit 16; }}\n\
         protocol kernel k6 {{ ipv6 {{ import none; export where source = RTS_BGP; }}; merge paths yes limit 16; }}\n\
         filter vips4 {{ if net ~ [ 198.51.100.0/24{{32,32}} ] then accept; reject; }}\n\
         filter vips6 {{ if net ~ [ 2001:db8::/32{{128,128}} ] then accept; reject; }}\n",
        log = dir.join(format!("{name}.log")).display(),
    )
}

const TIMERS: &str = "hold time 9; keepalive time 3; connect retry time 1; connect delay time 1; \
                      error wait time 1, 1; error forget time 1; graceful restart off;";

fn tor_config(topology: Topology, zone: u8, dir: &Path) -> String {
    let name = topology::router_name(zone);
    let asn = CORE_ASN + u32::from(zone);
    let (core, own) = topology::uplink4(zone);
    let mut text = common(&own.to_string(), &name, dir);
    let _ = write!(
        text,
        "template bgp host {{\n  local as {asn}; direct; passive; {TIMERS}\n  \
         ipv4 {{ import filter vips4; import limit 100 action block; export none; }};\n  \
         ipv6 {{ import filter vips6; import limit 100 action block; export none; }};\n}}\n\
         protocol bgp core {{\n  local as {asn}; direct; {TIMERS} neighbor {core} as {CORE_ASN};\n  \
         ipv4 {{ import filter vips4; export filter vips4; next hop self; }};\n  \
         ipv6 {{ import filter vips6; export filter vips6; next hop self; }};\n}}\n"
    );
    for host in topology.of(Role::Balancer, Some(zone)) {
        text += &host_session(host);
    }
    text
}

fn host_session(host: Host) -> String {
    format!("protocol bgp {host} from host {{ neighbor {} as {BALANCER_ASN}; }}\n", host.address4())
}

fn core_config(topology: Topology, dir: &Path) -> String {
    let mut text = common("10.0.0.1", "core", dir);
    for zone in topology.zones() {
        let _ = write!(
            text,
            "protocol bgp {name} {{\n  local as {CORE_ASN}; direct; passive; {TIMERS} neighbor {tor} as {asn};\n  \
             ipv4 {{ import filter vips4; export filter vips4; next hop self; }};\n  \
             ipv6 {{ import filter vips6; export filter vips6; next hop self; }};\n}}\n",
            name = topology::router_name(zone),
            tor = topology::uplink4(zone).1,
            asn = CORE_ASN + u32::from(zone),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn sessions_are_read_from_show_protocols() {
        let text = "Name       Proto      Table      State  Since         Info\n\
                    k4         Kernel     master4    up     22:30:00.000\n\
                    core       BGP        ---        up     22:30:00.000  Established\n\
                    z1lb1      BGP        ---        start  22:30:00.000  Passive";
        let session = |name: &str, established| Session { name: name.into(), established };
        assert_eq!(parse_sessions(&lines(text)), [session("core", true), session("z1lb1", false)]);
    }

    #[test]
    fn announcers_are_read_from_show_route() {
        let text = "Table master4:\n\
                    198.51.100.10/32     unicast [z1lb1 22:30:00.000] * (100) [AS65100i]\n\
                    \tvia 10.1.11.2 on z1lb1\n\
                    unicast [z1lb2 22:30:00.000] (100) [AS65100i]\n\
                    \tvia 10.1.12.2 on z1lb2";
        assert_eq!(parse_announcers(&lines(text)), ["z1lb1", "z1lb2"]);
    }
}
