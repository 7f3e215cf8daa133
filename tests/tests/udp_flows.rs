//! Hundreds of UDP flows through changes of the hosts behind them: real datagrams, numbered, to four hosts behind a router.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use weir_lab::netns::NetNs;
use weir_model::status::L4Status;
use weir_tests::rig::{Rig, Role, VIP4, VIP6, own4, own6};

const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];
const HOSTS: usize = 4;
const FLOWS: usize = 600;
/// From a datagram of a flow to its next.
const EVERY: Duration = Duration::from_millis(200);
/// Answers later than this count as lost.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// Datagrams each flow sends after a change before the next.
const ROUNDS: u32 = 5;
/// Drained means no new flow after 100 ms; what is left is for the file to be noticed and for this test to ask.
const DRAINED_WITHIN: Duration = Duration::from_millis(500);

/// What of the configuration changes.
#[derive(Clone, Copy)]
struct Shape {
    /// By host.
    member: [bool; HOSTS],
    drained: [bool; HOSTS],
    udp_flows: bool,
    flow_hold: &'static str,
}

impl Shape {
    /// Nothing is known of any proxy for as long as the test takes: all are used, and none counts as dead.
    fn text(&self) -> String {
        let mut text = String::from("[zone.az1]\n");
        let mut members = Vec::new();
        for (number, host) in (1u8..).zip(0..HOSTS) {
            let admin = if self.drained[host] { "drain" } else { "active" };
            let (v4, v6) = (own4(number, 2), own6(number, 2));
            text += &format!("[node.h{number}]\nzone = \"az1\"\naddress = \"{v4}\"\naddress6 = \"{v6}\"\n");
            text +=
                &format!("admin = \"{admin}\"\nprobe_port = 9\nprobe_interval = \"1h\"\nprobe_fall = 100\n");
            if self.member[host] {
                members.push(format!("\"h{number}\""));
            }
        }
        let Self { udp_flows, flow_hold, .. } = self;
        text += &format!("[group.edge]\nnodes = [{}]\n", members.join(","));
        text += &format!("[vip.dns]\naddresses = [\"{VIP4}\", \"{VIP6}\"]\ngroup = \"edge\"\n");
        text + &format!("services = [\"udp/53\"]\nudp_flows = {udp_flows}\nflow_hold = \"{flow_hold}\"\n")
    }
}

/// One flow: a socket, and who answered each of its datagrams.
struct Flow {
    socket: UdpSocket,
    sent: Vec<Instant>,
    answered: Vec<Option<u8>>,
}

impl Flow {
    fn open(vip: IpAddr) -> std::io::Result<Self> {
        let local = if vip.is_ipv4() { own4(1, 1).into() } else { own6(1, 1).into() };
        let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
        socket.connect(SocketAddr::new(vip, 53))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, sent: Vec::new(), answered: Vec::new() })
    }

    fn send(&mut self) {
        let number = self.sent.len() as u32;
        self.socket.send(&number.to_be_bytes()).expect("send");
        self.sent.push(Instant::now());
        self.answered.push(None);
    }

    fn receive(&mut self) {
        let mut buffer = [0; 16];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let [number @ .., host] = &buffer[..len] else { panic!("an empty answer") };
            let number = u32::from_be_bytes(number.try_into().expect("a number")) as usize;
            assert!(self.answered[number].replace(*host).is_none(), "answered twice");
        }
    }

    /// Who answered first: the host of the flow.
    fn home(&self) -> Option<u8> {
        self.answered.iter().flatten().copied().next()
    }
}

/// All flows, and the thread that keeps them going.
struct Flows {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    /// Bits of hosts whose flows are over.
    over: Arc<AtomicU32>,
    thread: thread::JoinHandle<Vec<Flow>>,
}

impl Flows {
    fn open(router: &NetNs) -> Self {
        let open = || Ok((0..FLOWS).map(|n| Flow::open(VIPS[n % 2])).collect::<std::io::Result<Vec<_>>>()?);
        let mut flows = router.run(open).expect("flows");
        let (stop, rounds, over) = <(Arc<AtomicBool>, Arc<AtomicU32>, Arc<AtomicU32>)>::default();
        let (stopped, round, ended) = (stop.clone(), rounds.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                // In ten parts, so that they come one after the other and not all at once.
                for part in 0..10 {
                    for flow in flows.iter_mut().skip(part).step_by(10) {
                        let is_over = flow.home().is_some_and(|home| ended.load(Relaxed) >> home & 1 != 0);
                        if !is_over {
                            flow.send();
                        }
                    }
                    thread::sleep(EVERY / 10);
                    flows.iter_mut().for_each(Flow::receive);
                }
                round.fetch_add(1, Relaxed);
            }
            let deadline = Instant::now() + ANSWERED_WITHIN;
            while Instant::now() < deadline && flows.iter().any(|flow| flow.answered.contains(&None)) {
                thread::sleep(EVERY / 10);
                flows.iter_mut().for_each(Flow::receive);
            }
            flows
        });
        Self { stop, rounds, over, thread }
    }

    /// Waits until every flow has sent a few datagrams more.
    fn go_on(&self) {
        let until = self.rounds.load(Relaxed) + ROUNDS;
        while self.rounds.load(Relaxed) < until {
            assert!(!self.thread.is_finished(), "the flows ended");
            thread::sleep(EVERY);
        }
    }

    /// The flows of a host send no more, as after a drain some day.
    fn end(&self, host: usize) {
        self.over.fetch_or(1 << host, Relaxed);
        self.go_on();
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Relaxed);
        let flows = self.thread.join().expect("flows");
        let mut seen = Seen { per_host: [0; HOSTS], sent: 0, lost: 0, moved: 0 };
        for flow in &flows {
            let home = flow.home().expect("a flow nobody ever answered");
            seen.per_host[usize::from(home)] += 1;
            seen.sent += flow.sent.len();
            seen.lost += flow.answered.iter().filter(|host| host.is_none()).count();
            seen.moved += usize::from(flow.answered.iter().flatten().any(|host| *host != home));
        }
        println!("{seen:?}");
        seen
    }
}

/// What came of all flows.
#[derive(Debug)]
struct Seen {
    /// Flows by their host.
    per_host: [usize; HOSTS],
    /// Datagrams.
    sent: usize,
    /// Datagrams without an answer.
    lost: usize,
    /// Flows that were answered by another host than at first.
    moved: usize,
}

/// Hosts h1 to h4, of which h4 is not used yet; no slot remembers anything from before.
async fn build(udp_flows: bool) -> (Rig, Shape) {
    let (member, drained) = ([true; HOSTS], [false; HOSTS]);
    let mut shape = Shape { member, drained, udp_flows, flow_hold: "1s" };
    let mut rig = Rig::with(&[Role::Node; HOSTS], &shape.text()).await.expect("rig");
    for host in 0..HOSTS {
        VIPS.into_iter().for_each(|vip| rig.echo(host, vip).expect("echo"));
    }
    shape.member[3] = false;
    configure(&rig, &shape).await;
    settled(&rig).await;
    shape.flow_hold = "1h";
    configure(&rig, &shape).await;
    (rig, shape)
}

/// Waits until no slot of any host is about to change or to forget its previous owner.
async fn settled(rig: &Rig) {
    let (begun, mut since) = (Instant::now(), Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        assert!(begun.elapsed() < Duration::from_secs(30), "slots never settle");
        for host in 0..HOSTS {
            if rig.until(host, "a status", |_| true).await.expect("status").changing {
                since = Instant::now();
            }
        }
    }
}

/// Writes the configuration and waits until all members have put it in force.
async fn configure(rig: &Rig, shape: &Shape) {
    let loaded = |status: &L4Status| status.config.generation.to_string();
    let mut before = Vec::new();
    for host in 0..HOSTS {
        before.push(loaded(&rig.until(host, "a status", |_| true).await.expect("status")));
    }
    rig.configure("rig.toml", &shape.text()).expect("configure");
    for (host, before) in before.iter().enumerate() {
        let changed = |status: &L4Status| loaded(status) != *before && !status.changing;
        rig.until(host, "the configuration is in force", changed).await.expect("status");
    }
}

/// Drains a host, and sees which of the flows that begin from then on it still gets.
async fn drain(rig: &Rig, shape: &mut Shape, host: usize) {
    shape.drained[host] = true;
    rig.configure("rig.toml", &shape.text()).expect("configure");
    let written = Instant::now();
    let (mut last, mut asked) = (Duration::ZERO, 0);
    // Each flow is new: the kernel would give ports again, and what it was asked from before is known to somebody.
    static PORT: AtomicU16 = AtomicU16::new(1_024);
    while written.elapsed() < last + Duration::from_secs(1) {
        let at = written.elapsed();
        asked += 1;
        let port = PORT.fetch_add(1, Relaxed);
        assert!(port < 32_768, "no port is left that was not used");
        if rig.ask_from(port, VIPS[asked % 2], b"who takes new ones?").expect("an answer") == host {
            last = at;
        }
        assert!(at < Duration::from_secs(20), "it is never drained");
    }
    println!("h{}: its last of {asked} new flows {last:?} after the file was written", host + 1);
    assert!(last < DRAINED_WITHIN, "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hundreds_of_udp_flows_stay_with_their_hosts_while_hosts_come_and_go() {
    let (mut rig, mut shape) = build(true).await;
    let dropped = rig.drops().expect("drops");
    let flows = Flows::open(&rig.router.netns);
    flows.go_on();

    shape.member[3] = true;
    configure(&rig, &shape).await;
    flows.go_on();

    drain(&rig, &mut shape, 1).await;
    flows.go_on();
    shape.drained[1] = false;
    configure(&rig, &shape).await;
    flows.go_on();

    rig.kill(0).expect("kill");
    flows.go_on();
    rig.start(0).expect("start");
    let back = |status: &L4Status| status.adopted && status.vips.contains_key("dns");
    rig.until(0, "it is back", back).await.expect("status");
    flows.go_on();

    drain(&rig, &mut shape, 2).await;
    flows.go_on();
    flows.end(2);
    shape.member[2] = false;
    configure(&rig, &shape).await;
    rig.unload(2).expect("unload");
    flows.go_on();

    // Another balancer gets all of them.
    for (vip, host) in [(VIPS[0], own4(2, 2).into()), (VIPS[1], own6(2, 2).into())] {
        rig.router.route(vip.into(), host).await.expect("route");
    }
    flows.go_on();

    let seen = flows.stop();
    println!("drops on the way: {:?}", rig.drops().expect("drops").since(&dropped));
    assert!(seen.per_host[..3].iter().all(|&count| count > FLOWS / 6), "{seen:?}");
    assert_eq!((seen.lost, seen.moved), (0, 0), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn udp_flows_nobody_remembers_move_with_their_slots() {
    let (rig, mut shape) = build(false).await;
    let flows = Flows::open(&rig.router.netns);
    flows.go_on();
    drain(&rig, &mut shape, 1).await;
    flows.go_on();
    let seen = flows.stop();
    assert!(seen.moved > FLOWS / 6 && seen.lost == 0, "{seen:?}");
}
