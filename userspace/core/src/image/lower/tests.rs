use weir_model::SourceFile;

use super::*;
use crate::plan;

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

fn run(text: &str, health: &BTreeMap<Name, Health>, current: &Image, settled: &[u32]) -> Lowered {
    let (snapshot, node) = (snapshot(text), name("a"));
    let settled = settled.iter().copied().collect();
    let lingering = BTreeMap::new();
    let input = Lowering {
        snapshot: &snapshot,
        node: &node,
        health,
        current,
        settled: &settled,
        lingering: &lingering,
    };
    lower(input).expect("lowered")
}

#[test]
fn a_vip_taken_from_this_node_lingers_with_its_old_flows() {
    let up = health(&["a", "b", "c"], &[]);
    let before = run(TEXT, &up, &Image::default(), &[]).image;
    let (left, node) = (snapshot(&TEXT.replace("nodes = [\"a\", ", "nodes = [")), name("a"));
    let lingering = snapshot(TEXT).vips;
    let input = Lowering {
        snapshot: &left,
        node: &node,
        health: &up,
        current: &before,
        settled: &BTreeSet::new(),
        lingering: &lingering,
    };
    let image = lower(input).expect("lowered").image;
    let a = slot_of(&before, "10.1.1.2");
    for (old, new) in slots(&before).iter().zip(slots(&image)) {
        assert!(new.owner != 0 && new.owner != a);
        assert_eq!(new.previous == a, old.owner == a);
    }
    let gone =
        lower(Lowering { current: &image, lingering: &BTreeMap::new(), ..input }).expect("lowered").image;
    assert!(
        gone.vips.is_empty() && gone.ranges.is_empty() && gone.routes.is_empty() && gone.tables.is_empty()
    );
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
    let lowered = run(TEXT, &up, &Image::default(), &[]);
    let image = &lowered.image;
    assert_eq!(image.tables.len(), 1);
    assert_eq!(image.backends.len(), 3, "d stands in another zone");
    assert_eq!(image.backends[&slot_of(image, "10.1.1.2")].kind, KIND_LOCAL);
    assert_eq!(image.backends[&slot_of(image, "10.1.2.2")].kind, KIND_GUE4);
    assert_eq!(image.backends[&slot_of(image, "fd00:1:3::2")].kind, KIND_GUE6);
    assert_eq!(image.services.len(), 3 * 2 + 2);
    assert!(slots(image).iter().all(|slot| slot.owner != 0 && slot.previous == 0));
    let vip = Address::v4([198, 51, 100, 10]);
    assert!(image.service_at(vip, PROTO_TCP, 443).is_some());
    assert!(image.service_at(vip, PROTO_UDP, 1500).is_some());
    assert_eq!(image.service_at(vip, PROTO_UDP, 999), None);
    assert!(image.service_at(Address::v4([198, 51, 100, 53]), PROTO_TCP, 65535).is_some());
}

#[test]
fn udp_fragments_of_an_address_are_given_to_its_first_udp_service() {
    let image = run(TEXT, &health(&["a", "b", "c"], &[]), &Image::default(), &[]).image;
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
    let first = run(TEXT, &up, &Image::default(), &[]).image;
    let second = run(TEXT, &up, &first, &[]).image;
    assert_eq!(plan::diff(&first, &second), vec![]);
}

#[test]
fn a_drained_proxy_stays_behind_the_new_owners_until_settled() {
    let up = health(&["a", "b", "c"], &[]);
    let before = run(TEXT, &up, &Image::default(), &[]).image;
    let drained = TEXT.replace("address = \"10.1.2.2\"", "address = \"10.1.2.2\"\nadmin = \"drain\"");
    let after = run(&drained, &up, &before, &[]).image;
    let b = slot_of(&before, "10.1.2.2");
    for (old, new) in slots(&before).iter().zip(slots(&after)) {
        assert_ne!(new.owner, b);
        if old.owner == b {
            assert_eq!(new.previous, b, "the drained proxy keeps its flows");
        } else if old.owner == new.owner {
            assert_eq!(new.previous, 0, "an untouched slot needs no second hop");
        } else {
            assert_eq!(new.previous, old.owner);
        }
    }
    let table = *after.tables.keys().next().expect("a table");
    let settled = run(&drained, &up, &after, &[table]).image;
    assert!(slots(&settled).iter().all(|slot| slot.previous == 0));
    // Back again: its flows elsewhere are kept, those that never left it are at home at once.
    let back = run(TEXT, &up, &after, &[]).image;
    for ((old, mid), new) in slots(&before).iter().zip(slots(&after)).zip(slots(&back)) {
        assert_eq!(new.owner, old.owner);
        assert_eq!(new.previous, if mid.owner == new.owner { mid.previous } else { mid.owner });
    }
}

#[test]
fn a_dead_proxy_is_neither_owner_nor_second_hop() {
    let before = run(TEXT, &health(&["a", "b", "c"], &[]), &Image::default(), &[]).image;
    let after = run(TEXT, &health(&["a", "c"], &["b"]), &before, &[]);
    let b = slot_of(&before, "10.1.2.2");
    assert!(slots(&after.image).iter().all(|slot| slot.owner != b && slot.previous != b));
    assert!(after.panicking.is_empty());
}

#[test]
fn when_every_proxy_looks_dead_all_are_used() {
    let before = run(TEXT, &health(&["a", "b", "c"], &[]), &Image::default(), &[]).image;
    let after = run(TEXT, &health(&[], &["a", "b", "c"]), &before, &[]);
    assert_eq!(after.panicking.len(), 2);
    assert_eq!(
        slots(&after.image).iter().map(|s| s.owner).collect::<Vec<_>>(),
        slots(&before).iter().map(|s| s.owner).collect::<Vec<_>>()
    );
}

#[test]
fn a_vip_that_goes_leaves_the_numbers_of_the_others() {
    let up = health(&["a", "b", "c"], &[]);
    let before = run(TEXT, &up, &Image::default(), &[]).image;
    let text = TEXT.split("[vip.dns]").next().expect("first part");
    let after = run(text, &up, &before, &[]).image;
    let ops = plan::diff(&before, &after);
    assert!(
        ops.iter().all(|op| matches!(
            op,
            plan::Op::DeleteVip(_)
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
    text += "[vip.web]\ngroup = \"edge\"\naddresses = [\"198.51.100.10\"]\nservices = [";
    text.extend((1..=SERVICES_MAX + 1).map(|port| format!("\"tcp/{port}\",")));
    text += "]\n";
    let (snapshot, node, health) = (snapshot(&text), name("a"), health(&["a"], &[]));
    let (current, settled) = (Image::default(), BTreeSet::new());
    let input = Lowering {
        snapshot: &snapshot,
        node: &node,
        health: &health,
        current: &current,
        settled: &settled,
        lingering: &BTreeMap::new(),
    };
    assert!(matches!(lower(input), Err(LowerError::Full { what: "services", .. })));
}
