//! Health of proxies as their packets meet them: `weir-l4` and `weir-proxy` on two hosts, of which one loses a part.

use std::{net::IpAddr, process::Command};

use aya::maps::{HashMap, Map, MapData};
use weir_abi::Address;
use weir_model::{
    ProbeVia,
    status::{Health, L4Status},
};
use weir_tests::rig::{Rig, Role, VIP4, VIP6, own4, own6};

/// Two nodes with `of_nodes`, over these families, with a VIP that their proxies serve.
fn config(of_nodes: &str, families: &[u8]) -> String {
    let mut text = String::from("[zone.az1]\n");
    for number in [1, 2] {
        text += &format!("[node.h{number}]\nzone = \"az1\"\nprobe_interval = \"100ms\"\n{of_nodes}\n");
        for family in families {
            text += &match family {
                4 => format!("address = \"{}\"\n", own4(number, 2)),
                _ => format!("address6 = \"{}\"\n", own6(number, 2)),
            };
        }
    }
    text + &format!(
        r#"
[group.edge]
nodes = ["h1", "h2"]
[vip.dns]
addresses = ["{VIP4}", "{VIP6}"]
group = "edge"
services = ["tcp/80"]
[listener.web]
protocol = "tcp"
vip = "dns"
port = 80
pool = "app"
[pool.app]
[server.s]
pools = ["app"]
zone = "az1"
address = "{}:9"
"#,
        own4(1, 1)
    )
}

/// Both hosts with their proxies, each of which finds both up.
async fn served(config: &str) -> Rig {
    let mut rig = Rig::with(&[Role::Node, Role::Node], config).await.expect("rig");
    for host in 0..2 {
        rig.start_proxy(host).expect("proxy");
    }
    for host in 0..2 {
        until(&rig, host, "h1", Health::Up).await;
        until(&rig, host, "h2", Health::Up).await;
    }
    rig
}

/// Waits until a host finds the proxy of another, or its own, so.
async fn until(rig: &Rig, host: usize, node: &str, health: Health) -> L4Status {
    let seen = |status: &L4Status| status.proxies.get(node) == Some(&health);
    rig.until(host, &format!("{node} is {health:?}"), seen).await.expect("health")
}

/// What a way of probing says of a node.
fn probe<'a>(status: &'a L4Status, node: &str, via: ProbeVia) -> (Health, &'a str) {
    let is_it = |probe: &&weir_model::status::ProbeStatus| probe.target.as_str() == node && probe.via == via;
    let probe = status.probes.iter().find(is_it).unwrap_or_else(|| panic!("{node}: {:?}", status.probes));
    (probe.health, &probe.reason)
}

/// Runs `ip` on a host.
fn ip(rig: &Rig, host: usize, arguments: &str) {
    let run = || Ok(Command::new("ip").args(arguments.split(' ')).status()?);
    let status = rig.hosts[host].netns.run(run).expect("run ip");
    assert!(status.success(), "ip {arguments}: {status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_whose_host_opens_no_tunnels_is_down_though_it_answers_plainly() {
    for (of_nodes, families, way) in [
        ("", &[4, 6][..], "GUE to 10.9.2.2"),
        ("tunnel = \"ipip\"", &[4, 6], "IPIP to 10.9.2.2"),
        ("", &[6], "GUE to fd09:2::2"),
        ("tunnel = \"ipip\"", &[6], "IPIP to fd09:2::2"),
    ] {
        let mut rig = served(&config(of_nodes, families)).await;
        rig.kill(1).expect("kill");
        rig.detach(1).expect("detach");
        let status = until(&rig, 0, "h2", Health::Down).await;
        assert_eq!(probe(&status, "h2", ProbeVia::Direct).0, Health::Up, "{way}");
        let (health, reason) = probe(&status, "h2", ProbeVia::Tunnel);
        let says = |what: &str| reason.contains(what);
        assert!(health == Health::Down && says(&format!("(vip dns) by {way}: no answer within")), "{reason}");
        assert_eq!(status.proxies["h1"], Health::Up, "{way}: its own does");
        rig.start(1).expect("start");
        until(&rig, 0, "h2", Health::Up).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_whose_host_does_not_trust_this_one_is_down_until_it_does() {
    let rig = served(&config("", &[4])).await;
    let data = MapData::from_pin(rig.pin_dir(1).join("maps/PEERS")).expect("pinned");
    let peers = Map::from_map_data(data).expect("map");
    let mut peers: HashMap<_, Address, u32> = peers.try_into().expect("peers");
    let h1 = Address::from(IpAddr::from(own4(1, 2)));
    let value = peers.get(&h1, 0).expect("a peer");
    peers.remove(&h1).expect("remove");
    let status = until(&rig, 0, "h2", Health::Down).await;
    assert_eq!(probe(&status, "h2", ProbeVia::Direct).0, Health::Up);
    let refused =
        rig.until(1, "tunnels are refused", |status| status.reasons["drop_gue_untrusted"] > 0).await;
    refused.expect("status");
    peers.insert(h1, value, 0).expect("insert");
    until(&rig, 0, "h2", Health::Up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_whose_host_lost_the_route_of_a_vip_is_down_until_it_has_it() {
    let rig = served(&config("", &[4, 6])).await;
    for (family, vip) in [("-4", IpAddr::from(VIP4)), ("-6", IpAddr::from(VIP6))] {
        ip(&rig, 1, &format!("{family} route del local {vip} dev lo table local proto 87"));
        let status = until(&rig, 0, "h2", Health::Down).await;
        let (_, reason) = probe(&status, "h2", ProbeVia::Tunnel);
        assert!(reason.contains(&vip.to_string()), "{reason}");
        let own = until(&rig, 1, "h2", Health::Down).await;
        let (_, reason) = probe(&own, "h2", ProbeVia::Tunnel);
        assert!(reason.contains(&format!("{vip}")) && reason.contains("own datapath"), "{reason}");
        ip(&rig, 1, &format!("{family} route add local {vip} dev lo table local proto 87"));
        until(&rig, 0, "h2", Health::Up).await;
        until(&rig, 1, "h2", Health::Up).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_host_finds_its_own_proxy_down_when_its_datapath_does_not_lead_there() {
    let mut rig = served(&config("", &[4, 6])).await;
    // Before anything else: a weir-l4 that has adopted the link keeps it in force whoever removes its pin.
    rig.detach(0).expect("detach");
    let status = until(&rig, 0, "h1", Health::Down).await;
    let (_, reason) = probe(&status, "h1", ProbeVia::Tunnel);
    assert!(reason.contains("the balancer is not attached to eth0"), "{reason}");
    until(&rig, 1, "h1", Health::Down).await;
    rig.kill(0).expect("kill");
    rig.start(0).expect("start");
    until(&rig, 0, "h1", Health::Up).await;
    until(&rig, 1, "h1", Health::Up).await;

    std::fs::remove_file(rig.pin_dir(0).join("steer")).expect("steering goes");
    for (host, way) in [(0, "this host's own datapath"), (1, "GUE to 10.9.1.2")] {
        let status = until(&rig, host, "h1", Health::Down).await;
        assert_eq!(probe(&status, "h1", ProbeVia::Direct).0, Health::Up);
        let (_, reason) = probe(&status, "h1", ProbeVia::Tunnel);
        assert!(reason.contains(&format!("{way}: refused")), "{reason}");
    }
    rig.kill(0).expect("kill");
    rig.start(0).expect("start");
    until(&rig, 0, "h1", Health::Up).await;

    // What is in the maps counts too: this host trusts its own tunnels as little as any other's.
    let data = MapData::from_pin(rig.pin_dir(0).join("maps/PEERS")).expect("pinned");
    let peers = Map::from_map_data(data).expect("map");
    let mut peers: HashMap<_, Address, u32> = peers.try_into().expect("peers");
    let h1 = Address::from(IpAddr::from(own4(1, 2)));
    let value = peers.get(&h1, 0).expect("a peer");
    peers.remove(&h1).expect("remove");
    let status = until(&rig, 0, "h1", Health::Down).await;
    let (_, reason) = probe(&status, "h1", ProbeVia::Tunnel);
    assert!(reason.contains("drop_gue_untrusted"), "{reason}");
    peers.insert(h1, value, 0).expect("insert");
    until(&rig, 0, "h1", Health::Up).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn probes_leave_nothing_behind_at_the_host_they_ask() {
    let rig = served(&config("", &[4, 6])).await;
    let before = rig.until(1, "counters", |_| true).await.expect("status").reasons["decap_deliver"];
    let delivered = |status: &L4Status| status.reasons["decap_deliver"] > before + 50;
    rig.until(1, "probes are opened", delivered).await.expect("status");
    let half_open = || {
        let text = std::fs::read_to_string("/proc/thread-self/net/tcp")?
            + &std::fs::read_to_string("/proc/thread-self/net/tcp6")?;
        // 03 is SYN_RECV, 01 ESTABLISHED.
        let is_open = |line: &&str| line.split_whitespace().nth(3).is_some_and(|state| state == "03");
        Ok(text.lines().filter(is_open).count())
    };
    let count = rig.hosts[1].netns.run(half_open).expect("read");
    // Those of this moment, of two addresses.
    assert!(count <= 4, "{count} connections are half open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proxy_that_is_asked_directly_only_is_up_without_a_datapath() {
    let mut rig = served(&config("probe_via = \"direct\"", &[4])).await;
    rig.kill(1).expect("kill");
    rig.detach(1).expect("detach");
    let status = rig.until(0, "status", |_| true).await.expect("status");
    assert!(status.probes.iter().all(|probe| probe.via == ProbeVia::Direct), "{:?}", status.probes);
    assert_eq!(status.proxies["h2"], Health::Up);
}
