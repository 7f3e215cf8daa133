use std::time::Duration;

use weir_abi::counters::Reason;
use weir_model::{Name, Snapshot, SourceFile, status::Health};

use super::*;
use crate::{
    datapath::{self, Action},
    health::HealthView,
    image::{Image, Lowering, lower},
};

const WEB: &str = "198.51.100.10:443";
const API: &str = "198.51.100.11:80";

/// Nodes n0 to n2 with VIPs `web` and `api`; `of_nodes` stands in each node.
fn snapshot(of_nodes: &str) -> Snapshot {
    let mut text = String::from("[zone.z]\n");
    for number in 0..3 {
        text += &format!("[node.n{number}]\nzone = \"z\"\nprobe_timeout = \"100ms\"\n");
        text += &of_nodes.replace('#', &number.to_string());
    }
    text += r#"
[group.edge]
nodes = ["n0", "n1", "n2"]
[vip.web]
addresses = ["198.51.100.10", "2001:db8:100::10"]
group = "edge"
services = ["tcp/443", "tcp/8443", "udp/443"]
[vip.api]
addresses = ["198.51.100.11"]
group = "edge"
services = ["tcp/80"]
[listener.web]
protocol = "tcp"
vip = "web"
port = 443
pool = "app"
[listener.api]
protocol = "http"
vip = "api"
port = 80
pool = "app"
[pool.app]
[server.s]
pools = ["app"]
zone = "z"
address = "10.9.9.9:80"
"#;
    Snapshot::read(&[SourceFile { path: "test.toml".into(), text }]).expect("valid")
}

const V4: &str = "address = \"10.1.1.1#\"\n";

fn name(text: &str) -> Name {
    text.parse().expect("name")
}

fn proxy(text: &str) -> Whom {
    Whom::Proxy(name(text))
}

/// Node n0 with its probes, and what the others do with them.
struct World {
    probes: PathProbes,
    now: Instant,
    sent: Vec<Transmit>,
}

impl World {
    fn new(snapshot: &Snapshot) -> Self {
        let now = Instant::now();
        let mut probes = PathProbes::new(7);
        probes.set_paths(paths(snapshot, &name("n0")), now);
        Self { probes, now, sent: Vec::new() }
    }

    /// Lets this much time pass; SYNs are answered as `answers` says of host and service.
    fn run(&mut self, time: Duration, mut answers: impl FnMut(&Whom, &str) -> Option<u8>) {
        let end = self.now + time;
        while self.now < end {
            self.probes.handle_timeout(self.now);
            while let Some(transmit) = self.probes.poll_transmit() {
                let open = self.probes.open.get(&transmit.port);
                self.sent.push(transmit);
                let Some(open) = open else { continue };
                let (service, source, sequence) = (open.service, open.source, open.sequence);
                if let Some(flags) = answers(&open.whom.clone(), &service.to_string()) {
                    let answer = wire::segment(service, source, flags, sequence.wrapping_add(1));
                    self.probes.handle_packet(&answer.expect("answer"), self.now);
                }
            }
            self.now = self.probes.poll_timeout().map_or(end, |next| next.min(end));
        }
    }

    fn health(&self, node: &str) -> Health {
        self.probes.health(&proxy(node)).expect("probed")
    }

    fn reason(&self, node: &str) -> String {
        let whom = proxy(node);
        self.probes.all().find(|(other, ..)| **other == whom).expect("probed").2
    }
}

const SYN_ACK: u8 = Carried::SYN | Carried::ACK;
const RST_ACK: u8 = Carried::RST | Carried::ACK;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_host_is_up_while_its_vips_answer_and_down_with_a_reason_when_they_do_not() {
    let mut world = World::new(&snapshot(V4));
    world.run(SECOND, |_, _| Some(SYN_ACK));
    assert_eq!([world.health("n0"), world.health("n1"), world.health("n2")], [Health::Up; 3]);
    let changed: Vec<_> = std::iter::from_fn(|| world.probes.poll_event()).map(|(whom, _)| whom).collect();
    assert_eq!(changed, [proxy("n0"), proxy("n1"), proxy("n2")]);

    world.run(SECOND, |whom, _| (*whom != proxy("n1")).then_some(SYN_ACK));
    assert_eq!(
        [world.health("n0"), world.health("n1"), world.health("n2")],
        [Health::Up, Health::Down, Health::Up]
    );
    let reason = world.reason("n1");
    assert!(reason.contains("by GUE to 10.1.1.11: no answer within 100ms"), "{reason}");

    world.run(SECOND, |_, _| Some(SYN_ACK));
    assert_eq!(world.health("n1"), Health::Up);
    world.run(SECOND, |whom, _| Some(if *whom == proxy("n0") { RST_ACK } else { SYN_ACK }));
    assert_eq!(world.health("n0"), Health::Down);
    let reason = world.reason("n0");
    assert!(reason.contains("by this host's own datapath: refused"), "{reason}");
}

#[test]
fn only_the_vip_itself_answers_and_only_what_was_asked() {
    let mut world = World::new(&snapshot(V4));
    world.probes.handle_timeout(world.now + Duration::from_millis(50));
    let opens: Vec<_> = world.probes.open.values().map(|o| (o.service, o.source, o.sequence)).collect();
    assert!(!opens.is_empty());
    for (service, source, sequence) in opens {
        let mut host = service;
        host.set_ip(IpAddr::from([10, 1, 1, 11]));
        let forged = [
            wire::segment(host, source, SYN_ACK, sequence.wrapping_add(1)),
            wire::segment(service, source, SYN_ACK, sequence),
            wire::segment(service, source, Carried::ACK, sequence.wrapping_add(1)),
        ];
        for packet in forged {
            world.probes.handle_packet(&packet.expect("packet"), world.now);
        }
        let whole = wire::segment(service, source, SYN_ACK, sequence.wrapping_add(1)).expect("packet");
        for len in 0..whole.len() {
            world.probes.handle_packet(&whole[..len], world.now);
        }
    }
    world.run(SECOND, |_, _| None);
    assert_eq!([world.health("n0"), world.health("n1"), world.health("n2")], [Health::Down; 3]);
}

#[test]
fn what_answers_nowhere_is_no_hosts_fault_and_what_answers_elsewhere_is() {
    let mut world = World::new(&snapshot(V4));
    world.run(SECOND, |_, service| (service == WEB).then_some(SYN_ACK));
    assert_eq!([world.health("n0"), world.health("n1"), world.health("n2")], [Health::Up; 3]);
    let reason = world.reason("n1");
    assert!(reason.contains(&format!("but tcp {API} (vip api)")), "{reason}");
    world.run(SECOND, |whom, service| (service == WEB || *whom == proxy("n2")).then_some(SYN_ACK));
    assert_eq!(
        [world.health("n0"), world.health("n1"), world.health("n2")],
        [Health::Down, Health::Down, Health::Up]
    );
    let reason = world.reason("n1");
    assert!(reason.contains(&format!("tcp {API} (vip api)")), "{reason}");
    world.run(SECOND, |_, _| None);
    assert_eq!(world.health("n2"), Health::Down, "nothing answers any more");
}

#[test]
fn a_probe_ends_what_it_opened_by_the_same_way() {
    let mut world = World::new(&snapshot(V4));
    world.run(SECOND / 10, |whom, _| (*whom == proxy("n1")).then_some(SYN_ACK));
    world.run(SECOND, |_, _| None);
    let inner = |transmit: &Transmit| transmit.wire[32..].to_vec();
    for node in ["10.1.1.11", "10.1.1.12"] {
        let to = |transmit: &&Transmit| transmit.to.to_string() == node;
        let sent: Vec<_> =
            world.sent.iter().filter(to).map(|transmit| (transmit.port, inner(transmit))).collect();
        let of = |flags: u8| sent.iter().filter(move |(_, inner)| inner[33] == flags).map(|(port, _)| *port);
        let (opened, ended): (BTreeSet<_>, BTreeSet<_>) =
            (of(Carried::SYN).collect(), of(Carried::RST).collect());
        assert!(!opened.is_empty());
        // Of the last round it is still waited for.
        assert!(opened.difference(&ended).count() <= ROUND_MAX, "{node}: {opened:?} {ended:?}");
    }
}

/// What the balancer of a node has in its kernel.
fn image(snapshot: &Snapshot, node: &str) -> Image {
    let (node, health, servers) = (name(node), BTreeMap::new(), HealthView::default());
    let (current, history, lingering) = (Image::default(), BTreeMap::new(), BTreeMap::new());
    let (node, health, servers, lingering) = (&node, &health, &servers, &lingering);
    let now = Duration::ZERO;
    let input =
        Lowering { snapshot, node, health, servers, current: &current, history: &history, now, lingering };
    lower(input).expect("image").image
}

#[test]
fn probes_are_opened_and_delivered_where_they_go_whatever_the_tunnel() {
    let v6 = "address6 = \"fd00::1#\"\n";
    let both = V4.to_owned() + v6;
    for of_nodes in
        [both.clone(), v6.to_owned(), both + "tunnel = \"ipip\"\n", v6.to_owned() + "tunnel = \"ipip\"\n"]
    {
        let snapshot = snapshot(&of_nodes);
        let mut world = World::new(&snapshot);
        world.run(SECOND, |_, _| None);
        let mut hosts = BTreeSet::new();
        for transmit in &world.sent {
            let is_own = transmit.own_tunnel.is_some();
            let frame = match &transmit.own_tunnel {
                Some(frame) => frame.clone(),
                None => {
                    let ethertype: [u8; 2] =
                        if transmit.to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
                    [&[0; 12], ethertype.as_slice(), &transmit.wire].concat()
                }
            };
            let to_node = |number: &usize| transmit.to.to_string().ends_with(&format!("1{number}"));
            let number = if is_own { 0 } else { (1..3).find(to_node).expect("a node") };
            let image = image(&snapshot, &format!("n{number}"));
            let outcome = datapath::run(&image, &mut datapath::Host::default(), &frame);
            assert_eq!(
                (outcome.reason, outcome.action),
                (Reason::DecapDeliver, Action::Pass),
                "{transmit:?}"
            );
            if is_own {
                assert_eq!(outcome.frame[14..], transmit.wire, "the same goes by the loopback interface");
            }
            hosts.insert(number);
        }
        assert_eq!(hosts, BTreeSet::from([0, 1, 2]), "{of_nodes}");
    }
}

#[test]
fn ports_that_are_served_are_asked_for_and_no_others() {
    let own = snapshot(&(V4.to_owned() + "address6 = \"fd00::1#\"\n"));
    let services = |snapshot: &Snapshot| {
        let services = paths(snapshot, &name("n0")).of.remove(&proxy("n1")).map(|path| path.services);
        services.unwrap_or_default().keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(services(&own), [WEB, API, "[2001:db8:100::10]:443"]);
    assert_eq!(services(&snapshot(V4)), [WEB, API], "there is no IPv6 address to ask from");
    assert!(services(&snapshot(&(V4.to_owned() + "probe_via = \"direct\"\n"))).is_empty());
}

#[test]
fn probes_a_second_are_bounded_and_each_service_gets_its_turn() {
    let mut text = String::from(
        "[zone.z]\n[pool.app]\n[server.s]\npools = [\"app\"]\nzone = \"z\"\naddress = \"10.9.9.9:80\"\n",
    );
    let names: Vec<_> = (0..200).map(|n| format!("\"n{n}\"")).collect();
    for n in 0..200 {
        text += &format!(
            "[node.n{n}]\nzone = \"z\"\nprobe_interval = \"10ms\"\naddress = \"10.8.{}.{}\"\n",
            n / 200,
            n % 200 + 1
        );
    }
    text += &format!("[group.edge]\nnodes = [{}]\n", names.join(","));
    for n in 1..=9 {
        text += &format!(
            "[vip.v{n}]\ngroup = \"edge\"\nservices = [\"tcp/80\"]\naddresses = [\"198.51.100.{n}\"]\n"
        );
        text += &format!("[listener.v{n}]\nprotocol = \"tcp\"\nvip = \"v{n}\"\nport = 80\npool = \"app\"\n");
    }
    let snapshot = Snapshot::read(&[SourceFile { path: "t.toml".into(), text }]).expect("valid");
    let mut world = World::new(&snapshot);
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    world.run(10 * SECOND, |_, service| {
        *asked.entry(service.to_owned()).or_default() += 1;
        (service != "198.51.100.3:80").then_some(SYN_ACK)
    });
    let count: usize = asked.values().sum();
    assert!(count <= 11 * RATE_MAX as usize, "{count}");
    assert_eq!(asked.len(), 9);
    assert!(asked.values().all(|count| *count >= 500), "{asked:?}");
    assert!(world.probes.open.len() <= OPEN_MAX);
}

#[test]
fn a_service_is_up_while_one_host_that_gets_flows_answers_and_down_when_none_does() {
    let mut world = World::new(&snapshot(V4));
    let services = |world: &World, hosts: &[&str]| {
        world.probes.services(&name("web"), |whom| hosts.iter().any(|h| *whom == proxy(h)))
    };
    let all = ["n0", "n1", "n2"];
    let of = |world: &World, hosts: &[&str]| services(world, hosts)["tcp 198.51.100.10:443"].clone();
    assert_eq!(of(&world, &all).health, Health::Unknown, "nobody has asked");
    world.run(SECOND, |_, _| Some(SYN_ACK));
    assert!(world.probes.poll_services_changed() && !world.probes.poll_services_changed());
    assert_eq!(of(&world, &all).health, Health::Up);
    assert_eq!(services(&world, &all).len(), 1, "no IPv6 here, and tcp/8443 has no listener");

    // One host answers: the service is up for whoever sends flows there.
    world.run(SECOND, |whom, at| (*whom == proxy("n2") || at != WEB).then_some(SYN_ACK));
    assert_eq!((of(&world, &all).health, of(&world, &["n0", "n1"]).health), (Health::Up, Health::Down));
    assert_eq!(services(&world, &[]), BTreeMap::new(), "no host gets flows: nothing is said");

    // None does: the hosts are up for their other VIP, the service is not.
    world.run(SECOND, |_, at| Some(if at == WEB { RST_ACK } else { SYN_ACK }));
    assert!(world.probes.poll_services_changed());
    assert_eq!(all.map(|node| world.health(node)), [Health::Up; 3]);
    let web = of(&world, &all);
    assert_eq!(web.health, Health::Down);
    assert_eq!(web.reason, "by this host's own datapath: refused: nothing is steered to a listener");
    assert_eq!(world.probes.services(&name("api"), |_| true)["tcp 198.51.100.11:80"].health, Health::Up);
    world.run(SECOND, |_, _| Some(SYN_ACK));
    assert_eq!(of(&world, &all).health, Health::Up);
}
