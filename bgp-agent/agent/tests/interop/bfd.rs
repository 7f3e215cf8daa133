//! BFD of weir-bgp with BIRD and FRR as routers: real packets, real timers, hosts and routers that die.
//!
//! Limits of time are those of a busy machine: they tell BFD from the hold time of 90 s. What it takes on an idle one is
//! measured by `cargo xtask bench bgp`.

use crate::bench::{Agent, LIMIT, peer, until};
use crate::bfd_fabric::{
    self as fabric, Fabric, HOST4, ROUTER4, RouteMonitor, Timers, bird, config, config_with, frr, frr_bfdd,
};
use crate::bird::Bird;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use weir_model::status::{BfdStatus, BgpStatus};

const FIFTY: Timers = Timers { interval_ms: 50, multiplier: 3 };
const TEN: Timers = Timers { interval_ms: 10, multiplier: 3 };

/// A dead host may be noticed this late on a busy machine; the hold time is 90 s.
const SOON: Duration = Duration::from_secs(3);

fn bfd(status: &BgpStatus) -> BfdStatus {
    peer(status).bfd.unwrap_or_default()
}

/// BGP and BFD up on both families, with the timers agreed.
fn until_up(agent: &Agent, timers: Timers) -> BgpStatus {
    let interval = Duration::from_millis(timers.interval_ms.into());
    agent.until("BGP and BFD up", |status| {
        status.peers.len() == 2
            && status.peers.values().all(|peer| {
                let bfd = peer.bfd.clone().unwrap_or_default();
                peer.state == "Established"
                    && bfd.state == "Up"
                    && bfd.remote_state == "Up"
                    && bfd.transmit_interval == Some(interval)
                    && bfd.detection_time == Some(interval * timers.multiplier.into())
            })
    })
}

/// The host dies with the router's link up: its routes leave the router's kernel, and come back with it.
fn a_dead_host_leaves(fabric: &Fabric, agent: &Agent, timers: Timers) {
    fabric.until_routed(true);
    let before = until_up(agent, timers);
    let monitor = RouteMonitor::new(&fabric.router.netns);
    let died = fabric.host_link(false);
    let gone = monitor.until_gone(SOON).expect("the route is gone soon after the host");
    eprintln!("{timers:?}: route gone {:?} after the host", gone - died);
    fabric.until_routed(false);
    // The other direction is dead as well, and the agent has noticed.
    let status = agent.until("the agent has noticed", |status| {
        status.peers.values().all(|peer| peer.state != "Established")
    });
    for (name, peer) in &status.peers {
        let bfd = peer.bfd.clone().unwrap_or_default();
        assert!(bfd.failures > before.peers[name].bfd.clone().unwrap_or_default().failures, "{bfd:?}");
        assert!(bfd.holds_bgp, "{bfd:?}");
        assert!(peer.last_error.contains("bfd down"), "{}", peer.last_error);
    }
    let back = fabric.host_link(true);
    let there = monitor.until_there(LIMIT).expect("the route is back with the host");
    eprintln!("{timers:?}: route there {:?} after the host", there - back);
    until_up(agent, timers);
    fabric.until_routed(true);
}

#[test]
fn bird_takes_a_dead_hosts_routes_out_at_50_ms() {
    let Some(fabric) = Fabric::build("bird_takes_a_dead_hosts_routes_out_at_50_ms") else { return };
    let router = bird(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    a_dead_host_leaves(&fabric, &agent, FIFTY);
    let sessions = router.ask("show bfd sessions").unwrap();
    assert_eq!(sessions.lines().filter(|line| line.contains(" Up ")).count(), 2, "{sessions}");
    let metrics = agent.metrics();
    for line in
        ["weir_bfd_session_up{peer=\"tor\"} 1\n", "weir_bfd_detection_time_seconds{peer=\"tor6\"} 0.15\n"]
    {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
}

#[test]
fn bird_takes_a_dead_hosts_routes_out_at_10_ms() {
    let Some(fabric) = Fabric::build("bird_takes_a_dead_hosts_routes_out_at_10_ms") else { return };
    let _router = bird(&fabric, TEN);
    let agent = fabric.agent(&config_with(TEN));
    a_dead_host_leaves(&fabric, &agent, TEN);
}

#[test]
fn frr_takes_a_dead_hosts_routes_out_at_50_ms() {
    let Some(fabric) = Fabric::build("frr_takes_a_dead_hosts_routes_out_at_50_ms") else { return };
    let _router = frr(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    a_dead_host_leaves(&fabric, &agent, FIFTY);
}

#[test]
fn frr_takes_a_dead_hosts_routes_out_at_10_ms() {
    let Some(fabric) = Fabric::build("frr_takes_a_dead_hosts_routes_out_at_10_ms") else { return };
    let _router = frr(&fabric, TEN);
    let agent = fabric.agent(&config_with(TEN));
    a_dead_host_leaves(&fabric, &agent, TEN);
}

#[test]
fn a_reload_changes_timers_and_flaps_nothing() {
    let Some(fabric) = Fabric::build("a_reload_changes_timers_and_flaps_nothing") else { return };
    let router = bird(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    let before = until_up(&agent, FIFTY);
    for timers in
        [Timers { interval_ms: 200, multiplier: 5 }, FIFTY, Timers { interval_ms: 120, multiplier: 3 }]
    {
        agent.configure(&config_with(timers));
        let slower = Duration::from_millis(timers.interval_ms.max(FIFTY.interval_ms).into());
        agent.until("our new timers", |status| {
            status.peers.values().all(|peer| {
                let bfd = peer.bfd.clone().unwrap_or_default();
                bfd.transmit_interval == Some(slower)
                    && bfd.detection_time == Some(slower * FIFTY.multiplier.into())
            })
        });
        // BIRD shows what it has understood: the interval, and the detection time by our multiplier.
        let expected = format!("{:.3}", (slower * timers.multiplier.into()).as_secs_f64());
        until("BIRD's new timers", || {
            let sessions = router.ask("show bfd sessions")?;
            let all =
                sessions.lines().filter(|line| line.contains(" Up ")).all(|line| line.contains(&expected));
            if all { Ok(()) } else { Err(format!("{expected} is not in\n{sessions}")) }
        });
    }
    let after = agent.status().unwrap();
    for (name, peer) in &after.peers {
        let (before, bfd) = (&before.peers[name], peer.bfd.clone().unwrap_or_default());
        let was = before.bfd.clone().unwrap_or_default();
        assert_eq!((bfd.ups, bfd.failures), (was.ups, was.failures), "{name}: {bfd:?}");
        assert_eq!(peer.established_count, before.established_count, "{name}");
    }
}

#[test]
fn bfd_can_be_begun_and_ended_while_bgp_is_up() {
    let Some(fabric) = Fabric::build("bfd_can_be_begun_and_ended_while_bgp_is_up") else { return };
    let router = frr(&fabric, FIFTY);
    let agent = fabric.agent(&config(""));
    let status = agent.until_established();
    assert_eq!(peer(&status).bfd, None);
    agent.configure(&config_with(FIFTY));
    let status = until_up(&agent, FIFTY);
    assert_eq!(peer(&status).established_count, 1);
    // Shut down at the router first, nothing is lost: FRR, and BIRD, take our AdminDown for a dead path.
    router.ask("bfdd", &["configure", "bfd", "profile fast", "shutdown"]).unwrap();
    agent.until("the router has switched it off", |status| {
        status.peers.values().all(|peer| peer.bfd.clone().unwrap_or_default().remote_state == "AdminDown")
    });
    agent.configure(&config(""));
    let status = agent.until("BFD is off", |status| peer(status).bfd.is_none());
    assert_eq!(peer(&status).state, "Established");
    assert_eq!(peer(&status).established_count, 1, "{}", agent.log());
}

#[test]
fn a_router_that_switches_bfd_off_keeps_its_session() {
    let Some(fabric) = Fabric::build("a_router_that_switches_bfd_off_keeps_its_session") else { return };
    let router = frr(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    until_up(&agent, FIFTY);
    router.ask("bfdd", &["configure", "bfd", "profile fast", "shutdown"]).unwrap();
    let status = agent.until("the router's AdminDown", |status| bfd(status).remote_state == "AdminDown");
    assert_eq!((bfd(&status).state.as_str(), bfd(&status).failures), ("Down", 0));
    assert_eq!(bfd(&status).diagnostic, "switched off by the router");
    assert!(!bfd(&status).holds_bgp);
    router.ask("bfdd", &["configure", "bfd", "profile fast", "no shutdown"]).unwrap();
    let status = until_up(&agent, FIFTY);
    assert_eq!((peer(&status).established_count, bfd(&status).ups, bfd(&status).failures), (1, 2, 0));
}

#[test]
fn a_router_whose_bfd_dies_loses_the_session_until_it_is_back() {
    let Some(fabric) = Fabric::build("a_router_whose_bfd_dies_loses_the_session_until_it_is_back") else {
        return;
    };
    let mut router = frr(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    until_up(&agent, FIFTY);
    router.kill("bfdd");
    let status = agent.until("the session ends", |status| peer(status).state != "Established");
    assert_eq!(peer(&status).last_error, "we sent cease: bfd down (6/10)");
    assert_eq!(bfd(&status).diagnostic, "control detection time expired");
    // Nothing is wrong with TCP: without BFD the session would be back after connect_retry, many times over.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let status = agent.status().unwrap();
        assert!(bfd(&status).holds_bgp && peer(&status).state != "Established", "{status:?}");
    }
    frr_bfdd(&mut router, FIFTY);
    until_up(&agent, FIFTY);
    fabric.until_routed(true);
}

#[test]
fn a_stop_ends_bgp_before_bfd() {
    let Some(fabric) = Fabric::build("a_stop_ends_bgp_before_bfd") else { return };
    let router = bird(&fabric, FIFTY);
    let mut agent = fabric.agent(&config_with(FIFTY));
    until_up(&agent, FIFTY);
    fabric.until_routed(true);
    let took = agent.stop();
    assert!(took < Duration::from_secs(4), "the farewell took {took:?}");
    let log = until("BIRD has heard both", || {
        let log = router.log();
        if log.matches("n1 is stopping").count() == 2 { Ok(log) } else { Err(log) }
    });
    // BIRD forgets its BFD session with the BGP session; what happens to the next is no matter.
    let last = log.rfind("n1 is stopping").unwrap();
    assert!(!log[..last].contains("BFD session down"), "a BGP session was ended by BFD:\n{log}");
    assert!(!log[..last].contains("from Up to"), "{log}");
    fabric.until_routed(false);
}

#[test]
fn a_stop_says_admin_down() {
    let Some(fabric) = Fabric::build("a_stop_says_admin_down") else { return };
    let router = frr(&fabric, FIFTY);
    let mut agent = fabric.agent(&config_with(FIFTY));
    until_up(&agent, FIFTY);
    agent.stop();
    until("FRR has heard that it is no failure", || {
        let peers = router.ask("bfdd", &["show bfd peers"])?;
        let heard = peers.matches("Remote diagnostics: administratively down").count() == 2;
        if heard { Ok(()) } else { Err(peers) }
    });
    fabric.until_routed(false);
}

/// All threads of the agent but that of BFD stand still.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn new(agent: &Agent) -> Self {
        let mut frozen = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap() {
            let path = task.unwrap().path();
            if std::fs::read_to_string(path.join("comm")).unwrap().trim() == "weir-bfd" {
                continue;
            }
            let thread = Pid::from_raw(path.file_name().unwrap().to_str().unwrap().parse().unwrap());
            ptrace::seize(thread, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(thread).unwrap();
            waitpid(thread, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
            frozen.push(thread);
        }
        Self(frozen)
    }

    fn thaw(self) {
        for thread in self.0 {
            ptrace::detach(thread, None::<Signal>).unwrap();
        }
    }
}

#[test]
fn an_agent_that_hangs_or_starves_does_not_flap() {
    let Some(fabric) = Fabric::build("an_agent_that_hangs_or_starves_does_not_flap") else { return };
    let router = bird(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    let before = until_up(&agent, FIFTY);
    // More that wants to run than there are CPUs, and an agent that does nothing at all.
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let burners: Vec<_> = (0..2 * cpus).map(|_| fabric::burner()).collect();
    let frozen = Frozen::new(&agent);
    assert!(!frozen.0.is_empty());
    let sent = |router: &Bird| router.ask("show bfd sessions").unwrap();
    let begun = Instant::now();
    // Twenty detection times.
    while begun.elapsed() < Duration::from_secs(3) {
        let sessions = sent(&router);
        assert_eq!(sessions.lines().filter(|line| line.contains(" Up ")).count(), 2, "{sessions}");
    }
    frozen.thaw();
    drop(burners);
    let after = agent.until("the agent moves again", |status| status.peers.len() == 2);
    for (name, peer) in &after.peers {
        let was = before.peers[name].bfd.clone().unwrap_or_default();
        let bfd = peer.bfd.clone().unwrap_or_default();
        assert_eq!((bfd.ups, bfd.failures), (was.ups, was.failures), "{name}: {bfd:?}");
    }
    assert!(!router.log().contains("from Up to Down"), "{}", router.log());
}

#[test]
fn what_is_not_from_a_neighbour_is_refused_and_counted() {
    let Some(fabric) = Fabric::build("what_is_not_from_a_neighbour_is_refused_and_counted") else { return };
    let _router = bird(&fabric, FIFTY);
    let agent = fabric.agent(&config_with(FIFTY));
    let before = until_up(&agent, FIFTY);
    let stranger = fabric.router.netns.run(|| Ok(UdpSocket::bind((ROUTER4, 0))?)).unwrap();
    let send = |ttl: i32, payload: &[u8]| {
        setsockopt(&stranger, sockopt::Ipv4Ttl, &ttl).unwrap();
        stranger.send_to(payload, (HOST4, 3784)).unwrap();
    };
    // Says Down as the router would after a restart: with a TTL of 64 it is somebody far away.
    let down = [[0x20, 0x40, 3, 24], [0, 0, 0, 7], [0; 4], [0, 0x0f, 0x42, 0x40], [0, 0, 0xc3, 0x50], [0; 4]]
        .concat();
    let authenticated =
        [&[0x20, 0x44, 3, 33], &down[4..], &[1, 9, 1, b's', b'e', b'c', b'r', b'e', b't']].concat();
    for _ in 0..10 {
        send(64, &down);
        send(255, &down[..20]);
        send(255, &authenticated);
    }
    until("all refusals are counted", || {
        let metrics = agent.metrics();
        let counted = ["ttl", "length-beyond-payload", "authenticated"].iter().all(|reason| {
            metrics.contains(&format!("weir_bfd_packets_discarded_total{{reason=\"{reason}\"}} 10\n"))
        });
        if counted { Ok(()) } else { Err(metrics) }
    });
    let log = agent.log();
    assert!(log.contains("TTL 64 where only a neighbour's 255 is taken"), "{log}");
    assert!(log.contains("the peer authenticates (type 1), which is not configured here"), "{log}");
    let after = agent.status().unwrap();
    assert_eq!((bfd(&after).ups, bfd(&after).failures), (bfd(&before).ups, bfd(&before).failures));
    assert_eq!(bfd(&after).state, "Up");
}

#[test]
fn strict_waits_for_bfd_and_the_default_does_not() {
    let Some(fabric) = Fabric::build("strict_waits_for_bfd_and_the_default_does_not") else { return };
    // A router without BFD.
    let router = Bird::launch(&fabric::bird_protocols("", ""), Some(&fabric.router.netns));
    let agent = fabric.agent(&config("bfd = { strict = true }"));
    agent.until("BGP is held", |status| bfd(status).holds_bgp && bfd(status).state == "Down");
    drop(agent);
    let agent = fabric.agent(&config("bfd = {}"));
    let status = agent.until_established();
    assert_eq!((bfd(&status).state.as_str(), bfd(&status).failures), ("Down", 0));
    drop((agent, router));
    let _router = bird(&fabric, FIFTY);
    let agent = fabric.agent(&config("bfd = { strict = true }"));
    let status = until_up(&agent, FIFTY);
    assert!(!bfd(&status).holds_bgp);
}

#[test]
fn a_router_behind_a_router_is_watched_over_the_other_port() {
    let Some(fabric) = Fabric::build("a_router_behind_a_router_is_watched_over_the_other_port") else {
        return;
    };
    let (far, near) = ("10.9.0.1", "10.9.0.2");
    fabric.ip_in(&fabric.router, &format!("address add {far}/32 dev lo"));
    fabric.ip_in(&fabric.host, &format!("address add {near}/32 dev lo"));
    fabric.ip_in(&fabric.router, &format!("route add {near}/32 via {HOST4}"));
    fabric.ip_in(&fabric.host, &format!("route add {far}/32 via {ROUTER4}"));
    let protocols = format!(
        "protocol device {{ }}\nprotocol direct {{ ipv4; }}\n\
         protocol kernel {{ learn; ipv4 {{ import all; export where source = RTS_BGP; }}; }}\n\
         protocol bfd {{ multihop {{ interval 50 ms; multiplier 3; }}; }}\n\
         protocol bgp weir {{ local {far} as 65000; neighbor {near} as 65001; multihop; bfd on; passive; error wait time 1, 1; \
         ipv4 {{ import all; export none; }}; }}\n"
    );
    let router = Bird::launch(&protocols, Some(&fabric.router.netns));
    let peer_object = format!(
        "[peer.far]\nnode = \"n1\"\naddress = \"{far}\"\nlocal_address = \"{near}\"\nasn = 65000\n\
         local_asn = 65001\nconnect_retry = \"200ms\"\nbfd = {{ multihop = true }}\n"
    );
    let objects = config("");
    let objects = objects.split("[peer.tor]").next().unwrap();
    let agent = fabric.agent(&format!("{objects}{peer_object}"));
    let up = |status: &BgpStatus| {
        let peer = status.peers.get("far").cloned().unwrap_or_default();
        peer.state == "Established" && peer.bfd.unwrap_or_default().state == "Up"
    };
    agent.until("BGP and BFD up", up);
    fabric.host_link(false);
    agent.until("the path is dead", |status| {
        status.peers["far"].last_error == "we sent cease: bfd down (6/10)"
    });
    until("BIRD has noticed", || {
        let log = router.log();
        if log.contains("BFD session down") { Ok(()) } else { Err(log) }
    });
    fabric.host_link(true);
    agent.until("BGP and BFD up again", up);
}
