//! Hosts behind a router, in namespaces of their own, each with a `weir-l4`: enough network for what the kernel shell does
//! by itself. The router is the client too.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
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
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{setsockopt, sockopt},
    },
    unistd::Pid,
};
use weir_lab::{
    netns,
    place::Place,
    sys::{self, PassProgram},
};
use weir_model::status::L4Status;

use crate::{drops::Drops, prog_run::object_path, programs};

/// The VIPs of the rig, both with `udp/53`.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// The IPv6 one.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53);
/// How long anything may take that should be immediate.
const SOON: Duration = Duration::from_secs(20);
const MTU: u32 = 1600;
/// What waits in a server's socket while its thread gets no time, in bytes.
const WAITING_MAX: usize = 8 << 20;

/// What a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A load balancer.
    Node,
    /// A server that opens tunnels.
    Server,
}

/// The network and what runs in it; dropping it takes everything away.
pub struct Rig {
    name: String,
    /// The router and client.
    pub router: Place,
    /// The hosts, h1 first.
    pub hosts: Vec<Place>,
    roles: Vec<Role>,
    /// Interfaces the balancer is attached to.
    pub interfaces: Vec<Vec<&'static str>>,
    /// The object of kernel programs the next `weir-l4` of a host starts with.
    pub objects: Vec<PathBuf>,
    daemons: Vec<Option<Child>>,
    proxies: Vec<Option<Child>>,
    announcers: Vec<Option<Child>>,
    _ports: Vec<OwnedFd>,
    dir: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    echoes: Vec<thread::JoinHandle<()>>,
}

impl Rig {
    /// Builds the network and starts `weir-l4` on both hosts; VIPs are routed to the first.
    pub async fn build() -> Result<Self> {
        let mut rig = Self::with(&[Role::Node, Role::Node], &config()).await?;
        for host in 0..2 {
            for vip in [VIP4.into(), VIP6.into()] {
                rig.echo(host, vip)?;
            }
        }
        Ok(rig)
    }

    /// The same with hosts h1, h2, … of these roles at [`own4`] and [`own6`], with nothing but `weir-l4` on them.
    pub async fn with(roles: &[Role], config: &str) -> Result<Self> {
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
        for number in 1..=roles.len() as u8 {
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
        let mut rig = Self {
            name,
            router,
            hosts,
            roles: roles.to_vec(),
            interfaces: roles.iter().map(|_| vec!["eth0"]).collect(),
            objects: roles.iter().map(|_| object_path()).collect(),
            daemons: roles.iter().map(|_| None).collect(),
            proxies: roles.iter().map(|_| None).collect(),
            announcers: roles.iter().map(|_| None).collect(),
            _ports: ports,
            dir,
            stop,
            echoes: Vec::new(),
        };
        rig.configure("rig.toml", config)?;
        for host in 0..roles.len() {
            rig.start(host)?;
        }
        for host in 0..roles.len() {
            rig.until(host, "the VIP is confirmed", |status| status.vips.contains_key("dns")).await?;
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
        let role = match self.roles[host] {
            Role::Node => "--node",
            Role::Server => "--server",
        };
        command.arg(self.dir.path().join("config")).args([role, &format!("h{}", host + 1)]);
        command.args(self.interfaces[host].iter().flat_map(|interface| ["--interface", interface]));
        command.arg("--run-dir").arg(self.run_dir(host));
        command.arg("--pin-dir").arg(self.pin_dir(host)).arg("--ebpf").arg(&self.objects[host]);
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

    /// Starts a `weir-proxy` on a host, whose access log is `access.log` in its run directory.
    pub fn start_proxy(&mut self, host: usize) -> Result<()> {
        let log = self.run_dir(host).join("access.log");
        self.proxies[host] =
            Some(self.beside(host, "weir-proxy", &[OsStr::new("--access-log"), log.as_os_str()])?);
        Ok(())
    }

    /// Starts a `weir-bgp` on a host.
    pub fn start_announcer(&mut self, host: usize) -> Result<()> {
        self.announcers[host] = Some(self.beside(host, "weir-bgp", &[])?);
        Ok(())
    }

    /// Starts another program of ours on a host.
    fn beside(&self, host: usize, program: &str, options: &[&OsStr]) -> Result<Child> {
        let mut command = Command::new(programs::path(program));
        command.arg(self.dir.path().join("config")).args(["--node", &format!("h{}", host + 1)]);
        command.arg("--run-dir").arg(self.run_dir(host)).args(options);
        sys::confine(&mut command, self.hosts[host].netns.fd());
        let log = self.run_dir(host).join(format!("{program}.log"));
        let log = fs::File::options().create(true).append(true).open(log)?;
        command.stdout(Stdio::null()).stderr(log).spawn().with_context(|| format!("start {program}"))
    }

    /// Sends a signal to the `weir-proxy` of a host.
    pub fn signal_proxy(&self, host: usize, signal: Signal) -> Result<()> {
        let proxy = self.proxies[host].as_ref().context("no proxy runs")?;
        Ok(kill(Pid::from_raw(proxy.id() as i32), signal)?)
    }

    /// Takes the balancer off the interfaces of a host by force, behind the back of its `weir-l4`.
    pub fn detach(&self, host: usize) -> Result<()> {
        for interface in &self.interfaces[host] {
            fs::remove_file(self.pin_dir(host).join(format!("xdp-{interface}")))?;
        }
        Ok(())
    }

    /// What the `weir-l4` of a host has said so far.
    pub fn log(&self, host: usize) -> String {
        fs::read_to_string(self.run_dir(host).join("log")).unwrap_or_default()
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

    /// Ends it as a service manager does.
    pub fn stop(&mut self, host: usize) -> Result<()> {
        if let Some(mut child) = self.daemons[host].take() {
            kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
            let status = child.wait()?;
            ensure!(status.success(), "weir-l4 ended with {status}\n{}", self.log(host));
        }
        Ok(())
    }

    /// What the kernel has dropped so far, everywhere.
    pub fn drops(&self) -> Result<Drops> {
        Drops::read(self.hosts.iter().chain([&self.router]).map(|place| &place.netns))
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
                    let log = self.log(host);
                    anyhow::bail!("h{} never came to: {what}; last {seen:?}\n{log}", host + 1)
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A socket on a host for what comes to a port of the VIP.
    pub fn socket(&self, host: usize, vip: IpAddr, port: u16) -> Result<UdpSocket> {
        self.hosts[host].netns.run(|| {
            let domain = socket2::Domain::for_address(SocketAddr::new(vip, port));
            let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
            if vip.is_ipv6() {
                // An address behind an IPv6 local route is not one the kernel lets anybody bind.
                socket.set_freebind_v6(true)?;
            }
            socket.bind(&SocketAddr::new(vip, port).into())?;
            setsockopt(&socket, sockopt::RcvBufForce, &WAITING_MAX)?;
            Ok(UdpSocket::from(socket))
        })
    }

    /// Answers datagrams to the VIP on a host with the host's number.
    pub fn echo(&mut self, host: usize, vip: IpAddr) -> Result<()> {
        let socket = self.socket(host, vip, 53)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
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

    /// Answers what comes over TCP to an address of a host with the host's number after each, until the returned value goes.
    pub fn greet(&self, host: usize, at: SocketAddr) -> Result<Greeter> {
        let listener = self.hosts[host].netns.run(|| {
            let domain = socket2::Domain::for_address(at);
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if at.is_ipv6() {
                socket.set_freebind_v6(true)?;
            }
            socket.bind(&at.into())?;
            socket.listen(128)?;
            socket.set_nonblocking(true)?;
            Ok(TcpListener::from(socket))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let accept = move || {
            let mut open: Vec<TcpStream> = Vec::new();
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Relaxed) {
                if let Ok((stream, _)) = listener.accept()
                    && stream.set_nonblocking(true).is_ok()
                {
                    open.push(stream);
                }
                open.retain_mut(|stream| match stream.read(&mut buffer) {
                    Ok(0) => false,
                    Ok(len) => stream.write_all(&[&buffer[..len], &[host as u8]].concat()).is_ok(),
                    Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
                });
                thread::sleep(Duration::from_millis(1));
            }
        };
        Ok(Greeter { stop, thread: Some(thread::spawn(accept)) })
    }

    /// A connection from the router, which gives up after two seconds of silence.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.router.netns.run(|| {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).context("connect")?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(stream)
        })
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

    /// Sends a datagram to a VIP from some port, and returns which host answered from the VIP.
    pub fn ask(&self, vip: IpAddr, payload: &[u8]) -> Result<usize> {
        self.ask_from(0, vip, payload)
    }

    /// The same from this port.
    pub fn ask_from(&self, port: u16, vip: IpAddr, payload: &[u8]) -> Result<usize> {
        let local = if vip.is_ipv4() { own4(1, 1).into() } else { own6(1, 1).into() };
        self.router.netns.run(|| {
            let socket = UdpSocket::bind(SocketAddr::new(local, port))?;
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
        for host in 0..self.hosts.len() {
            // Nobody to tell: what is left is removed below in any case.
            let _ = self.kill(host);
            let others = [self.announcers[host].take(), self.proxies[host].take()];
            for mut child in others.into_iter().flatten() {
                let _ = child.kill();
                let _ = child.wait();
            }
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

/// Something that listens on a host until it is dropped.
pub struct Greeter {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says something on a connection and returns which host answered.
pub fn say(stream: &mut TcpStream, payload: &[u8]) -> Result<usize> {
    stream.write_all(payload).context("send")?;
    let mut answer = vec![0; payload.len() + 1];
    stream.read_exact(&mut answer).context("no answer")?;
    // Long ones may come in pieces, each with its number behind it.
    Ok(usize::from(*answer.last().context("empty")?))
}

/// The IPv4 network of a host, from 1: the host is 2 in it, the router 1.
pub fn own4(number: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, number, last)
}

/// The same in IPv6.
pub fn own6(number: u8, last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd09, number.into(), 0, 0, 0, 0, 0, last.into())
}

/// Two nodes and the VIPs. No proxies run here: the balancers find them all dead, and use them all.
pub fn config() -> String {
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
