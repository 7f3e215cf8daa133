//! From a verdict to its routes. The verdict is the one operators have: weir-l4 has found that a VIP has a healthy proxy, or none
//! any more, and says so on its status socket. `rise` and `fall` are 0: what is measured is work and not patience.
//!
//! The wire is reached when the smallest speaker, in the router's place, has read the UPDATE; a router's kernel when it says so by
//! netlink. The reference is the smallest speaker in the place of weir-l4 and weir-bgp: it writes UPDATEs that it made beforehand.

use crate::bench::{Agent, Daemon, datapath_of_many, gated_vips, many_addresses, unbudgeted};
use crate::bfd_fabric::{self as fabric, Fabric, HOST4, ROUTER4, RouteMonitor, VIP4};
use crate::bird::Bird;
use crate::speaker::{Door, Listening, Speaker, announcement, withdrawal};
use crate::{Router, quiet_agent};
use bytes::Bytes;
use std::any::Any;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use weir_lab::figures::{Asked, Case, median, quantile};
use weir_model::status::L4Status;

/// Verdicts for the wire, half of them good: the 99th percentile is the tenth worst.
const VERDICTS: usize = 1_000;

/// Good verdicts for a router's kernel; FRR takes a while over each.
const ROUTES: usize = 101;

/// How often many VIPs come and go.
const ROUNDS: usize = 15;
const ROUNDS_50000: usize = 3;

/// Verdicts do not come one upon the other: the agent has long finished with the last, its status and log included.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_1000: Duration = Duration::from_millis(200);
const PAUSE_50000: Duration = Duration::from_secs(5);

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
    let many = |count, pace, names: [&'static str; 3]| {
        let asked_for = names.iter().any(|name| asked.wants(name));
        if asked_for { many_to_wire(count, pace, names) } else { Some(Vec::new()) }
    };
    cases.extend(many(
        1_000,
        (ROUNDS, PAUSE_1000),
        ["announce_1000_to_wire", "withdraw_1000_to_wire", "memory_1000"],
    )?);
    cases.extend(many(
        50_000,
        (ROUNDS_50000, PAUSE_50000),
        ["announce_50000_to_wire", "withdraw_50000_to_wire", "memory_50000"],
    )?);
    Some(cases)
}

/// A weir-l4 that says what is wanted, beside a weir-bgp that hears it.
struct Host {
    agent: Agent,
    daemon: Arc<Daemon<L4Status>>,
    good: Arc<L4Status>,
    bad: Arc<L4Status>,
    runtime: Runtime,
}

impl Host {
    fn start(fabric: &Fabric, addresses: &[Ipv4Addr]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (good, bad) = (datapath_of_many(addresses, 1), datapath_of_many(addresses, 0));
        let agent = quiet_agent(fabric, &gated_config(addresses));
        let daemon = runtime.block_on(Daemon::start(&agent, "l4.sock", &bad));
        Self { agent, daemon: Arc::new(daemon), good: Arc::new(good), bad: Arc::new(bad), runtime }
    }

    /// What weir-l4 does when its probes have turned, on the thread that serves its socket; returns the moment before.
    fn verdict(&self, good: bool) -> JoinHandle<Instant> {
        let (daemon, status) =
            (Arc::clone(&self.daemon), Arc::clone(if good { &self.good } else { &self.bad }));
        self.runtime.spawn(async move {
            let begun = Instant::now();
            daemon.publisher.publish(&status);
            begun
        })
    }

    /// The same, and when `until` has come; in ms.
    fn times(&self, pace: Pace, mut until: impl FnMut(bool) -> Instant) -> Times {
        turns(pace, |good| {
            let begun = self.verdict(good);
            let end = until(good);
            (self.runtime.block_on(begun).unwrap(), end)
        })
    }

    /// Wait until weir-bgp has heard weir-l4, and has taken the status of so many VIPs for bad.
    fn until_ready(&self, count: usize) {
        self.agent.until("all VIPs are judged", |status| {
            status.vips.len() == count
                && status.vips.values().all(|vip| !vip.announced && vip.reason.contains("no healthy proxy"))
        });
    }
}

/// Objects of the host with one peer and these VIPs, each of which follows the datapath at once.
fn gated_config(vips: &[Ipv4Addr]) -> String {
    let config = format!(
        "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"{HOST4}\"\n[group.g]\nnodes = [\"n1\"]\n\
         [peer.tor]\nnode = \"n1\"\naddress = \"{ROUTER4}\"\nasn = 65000\nlocal_asn = 65001\nconnect_retry = \"200ms\"\n{}",
        gated_vips(vips)
    );
    unbudgeted(&config)
}

/// The smallest speaker on the host, with what it says.
struct Floor {
    speaker: Speaker,
    good: Vec<Bytes>,
    bad: Vec<Bytes>,
}

impl Floor {
    fn new(speaker: Speaker, addresses: &[Ipv4Addr]) -> Self {
        Self { speaker, good: announcement(addresses), bad: withdrawal(addresses) }
    }

    /// From before it speaks to what `until` says, in ms.
    fn times(&mut self, pace: Pace, mut until: impl FnMut(bool) -> Instant) -> Times {
        turns(pace, |good| {
            let begun = Instant::now();
            self.speaker.send(if good { &self.good } else { &self.bad }).unwrap();
            (begun, until(good))
        })
    }
}

/// How many good turns and bad ones, and the pause before each.
type Pace = (usize, Duration);

/// How long good turns took, and bad ones, in ms.
struct Times {
    good: Vec<f64>,
    bad: Vec<f64>,
}

/// So many of each, in turn; `turn` returns its beginning and its end.
fn turns((rounds, pause): Pace, mut turn: impl FnMut(bool) -> (Instant, Instant)) -> Times {
    let mut times = Times { good: Vec::new(), bad: Vec::new() };
    for _ in 0..rounds {
        for (is_good, took) in [(true, &mut times.good), (false, &mut times.bad)] {
            std::thread::sleep(pause);
            let (begun, end) = turn(is_good);
            took.push((end - begun).as_secs_f64() * 1e3);
        }
    }
    times
}

fn to_wire() -> Option<Vec<Case>> {
    let addresses = [VIP4.parse().unwrap()];
    let (mut ours, mut reference) = both_to_wire((VERDICTS / 2, PAUSE), &addresses, |_| ())?;
    ours.good.append(&mut ours.bad);
    reference.good.append(&mut reference.bad);
    let case = |case, q, ours: &mut [f64], reference: &mut [f64]| Case {
        case,
        unit: "ms",
        ours: quantile(ours, q),
        reference: quantile(reference, q),
    };
    Some(vec![
        case("verdict_to_wire", 0.5, &mut ours.good, &mut reference.good),
        case("verdict_to_wire_p99", 0.99, &mut ours.good, &mut reference.good),
    ])
}

/// Of weir-bgp, at which `look` is then had with all VIPs announced, and of the smallest speaker.
fn both_to_wire(pace: Pace, addresses: &[Ipv4Addr], look: impl FnOnce(&Agent)) -> Option<(Times, Times)> {
    let fabric = Fabric::build("to wire")?;
    let door = Door::open(&fabric.router.netns);
    let count = addresses.len();
    let ours = {
        let host = Host::start(&fabric, addresses);
        let router = Listening::to(door.session());
        host.until_ready(count);
        let times = host.times(pace, |good| router.until(good, count));
        host.runtime.block_on(host.verdict(true)).unwrap();
        router.until(true, count);
        std::thread::sleep(pace.1);
        look(&host.agent);
        times
    };
    let (router, host) = std::thread::scope(|scope| {
        let router = scope.spawn(|| door.session());
        let host = Speaker::call(&fabric.host.netns);
        (Listening::to(router.join().unwrap()), host)
    });
    let reference = Floor::new(host, addresses).times(pace, |good| router.until(good, count));
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
        host.times((ROUTES, PAUSE), seen).good
    };
    let mut host = Floor::new(Speaker::call(&fabric.host.netns), &addresses);
    let mut reference = host.times((ROUTES, PAUSE), seen).good;
    Some(Case { case, unit: "ms", ours: median(&mut ours), reference: median(&mut reference) })
}

/// All VIPs come and go at once. The memory is that of weir-bgp with all of them announced, after they have come and gone; the
/// reference that of one with a single VIP.
fn many_to_wire(count: u32, pace: Pace, names: [&'static str; 3]) -> Option<Vec<Case>> {
    let resident = |agent: &Agent| agent.resident_kib() as f64 / 1024.0;
    let addresses = many_addresses(count);
    let mut memory = (0.0, 0.0);
    let (mut ours, mut reference) = both_to_wire(pace, &addresses, |agent| memory.0 = resident(agent))?;
    both_to_wire((1, PAUSE), &addresses[..1], |agent| memory.1 = resident(agent))?;
    let case = |case, unit, ours, reference| Case { case, unit, ours, reference };
    Some(vec![
        case(names[0], "ms", median(&mut ours.good), median(&mut reference.good)),
        case(names[1], "ms", median(&mut ours.bad), median(&mut reference.bad)),
        case(names[2], "MiB", memory.0, memory.1),
    ])
}
