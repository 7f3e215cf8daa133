//! Two hosts behind a router, in namespaces of their own, each with a `weir-l4`: enough network for what the kernel
//! shell does by itself. The router is the client too.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weir_lab::{
    netns,
    place::Place,
    sys::{self, PassProgram},
};
use weir_model::status::L4Status;

use crate::{prog_run::object_path, programs};

/// The VIPs of the rig, both with `udp/53`.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// The IPv6 one.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
/// How long anything may take that should be immediate.
const SOON: Duration = Duration::from_secs(20);
const MTU: u32 = 1600;

/// The network and what runs in it; dropping it takes everything away.
pub struct Rig {
    name: String,
    /// The router and client.
    pub router: Place,
    hosts: Vec<Place>,
    daemons: [Option<Child>; 2],
    _ports: Vec<OwnedFd>,
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    echoes: Vec<thread::JoinHandle<()>>,
}

impl Rig {
    /// Builds the network and starts `weir-l4` on both hosts; VIPs are routed to the first.
    pub async fn build() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-t{}x{}-", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let router = Place::create(&format!("{name}r"))?;
        router.netns.sysctl(&[
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
        ])?;
        router.set_up("lo").await?;
        let pass = PassProgram::load()?;
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        for number in [1, 2] {
            let host = Place::create(&format!("{name}h{number}"))?;
            let settings = [("ipv6/conf/default/accept_dad", "0"), ("ipv4/conf/all/rp_filter", "0")];
            host.netns.sysctl(&settings)?;
            host.set_up("lo").await?;
            let port = format!("f{number}");
            let index = router.veth(&port, &host, "eth0", MTU).await?;
            let (gate4, gate6) = (own4(number, 1), own6(number, 1));
            router.address(&port, &[(gate4.into(), 24), (gate6.into(), 64)]).await?;
            host.address("eth0", &[(own4(number, 2).into(), 24), (own6(number, 2).into(), 64)]).await?;
            host.default_routes(gate4, gate6).await?;
            ports.push(router.netns.run(|| {
                sys::disable_tx_checksum_offload(&port)?;
                pass.attach(index)
            })?);
            hosts.push(host);
        }
        router.route(format!("{VIP4}/32").parse()?, own4(1, 2).into()).await?;
        router.route(format!("{VIP6}/128").parse()?, own6(1, 2).into()).await?;
        let dir = tempfile::tempdir()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut rig =
            Self { name, router, hosts, daemons: [None, None], _ports: ports, dir, stop, echoes: Vec::new() };
        rig.configure("rig.toml", &config())?;
        for host in 0..2 {
            rig.start(host)?;
        }
        for host in 0..2 {
            rig.until(host, "the VIP is confirmed", |status| status.vips.contains_key("dns")).await?;
            for vip in [VIP4.into(), VIP6.into()] {
                rig.echo(host, vip)?;
            }
        }
        Ok(rig)
    }

    /// Writes a file of the configuration.
    pub fn configure(&self, file: &str, text: &str) -> Result<()> {
        let dir = self.dir.path().join("config");
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join(file), text)?)
    }

    /// Removes a file of the configuration.
    pub fn deconfigure(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.dir.path().join("config").join(file))?)
    }

    /// Where the configuration is.
    pub fn config_dir(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// Where a host's daemons have their sockets.
    pub fn run_dir(&self, host: usize) -> PathBuf {
        self.dir.path().join(format!("h{host}"))
    }

    /// Where a host's programs and maps are pinned.
    pub fn pin_dir(&self, host: usize) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/{}h{host}", self.name))
    }

    fn command(&self, host: usize) -> Command {
        let mut command = Command::new(programs::path("weir-l4"));
        command.arg(self.dir.path().join("config")).args(["--node", &format!("h{}", host + 1)]);
        command.args(["--interface", "eth0", "--run-dir"]).arg(self.run_dir(host));
        command.arg("--pin-dir").arg(self.pin_dir(host)).arg("--ebpf").arg(object_path());
        sys::confine(&mut command, self.hosts[host].netns.fd());
        command
    }

    /// Starts the `weir-l4` of a host.
    pub fn start(&mut self, host: usize) -> Result<()> {
        fs::create_dir_all(self.run_dir(host))?;
        let log = fs::File::options().create(true).append(true).open(self.run_dir(host).join("log"))?;
        let child = self.command(host).stdout(Stdio::null()).stderr(log).spawn().context("start weir-l4")?;
        self.daemons[host] = Some(child);
        Ok(())
    }

    /// Kills it without a word.
    pub fn kill(&mut self, host: usize) -> Result<()> {
        if let Some(mut child) = self.daemons[host].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Removes everything it put into the kernel.
    pub fn unload(&mut self, host: usize) -> Result<()> {
        self.kill(host)?;
        let status = self.command(host).arg("--unload").status()?;
        ensure!(status.success(), "weir-l4 --unload ended with {status}");
        Ok(())
    }

    /// Waits until the status of a host's `weir-l4` is as wished.
    pub async fn until(
        &self,
        host: usize,
        what: &str,
        wished: impl Fn(&L4Status) -> bool,
    ) -> Result<L4Status> {
        let deadline = Instant::now() + SOON;
        let socket = self.run_dir(host).join("l4.sock");
        loop {
            let status = weir_runtime::status::fetch::<L4Status>(&socket).await;
            match status {
                Ok(status) if wished(&status) => return Ok(status),
                seen if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.run_dir(host).join("log")).unwrap_or_default();
                    anyhow::bail!("h{} never came to: {what}; last {seen:?}\n{log}", host + 1)
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Answers datagrams to the VIP on a host with the host's number.
    fn echo(&mut self, host: usize, vip: IpAddr) -> Result<()> {
        let socket = self.hosts[host].netns.run(|| {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(SocketAddr::new(vip, 53)),
                socket2::Type::DGRAM,
                None,
            )?;
            if vip.is_ipv6() {
                // An address behind an IPv6 local route is not one the kernel lets anybody bind.
                socket.set_freebind_v6(true)?;
            }
            socket.bind(&SocketAddr::new(vip, 53).into())?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(UdpSocket::from(socket))
        })?;
        let stop = Arc::clone(&self.stop);
        self.echoes.push(thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Relaxed) {
                if let Ok((len, client)) = socket.recv_from(&mut buffer) {
                    let _client_sees = socket.send_to(&[&buffer[..len], &[host as u8]].concat(), client);
                }
            }
        }));
        Ok(())
    }

    /// Pings a VIP: the kernel's own ICMP sockets check what comes back.
    pub fn ping(&self, vip: IpAddr) -> Result<()> {
        use socket2::{Domain, Protocol, Socket, Type};
        self.router.netns.sysctl(&[("ipv4/ping_group_range", "0 2147483647")])?;
        self.router.netns.run(|| {
            let (domain, protocol, request) = match vip {
                IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
                IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
            };
            let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.connect(&SocketAddr::new(vip, 0).into())?;
            socket.send(&[&[request, 0, 0, 0, 0, 0, 0, 1][..], b"ping"].concat())?;
            let mut socket = socket;
            let mut buffer = [0; 64];
            let len = std::io::Read::read(&mut socket, &mut buffer).context("no answer")?;
            ensure!(buffer[..len].ends_with(b"ping"), "another answer");
            Ok(())
        })
    }

    /// Sends a datagram to a VIP from a port of its own, and returns which host answered from the VIP.
    pub fn ask(&self, vip: IpAddr, payload: &[u8]) -> Result<usize> {
        let local = if vip.is_ipv4() { own4(1, 1).into() } else { own6(1, 1).into() };
        self.router.netns.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
            // Connected: only an answer from the VIP itself is let in.
            socket.connect(SocketAddr::new(vip, 53))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send(payload)?;
            let mut buffer = [0; 2048];
            let len = socket.recv(&mut buffer).context("no answer")?;
            ensure!(len == payload.len() + 1 && buffer[..payload.len()] == *payload, "another answer");
            Ok(usize::from(buffer[len - 1]))
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for host in 0..2 {
            // Nobody to tell: what is left is removed below in any case.
            let _ = self.kill(host);
            let _ = fs::remove_dir_all(self.pin_dir(host));
        }
        self.stop.store(true, Relaxed);
        for echo in self.echoes.drain(..) {
            let _ = echo.join();
        }
        for place in self.hosts.iter().chain([&self.router]) {
            netns::remove(place.netns.name());
        }
    }
}

fn own4(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, number, last)
}

fn own6(number: u8, last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, number.into(), 0, 0, 0, 0, 0, last.into())
}

/// No proxies run here: the balancers find them all dead, and use them all.
fn config() -> String {
    format!(
        r#"
[zone.az1]
[node.h1]
zone = "az1"
address = "{}"
address6 = "{}"
[node.h2]
zone = "az1"
address = "{}"
address6 = "{}"
[group.edge]
nodes = ["h1", "h2"]
[vip.dns]
addresses = ["{VIP4}", "{VIP6}"]
group = "edge"
services = ["udp/53"]
"#,
        own4(1, 2),
        own6(1, 2),
        own4(2, 2),
        own6(2, 2)
    )
}
