use weir_abi::{
    hop::{KIND_GUE4, KIND_GUE6, KIND_LOCAL},
    service::Slot,
};
use weir_model::SourceFile;

use super::*;
use crate::{
    image::{FLIP_CALM, TableHistory},
    plan,
};

const TEXT: &str = r#"
[zone.az1]
[zone.az2]
[node.a]
zone = "az1"
address = "10.1.1.2"
address6 = "fd00:1:1::2"
[node.b]
zone = "az1"
address = "10.1.2.2"
[node.c]
zone = "az1"
address6 = "fd00:1:3::2"
[node.d]
zone = "az2"
address = "10.2.1.2"
[group.edge]
nodes = ["a", "b", "c", "d"]
[vip.web]
addresses = ["198.51.100.10", "2001:db8::10"]
group = "edge"
services = ["tcp/80", "tcp/443", "udp/1000-2000"]
[vip.dns]
addresses = ["198.51.100.53"]
group = "edge"
services = ["udp/53", "tcp/any"]
"#;

fn snapshot(text: &str) -> Snapshot {
    Snapshot::read(&[SourceFile { path: "test.toml".into(), text: text.into() }]).expect("valid")
}

fn name(text: &str) -> Name {
    text.parse().expect("name")
}

fn health(up: &[&str], down: &[&str]) -> BTreeMap<Name, Health> {
    let up = up.iter().map(|n| (name(n), Health::Up));
    up.chain(down.iter().map(|n| (name(n), Health::Down))).collect()
}

/// A balancer in time: what `weir-l4` does, without a kernel.
struct Balancer {
    node: Name,
    image: Image,
    history: BTreeMap<u32, TableHistory>,
    now: Duration,
    servers: HealthView,
}

impl Balancer {
    fn new(node: &str) -> Self {
        Self {
            node: name(node),
            image: Image::default(),
            history: BTreeMap::new(),
            now: Duration::from_secs(100),
            servers: HealthView::default(),
        }
    }

    /// One look at what there is.
    fn look(
        &mut self,
        snapshot: &Snapshot,
        health: &BTreeMap<Name, Health>,
        lingering: &BTreeMap<Name, Vip>,
    ) -> Lowered {
        let (node, current, history) = (&self.node, &self.image, &self.history);
        let servers = &self.servers;
        let input = Lowering { snapshot, node, health, servers, current, history, now: self.now, lingering };
        let lowered = lower(input).expect("lowered");
        (self.image, self.history) = (lowered.image.clone(), lowered.history.clone());
        lowered
    }

    /// A second later: looks as often as it wants to until `after` has passed.
    fn run(&mut self, text: &str, health: &BTreeMap<Name, Health>, after: Duration) -> Lowered {
        let (snapshot, lingering) = (snapshot(text), BTreeMap::new());
        self.now += Duration::from_secs(1);
        let until = self.now + after;
        loop {
            let lowered = self.look(&snapshot, health, &lingering);
            match lowered.wake {
                Some(wake) if wake <= until => self.now = wake,
                _ => {
                    self.now = until;
                    return lowered;
                }
            }
        }
    }
}

/// Long enough for a change, short enough for nothing to settle.
const A_MINUTE: Duration = Duration::from_secs(60);

/// A balancer on node a that has run long enough to have settled, and its image.
fn settled(text: &str, health: &BTreeMap<Name, Health>) -> (Balancer, Image) {
    let mut balancer = Balancer::new("a");
    let image = balancer.run(text, health, A_MINUTE * 100).image;
    assert!(slots(&image).iter().all(|slot| slot.owner != 0 && slot.previous == 0));
    (balancer, image)
}

#[test]
fn a_vip_taken_from_this_node_lingers_with_its_old_flows() {
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, before) = settled(TEXT, &up);
    let left = snapshot(&TEXT.replace("nodes = [\"a\", ", "nodes = ["));
    let lingering = snapshot(TEXT).vips;
    balancer.look(&left, &up, &lingering);
    balancer.now += FLIP_CALM;
    let image = balancer.look(&left, &up, &lingering).image;
    let a = slot_of(&before, "10.1.1.2");
    for (old, new) in slots(&before).iter().zip(slots(&image)) {
        assert!(new.owner != 0 && new.owner != a);
        assert_eq!(new.previous == a, old.owner == a);
    }
    let gone = balancer.look(&left, &up, &BTreeMap::new());
    let image = gone.image;
    assert!(
        image.vips.is_empty()
            && image.ranges.is_empty()
            && image.routes.is_empty()
            && image.tables.is_empty()
    );
    assert!(gone.history.is_empty() && gone.wake.is_none());
}

fn slots(image: &Image) -> Vec<Slot> {
    image.tables.values().next().expect("a table").iter().map(|word| Slot::unpack(*word)).collect()
}

fn slot_of(image: &Image, address: &str) -> u16 {
    let address = Address::from(address.parse::<std::net::IpAddr>().expect("address"));
    *image.backends.iter().find(|(_, backend)| backend.address == address).expect("backend").0
}

#[test]
fn vips_of_one_group_share_one_table_over_their_own_zone() {
    let up = health(&["a", "b", "c", "d"], &[]);
    let (_, image) = settled(TEXT, &up);
    let image = &image;
    assert_eq!(image.tables.len(), 1);
    assert_eq!(image.backends.len(), 3, "d stands in another zone");
    assert_eq!(image.backends[&slot_of(image, "10.1.1.2")].kind, KIND_LOCAL);
    assert_eq!(image.backends[&slot_of(image, "10.1.2.2")].kind, KIND_GUE4);
    assert_eq!(image.backends[&slot_of(image, "fd00:1:3::2")].kind, KIND_GUE6);
    assert_eq!(image.services.len(), 3 * 2 + 2);
    let vip = Address::v4([198, 51, 100, 10]);
    assert!(image.service_at(vip, PROTO_TCP, 443).is_some());
    assert!(image.service_at(vip, PROTO_UDP, 1500).is_some());
    assert_eq!(image.service_at(vip, PROTO_UDP, 999), None);
    assert!(image.service_at(Address::v4([198, 51, 100, 53]), PROTO_TCP, 65535).is_some());
}

#[test]
fn udp_fragments_of_an_address_are_given_to_its_first_udp_service() {
    let image = Balancer::new("a").run(TEXT, &health(&["a", "b", "c"], &[]), Duration::ZERO).image;
    let mut with_udp = 0;
    for (key, ranges) in &image.ranges {
        if ranges.fragments == 0 {
            let services =
                image.vips.keys().filter(|vip| (vip.address, vip.protocol) == (key.address, PROTO_UDP));
            assert!(key.protocol == PROTO_TCP || (services.count() == 0 && ranges.count == 0), "{key:?}");
        } else {
            assert_eq!(key.protocol, PROTO_UDP, "TCP fragments follow their first");
            assert!(image.services.contains_key(&(ranges.fragments - 1)));
            with_udp += 1;
        }
    }
    assert!(with_udp > 0);
}

#[test]
fn the_same_input_again_makes_an_empty_plan() {
    let up = health(&["a", "b", "c"], &["d"]);
    let mut balancer = Balancer::new("a");
    let first = balancer.run(TEXT, &up, Duration::ZERO).image;
    // A restart remembers no history.
    balancer.history.clear();
    let second = balancer.run(TEXT, &up, Duration::ZERO).image;
    assert_eq!(plan::diff(&first, &second), vec![]);
}

fn drained(node: &str) -> String {
    let line = format!("[node.{node}]\n");
    TEXT.replace(&line, &format!("{line}admin = \"drain\"\n"))
}

#[test]
fn a_drained_proxy_stays_behind_the_new_owners_until_settled() {
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, before) = settled(TEXT, &up);
    let prepared = balancer.run(&drained("b"), &up, Duration::ZERO).image;
    let after = balancer.run(&drained("b"), &up, A_MINUTE).image;
    let b = slot_of(&before, "10.1.2.2");
    for ((old, mid), new) in slots(&before).iter().zip(slots(&prepared)).zip(slots(&after)) {
        assert_ne!(new.owner, b);
        if old.owner == new.owner {
            assert_eq!((mid, new), (*old, *old), "an untouched slot needs no second hop");
        } else {
            assert_eq!(
                mid,
                Slot { owner: old.owner, previous: new.owner },
                "first the coming owner is known"
            );
            assert_eq!(new.previous, old.owner, "then the previous owner keeps its flows");
        }
    }
    // Back again: its flows elsewhere are kept, those that never left it are at home.
    let back = balancer.run(TEXT, &up, A_MINUTE).image;
    for ((old, mid), new) in slots(&before).iter().zip(slots(&after)).zip(slots(&back)) {
        assert_eq!(new.owner, old.owner);
        assert_eq!(new.previous, if mid.owner == new.owner { mid.previous } else { mid.owner });
    }
    let settled = balancer.run(TEXT, &up, A_MINUTE * 60).image;
    assert_eq!(slots(&settled), slots(&before));
}

#[test]
fn a_drained_proxy_gets_no_new_flow_after_100_ms() {
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, before) = settled(TEXT, &up);
    let b = slot_of(&before, "10.1.2.2");
    let after = balancer.run(&drained("b"), &up, Duration::from_millis(50)).image;
    assert!(slots(&after).iter().all(|slot| slot.owner != b));
}

#[test]
fn a_weight_that_goes_to_zero_by_drain_and_back_ends_where_it_began() {
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, before) = settled(TEXT, &up);
    for text in [drained("c"), drained("b"), TEXT.to_owned()] {
        balancer.run(&text, &up, A_MINUTE);
    }
    let after = balancer.run(TEXT, &up, A_MINUTE * 70).image;
    assert_eq!(slots(&after), slots(&before));
    assert_eq!(plan::diff(&before, &after), vec![]);
}

#[test]
fn a_node_without_memory_looks_for_flows_where_they_are_without_it() {
    let up = health(&["a", "b", "c"], &[]);
    let (_, without) = settled(TEXT, &health(&["b", "c"], &["a"]));
    let (_, with) = settled(TEXT, &up);
    let first = Balancer::new("a").run(TEXT, &up, Duration::ZERO).image;
    let host = |image: &Image, slot: u16| image.backends.get(&slot).map(|backend| backend.address);
    for ((first_slot, old), new) in slots(&first).iter().zip(slots(&without)).zip(slots(&with)) {
        let (old, new) = (host(&without, old.owner), host(&with, new.owner));
        assert_eq!(host(&first, first_slot.owner), new);
        assert_eq!(host(&first, first_slot.previous), old.filter(|_| old != new));
    }
}

#[test]
fn a_dead_proxy_is_neither_owner_nor_second_hop() {
    let (mut balancer, before) = settled(TEXT, &health(&["a", "b", "c"], &[]));
    let after = balancer.run(TEXT, &health(&["a", "c"], &["b"]), Duration::ZERO);
    let b = slot_of(&before, "10.1.2.2");
    assert!(slots(&after.image).iter().all(|slot| slot.owner != b && slot.previous != b));
    assert!(after.panicking.is_empty());
}

#[test]
fn when_every_proxy_looks_dead_all_are_used() {
    let (mut balancer, before) = settled(TEXT, &health(&["a", "b", "c"], &[]));
    let after = balancer.run(TEXT, &health(&[], &["a", "b", "c"]), Duration::ZERO);
    assert_eq!(after.panicking.len(), 2);
    assert_eq!(slots(&after.image), slots(&before));
}

#[test]
fn a_vip_that_goes_leaves_the_numbers_of_the_others() {
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, before) = settled(TEXT, &up);
    let text = TEXT.split("[vip.dns]").next().expect("first part");
    let after = balancer.run(text, &up, Duration::ZERO).image;
    let ops = plan::diff(&before, &after);
    assert!(
        ops.iter().all(|op| matches!(
            op,
            plan::Op::PutFilter(..)
                | plan::Op::DeleteVip(_)
                | plan::Op::DeleteRanges(_)
                | plan::Op::DeleteRoute(_)
                | plan::Op::DeleteService(_)
        )),
        "{ops:?}"
    );
    assert!(!ops.is_empty());
}

#[test]
fn too_many_services_are_refused() {
    let mut text = TEXT.split("[vip.web]").next().expect("first part").to_owned();
    text += "[vip.web]\ngroup = \"edge\"\naddresses = [\"198.51.100.10\", \"198.51.100.11\"]\nservices = [";
    text.extend((1..=SERVICES_MAX / 2 + 1).map(|port| format!("\"tcp/{port}\",")));
    text += "]\n";
    let (snapshot, node, health) = (snapshot(&text), name("a"), health(&["a"], &[]));
    let input = Lowering {
        snapshot: &snapshot,
        node: &node,
        health: &health,
        current: &Image::default(),
        history: &BTreeMap::new(),
        now: Duration::ZERO,
        servers: &HealthView::default(),
        lingering: &BTreeMap::new(),
    };
    assert!(matches!(lower(input), Err(LowerError::Full { what: "services", .. })));
}

#[test]
fn a_table_somebody_else_changed_is_mended() {
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, before) = settled(TEXT, &up);
    let index = *before.tables.keys().next().expect("a table");
    let mut words = before.tables[&index].to_vec();
    (words[5], words[6]) = (0, words[6] | words[6] << 16);
    balancer.image.tables.insert(index, Arc::new(words));
    let after = balancer.run(TEXT, &up, A_MINUTE).image;
    assert_eq!(slots(&after), slots(&before));
}

const DIRECT: &str = r#"
[vip.game]
addresses = ["198.51.100.20", "2001:db8::20"]
group = "edge"
pool = "game"
services = ["udp/7000-7999"]
[pool.game]
check = { kind = "tcp" }
[server.s1]
pools = ["game"]
address = "10.1.9.1:7000"
zone = "az1"
tunnel = "ipip"
[server.s2]
pools = ["game"]
address = "[fd00:1:9::2]:7000"
zone = "az1"
[server.s3]
pools = ["game"]
address = "10.2.9.3:7000"
zone = "az2"
weight = 300
"#;

fn servers(up: &[&str], down: &[&str]) -> HealthView {
    let mut view = HealthView::default();
    up.iter().for_each(|server| view.set(&name("game"), &name(server), Health::Up));
    down.iter().for_each(|server| view.set(&name("game"), &name(server), Health::Down));
    view
}

/// The shares of a VIP's slots by the kind and address of their owners.
fn shares(image: &Image, vip: &str, protocol: u8, port: u16) -> BTreeMap<(u8, String), usize> {
    let vip: std::net::IpAddr = vip.parse().expect("address");
    let service = image.service_at(vip.into(), protocol, port).expect("service");
    let mut shares = BTreeMap::new();
    for word in image.tables[&image.services[&service].table].iter() {
        let owner = image.backends[&Slot::unpack(*word).owner];
        *shares.entry((owner.kind, std::net::IpAddr::from(owner.address).to_string())).or_default() += 1;
    }
    shares
}

#[test]
fn a_vip_with_a_pool_goes_straight_to_its_healthy_servers_zone_by_zone() {
    use weir_abi::hop::KIND_IPIP4;
    let text = format!("{TEXT}{DIRECT}");
    let up = health(&["a", "b", "c", "d"], &[]);
    let near = |kind, address: &str| (kind, address.to_owned());
    let (s1, s2, s3) =
        (near(KIND_IPIP4, "10.1.9.1"), near(KIND_GUE6, "fd00:1:9::2"), near(KIND_GUE4, "10.2.9.3"));
    let of = |text: &str, view: HealthView| {
        let mut balancer = Balancer { servers: view, ..Balancer::new("a") };
        balancer.run(text, &up, A_MINUTE)
    };
    let owners = |lowered: &Lowered| -> Vec<(u8, String)> {
        shares(&lowered.image, "2001:db8::20", PROTO_UDP, 7500).into_keys().collect()
    };
    let all = of(&text, servers(&["s1", "s2", "s3"], &[]));
    let index = all.image.service_at(Address::v4([198, 51, 100, 20]), PROTO_UDP, 7000).expect("service");
    assert_eq!(all.image.services[&index].flags, SERVICE_IN_USE | SERVICE_DIRECT | SERVICE_UDP_FLOWS);
    assert_eq!(owners(&all), [s2.clone(), s1.clone()]);
    assert_eq!(all.owners[&name("game")], BTreeSet::from([name("s1"), name("s2")]));
    assert!(!all.panicking.contains(&name("game")));
    // A zone without healthy servers is served by the others'.
    assert_eq!(owners(&of(&text, servers(&["s3"], &["s1", "s2"]))), std::slice::from_ref(&s3));
    // With none up, those near: rather a slow death than a quick one.
    let none = of(&text, servers(&[], &["s1", "s2", "s3"]));
    assert_eq!(owners(&none), [s2.clone(), s1.clone()]);
    assert!(none.panicking.contains(&name("game")));
    // Without a check they are taken to be up; a drained one gets nothing new, a heavy one more.
    let everywhere = text
        .replace("check = { kind = \"tcp\" }", "")
        .replace("pool = \"game\"\nservices", "pool = \"game\"\nspread = \"group\"\nservices")
        .replace("zone = \"az1\"\ntunnel", "zone = \"az1\"\nadmin = \"drain\"\ntunnel");
    let lowered = of(&everywhere, HealthView::default());
    let shares = shares(&lowered.image, "198.51.100.20", PROTO_UDP, 7999);
    assert_eq!(shares.keys().cloned().collect::<Vec<_>>(), [s3.clone(), s2.clone()]);
    assert!((2.9..3.1).contains(&(shares[&s3] as f64 / shares[&s2] as f64)), "{shares:?}");
    // The proxies' VIPs are what they were.
    assert!(!lowered.owners[&name("web")].contains(&name("s1")));
}

#[test]
fn flows_of_a_drained_server_stay_where_its_tunnel_has_room_for_a_second_hop() {
    let text = format!("{TEXT}{DIRECT}");
    let up = health(&["a", "b", "c", "d"], &[]);
    for (drained, held) in [("s1", true), ("s2", false)] {
        let mut balancer = Balancer { servers: servers(&["s1", "s2", "s3"], &[]), ..Balancer::new("a") };
        balancer.run(&text, &up, A_MINUTE);
        let drain =
            text.replace(&format!("[server.{drained}]"), &format!("[server.{drained}]\nadmin = \"drain\""));
        let image = balancer.run(&drain, &up, A_MINUTE).image;
        let service = image.service_at(Address::v4([198, 51, 100, 20]), PROTO_UDP, 7000).expect("service");
        let words = &image.tables[&image.services[&service].table];
        let (moved, stays) =
            words.iter().fold((0, 0), |(moved, stays), word| match Slot::unpack(*word).previous {
                0 => (moved, stays + 1),
                _ => (moved + 1, stays),
            });
        assert_eq!(moved > 0, held, "{moved} {stays}");
    }
}

#[test]
fn accepted_tunnels_have_the_kinds_of_all_prefixes_around_them() {
    let accept = r#"accept_tunnels = [
        { from = "192.0.0.0/16", kind = "ipip" }, { from = "192.0.2.0/24", kind = "gue" },
        { from = "2001:db8:1::/48", kind = "gue" },
    ]"#;
    let text = TEXT.replace("[group.edge]", &format!("[group.edge]\n{accept}"));
    let image = Balancer::new("a").run(&text, &health(&["a"], &[]), A_MINUTE).image;
    let source = |text: &str, len_bits| {
        let address = Address::from(text.parse::<std::net::IpAddr>().expect("address"));
        TunnelSource { len_bits, address }
    };
    let wanted = BTreeMap::from([
        (source("192.0.0.0", 112), ACCEPT_IPIP),
        (source("192.0.2.0", 120), ACCEPT_IPIP | ACCEPT_GUE),
        (source("2001:db8:1::", 48), ACCEPT_GUE),
    ]);
    assert_eq!(image.tunnel_sources, wanted);
    assert_eq!(image.config.tunnels, TUNNELS_OF_OTHERS);
    let ipip = TEXT.replace("address = \"10.1.1.2\"", "address = \"10.1.1.2\"\ntunnel = \"ipip\"");
    let other = Balancer::new("b").run(&ipip, &health(&["a", "b"], &[]), A_MINUTE).image;
    assert!(other.backends.values().any(|backend| backend.is_ipip()));
    let own = Balancer::new("a").run(&ipip, &health(&["a", "b"], &[]), A_MINUTE).image;
    assert_eq!(own.config.tunnels, TUNNELS_IPIP_OF_PEERS);
    assert!(!own.backends.values().any(|backend| backend.is_ipip()));
}

const CANARY: &str = r#"
[group.canary]
nodes = ["c"]
[vip.game]
addresses = ["198.51.100.77"]
group = "edge"
services = ["tcp/77", "udp/77"]
sources = [{ prefixes = ["203.0.113.0/24", "2001:db8:f::/48"], group = "canary" }]
"#;

#[test]
fn sources_have_the_table_of_their_group_and_keep_it() {
    let text =
        TEXT.replace("[node.c]\nzone = \"az1\"\n", "[node.c]\nzone = \"az1\"\naddress = \"10.1.3.2\"\n");
    let text = format!("{}{CANARY}", text.replace("\"b\", \"c\", \"d\"", "\"b\", \"d\""));
    let up = health(&["a", "b", "c"], &[]);
    let (mut balancer, image) = settled(&text, &up);
    let game = image.service_at(Address::v4([198, 51, 100, 77]), PROTO_TCP, 77).expect("a service");
    assert_eq!(image.source_tables.len(), 4, "two prefixes at two services");
    let tables: BTreeSet<u32> = image.source_tables.values().copied().collect();
    let canary = *tables.first().expect("a table");
    assert_eq!(tables.len(), 1);
    assert_ne!(canary, image.services[&game].table);
    assert_ne!(image.services[&game].flags & SERVICE_SOURCES, 0);
    let owner = |word: &u32| image.backends[&Slot::unpack(*word).owner].address;
    let c = Address::v4([10, 1, 3, 2]);
    assert!(image.tables[&canary].iter().all(|word| owner(word) == c), "only the canary serves them");
    assert!(image.tables[&image.services[&game].table].iter().all(|word| owner(word) != c));
    let chosen = |source: [u8; 4]| {
        let flow = weir_abi::flow::Flow {
            source: Address::v4(source),
            destination: Address::v4([198, 51, 100, 77]),
            source_port: [1, 2],
            destination_port: 77u16.to_be_bytes(),
            protocol: PROTO_TCP,
        };
        image.choose(game, &flow).expect("a slot").table
    };
    assert_eq!((chosen([203, 0, 113, 7]), chosen([203, 0, 114, 7])), (canary, image.services[&game].table));
    // The same again changes nothing.
    let again = balancer.run(&text, &up, Duration::ZERO).image;
    assert!(plan::diff(&image, &again).is_empty());

    // The canary serves the VIP, by the same tables, though it does not announce it.
    let snapshot = snapshot(&text);
    assert!(!snapshot.vips_of(&name("c")).any(|(vip, _)| vip.as_str() == "game"));
    let there = Balancer::new("c").run(&text, &up, Duration::ZERO).image;
    assert!(there.routes.contains(&Address::v4([198, 51, 100, 77])));
    assert_eq!(there.source_tables.len(), 4);

    // Without a proxy of the group in this zone, the others serve them.
    let elsewhere = text.replace("[node.c]\nzone = \"az1\"", "[node.c]\nzone = \"az2\"");
    let moved = balancer.run(&elsewhere, &up, Duration::from_secs(1)).image;
    assert!(moved.source_tables.is_empty());
    assert_eq!(moved.services[&game].flags & SERVICE_SOURCES, 0);
}
