//! `weir-l4` on two hosts behind a router, with real datagrams.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use weir_abi::Config;
use weir_tests::{
    packet,
    rig::{Rig, VIP4, VIP6, config, own4},
};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

/// Asks `count` times from as many ports; every question must be answered. Returns how many each host answered.
fn ask(rig: &Rig, vip: IpAddr, count: usize) -> [usize; 2] {
    let mut answered = [0; 2];
    for number in 0..count {
        let payload = format!("question {number} {}", "x".repeat(number * 7 % 1_300));
        answered[rig.ask(vip, payload.as_bytes()).unwrap_or_else(|error| panic!("{vip}: {error:#}"))] += 1;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn udp_flows_reach_both_hosts_and_are_answered_from_the_vip() {
    let rig = Rig::build().await.expect("rig");
    for vip in VIPS {
        let answered = ask(&rig, vip, 40);
        assert!(answered.iter().all(|&count| count >= 5), "{vip}: {answered:?}");
    }
    let status =
        rig.until(0, "packets are counted", |status| status.reasons["encap"] > 0).await.expect("status");
    assert!(status.reasons["deliver_local"] > 0, "{:?}", status.reasons);
    let other = rig.until(1, "tunnels are counted", |status| status.reasons["decap_deliver"] > 0).await;
    let other = other.expect("status of the second host");
    assert_eq!(other.reasons["decap_deliver"], status.reasons["encap"]);
    let dropped: Vec<_> =
        status.reasons.iter().filter(|(name, n)| name.starts_with("drop") && **n > 0).collect();
    assert!(dropped.is_empty(), "{dropped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn datagrams_too_big_for_the_tunnel_come_through_once_their_client_is_told() {
    let rig = Rig::build().await.expect("rig");
    let deadline = Instant::now() + Duration::from_secs(20);
    for vip in VIPS {
        // Fits into the client's link, of the same size as the fabric's, but not into a tunnel on it.
        let payload = vec![b'x'; if vip.is_ipv4() { 1_565 } else { 1_545 }];
        // From a port whose flow has a remote owner the first is lost, and the client's kernel told why. From then on it
        // sends fragments, which must come together again at one proxy.
        let told = async || {
            let status = rig.until(0, "counters", |_| true).await.expect("status");
            status.reasons["icmp_too_big"]
        };
        let before = told().await;
        while told().await == before {
            let _lost_or_answered = rig.ask(vip, &payload);
            assert!(Instant::now() < deadline, "{vip}: nobody was told");
        }
        for _ in 0..5 {
            rig.ask(vip, &payload).unwrap_or_else(|error| panic!("{vip}: {error:#}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pings_of_a_vip_are_answered_by_its_balancer() {
    let rig = Rig::build().await.expect("rig");
    for vip in VIPS {
        rig.ping(vip).unwrap_or_else(|error| panic!("{vip}: {error:#}"));
    }
    rig.until(0, "pings are counted", |status| status.reasons["icmp_echo"] >= 2).await.expect("status");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_weir_l4_leaves_forwarding_and_its_successor_adopts_it_with_an_empty_plan() {
    let mut rig = Rig::build().await.expect("rig");
    rig.kill(0).expect("kill");
    rig.kill(1).expect("kill");
    for vip in VIPS {
        ask(&rig, vip, 20);
    }
    rig.start(0).expect("start");
    let status = rig.until(0, "it is back", |status| status.vips.contains_key("dns")).await.expect("status");
    assert!(status.adopted);
    assert_eq!(status.last_plan, Vec::<String>::new());
    for vip in VIPS {
        ask(&rig, vip, 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn maps_of_another_abi_are_replaced_by_new_ones() {
    let mut rig = Rig::build().await.expect("rig");
    rig.kill(0).expect("kill");
    let data = MapData::from_pin(rig.pin_dir(0).join("maps/CONFIG")).expect("pinned");
    let mut config: Array<MapData, Config> =
        Map::from_map_data(data).expect("map").try_into().expect("array");
    let other = Config { abi_version: 999, ..config.get(&0, 0).expect("config") };
    config.set(0, other, 0).expect("write");
    drop(config);
    rig.start(0).expect("start");
    let status = rig.until(0, "it is back", |status| status.vips.contains_key("dns")).await.expect("status");
    assert!(!status.adopted);
    assert!(!status.last_plan.is_empty());
    for vip in VIPS {
        ask(&rig, vip, 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_put_into_the_datapath_is_refused_and_the_last_good_stays() {
    let rig = Rig::build().await.expect("rig");
    let services: Vec<String> = (1..=16_400).map(|port| format!("\"tcp/{port}\"")).collect();
    let addresses: Vec<String> = (54..58).map(|last| format!("\"198.51.100.{last}\"")).collect();
    let too_much = format!(
        "[vip.many]\naddresses = [{}]\ngroup = \"edge\"\nservices = [{}]\n",
        addresses.join(","),
        services.join(",")
    );
    for (text, what) in [("[vip.broken\n", "not TOML"), (&too_much, "services need more than")] {
        rig.configure("new.toml", text).expect("write");
        let said = |problem: &weir_model::Problem| problem.to_string().contains(what);
        let refused = rig.until(0, what, |status| status.config.refused.iter().any(said)).await;
        let status = refused.expect("it is refused");
        assert!(status.vips.contains_key("dns") && !status.vips.contains_key("many"));
        ask(&rig, VIPS[0], 10);
        rig.deconfigure("new.toml").expect("remove");
        rig.until(0, "it is good again", |status| status.config.refused.is_empty()).await.expect("mended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unloading_leaves_nothing_in_the_kernel() {
    let mut rig = Rig::build().await.expect("rig");
    rig.unload(0).expect("unload");
    assert!(!rig.pin_dir(0).exists());
    let error = rig.ask(VIPS[0], b"anybody there?").expect_err("nobody balances any more");
    assert!(error.to_string().contains("namespace"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tunnels_of_a_foreign_balancer_are_opened_once_they_are_asked_for() {
    let rig = Rig::build().await.expect("rig");
    let (foreign, node) = (own4(1, 1), own4(1, 2));
    // The foreign balancer is the router; so is the client, who gets the answer.
    let ask = |kind: &str| {
        rig.router.netns.run(|| {
            let client = UdpSocket::bind((own4(1, 1), 0))?;
            client.set_read_timeout(Some(Duration::from_millis(500)))?;
            let from = client.local_addr()?.to_string();
            let inner = packet::udp(&from, &format!("{VIP4}:53"), b"through a tunnel")[14..].to_vec();
            match kind {
                "ipip" => {
                    let protocol = Some(socket2::Protocol::from(4));
                    let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol)?;
                    raw.send_to(&inner, &SocketAddr::from((node, 0)).into())?;
                }
                "gue" => drop(client.send_to(&[&[0, 4, 0, 0], &inner[..]].concat(), (node, 6080))?),
                _ => drop(client.send_to(&inner, (node, 6080))?),
            }
            let mut answer = [0; 64];
            let (len, from) = client.recv_from(&mut answer)?;
            assert_eq!((from, &answer[..len]), ((VIP4, 53).into(), &b"through a tunnel\0"[..]));
            Ok(())
        })
    };
    for kind in ["ipip", "gue", "gue variant 1"] {
        ask(kind).expect_err("nobody asked for it");
    }
    let accept = format!(
        "[group.edge]\naccept_tunnels = [{{ from = \"{foreign}/32\", kind = \"gue\" }}, {{ from = \"10.0.0.0/8\", kind = \"ipip\" }}]"
    );
    rig.configure("rig.toml", &config().replace("[group.edge]", &accept)).expect("configure");
    let taken = |status: &weir_model::status::L4Status| {
        status.last_plan.iter().filter(|step| step.starts_with("put tunnel source")).count() == 2
    };
    rig.until(0, "tunnels are accepted", taken).await.expect("status");
    for kind in ["ipip", "gue", "gue variant 1"] {
        ask(kind).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
    }
    rig.configure("rig.toml", &config()).expect("configure");
    rig.until(0, "and no longer", |status| {
        status.last_plan.iter().any(|step| step.contains("delete tunnel"))
    })
    .await
    .expect("status");
    ask("gue").expect_err("nobody asks for it any more");
}
