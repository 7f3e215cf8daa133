//! How long a router's kernel sends packets to a dead host: from the death, with the router's link up, to the route being gone.
//! The reference is BIRD in the place of weir-bgp.

use crate::Case;
use crate::bench::until;
use crate::bfd_fabric::{self as fabric, Fabric, HOST4, ROUTER4, RouteMonitor, Timers, VIP4};
use crate::bird::Bird;
use std::any::Any;
use std::time::Duration;

/// Deaths of each case; the median counts.
const RUNS: usize = 7;

/// BFD that has not noticed by then never will.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
enum Router {
    Bird,
    Frr,
}

const CASES: [(&str, Router, u32); 4] = [
    ("bfd50_bird", Router::Bird, 50),
    ("bfd50_frr", Router::Frr, 50),
    ("bfd10_bird", Router::Bird, 10),
    ("bfd10_frr", Router::Frr, 10),
];

/// Cases whose names contain `only`, in ms; `None` where nothing can be measured.
pub(crate) fn measure(only: &str) -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    for (case, router, interval_ms) in CASES.into_iter().filter(|(case, ..)| case.contains(only)) {
        let timers = Timers { interval_ms, multiplier: 3 };
        let ours = {
            let fabric = Fabric::build(case)?;
            let _router = start(router, &fabric, timers);
            let agent = fabric.agent(&fabric::config_with(timers));
            let detection = Duration::from_millis((3 * interval_ms).into());
            deaths(&fabric, || {
                agent.until("BFD up", |status| {
                    let bfd = status.peers.get("tor").and_then(|peer| peer.bfd.clone()).unwrap_or_default();
                    bfd.state == "Up" && bfd.detection_time == Some(detection)
                });
            })
        };
        let reference = {
            let fabric = Fabric::build(case)?;
            let _router = start(router, &fabric, timers);
            let host = bird_on_the_host(&fabric, timers);
            let detection = format!("{:.3}", f64::from(3 * interval_ms) / 1000.0);
            deaths(&fabric, || {
                until("BFD up", || {
                    let sessions = host.ask("show bfd sessions")?;
                    let up = |line: &str| line.contains(" Up ") && line.contains(&detection);
                    if sessions.lines().any(up) { Ok(()) } else { Err(sessions) }
                });
            })
        };
        cases.push(Case { case, unit: "ms", ours, reference });
    }
    Some(cases)
}

/// Let the host die and come back; the median.
fn deaths(fabric: &Fabric, until_up: impl Fn()) -> f64 {
    let mut took = [0.0; RUNS];
    for took in &mut took {
        until_route(fabric, true);
        until_up();
        let monitor = RouteMonitor::new(&fabric.router.netns);
        let died = fabric.host_link(false);
        let gone = monitor.until_gone(LIMIT).expect("the route to the dead host goes");
        *took = (gone - died).as_secs_f64() * 1e3;
        until_route(fabric, false);
        fabric.host_link(true);
    }
    took.sort_by(f64::total_cmp);
    took[RUNS / 2]
}

/// Dropping it ends the router.
fn start(router: Router, fabric: &Fabric, timers: Timers) -> Box<dyn Any> {
    match router {
        Router::Bird => Box::new(fabric::bird(fabric, timers)),
        Router::Frr => Box::new(fabric::frr(fabric, timers)),
    }
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
