//! A router and hosts in namespaces of their own, a link each, and daemons on them.
//!
//! Host n has 10.0.n.2/24 and fd00:n::2/64 on `eth0`; the router 10.0.n.1 and fd00:n::1 on `th<n>`.

use crate::bench::{Agent, Process, output, until};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;
use weir_lab::netns::{self, NetNs};
use weir_lab::place::Place;
use weir_lab::sys;

pub(crate) struct Fabric {
    runtime: tokio::runtime::Runtime,
    pub(crate) router: Place,
    pub(crate) hosts: Vec<Place>,
}

impl Fabric {
    /// `None`, and a word about it, without root or one of `programs`.
    pub(crate) fn build(hosts: u8, test: &str, programs: &[&str]) -> Option<Self> {
        Self::with(hosts, true, test, programs)
    }

    /// One host behind a link with nothing but link-local addresses; the host has its own on its loopback.
    pub(crate) fn unnumbered(test: &str, programs: &[&str]) -> Option<Self> {
        Self::with(1, false, test, programs)
    }

    fn with(hosts: u8, numbered: bool, test: &str, programs: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: {test}: namespaces take root");
            return None;
        }
        if !programs.iter().all(|program| crate::bench::available(program, test)) {
            return None;
        }
        let name = format!("weir-b{}x{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (router, hosts) = runtime.block_on(async {
            let router = place(&format!("{name}r")).await;
            router.netns.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
            let mut places = Vec::new();
            for number in 1..=hosts {
                let host = place(&format!("{name}h{number}")).await;
                let port = format!("th{number}");
                router.veth(&port, &host, "eth0", 1500).await.unwrap();
                let own4 = |last| Ipv4Addr::new(10, 0, number, last).into();
                let own6 = |last| Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, last).into();
                if numbered {
                    router.address(&port, &[(own4(1), 24), (own6(1), 64)]).await.unwrap();
                    host.address("eth0", &[(own4(2), 24), (own6(2), 64)]).await.unwrap();
                } else {
                    host.address("lo", &[(own4(2), 32), (own6(2), 128)]).await.unwrap();
                }
                places.push(host);
            }
            (router, places)
        });
        Some(Self { runtime, router, hosts })
    }

    /// weir-bgp on a host, as the node of the same number.
    pub(crate) fn agent(&self, number: usize, peers: &str) -> Agent {
        let fd = self.hosts[number - 1].netns.fd();
        Agent::start_with(&config(peers), &format!("n{number}"), |command| sys::confine(command, fd))
    }

    /// The next process of an agent of [`Fabric::agent`].
    pub(crate) fn start_again(&self, agent: &mut Agent, number: usize) {
        let fd = self.hosts[number - 1].netns.fd();
        agent.start_again(&format!("n{number}"), |command| sys::confine(command, fd));
    }

    /// Take the router's end of a link up or down.
    pub(crate) fn set_link(&self, number: usize, up: bool) {
        self.runtime.block_on(self.router.set_link(&format!("th{number}"), up)).unwrap();
    }

    /// Routes in the router's kernel.
    pub(crate) fn kernel_routes(&self, family: &str) -> Result<String, String> {
        let mut command = Command::new("/usr/sbin/ip");
        command.args([family, "route"]);
        sys::confine(&mut command, self.router.netns.fd());
        output(&mut command)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for place in self.hosts.iter().chain([&self.router]) {
            netns::remove(place.netns.name());
        }
    }
}

async fn place(name: &str) -> Place {
    let place = Place::create(name).unwrap();
    let settings = [
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        // A link that was down comes back with its addresses.
        ("ipv6/conf/all/keep_addr_on_down", "1"),
        ("ipv6/conf/default/keep_addr_on_down", "1"),
    ];
    place.netns.sysctl(&settings).unwrap();
    place.set_up("lo").await.unwrap();
    place
}

/// Two nodes that announce one VIP of both families.
pub(crate) fn config(peers: &str) -> String {
    format!(
        r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "10.0.1.2"
address6 = "fd00:1::2"
[node.n2]
zone = "z1"
address = "10.0.2.2"
address6 = "fd00:2::2"
[group.g]
nodes = ["n1", "n2"]
[vip.web]
addresses = ["192.0.2.1", "2001:db8::1"]
group = "g"
services = ["tcp/80"]
announce = {{ mode = "always" }}
{peers}
"#
    )
}

/// The peer object `tor` of a node, with further fields.
pub(crate) fn tor(node: &str, address: &str, more: &str) -> String {
    let address = if address.is_empty() { String::new() } else { format!("address = \"{address}\"") };
    format!(
        "[peer.tor]\nnode = \"{node}\"\n{address}\nasn = 65000\nlocal_asn = 65001\nhold_time = \"3s\"\n\
         connect_retry = \"300ms\"\n{more}\n"
    )
}

/// A router's daemon.
pub(crate) struct Tor {
    pub(crate) dir: TempDir,
    process: Process,
    ask: fn(&Path, &NetNs, &str) -> Command,
    netns: NetNs,
}

impl Tor {
    /// Write `config` to a file and start what `command` makes of its directory; `@RUN@` in it is that directory.
    pub(crate) fn start(
        fabric: &Fabric,
        config: &str,
        command: fn(&Path) -> Command,
        ask: fn(&Path, &NetNs, &str) -> Command,
        ready: &str,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("conf"), config.replace("@RUN@", &dir.path().display().to_string()))
            .unwrap();
        let mut command = command(dir.path());
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        sys::confine(&mut command, fabric.router.netns.fd());
        let process = Process(command.spawn().unwrap());
        let tor = Self { dir, process, ask, netns: fabric.router.netns.clone() };
        until("the router answers", || tor.ask(ready));
        tor
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.process.signal(signal);
    }

    pub(crate) fn ask(&self, question: &str) -> Result<String, String> {
        let mut command = (self.ask)(self.dir.path(), &self.netns, question);
        sys::confine(&mut command, self.netns.fd());
        output(&mut command).map_err(|error| format!("{error}\n{}", self.log()))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Wait until the answer has, or has not, each of these.
    pub(crate) fn until(&self, what: &str, question: &str, has: &[&str], has_not: &[&str]) {
        until(what, || {
            let text = self.ask(question)?;
            let good =
                has.iter().all(|part| text.contains(part)) && !has_not.iter().any(|part| text.contains(part));
            if good { Ok(()) } else { Err(format!("{text}\n{}", self.log())) }
        });
    }
}
