//! A VIP is announced while its services answer: `weir-l4`, `weir-proxy`, `weir-bgp` on a host, BIRD as its router.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    process::Command,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData, SockMap};
use nix::sys::signal::Signal;
use weir_abi::{
    Address,
    service::{PROTO_TCP, VipKey},
};
use weir_lab::bird::Router;
use weir_model::status::{AnnounceStatus, BgpStatus, Health, ProxyStatus};
use weir_tests::{
    programs,
    rig::{Rig, Role, VIP4, VIP6, own4, own6},
};

const SOON: Duration = Duration::from_secs(20);
/// The VIP that needs any of its services, where `dns` needs all.
const ANY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 54);
/// Of what did not happen, this long counts as not happening: `fall` and all probes several times over.
const NEVER: Duration = Duration::from_secs(2);

fn config(pool: &str) -> String {
    let listener = |vip: &str, protocol: &str, port: u16, tls: &str| {
        format!(
            "[listener.{vip}-{protocol}]\nprotocol = \"{protocol}\"\nvip = \"{vip}\"\nport = {port}\npool = \"app\"\n{tls}\n"
        )
    };
    let tls = "tls.certificates = [{ certificate = \"site.pem\", key = \"site.key\" }]\n\
               routes = [{ hosts = [\"*.example.org\"], pool = \"app\" }]";
    let mut text = format!(
        r#"
[zone.az1]
[node.h1]
zone = "az1"
address = "{own4}"
address6 = "{own6}"
probe_interval = "100ms"
probe_timeout = "300ms"
[group.edge]
nodes = ["h1"]
[vip.dns]
addresses = ["{VIP4}", "{VIP6}"]
group = "edge"
services = ["tcp/25", "tcp/80", "tcp/443", "udp/53", "tcp/8000"]
[vip.any]
addresses = ["{ANY}"]
group = "edge"
services = ["tcp/25", "tcp/80"]
announce = {{ services = "any" }}
[pool.app]
{pool}
[server.s]
pools = ["app"]
zone = "az1"
address = "{gate}:9"
[peer.tor]
node = "h1"
address = "{gate}"
asn = 65000
local_asn = 65100
connect_retry = "1s"
"#,
        own4 = own4(1, 2),
        own6 = own6(1, 2),
        gate = own4(1, 1)
    );
    text += &listener("dns", "tcp", 25, "");
    text += &listener("dns", "http", 80, "");
    text += &listener("dns", "https", 443, tls);
    text += &listener("any", "tcp", 25, "");
    text += &listener("any", "http", 80, "");
    text
}

/// The host with everything on it, and its router.
struct Site {
    rig: Rig,
    router: Router,
    _dir: tempfile::TempDir,
}

impl Site {
    /// Built, with every VIP announced.
    async fn build() -> Self {
        let mut rig = Rig::with(&[Role::Node], &config("")).await.expect("rig");
        let dir = tempfile::tempdir().expect("directory");
        let bird = format!(
            "log \"{}/tor.log\" all;\nrouter id 10.9.1.1;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n\
             protocol bgp h1 {{ local as 65000; direct; passive; neighbor {} as 65100;\n\
             ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            dir.path().display(),
            own4(1, 2)
        );
        let router = Router::with("tor", &bird, rig.router.netns.clone(), dir.path()).expect("bird");
        let made = rcgen::generate_simple_self_signed(["*.example.org".to_owned()]).expect("certificate");
        rig.configure("site.pem", &made.cert.pem()).expect("certificate");
        rig.configure("site.key", &made.signing_key.serialize_pem()).expect("key");
        rig.start_proxy(0).expect("proxy");
        rig.start_announcer(0).expect("announcer");
        let site = Self { rig, router, _dir: dir };
        for vip in [IpAddr::from(VIP4), VIP6.into(), ANY.into()] {
            site.until_route(vip, true).await;
        }
        site
    }

    /// Waits until the router has a route to the VIP, or has none.
    async fn until_route(&self, vip: IpAddr, wanted: bool) {
        let deadline = Instant::now() + SOON;
        let console = self.router.console();
        loop {
            let known = console.announcers(vip).await.map(|names| !names.is_empty());
            if matches!(known, Ok(known) if known == wanted) {
                return;
            }
            if Instant::now() > deadline {
                panic!(
                    "a route to {vip}: never {wanted}; {known:?}\n{:?}\n{}",
                    self.verdicts().await,
                    self.logs()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn verdicts(&self) -> Option<BgpStatus> {
        weir_runtime::status::fetch(&self.rig.run_dir(0).join("bgp.sock")).await.ok()
    }

    /// Waits until the verdict on a VIP is as wished.
    async fn until_verdict(&self, vip: &str, wished: impl Fn(&AnnounceStatus) -> bool) -> AnnounceStatus {
        let deadline = Instant::now() + SOON;
        loop {
            let seen = self.verdicts().await.and_then(|status| status.vips.get(vip).cloned());
            match seen {
                Some(verdict) if wished(&verdict) => return verdict,
                seen if Instant::now() > deadline => panic!("last {seen:?}\n{}", self.logs()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn proxy(&self) -> ProxyStatus {
        let socket = self.rig.run_dir(0).join("proxy.sock");
        weir_runtime::status::fetch(&socket).await.expect("status of the proxy")
    }

    fn logs(&self) -> String {
        let read = |name| std::fs::read_to_string(self.rig.run_dir(0).join(name)).unwrap_or_default();
        ["log", "weir-proxy.log", "weir-bgp.log"].map(read).concat()
    }

    /// What `weir bgp vips` shows of a VIP.
    fn shown(&self, vip: &str) -> String {
        let mut command = Command::new(programs::path("weir"));
        command.args(["bgp", "vips", vip, "--run-dir"]).arg(self.rig.run_dir(0));
        String::from_utf8(command.output().expect("weir").stdout).expect("text")
    }

    /// The sockets of the datapath, and which of them is that of a port.
    fn steering(&self, vip: IpAddr, port: u16) -> (SockMap<MapData>, u32) {
        let open = |name: &str| {
            let data = MapData::from_pin(self.rig.pin_dir(0).join("maps").join(name)).expect("pinned");
            Map::from_map_data(data).expect("map")
        };
        let vips: HashMap<_, VipKey, u32> = open("VIPS").try_into().expect("hash map");
        let key =
            VipKey { address: Address::from(vip), port: port.to_be_bytes(), protocol: PROTO_TCP, _pad: 0 };
        let index = vips.get(&key, 0).expect("a service");
        (open("SOCKETS").try_into().expect("socket map"), index)
    }

    /// From now on nothing listens at a port of a VIP.
    fn take_away(&self, vip: IpAddr, port: u16) {
        let (mut sockets, index) = self.steering(vip, port);
        sockets.clear_index(&index).expect("clear");
    }

    /// From now on a port of a VIP leads to a program that accepts nobody, though the kernel does.
    fn mute(&self, vip: IpAddr, port: u16) -> TcpListener {
        let listen = || Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        let listener = self.rig.hosts[0].netns.run(listen).expect("listen");
        let (mut sockets, index) = self.steering(vip, port);
        sockets.set(index, &listener.as_raw_fd(), 0).expect("steer");
        listener
    }

    /// A new `weir-l4` asks the proxy for its sockets.
    fn mend(&mut self) {
        self.rig.kill(0).expect("kill");
        self.rig.start(0).expect("start");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_vip_is_withdrawn_while_a_service_does_not_answer_and_stays_where_any_suffices() {
    let mut site = Site::build().await;
    let status = site.proxy().await;
    let services = &status.vips["dns"].services;
    assert_eq!(services.len(), 6, "TCP ports with a listener, at both addresses: {services:?}");
    assert!(services.values().all(|service| service.health == Health::Up), "{services:?}");

    for (port, breakage, why) in [
        (443, "mute", "does not answer: from this host: no answer within 300ms"),
        (80, "mute", "does not answer: from this host: no answer within 300ms"),
        (25, "mute", "does not answer: from this host: no answer within 300ms"),
        (443, "gone", "does not answer: from this host: refused: nothing is steered to a listener"),
    ] {
        let _mute = match breakage {
            "mute" => Some(site.mute(VIP4.into(), port)),
            _ => {
                site.take_away(VIP4.into(), port);
                None
            }
        };
        site.until_route(VIP4.into(), false).await;
        site.until_route(VIP6.into(), false).await;
        let verdict = site.until_verdict("dns", |verdict| !verdict.announced).await;
        let expected = format!("tcp {} {why}", SocketAddr::new(VIP4.into(), port));
        assert!(verdict.reason.starts_with(&expected), "{breakage} {port}: {}", verdict.reason);
        let shown = site.shown("dns");
        assert!(shown.contains(&expected), "{shown}");
        site.until_route(ANY.into(), true).await;
        site.mend();
        site.until_route(VIP4.into(), true).await;
        site.until_route(VIP6.into(), true).await;
    }

    // Of the other VIP one service is enough, and none is too few.
    let _mute = site.mute(ANY.into(), 80);
    let verdict = site.until_verdict("any", |verdict| verdict.reason.contains("but tcp")).await;
    assert!(verdict.announced && verdict.reason.contains("198.51.100.54:80 does not answer"), "{verdict:?}");
    site.take_away(ANY.into(), 25);
    site.until_route(ANY.into(), false).await;
    site.until_verdict("any", |verdict| verdict.reason.starts_with("no service answers")).await;
    site.until_route(VIP4.into(), true).await;
    site.mend();
    site.until_route(ANY.into(), true).await;

    // Checks reach no server and are in no log and no count.
    let log = std::fs::read_to_string(site.rig.run_dir(0).join("access.log")).unwrap_or_default();
    assert_eq!(log, "");
    let status = site.proxy().await;
    assert!(status.listeners.values().all(|listener| listener.requests == 0), "{:?}", status.listeners);
    assert!(status.pools["app"].servers.values().all(|server| server.requests == 0), "{:?}", status.pools);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_that_hangs_or_whose_critical_pool_is_dead_takes_its_vips_along() {
    let mut site = Site::build().await;
    site.rig.signal_proxy(0, Signal::SIGSTOP).expect("stop");
    site.until_route(VIP4.into(), false).await;
    site.until_verdict("dns", |verdict| verdict.reason.contains("no healthy proxy")).await;
    site.rig.signal_proxy(0, Signal::SIGCONT).expect("continue");
    site.until_route(VIP4.into(), true).await;

    // Nobody listens at its one server.
    let check = "check = { kind = \"tcp\", interval = \"50ms\" }";
    site.rig.configure("rig.toml", &config(&format!("critical = false\n{check}"))).expect("configure");
    let deadline = Instant::now() + SOON;
    while site.proxy().await.pools["app"].servers["s"].health != Health::Down {
        assert!(Instant::now() < deadline, "the server never looked dead");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // That nothing happens can only be waited for.
    tokio::time::sleep(NEVER).await;
    site.until_route(VIP4.into(), true).await;
    assert!(site.until_verdict("dns", |_| true).await.announced);
    // The other VIP has no other pool: all of them at once would not be believed, so that one is made to need nothing.
    let text = config(check).replace("services = \"any\"", "mode = \"always\"");
    site.rig.configure("rig.toml", &text).expect("configure");
    site.until_route(VIP4.into(), false).await;
    site.until_verdict("dns", |verdict| {
        verdict.reason == "no zone can answer: pool app has no server in any zone"
    })
    .await;
    site.mend();
    site.rig.configure("rig.toml", &config("")).expect("configure");
    site.until_route(VIP4.into(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_listener_is_busy_and_stays_announced() {
    let site = Site::build().await;
    let text = config("").replace("[listener.dns-http]\n", "[listener.dns-http]\nmax_connections = 1\n");
    site.rig.configure("rig.toml", &text).expect("configure");
    let deadline = Instant::now() + SOON;
    let mut client = loop {
        let client = site.rig.connect((VIP4, 80).into()).expect("connect");
        let listener = site.proxy().await.listeners["dns-http"].clone();
        if listener.connections == 1
            && site.proxy().await.config.generation != weir_model::Generation::default()
        {
            break client;
        }
        assert!(Instant::now() < deadline, "{listener:?}");
    };
    // Another that waits shows that nobody is accepted any more.
    let mut waiting = site.rig.connect((VIP4, 80).into()).expect("the kernel accepts");
    waiting.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("ask");
    waiting.set_read_timeout(Some(NEVER)).expect("timeout");
    let mut answer = [0; 12];
    let silence = waiting.read_exact(&mut answer).expect_err("nobody answers");
    assert_eq!(silence.kind(), std::io::ErrorKind::WouldBlock, "{silence}");
    let verdict = site.until_verdict("dns", |_| true).await;
    assert!(verdict.announced && !verdict.reason.contains("tcp"), "{verdict:?}");
    site.until_route(VIP4.into(), true).await;
    // Who has the connection is served, and then the next.
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("ask");
    client.read_exact(&mut answer).expect("an answer");
    drop(client);
    waiting.set_read_timeout(Some(SOON)).expect("timeout");
    waiting.read_exact(&mut answer).expect("an answer");
}
