//! The announcer on a virtual clock.

mod answers;

use super::*;
use std::time::{Duration, SystemTime};
use weir_model::status::{ConfigStatus, VipDelivery};
use weir_model::{SourceFile, Timestamp};

const CONFIG: &str = r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "10.0.1.2"
[group.g]
nodes = ["n1"]
[vip.web]
addresses = ["192.0.2.1", "2001:db8::1"]
group = "g"
services = ["tcp/80"]
announce = { rise = "200ms", fall = "500ms" }
"#;

fn snapshot(change: impl Fn(String) -> String) -> Snapshot {
    let text = change(CONFIG.to_owned());
    Snapshot::read(&[SourceFile { path: "a.toml".into(), text }])
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn applied() -> ConfigStatus {
    ConfigStatus { applied_at: Some(Timestamp(SystemTime::UNIX_EPOCH)), ..ConfigStatus::default() }
}

fn l4(healthy_proxies: u32) -> L4Status {
    let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let vip = L4VipStatus { healthy_proxies, addresses, ..L4VipStatus::default() };
    let health = if healthy_proxies > 0 { Health::Up } else { Health::Down };
    L4Status {
        config: applied(),
        vips: [(name("web"), vip)].into(),
        proxies: [(name("n1"), health)].into(),
        ..L4Status::default()
    }
}

fn proxy(deliverable: bool) -> ProxyStatus {
    let delivery =
        VipDelivery { deliverable, reason: "pool app has no server".into(), ..VipDelivery::default() };
    ProxyStatus { config: applied(), vips: [(name("web"), delivery)].into(), ..ProxyStatus::default() }
}

/// One announcer, a clock that starts at zero, and the last things heard.
struct Bench {
    announcer: Announcer,
    start: Instant,
    at_ms: u64,
    snapshot: Snapshot,
    node: Name,
}

impl Bench {
    fn new() -> Self {
        Self::with(snapshot(|text| text))
    }

    fn with(snapshot: Snapshot) -> Self {
        Self { announcer: Announcer::default(), start: Instant::now(), at_ms: 0, snapshot, node: name("n1") }
    }

    fn look(&mut self, at_ms: u64, l4: Heard<'_, L4Status>, proxy: Heard<'_, ProxyStatus>) -> bool {
        assert!(at_ms >= self.at_ms, "time goes forward");
        self.at_ms = at_ms;
        let now = self.start + Duration::from_millis(at_ms);
        self.announcer.handle(View { snapshot: &self.snapshot, node: &self.node, l4, proxy }, now);
        self.announcer.verdicts().get("web").is_some_and(|verdict| verdict.announced)
    }

    fn reason(&self) -> &str {
        &self.announcer.verdicts()["web"].reason
    }

    fn next_ms(&self) -> Option<u64> {
        self.announcer.poll_timeout().map(|at| (at - self.start).as_millis() as u64)
    }

    fn addresses(&self) -> Vec<String> {
        self.announcer.addresses(&self.snapshot).map(|(_, address, _)| address.to_string()).collect()
    }
}

#[test]
fn a_vip_is_announced_after_rise_and_not_before() {
    let mut bench = Bench::new();
    assert!(!bench.look(0, None, None));
    assert!(!bench.look(10, Some(&l4(1)), None));
    assert_eq!(bench.next_ms(), Some(210));
    assert!(!bench.look(209, Some(&l4(1)), None));
    assert!(bench.look(210, Some(&l4(1)), None));
    assert_eq!(bench.next_ms(), None);
    assert_eq!(bench.addresses(), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(bench.reason(), "in the datapath (0000000000000000), 1 healthy proxy");
}

#[test]
fn a_vip_is_withdrawn_after_fall_and_a_blink_does_nothing() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), None);
    assert!(bench.look(200, Some(&l4(1)), None));
    assert!(bench.look(300, Some(&l4(0)), None));
    assert_eq!(bench.next_ms(), Some(800));
    assert!(bench.look(700, Some(&l4(1)), None), "a blink");
    assert!(bench.look(750, Some(&l4(0)), None));
    assert!(bench.look(1249, Some(&l4(0)), None));
    assert!(!bench.look(1250, Some(&l4(0)), None));
    assert_eq!(bench.reason(), "no healthy proxy");
    assert!(bench.addresses().is_empty());
}

#[test]
fn what_has_turned_is_said_once() {
    let two = |text: String| {
        let api = CONFIG[CONFIG.find("[vip.web]").unwrap()..].replace("web", "api");
        text + &api.replace("192.0.2.1", "192.0.2.2").replace("db8::1", "db8::2")
    };
    let mut bench = Bench::with(snapshot(two));
    let mut l4 = l4(1);
    let turned = |bench: &mut Bench, at_ms, l4: &L4Status| {
        let now = bench.start + Duration::from_millis(at_ms);
        let view = View { snapshot: &bench.snapshot, node: &bench.node, l4: Some(l4), proxy: None };
        bench.announcer.handle(view, now)
    };
    assert!(turned(&mut bench, 0, &l4).is_empty(), "it is rising");
    assert_eq!(turned(&mut bench, 200, &l4), [name("web")]);
    assert!(turned(&mut bench, 201, &l4).is_empty());
    let addresses = vec!["192.0.2.2".parse().unwrap()];
    l4.vips.insert(name("api"), L4VipStatus { addresses, ..l4.vips[&name("web")].clone() });
    assert!(turned(&mut bench, 300, &l4).is_empty());
    assert_eq!(turned(&mut bench, 500, &l4), [name("api")]);
    // One is taken from the configuration: it is none of ours, and the other stays as it is.
    bench.snapshot = snapshot(|text| text);
    assert_eq!(turned(&mut bench, 501, &l4), [name("api")]);
    assert!(bench.announcer.verdicts()["web"].announced && bench.announcer.verdicts().len() == 1);
}

#[test]
fn losing_every_status_keeps_the_last_verdict() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(2)), Some(&proxy(true)));
    assert!(bench.look(200, Some(&l4(2)), Some(&proxy(true))));
    assert!(bench.look(300, None, None));
    assert!(bench.look(3_600_000, None, None));
    assert_eq!(bench.addresses().len(), 2);
    assert_eq!(bench.next_ms(), None);
}

#[test]
fn silence_never_makes_a_first_announcement() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), None);
    assert!(!bench.look(100, None, None), "lost while rising");
    assert!(!bench.look(10_000, None, Some(&proxy(true))));
    assert!(!bench.look(10_001, Some(&l4(1)), None), "rise begins anew");
    assert!(bench.look(10_201, Some(&l4(1)), None));
}

#[test]
fn a_restarted_l4_that_knows_nothing_yet_changes_nothing() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), None);
    assert!(bench.look(200, Some(&l4(1)), None));
    assert!(bench.look(300, Some(&L4Status::default()), None));
    assert!(bench.look(9_000, Some(&L4Status::default()), None), "nothing applied yet");
    let mut unprobed = l4(0);
    unprobed.proxies.insert(name("n1"), Health::Unknown);
    assert!(bench.look(20_000, Some(&unprobed), None));
    assert!(bench.look(30_000, Some(&unprobed), None), "nothing probed yet");
}

#[test]
fn what_the_proxy_says_counts_when_it_can_be_heard() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), Some(&proxy(false)));
    assert!(!bench.look(1_000, Some(&l4(1)), Some(&proxy(false))));
    assert_eq!(bench.reason(), "no zone can answer: pool app has no server");
    bench.look(1_001, Some(&l4(1)), Some(&proxy(true)));
    assert!(bench.look(1_201, Some(&l4(1)), Some(&proxy(true))));
    bench.look(2_000, Some(&l4(1)), Some(&proxy(false)));
    assert!(!bench.look(2_500, Some(&l4(1)), Some(&proxy(false))));
}

#[test]
fn a_vip_the_datapath_dropped_is_withdrawn_after_fall() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), None);
    assert!(bench.look(200, Some(&l4(1)), None));
    let without = L4Status { vips: BTreeMap::new(), ..l4(1) };
    assert!(bench.look(300, Some(&without), None));
    assert_eq!(bench.addresses().len(), 2, "all or nothing while it falls");
    assert!(!bench.look(800, Some(&without), None));
}

#[test]
fn only_confirmed_addresses_are_announced() {
    let mut bench = Bench::new();
    let mut half = l4(1);
    half.vips.get_mut("web").unwrap().addresses.truncate(1);
    bench.look(0, Some(&half), None);
    assert!(bench.look(200, Some(&half), None));
    assert_eq!(bench.addresses(), ["192.0.2.1"]);
    bench.look(300, Some(&l4(1)), None);
    assert_eq!(bench.addresses(), ["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn the_operators_word_takes_effect_at_once() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), None);
    assert!(bench.look(200, Some(&l4(1)), None));
    for admin in ["drain", "disabled"] {
        bench.snapshot =
            snapshot(|text| text.replace("[group.g]", &format!("admin = \"{admin}\"\n[group.g]")));
        assert!(!bench.look(300, Some(&l4(1)), None), "{admin}");
        // Active again: the datapath is asked again.
        bench.snapshot = snapshot(|text| text);
        assert!(!bench.look(300, Some(&l4(1)), None));
        bench.at_ms = 0;
        bench.start += Duration::from_secs(10);
        assert!(!bench.look(0, None, None));
        bench.look(1, Some(&l4(1)), None);
        assert!(bench.look(201, Some(&l4(1)), None));
    }
    bench.snapshot = snapshot(|text| text.replace("rise", "mode = \"never\", rise"));
    assert!(!bench.look(300, Some(&l4(1)), None));
    bench.snapshot = snapshot(|text| text.replace("rise", "mode = \"always\", rise"));
    assert!(bench.look(301, None, None), "always asks nobody");
    assert_eq!(bench.addresses().len(), 2);
    bench.snapshot = snapshot(|text| text.replace("[vip.web]", "[vip.other]"));
    bench.look(302, None, None);
    assert!(bench.addresses().is_empty(), "a removed VIP is withdrawn at once");
}

#[test]
fn vips_of_other_nodes_are_not_ours() {
    let mut bench = Bench::with(snapshot(|text| {
        text.replace("[group.g]", "[node.n2]\nzone = \"z1\"\naddress = \"10.0.1.3\"\n[group.g]")
    }));
    bench.node = name("n2");
    bench.look(0, Some(&l4(1)), None);
    bench.look(1_000, Some(&l4(1)), None);
    assert!(bench.announcer.verdicts().is_empty());
}

#[test]
fn a_vip_straight_at_servers_is_announced_by_their_health_and_not_by_any_proxys() {
    let direct = snapshot(|text| {
        let text = text.replace("[vip.web]", "[vip.web]\npool = \"dns\"");
        text + "[pool.dns]\n[server.s1]\npools = [\"dns\"]\nzone = \"z1\"\naddress = \"192.0.2.77:53\"\n"
    });
    let servers = |healthy: u32, seen: Health| {
        let mut l4 = l4(healthy);
        l4.proxies.insert(name("n1"), Health::Down);
        l4.servers.insert(name("dns"), [(name("s1"), seen)].into());
        l4
    };
    let mut bench = Bench::with(direct);
    assert!(!bench.look(0, Some(&servers(0, Health::Down)), Some(&proxy(false))));
    assert_eq!(bench.reason(), "no healthy server");
    bench.look(100, Some(&servers(1, Health::Up)), Some(&proxy(false)));
    assert!(bench.look(300, Some(&servers(1, Health::Up)), Some(&proxy(false))));
    assert!(bench.reason().ends_with("1 healthy server"), "{}", bench.reason());
    assert!(
        bench.look(9_000, Some(&servers(0, Health::Unknown)), None),
        "a restarted weir-l4 has not checked yet"
    );
    bench.look(10_000, Some(&servers(0, Health::Down)), None);
    assert!(!bench.look(10_500, Some(&servers(0, Health::Down)), None));
}

/// Two VIPs on two nodes.
const PAIR: &str = r#"
[zone.z1]
[node.n1]
zone = "z1"
address = "10.0.1.2"
[node.n2]
zone = "z1"
address = "10.0.1.3"
[group.g]
nodes = ["n1", "n2"]
[vip.web]
addresses = ["192.0.2.1"]
group = "g"
services = ["tcp/80"]
[vip.mail]
addresses = ["192.0.2.2"]
group = "g"
services = ["tcp/25"]
"#;

/// Nodes that hear each other after a delay, on one clock.
struct Pair {
    snapshot: Snapshot,
    start: Instant,
    announcers: [Announcer; 2],
    /// Deliverable VIPs as each node's proxy sees them, and healthy proxies as its datapath does.
    web: [bool; 2],
    mail: [bool; 2],
    proxies: [u32; 2],
    /// Services of the VIPs as each node's proxy finds them, and whether its datapath finds the same.
    web_answers: [&'static str; 2],
    mail_answers: [&'static str; 2],
    datapath_agrees: bool,
    hears: bool,
    on_the_way: Vec<(u64, usize, BTreeMap<Name, Stance>)>,
}

impl Pair {
    fn new(text: &str) -> Self {
        let snapshot = snapshot(|_| text.to_owned());
        let mut pair = Self {
            snapshot,
            start: Instant::now(),
            announcers: Default::default(),
            web: [true; 2],
            mail: [true; 2],
            proxies: [2; 2],
            web_answers: ["+"; 2],
            mail_answers: ["+"; 2],
            datapath_agrees: false,
            hears: true,
            on_the_way: Vec::new(),
        };
        pair.run(0, 1_000);
        assert_eq!(pair.announced("web"), [true, true]);
        pair
    }

    /// Nothing comes through any more, what is on the way included.
    fn part(&mut self) {
        self.hears = false;
        self.on_the_way.clear();
    }

    /// Every 10 ms each node looks, and tells the other, who hears it 50 ms later.
    fn run(&mut self, from_ms: u64, to_ms: u64) {
        for at_ms in (from_ms..to_ms).step_by(10) {
            let now = self.start + Duration::from_millis(at_ms);
            for (node, other) in [(0, 1), (1, 0)] {
                let names = [name("n1"), name("n2")];
                for (_, _, said) in
                    self.on_the_way.extract_if(.., |(due, to, _)| *due <= at_ms && *to == node)
                {
                    self.announcers[node].hear(&self.snapshot, &names[other], said, now);
                }
                let found = [self.web_answers[node], self.mail_answers[node]].map(answers::services);
                let vip = |address: &str, services: &BTreeMap<_, _>| L4VipStatus {
                    healthy_proxies: self.proxies[node],
                    addresses: vec![address.parse().unwrap()],
                    services: if self.datapath_agrees { services.clone() } else { BTreeMap::new() },
                    ..L4VipStatus::default()
                };
                let vips =
                    [(name("web"), vip("192.0.2.1", &found[0])), (name("mail"), vip("192.0.2.2", &found[1]))];
                let l4 = L4Status { vips: vips.into(), ..l4(self.proxies[node]) };
                let delivery = |deliverable| VipDelivery {
                    deliverable,
                    reason: "gone".into(),
                    ..VipDelivery::default()
                };
                let [web, mail] = found;
                let web = VipDelivery { services: web, ..delivery(self.web[node]) };
                let mail = VipDelivery { services: mail, ..delivery(self.mail[node]) };
                let vips = [(name("web"), web), (name("mail"), mail)];
                let proxy = ProxyStatus { vips: vips.into(), ..proxy(true) };
                let view =
                    View { snapshot: &self.snapshot, node: &names[node], l4: Some(&l4), proxy: Some(&proxy) };
                self.announcers[node].handle(view, now);
                if self.hears {
                    self.on_the_way.push((at_ms + 50, other, self.announcers[node].stances()));
                }
            }
        }
    }

    fn announced(&self, vip: &str) -> [bool; 2] {
        [0, 1].map(|node: usize| self.announcers[node].verdicts()[vip].announced)
    }

    fn reason(&self, node: usize, vip: &str) -> &str {
        &self.announcers[node].verdicts()[vip].reason
    }
}

#[test]
fn a_node_withdraws_while_another_stays_and_the_last_one_does_not() {
    let mut pair = Pair::new(PAIR);
    pair.proxies[1] = 0;
    pair.run(1_000, 3_000);
    assert_eq!(pair.announced("web"), [true, false]);
    pair.proxies[0] = 0;
    pair.run(3_000, 10_000);
    assert_eq!(pair.announced("web"), [true, false], "the last announcer stays");
    assert!(pair.reason(0, "web").contains("nobody else is heard"), "{}", pair.reason(0, "web"));
    // Somebody takes over: now it may go.
    pair.proxies[1] = 2;
    pair.run(10_000, 12_000);
    assert_eq!(pair.announced("web"), [false, true]);
}

#[test]
fn of_all_that_want_to_withdraw_at_once_exactly_one_stays() {
    for later_ms in (0..400).step_by(10) {
        let mut pair = Pair::new(PAIR);
        pair.proxies[1] = 0;
        pair.run(1_000, 1_000 + later_ms);
        pair.proxies[0] = 0;
        pair.run(1_000 + later_ms, 6_000);
        let announced = pair.announced("web");
        assert_eq!(announced.iter().filter(|is| **is).count(), 1, "{later_ms} ms later: {announced:?}");
    }
}

#[test]
fn who_hears_nobody_goes_on_announcing() {
    let mut pair = Pair::new(PAIR);
    pair.part();
    pair.run(1_000, 6_000);
    pair.proxies = [0, 0];
    pair.run(6_000, 12_000);
    assert_eq!(pair.announced("web"), [true, true]);
    let mut free = Pair::new(&PAIR.replace("[vip.mail]", "announce = { last = \"withdraw\" }\n[vip.mail]"));
    free.part();
    free.proxies = [0, 0];
    free.run(1_000, 12_000);
    assert_eq!((free.announced("web"), free.announced("mail")), ([false, false], [true, true]));
}

#[test]
fn when_everything_beyond_looks_dead_at_once_it_is_not_believed() {
    // The backbone is gone: every site looks dead from here.
    let mut pair = Pair::new(PAIR);
    (pair.web[0], pair.mail[0]) = (false, false);
    pair.run(1_000, 6_000);
    assert_eq!((pair.announced("web"), pair.announced("mail")), ([true, true], [true, true]));
    assert!(pair.reason(0, "web").contains("look dead at once"), "{}", pair.reason(0, "web"));
    // One of two is believed.
    pair.mail[0] = true;
    pair.run(6_000, 8_000);
    assert_eq!((pair.announced("web"), pair.announced("mail")), ([false, true], [true, true]));
    // One after the other is not, whatever the order.
    pair.mail[0] = false;
    pair.run(8_000, 12_000);
    assert_eq!(pair.announced("mail"), [true, true]);
}

#[test]
fn a_flapping_vip_waits_longer_each_time_and_is_forgiven_in_time() {
    let mut bench = Bench::new();
    bench.look(0, Some(&l4(1)), None);
    assert!(bench.look(200, Some(&l4(1)), None));
    let mut at_ms = 1_000;
    let mut waits = Vec::new();
    for _flap in 0..12 {
        bench.look(at_ms, Some(&l4(0)), None);
        assert!(!bench.look(at_ms + 500, Some(&l4(0)), None));
        let begin_ms = at_ms + 600;
        bench.look(begin_ms, Some(&l4(1)), None);
        let due_ms = bench.next_ms().unwrap();
        assert!(bench.look(due_ms, Some(&l4(1)), None));
        waits.push(due_ms - begin_ms);
        at_ms = due_ms + 100;
    }
    assert_eq!(waits[..5], [200, 400, 800, 1_600, 3_200]);
    assert_eq!(waits[10..], [60_000, 60_000], "never longer than rise_max");
    // Eleven minutes later all but one are forgiven.
    at_ms += 11 * 60_000;
    bench.look(at_ms, Some(&l4(0)), None);
    bench.look(at_ms + 500, Some(&l4(0)), None);
    bench.look(at_ms + 600, Some(&l4(1)), None);
    assert_eq!(bench.next_ms(), Some(at_ms + 600 + 400));
}

#[test]
fn routers_are_asked_to_find_another_way_before_a_withdrawal() {
    let graceful = |text: String| text.replace("rise =", "graceful_shutdown = \"1s\", rise =");
    let mut bench = Bench::with(snapshot(graceful));
    bench.look(0, Some(&l4(1)), None);
    assert!(bench.look(200, Some(&l4(1)), None));
    let tier = |bench: &Bench| bench.announcer.verdicts()["web"].tier;
    assert_eq!(tier(&bench), Tier::Normal);
    bench.look(1_000, Some(&l4(0)), None);
    assert!(bench.look(1_500, Some(&l4(0)), None));
    assert_eq!((tier(&bench), bench.next_ms()), (Tier::GracefulShutdown, Some(2_500)));
    // Back before it was gone.
    assert!(bench.look(1_600, Some(&l4(1)), None));
    assert_eq!(tier(&bench), Tier::Normal);
    bench.look(2_000, Some(&l4(0)), None);
    assert!(bench.look(2_500, Some(&l4(0)), None) && bench.look(3_499, Some(&l4(0)), None));
    assert!(!bench.look(3_500, Some(&l4(0)), None));
    // An operator's drain, too, at once.
    let mut drained = Bench::with(snapshot(graceful));
    drained.look(0, Some(&l4(1)), None);
    assert!(drained.look(200, Some(&l4(1)), None));
    drained.snapshot = snapshot(|text| graceful(text.replace("[node.n1]", "[node.n1]\nadmin = \"drain\"")));
    assert!(drained.look(300, Some(&l4(1)), None) && drained.look(1_299, Some(&l4(1)), None));
    assert_eq!(tier(&drained), Tier::GracefulShutdown);
    assert!(!drained.look(1_300, Some(&l4(1)), None));
}

#[test]
fn a_vip_with_servers_in_other_zones_only_is_worth_what_the_operator_says() {
    for (remote, expected) in [("same", Some(Tier::Normal)), ("worse", Some(Tier::Worse)), ("withdraw", None)]
    {
        let change = |text: String| text.replace("rise =", &format!("remote = \"{remote}\", rise ="));
        let mut bench = Bench::with(snapshot(change));
        let far = VipDelivery { deliverable: true, is_remote: true, ..VipDelivery::default() };
        let far = ProxyStatus { vips: [(name("web"), far)].into(), ..proxy(true) };
        bench.look(0, Some(&l4(1)), Some(&proxy(true)));
        assert!(bench.look(200, Some(&l4(1)), Some(&proxy(true))));
        bench.look(1_000, Some(&l4(1)), Some(&far));
        let announced = bench.look(1_500, Some(&l4(1)), Some(&far));
        let tier = bench.announcer.verdicts()["web"].tier;
        assert_eq!(announced.then_some(tier), expected, "{remote}");
    }
}

/// A node with many VIPs, alone or beside another.
struct Many {
    bench: Bench,
    names: Vec<Name>,
}

impl Many {
    fn new(vips: usize, node: &str, group: &str, announce: &str) -> Self {
        let vip = |n: usize| {
            format!(
                "[vip.v{n:02}]\naddresses = [\"192.0.2.{n}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n\
                 announce = {{ rise = \"0ms\", fall = \"500ms\", {announce} }}\n"
            )
        };
        let text = format!(
            "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\n{node}\n[node.n2]\nzone = \"z1\"\n\
             address = \"10.0.1.3\"\n[group.g]\nnodes = {group}\n{}",
            (0..vips).map(vip).collect::<String>()
        );
        let names = (0..vips).map(|n| name(&format!("v{n:02}"))).collect();
        let mut many = Self { bench: Bench::with(snapshot(|_| text.clone())), names };
        assert_eq!(many.at(0, |_| true, 1), vips);
        many
    }

    /// How many are announced, where these can be delivered and the datapath has so many proxies.
    fn at(&mut self, at_ms: u64, deliverable: impl Fn(usize) -> bool, proxies: u32) -> usize {
        let vips = self.names.iter().enumerate().map(|(n, name)| {
            let addresses = vec![format!("192.0.2.{n}").parse().unwrap()];
            (name.clone(), L4VipStatus { healthy_proxies: proxies, addresses, ..L4VipStatus::default() })
        });
        let l4 = L4Status { vips: vips.collect(), ..l4(proxies) };
        let vips = self.names.iter().enumerate().map(|(n, name)| {
            let reason = "gone".to_owned();
            (name.clone(), VipDelivery { deliverable: deliverable(n), reason, ..VipDelivery::default() })
        });
        let proxy = ProxyStatus { vips: vips.collect(), ..proxy(true) };
        self.bench.look(at_ms, Some(&l4), Some(&proxy));
        self.bench.announcer.verdicts().values().filter(|verdict| verdict.announced).count()
    }

    fn withdrawals(&self) -> WithdrawalStatus {
        self.bench.announcer.withdrawals(&self.bench.snapshot, &self.bench.node)
    }
}

#[test]
fn when_the_backbone_is_gone_no_more_vips_go_within_a_minute_than_the_budget_has() {
    // Every site but one looks dead from here: not all, so each is believed by itself.
    let mut many = Many::new(10, "", "[\"n1\"]", "");
    let backbone = |n: usize| n == 9;
    many.at(1_000, backbone, 1);
    assert_eq!(many.at(1_500, backbone, 1), 5, "half of them");
    let waits = &many.bench.announcer.verdicts()[&many.names[5]];
    assert!(
        waits.reason.contains("kept, for no more than 5 VIPs may be withdrawn within a minute"),
        "{}",
        waits.reason
    );
    assert_eq!((waits.kept, waits.tier), (Some(Kept::Budget), Tier::Normal));
    let expected = WithdrawalStatus { limit_per_minute: 5, last_minute: 5, waiting: 4, deferred: 4 };
    assert_eq!(many.withdrawals(), expected);
    assert_eq!(many.bench.next_ms(), Some(61_500), "looked at again by itself");
    assert_eq!(many.at(61_499, backbone, 1), 5);
    assert_eq!(many.withdrawals().deferred, 4, "counted once");
    // The backbone is back in time for those that waited.
    assert_eq!(many.at(61_499, |n| n >= 5, 1), 5);
    assert_eq!(many.withdrawals().waiting, 0);
    assert_eq!(many.at(70_000, |n| n >= 5, 1), 5);
    // What is really dead goes in the end.
    many.at(80_000, backbone, 1);
    assert_eq!(many.at(80_500, backbone, 1), 1);
}

#[test]
fn what_is_dead_for_longer_than_a_minute_goes_as_the_minutes_pass() {
    let mut many = Many::new(10, "withdrawals_per_minute = 3", "[\"n1\"]", "kept = \"worse\"");
    let announced = |many: &mut Many, at_ms| many.at(at_ms, |n| n == 9, 1);
    announced(&mut many, 1_000);
    assert_eq!(announced(&mut many, 1_500), 7);
    assert_eq!(
        many.bench.announcer.verdicts()[&many.names[8]].tier,
        Tier::Worse,
        "whoever is well gets the traffic"
    );
    assert_eq!(announced(&mut many, 61_500), 4);
    assert_eq!(announced(&mut many, 121_500), 1);
    // One that flaps meanwhile is one.
    let mut flapping = Many::new(4, "withdrawals_per_minute = 1", "[\"n1\"]", "rise_max = \"0ms\"");
    for round in 0..5 {
        let at_ms = 1_000 + round * 2_000;
        flapping.at(at_ms, |n| n != 0, 1);
        assert_eq!(flapping.at(at_ms + 500, |n| n != 0, 1), 3);
        assert_eq!(flapping.at(at_ms + 600, |_| true, 1), 4);
    }
    flapping.at(20_000, |n| n != 1, 1);
    assert_eq!(flapping.at(20_500, |n| n != 1, 1), 4, "another one waits");
}

#[test]
fn an_operator_and_a_host_whose_neighbour_stays_need_no_budget() {
    let mut many = Many::new(10, "", "[\"n1\", \"n2\"]", "");
    let hear = |many: &mut Many, at_ms: u64, stance| {
        let now = many.bench.start + Duration::from_millis(at_ms);
        let vips: Vec<_> = many.names.iter().map(|name| (name.clone(), stance)).collect();
        many.bench.announcer.hear(&many.bench.snapshot.clone(), &name("n2"), vips, now);
    };
    many.at(1_000, |_| true, 0);
    hear(&mut many, 1_100, Stance::Announced);
    assert_eq!(many.at(1_500, |_| true, 0), 0, "the other node stays: all of them at once");
    assert_eq!(many.withdrawals().last_minute, 0);
    // The same fault, and the other one wants to leave too: somebody may be wrong.
    let mut many = Many::new(10, "", "[\"n2\", \"n1\"]", "last = \"withdraw\"");
    many.at(1_000, |_| true, 0);
    hear(&mut many, 1_100, Stance::Leaving);
    assert_eq!(many.at(1_500, |_| true, 0), 5);
    // Drained: the rest goes at once.
    let text = "[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\nadmin = \"drain\"\n[zone.z1]\n[group.g]\nnodes = [\"n1\"]\n";
    let vips = (0..10).map(|n| {
        format!("[vip.v{n:02}]\naddresses = [\"192.0.2.{n}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n")
    });
    let text = text.to_owned() + &vips.collect::<String>();
    many.bench.snapshot = snapshot(|_| text.clone());
    assert_eq!(many.at(1_600, |_| true, 0), 0);
}

#[test]
fn a_graceful_withdrawal_is_paid_for_once_and_a_stop_takes_leave_of_all() {
    let mut many = Many::new(6, "withdrawals_per_minute = 1", "[\"n1\"]", "graceful_shutdown = \"2s\"");
    many.at(1_000, |n| n != 0, 1);
    assert_eq!(many.at(1_500, |n| n != 0, 1), 6);
    assert_eq!(many.bench.announcer.verdicts()[&many.names[0]].tier, Tier::GracefulShutdown);
    assert_eq!(many.at(2_000, |n| n != 0, 1), 6, "on its way");
    assert_eq!(many.at(3_500, |n| n != 0, 1), 5);
    assert_eq!(many.withdrawals().last_minute, 1);
    let now = many.bench.start + Duration::from_secs(5);
    let snapshot = many.bench.snapshot.clone();
    let leave = |many: &mut Many, after_s| {
        many.bench.announcer.leave(&snapshot, "stopping", now + Duration::from_secs(after_s))
    };
    assert_eq!(leave(&mut many, 0), Some(now + Duration::from_secs(2)));
    let tiers: Vec<Tier> = many.bench.announcer.addresses(&snapshot).map(|(_, _, tier)| tier).collect();
    assert_eq!(tiers, [Tier::GracefulShutdown; 5]);
    assert_eq!(leave(&mut many, 1), Some(now + Duration::from_secs(2)));
    assert_eq!(leave(&mut many, 2), None);
    assert_eq!(many.bench.announcer.addresses(&snapshot).count(), 0);
}
