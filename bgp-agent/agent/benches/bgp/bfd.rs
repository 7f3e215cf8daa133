//! How long a router's kernel sends packets to a dead host: from the death, with the router's link up, to the route being gone.
//! The reference is BIRD in the place of weir-bgp.

use crate::bench::until;
use crate::bfd_fabric::{self as fabric, Fabric, HOST4, ROUTER4, RouteMonitor, Timers, VIP4};
use crate::bird::Bird;
use crate::frr::Frr;
use crate::{Router, quiet_agent};
use serde_json::Value;
use std::time::Duration;
use weir_lab::figures::{Asked, Case, median};

/// Deaths of each case; the median counts.
const RUNS: usize = 7;

/// BFD that has not noticed by then never will.
const LIMIT: Duration = Duration::from_secs(20);

const CASES: [(&str, Router, u32); 4] = [
    ("bfd50_bird", Router::Bird, 50),
    ("bfd50_frr", Router::Frr, 50),
    ("bfd10_bird", Router::Bird, 10),
    ("bfd10_frr", Router::Frr, 10),
];

/// Cases that are asked for, in ms; `None` where nothing can be measured.
pub(crate) fn measure(asked: &Asked) -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    for (case, router, interval_ms) in CASES.into_iter().filter(|(case, ..)| asked.wants(case)) {
        let timers = Timers { interval_ms, multiplier: 3 };
        let ours = {
            let fabric = Fabric::build(case)?;
            let router = Tor::start(router, &fabric, timers);
            let agent = quiet_agent(&fabric, &fabric::config_with(timers));
            let detection = Duration::from_millis((3 * interval_ms).into());
            deaths(&fabric, &router, || {
                agent.until("BFD up", |status| {
                    let bfd = status.peers.get("tor").and_then(|peer| peer.bfd.clone()).unwrap_or_default();
                    bfd.state == "Up" && bfd.detection_time == Some(detection)
                });
            })
        };
        let reference = {
            let fabric = Fabric::build(case)?;
            let router = Tor::start(router, &fabric, timers);
            let host = bird_on_the_host(&fabric, timers);
            deaths(&fabric, &router, || until_bird_watches(&host, timers))
        };
        cases.push(Case { case, unit: "ms", ours, reference });
    }
    Some(cases)
}

/// Let the host die and come back; the median.
fn deaths(fabric: &Fabric, router: &Tor, until_up: impl Fn()) -> f64 {
    let mut took = [0.0; RUNS];
    for took in &mut took {
        until_route(fabric, true);
        until_up();
        // It is the router that has to notice: a host that dies before it watches dies of the hold time.
        router.until_it_watches();
        let monitor = RouteMonitor::new(&fabric.router.netns);
        let died = fabric.host_link(false);
        let gone = monitor.until_gone(LIMIT).expect("the route to the dead host goes");
        *took = (gone - died).as_secs_f64() * 1e3;
        until_route(fabric, false);
        fabric.host_link(true);
    }
    median(&mut took)
}

/// The router; dropping it ends it.
enum Tor {
    Bird(Bird, Timers),
    Frr(Frr, Timers),
}

impl Tor {
    fn start(router: Router, fabric: &Fabric, timers: Timers) -> Self {
        match router {
            Router::Bird => Self::Bird(fabric::bird(fabric, timers), timers),
            Router::Frr => Self::Frr(fabric::frr(fabric, timers), timers),
        }
    }

    /// Wait until it sees the host up, with the timers agreed, and its BGP would hear of the contrary.
    fn until_it_watches(&self) {
        match self {
            Self::Bird(bird, timers) => until_bird_watches(bird, *timers),
            Self::Frr(frr, timers) => until("FRR watches the host", || {
                let text = frr.ask("bfdd", &["show bfd peers json"])?;
                let peers: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
                let interval = u64::from(timers.interval_ms);
                let watches = peers.as_array().is_some_and(|peers| {
                    peers.iter().any(|peer| {
                        peer["peer"] == HOST4
                            && peer["status"] == "up"
                            && peer["remote-transmit-interval"] == interval
                            && peer["transmit-interval"] == interval
                    })
                });
                let question = format!("show bgp neighbors {HOST4} json");
                let bgp = frr.ask("bgpd", &[&question])?;
                let hears = serde_json::from_str::<Value>(&bgp)
                    .is_ok_and(|bgp| bgp[HOST4]["peerBfdInfo"]["status"] == "Up");
                if watches && hears { Ok(()) } else { Err(format!("{text}\n{bgp}")) }
            }),
        }
    }
}

fn until_bird_watches(bird: &Bird, Timers { interval_ms, multiplier }: Timers) {
    let detection = format!("{:.3}", f64::from(u32::from(multiplier) * interval_ms) / 1000.0);
    until("BIRD's BFD up", || {
        let sessions = bird.ask("show bfd sessions")?;
        let up = |line: &str| line.contains(" Up ") && line.contains(&detection);
        // On the router those of both families are watched.
        let of_ipv4 = |line: &&str| line.starts_with("10.0.1.");
        if sessions.lines().filter(of_ipv4).any(up) { Ok(()) } else { Err(sessions) }
    });
}

/// Wait for the route of the IPv4 VIP alone: BIRD on the host announces no other.
fn until_route(fabric: &Fabric, expected: bool) {
    until("the route in the router's kernel", || {
        let seen = fabric.routed();
        if seen.0 == expected { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

fn bird_on_the_host(fabric: &Fabric, Timers { interval_ms, multiplier }: Timers) -> Bird {
    let protocols = format!(
        "protocol device {{ scan time 5; }}\nprotocol direct {{ ipv4; }}\n\
         protocol static {{ ipv4; route {VIP4}/32 blackhole; }}\n\
         protocol bfd {{ interface \"eth0\" {{ interval {interval_ms} ms; multiplier {multiplier}; }}; }}\n\
         protocol bgp tor {{ local as 65001; neighbor {ROUTER4} as 65000; direct; bfd on; hold time 90; \
         source address {HOST4}; connect delay time 1; connect retry time 1; error wait time 1, 1; \
         ipv4 {{ import none; export where proto = \"static1\"; next hop self; }}; }}\n"
    );
    Bird::launch(&protocols, Some(&fabric.host.netns))
}
