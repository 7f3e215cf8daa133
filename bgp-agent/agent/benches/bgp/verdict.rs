//! From a verdict to its routes. The verdict is the one operators have: weir-l4 has found that a VIP has a healthy proxy, or none
//! any more, and says so on its status socket. `rise` and `fall` are 0: what is measured is work and not patience.
//!
//! The wire is reached when the smallest speaker, in the router's place, has read the UPDATE; a router's kernel when it says so by
//! netlink. The reference is the smallest speaker in the place of weir-l4 and weir-bgp: it writes UPDATEs that it made beforehand.

use crate::Router;
use crate::bench::{Agent, Daemon, datapath_of};
use crate::bfd_fabric::{self as fabric, Fabric, RouteMonitor, VIP4};
use crate::bird::Bird;
use crate::speaker::{Door, Speaker, announcement, withdrawal};
use bytes::Bytes;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use weir_lab::figures::{Asked, Case, median, quantile};
use weir_model::Name;
use weir_model::status::L4Status;

/// Verdicts for the wire, half of them good: the 99th percentile is the tenth worst.
const VERDICTS: usize = 1_000;

/// Good verdicts for a router's kernel; FRR takes a while over each.
const ROUTES: usize = 101;

/// How often many VIPs come and go.
const ROUNDS: usize = 15;
const ROUNDS_50000: usize = 3;

/// Verdicts do not come one upon the other: the agent has long finished with the last.
const PAUSE: Duration = Duration::from_millis(10);

/// A route that is not there by then never will be.
const LIMIT: Duration = Duration::from_secs(20);

/// Cases that are asked for; `None` where nothing can be measured.
pub(crate) fn measure(asked: &Asked) -> Option<Vec<Case>> {
    let mut cases = Vec::new();
    if asked.wants("verdict_to_wire") || asked.wants("verdict_to_wire_p99") {
        cases.extend(to_wire()?);
    }
    for (case, router) in [("verdict_to_bird_fib", Router::Bird), ("verdict_to_frr_fib", Router::Frr)] {
        if asked.wants(case) {
            cases.push(to_kernel(case, router)?);
        }
    }
    let many = |count, rounds, names: [&'static str; 3]| {
        let asked_for = names.iter().any(|name| asked.wants(name));
        if asked_for { many_to_wire(count, rounds, names) } else { Some(Vec::new()) }
    };
    cases.extend(many(1_000, ROUNDS, ["announce_1000_to_wire", "withdraw_1000_to_wire", "memory_1000"])?);
    cases.extend(many(
        50_000,
        ROUNDS_50000,
        ["announce_50000_to_wire", "withdraw_50000_to_wire", "memory_50000"],
    )?);
    Some(cases)
}

/// A weir-l4 that says what is wanted, beside a weir-bgp that hears it.
struct Host {
    agent: Agent,
    daemon: Daemon<L4Status>,
    good: L4Status,
    bad: L4Status,
    _runtime: Runtime,
}

impl Host {
    fn start(fabric: &Fabric, addresses: &[Ipv4Addr]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let vips = || {
            let vip = |(number, address): (usize, &Ipv4Addr)| -> (Name, Vec<IpAddr>) {
                (format!("v{number}").parse().unwrap(), vec![(*address).into()])
            };
            addresses.iter().enumerate().map(vip)
        };
        let (good, bad) = (datapath_of(vips(), 1), datapath_of(vips(), 0));
        let agent = fabric.quiet_agent(&fabric::gated_config(addresses.iter().copied()));
        let daemon = runtime.block_on(Daemon::start(&agent, "l4.sock", &bad));
        Self { agent, daemon, good, bad, _runtime: runtime }
    }

    /// What weir-l4 does when its probes have turned; returns the moment before.
    fn verdict(&self, good: bool) -> Instant {
        let begun = Instant::now();
        self.daemon.publisher.publish(if good { &self.good } else { &self.bad });
        begun
    }

    /// Wait until weir-bgp has heard weir-l4, and has taken the status of so many VIPs for bad.
    fn until_ready(&self, count: usize) {
        self.agent.until("all VIPs are judged", |status| {
            status.vips.len() == count
                && status.vips.values().all(|vip| !vip.announced && vip.reason.contains("no healthy proxy"))
        });
    }
}

/// Sends prepared messages; returns the moment before.
fn send(speaker: &mut Speaker, messages: &[Bytes]) -> Instant {
    let begun = Instant::now();
    speaker.send(messages).unwrap();
    begun
}

/// Time from each of `count` turns, good and bad, to what `until` says.
fn turns(
    count: usize,
    mut turn: impl FnMut(bool) -> Instant,
    mut until: impl FnMut(bool) -> Instant,
) -> (Vec<f64>, Vec<f64>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for _ in 0..count {
        for (is_good, took) in [(true, &mut good), (false, &mut bad)] {
            std::thread::sleep(PAUSE);
            let begun = turn(is_good);
            took.push((until(is_good) - begun).as_secs_f64() * 1e3);
        }
    }
    (good, bad)
}

fn to_wire() -> Option<Vec<Case>> {
    let addresses = [VIP4.parse().unwrap()];
    let (mut ours, mut reference) = both_to_wire(VERDICTS / 2, &addresses, |_| ())?;
    ours.0.append(&mut ours.1);
    reference.0.append(&mut reference.1);
    let case = |case, q, ours: &mut [f64], reference: &mut [f64]| Case {
        case,
        unit: "ms",
        ours: quantile(ours, q),
        reference: quantile(reference, q),
    };
    Some(vec![
        case("verdict_to_wire", 0.5, &mut ours.0, &mut reference.0),
        case("verdict_to_wire_p99", 0.99, &mut ours.0, &mut reference.0),
    ])
}

/// Times of announcements and of withdrawals, of weir-bgp and of the smallest speaker.
type Times = ((Vec<f64>, Vec<f64>), (Vec<f64>, Vec<f64>));

fn both_to_wire(rounds: usize, addresses: &[Ipv4Addr], look: impl FnOnce(&Agent)) -> Option<Times> {
    let fabric = Fabric::build("to wire")?;
    let door = Door::open(&fabric.router.netns);
    let count = addresses.len();
    let ours = {
        let host = Host::start(&fabric, addresses);
        let mut router = door.session();
        host.until_ready(count);
        let times = turns(rounds, |good| host.verdict(good), |good| router.until(good, count));
        host.verdict(true);
        router.until(true, count);
        look(&host.agent);
        times
    };
    let (mut router, mut host) = std::thread::scope(|scope| {
        let router = scope.spawn(|| door.session());
        let host = Speaker::call(&fabric.host.netns);
        (router.join().unwrap(), host)
    });
    let (announcement, withdrawal) = (announcement(addresses), withdrawal(addresses));
    let reference = turns(
        rounds,
        |good| send(&mut host, if good { &announcement } else { &withdrawal }),
        |good| router.until(good, count),
    );
    Some((ours, reference))
}

/// Routes that come; how they go is measured by the deaths of hosts.
fn to_kernel(case: &'static str, router: Router) -> Option<Case> {
    let fabric = Fabric::build(case)?;
    let _router: Box<dyn Any> = match router {
        Router::Bird => Box::new(Bird::launch(&fabric::bird_protocols("", ""), Some(&fabric.router.netns))),
        Router::Frr => Box::new(fabric::frr_of(&fabric, None)),
    };
    let addresses = [VIP4.parse().unwrap()];
    let monitor = RouteMonitor::new(&fabric.router.netns);
    let seen = |good| {
        let seen = if good { monitor.until_there(LIMIT) } else { monitor.until_gone(LIMIT) };
        seen.expect("the router's kernel follows")
    };
    let mut ours = {
        let host = Host::start(&fabric, &addresses);
        host.agent.until("a session", |status| {
            status.peers.get("tor").is_some_and(|peer| peer.state == "Established")
        });
        host.until_ready(1);
        turns(ROUTES, |good| host.verdict(good), seen).0
    };
    let mut host = Speaker::call(&fabric.host.netns);
    let (announcement, withdrawal) = (announcement(&addresses), withdrawal(&addresses));
    let mut reference =
        turns(ROUTES, |good| send(&mut host, if good { &announcement } else { &withdrawal }), seen).0;
    Some(Case { case, unit: "ms", ours: median(&mut ours), reference: median(&mut reference) })
}

/// All VIPs come and go at once. The memory is that of weir-bgp with all of them announced, after they have come and gone; the
/// reference that of one with a single VIP.
fn many_to_wire(count: u32, rounds: usize, names: [&'static str; 3]) -> Option<Vec<Case>> {
    let resident = |agent: &Agent| agent.resident_kib() as f64 / 1024.0;
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    let addresses: Vec<Ipv4Addr> = (0..count).map(|number| Ipv4Addr::from(first + number)).collect();
    let mut memory = (0.0, 0.0);
    let (mut ours, mut reference) =
        both_to_wire(rounds, &addresses, |agent| memory.0 = resident(agent))?;
    both_to_wire(rounds, &addresses[..1], |agent| memory.1 = resident(agent))?;
    let case = |case, unit, ours, reference| Case { case, unit, ours, reference };
    Some(vec![
        case(names[0], "ms", median(&mut ours.0), median(&mut reference.0)),
        case(names[1], "ms", median(&mut ours.1), median(&mut reference.1)),
        case(names[2], "MiB", memory.0, memory.1),
    ])
}
