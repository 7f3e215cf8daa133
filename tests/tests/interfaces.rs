//! Hosts with more than one interface: packets come in on one, tunnels leave by another.

use std::{net::IpAddr, time::Duration};

use aya::maps::{Array, Map, MapData};
use weir_abi::Config;
use weir_tests::rig::{Rig, Role, VIP4, VIP6, config, own4, own6};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

/// Two nodes with a link of their own between them. Tunnels to the second end at its address there, to which the router
/// knows no way.
async fn with_a_back_link(mtu: u32) -> Rig {
    let text = config()
        .replace(&format!("address = \"{}\"", own4(2, 2)), "address = \"192.168.77.2\"")
        .replace(&format!("address6 = \"{}\"\n", own6(2, 2)), "");
    assert!(text.contains("192.168.77.2") && !text.contains(&own6(2, 2).to_string()));
    let mut rig = Rig::with(&[Role::Node, Role::Node], &text).await.expect("rig");
    rig.hosts[0].veth("eth1", &rig.hosts[1], "eth1", mtu).await.expect("link");
    for (host, address) in rig.hosts.iter().zip(["192.168.77.1", "192.168.77.2"]) {
        let address = address.parse().expect("address");
        host.address("eth1", &[(address, 24)]).await.expect("address");
        // The kernel names no way out of another interface to a host that forwards nothing.
        host.netns.sysctl(&[("ipv4/ip_forward", "1")]).expect("forwarding");
    }
    // XDP_REDIRECT into a veth needs a native program at its other end.
    rig.kill(1).expect("kill");
    rig.interfaces[1].push("eth1");
    rig.start(1).expect("start");
    let on_both = |status: &weir_model::status::L4Status| status.interfaces.len() == 2;
    let status = rig.until(1, "it is attached to both", on_both).await.expect("status");
    assert!(status.interfaces.iter().all(|interface| interface.mode == "native"), "{:?}", status.interfaces);
    for host in 0..2 {
        for vip in VIPS {
            rig.echo(host, vip).expect("echo");
        }
    }
    rig
}

/// Asks until the second host has answered: its neighbour entry comes with the first probe.
async fn until_answered_by_the_second(rig: &Rig, vip: IpAddr) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while rig.ask(vip, b"anybody there?").ok() != Some(1) {
        assert!(
            std::time::Instant::now() < deadline,
            "{vip}: the second host never answered\n{}",
            rig.log(0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tunnels_leave_by_the_interface_the_routing_table_says() {
    let rig = with_a_back_link(3000).await;
    for vip in VIPS {
        until_answered_by_the_second(&rig, vip).await;
        let answered: Vec<usize> = (0..40)
            .map(|number| rig.ask(vip, format!("question {number}").as_bytes()))
            .map(|answer| answer.unwrap_or_else(|error| panic!("{vip}: {error:#}")))
            .collect();
        let second = answered.iter().filter(|host| **host == 1).count();
        assert!((5..=35).contains(&second), "{vip}: {answered:?}");
        // Too big for a tunnel on the link it came by, and not for one on the link it leaves by.
        let payload = vec![b'x'; if vip.is_ipv4() { 1_565 } else { 1_545 }];
        let answered: Vec<_> = (0..20).filter_map(|_| rig.ask(vip, &payload).ok()).collect();
        assert_eq!(answered.len(), 20, "{vip}: {answered:?}");
        assert!(answered.contains(&1));
    }
    let status = rig.until(0, "counters", |status| status.reasons["encap"] > 0).await.expect("status");
    assert_eq!(status.reasons["icmp_too_big"], 0);
    assert_eq!(status.interfaces.len(), 1, "the way out needs no program");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_mtu_that_changes_is_followed_at_once() {
    let rig = with_a_back_link(3000).await;
    let payload = vec![b'x'; 1_400];
    until_answered_by_the_second(&rig, VIPS[0]).await;
    // Of the way out: whoever sends too much is told what fits, and from then on it does.
    rig.hosts[0].set_mtu("eth1", 1400).await.expect("mtu");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let told = async || rig.until(0, "counters", |_| true).await.expect("status").reasons["icmp_too_big"];
    while told().await == 0 {
        let _lost_or_answered = rig.ask(VIPS[0], &payload);
        assert!(std::time::Instant::now() < deadline, "nobody was told");
    }
    // Of an interface of its own: well before the full pass, which comes once a minute.
    rig.hosts[0].set_mtu("eth0", 1550).await.expect("mtu");
    let smaller = |status: &weir_model::status::L4Status| status.interfaces[0].mtu == 1550;
    rig.until(0, "the MTU is seen", smaller).await.expect("status");
    let data = MapData::from_pin(rig.pin_dir(0).join("maps/CONFIG")).expect("pinned");
    let known: Array<MapData, Config> = Map::from_map_data(data).expect("map").try_into().expect("array");
    let knows = |_: &weir_model::status::L4Status| known.get(&0, 0).is_ok_and(|config| config.mtu == 1550);
    rig.until(0, "the datapath knows it", knows).await.expect("status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_interface_without_native_xdp_is_used_and_said_aloud() {
    let mut rig = Rig::build().await.expect("rig");
    // A veth whose other end takes more than a page has no room for native XDP.
    rig.router.veth("big", &rig.hosts[0], "eth9", 9000).await.expect("link");
    rig.kill(0).expect("kill");
    rig.interfaces[0].push("eth9");
    rig.start(0).expect("start");
    let on_both = |status: &weir_model::status::L4Status| status.interfaces.len() == 2;
    let status = rig.until(0, "it is attached to both", on_both).await.expect("status");
    let modes: Vec<_> = status.interfaces.iter().map(|i| (i.name.as_str(), i.mode.as_str())).collect();
    assert_eq!(modes, [("eth0", "native"), ("eth9", "generic")]);
    assert!(rig.log(0).contains("eth9: no native XDP, falling back to generic"), "{}", rig.log(0));
    assert_eq!(rig.ask(VIPS[0], b"still there?").map(|host| host < 2).ok(), Some(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_path_narrower_than_its_first_link_is_learnt_from_the_router_that_says_so() {
    for family in ["address = ", "address6 = "] {
        // Tunnels over the other family only.
        let text: String = config()
            .lines()
            .filter(|line| !line.starts_with(family))
            .map(|line| format!("{line}\n"))
            .collect();
        let mut rig = Rig::with(&[Role::Node, Role::Node], &text).await.expect("rig");
        for host in 0..2 {
            VIPS.into_iter().for_each(|vip| rig.echo(host, vip).expect("echo"));
        }
        rig.router.set_mtu("f2", 1400).await.expect("mtu");
        rig.hosts[1].set_mtu("eth0", 1400).await.expect("mtu");
        let count =
            async |reason: &str| rig.until(0, "counters", |_| true).await.expect("status").reasons[reason];
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        for vip in VIPS {
            // Fits into the first link with any tunnel, and into the second only without.
            let payload = vec![b'x'; if vip.is_ipv4() { 1_365 } else { 1_345 }];
            let before = count("icmp_tunnel_too_big").await + count("icmp_too_big").await;
            while count("icmp_tunnel_too_big").await + count("icmp_too_big").await == before {
                let _lost_or_answered = rig.ask(vip, &payload);
                assert!(std::time::Instant::now() < deadline, "without {family}, {vip}: nobody was told");
            }
            for _ in 0..10 {
                rig.ask(vip, &payload).unwrap_or_else(|error| panic!("without {family}, {vip}: {error:#}"));
            }
        }
        assert!(count("icmp_tunnel_too_big").await > 0, "the first was told because a router said so");
    }
}
