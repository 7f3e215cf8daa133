//! VIPs straight at servers, with real sockets: `weir-l4` on a balancer and, to open the tunnels, on two servers.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpStream},
};

use weir_model::status::Health;
use weir_tests::rig::{Greeter, Rig, Role, VIP4, VIP6, own4, own6, say};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];
const CHECK_PORT: u16 = 9000;

/// One balancer, h1, and two servers with these tunnels; `over_v6` says where they end.
fn config(tunnels: [&str; 2], over_v6: bool) -> String {
    let mut text = format!(
        r#"
[zone.az1]
[node.h1]
zone = "az1"
address = "{}"
address6 = "{}"
[group.edge]
nodes = ["h1"]
[vip.dns]
addresses = ["{VIP4}", "{VIP6}"]
group = "edge"
pool = "dns"
services = ["udp/53", "tcp/80"]
[pool.dns]
check = {{ kind = "tcp", port = {CHECK_PORT}, interval = "100ms", timeout = "500ms", rise = 1, fall = 2 }}
"#,
        own4(1, 2),
        own6(1, 2)
    );
    for (number, tunnel) in (2u8..).zip(tunnels) {
        let at: IpAddr = if over_v6 { own6(number, 2).into() } else { own4(number, 2).into() };
        let at = SocketAddr::new(at, 53);
        text += &format!(
            "[server.h{number}]\npools = [\"dns\"]\nzone = \"az1\"\naddress = \"{at}\"\ntunnel = \"{tunnel}\"\n"
        );
    }
    text
}

/// The servers' own sockets: what answers, and what is checked.
struct Served {
    rig: Rig,
    _greeters: Vec<Greeter>,
    checked: [Option<Greeter>; 2],
}

impl Served {
    async fn build(config: &str) -> Self {
        let mut rig = Rig::with(&[Role::Node, Role::Server, Role::Server], config).await.expect("rig");
        let mut greeters = Vec::new();
        for host in [1, 2] {
            for vip in VIPS {
                rig.echo(host, vip).expect("udp");
                greeters.push(rig.greet(host, SocketAddr::new(vip, 80)).expect("tcp"));
            }
        }
        let mut served = Self { rig, _greeters: greeters, checked: [None, None] };
        for host in [1, 2] {
            served.revive(host);
        }
        served.until_seen(1, Health::Up).await;
        served.until_seen(2, Health::Up).await;
        served
    }

    /// The server passes its check from now on.
    fn revive(&mut self, host: usize) {
        let any = SocketAddr::new(IpAddr::from([0u16; 8]), CHECK_PORT);
        self.checked[host - 1] = Some(self.rig.greet(host, any).expect("check"));
    }

    /// Waits until the balancer sees a server so.
    async fn until_seen(&self, host: usize, health: Health) {
        let server = format!("h{}", host + 1);
        let seen = |status: &weir_model::status::L4Status| {
            let settled = !status.changing;
            settled && status.servers.get("dns").and_then(|dns| dns.get(server.as_str())) == Some(&health)
        };
        self.rig.until(0, &format!("{server} is {health:?}"), seen).await.expect("health");
    }

    /// Which servers answer `count` datagrams from as many ports.
    fn ask(&self, vip: IpAddr, count: usize) -> BTreeSet<usize> {
        let ask = |number: usize| self.rig.ask(vip, format!("question {number}").as_bytes());
        (0..count).map(|number| ask(number).unwrap_or_else(|error| panic!("{vip}: {error:#}"))).collect()
    }

    /// As many connections, with the server that answered.
    fn connect(&self, vip: IpAddr, count: usize) -> Vec<(TcpStream, usize)> {
        let connect = |_| {
            let mut stream = self.rig.connect(SocketAddr::new(vip, 80)).expect("connect");
            let server = say(&mut stream, b"hello").expect("greeting");
            (stream, server)
        };
        (0..count).map(connect).collect()
    }
}

fn both() -> BTreeSet<usize> {
    BTreeSet::from([1, 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_vip_straight_at_servers_is_answered_by_them_whatever_the_tunnel() {
    for (tunnels, over_v6) in [(["ipip", "gue"], false), (["ipip", "gue"], true), (["ipip", "ipip"], false)] {
        let served = Served::build(&config(tunnels, over_v6)).await;
        for vip in VIPS {
            assert_eq!(served.ask(vip, 40), both(), "{tunnels:?} to {vip}");
            let mut connections = served.connect(vip, 30);
            let seen: BTreeSet<usize> = connections.iter().map(|(_, server)| *server).collect();
            assert_eq!(seen, both(), "{tunnels:?} to {vip}");
            for (stream, server) in &mut connections {
                for _ in 0..5 {
                    assert_eq!(say(stream, &[7; 900]).expect("answer"), *server);
                }
            }
        }
        let status = served.rig.until(0, "counters", |status| status.reasons["encap"] > 0).await;
        let status = status.expect("status");
        let vip = &status.vips["dns"];
        assert_eq!((vip.pool.as_ref().map(|pool| pool.as_str()), vip.healthy_proxies), (Some("dns"), 2));
        let opened = served.rig.until(1, "tunnels are opened", |status| status.reasons["decap_deliver"] > 0);
        opened.await.expect("status of a server");
        let dropped: Vec<_> =
            status.reasons.iter().filter(|(name, n)| name.starts_with("drop") && **n > 0).collect();
        assert!(dropped.is_empty(), "{dropped:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drained_server_gets_no_new_flow_and_finishes_those_it_has() {
    let text = config(["gue", "gue"], false);
    let served = Served::build(&text).await;
    let mut connections: Vec<_> = VIPS.into_iter().flat_map(|vip| served.connect(vip, 30)).collect();
    assert!(connections.iter().any(|(_, server)| *server == 1));
    let drained = text.replace("[server.h2]", "[server.h2]\nadmin = \"drain\"");
    served.rig.configure("rig.toml", &drained).expect("configure");
    let is_drained = |status: &weir_model::status::L4Status| status.vips["dns"].healthy_proxies == 1;
    served.rig.until(0, "one server takes new flows", is_drained).await.expect("drained");
    served.until_seen(2, Health::Up).await;
    for vip in VIPS {
        assert_eq!(served.ask(vip, 40), BTreeSet::from([2]));
        assert!(served.connect(vip, 30).iter().all(|(_, server)| *server == 2));
    }
    for (stream, server) in &mut connections {
        assert_eq!(say(stream, b"still there?").expect("an old flow goes on"), *server);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_opens_no_tunnels_is_down_though_it_passes_its_check() {
    for (tunnels, over_v6) in [(["gue", "gue"], false), (["ipip", "gue"], true)] {
        let mut served = Served::build(&config(tunnels, over_v6)).await;
        served.rig.kill(1).expect("kill");
        served.rig.detach(1).expect("detach");
        served.until_seen(1, Health::Down).await;
        let status = served.rig.until(0, "status", |_| true).await.expect("status");
        let of_h2: Vec<_> = status.probes.iter().filter(|probe| probe.target.as_str() == "h2").collect();
        assert_eq!(of_h2.iter().map(|probe| probe.health).collect::<Vec<_>>(), [Health::Up, Health::Down]);
        assert!(of_h2[1].reason.contains(":80 (vip dns) by "), "{:?}", of_h2[1]);
        for vip in VIPS {
            assert_eq!(served.ask(vip, 40), BTreeSet::from([2]));
        }
        served.rig.start(1).expect("start");
        served.until_seen(1, Health::Up).await;
        for vip in VIPS {
            assert_eq!(served.ask(vip, 40), both());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dead_server_is_found_by_its_check_and_gets_nothing_until_it_is_back() {
    let mut served = Served::build(&config(["ipip", "ipip"], false)).await;
    served.checked[0] = None;
    served.until_seen(1, Health::Down).await;
    for vip in VIPS {
        assert_eq!(served.ask(vip, 40), BTreeSet::from([2]));
    }
    served.revive(1);
    served.until_seen(1, Health::Up).await;
    for vip in VIPS {
        assert_eq!(served.ask(vip, 40), both());
    }
}
