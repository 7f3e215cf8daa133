use std::time::UNIX_EPOCH;

use weir_abi::{
    guard::LIST_DEFAULT,
    service::{SERVICE_IN_USE, SERVICE_SOURCES},
};
use weir_model::{Snapshot, SourceFile};

use super::*;
use crate::image::lower;

const TEXT: &str = r#"
[zone.az1]
[node.a]
zone = "az1"
address = "10.1.1.2"
[group.edge]
nodes = ["a"]
[vip.web]
addresses = ["198.51.100.10", "2001:db8::10"]
group = "edge"
services = ["tcp/80", "tcp/443", "udp/443"]
[vip.dns]
addresses = ["198.51.100.53"]
group = "edge"
services = ["udp/53", "tcp/53"]
syn_protection = { cookies = false }
"#;

/// 2026-01-31T12:00:00Z.
const WALL: Duration = Duration::from_secs(1_769_860_800);
const NOW: Duration = Duration::from_millis(100_500);

fn look_at(text: &str, current: &Image, later: Duration) -> Result<Lowered, LowerError> {
    let file = SourceFile { path: "test.toml".into(), text: format!("{TEXT}{text}") };
    let snapshot = Snapshot::read(&[file]).expect("valid");
    let (node, none) = ("a".parse().expect("name"), BTreeMap::new());
    let input = Lowering {
        snapshot: &snapshot,
        node: &node,
        health: &BTreeMap::new(),
        servers: &Default::default(),
        current,
        history: &BTreeMap::new(),
        now: NOW + later,
        lingering: &none,
    };
    let mut lowered = lower(input)?;
    guards(&input, UNIX_EPOCH + WALL + later, &mut lowered)?;
    Ok(lowered)
}

fn look(text: &str, current: &Image, later: Duration) -> Lowered {
    look_at(text, current, later).expect("lowered")
}

fn rule(lowered: &Lowered, scope: u32, net: &str) -> AccessRule {
    lowered.image.access[&prefix(scope, net.parse().expect("prefix"))]
}

const LISTS: &str = r#"
[access.bad-hosts]
action = "block"
entries = [
    { prefix = "203.0.113.0/24", reason = "scanner" },
    { prefix = "2001:db8:bad::/48", until = "2026-01-31T12:10:00Z" },
    { prefix = "192.0.2.0/24", until = "2026-01-31T11:00:00Z" },
]
[access.office]
action = "allow"
default = "block"
vips = ["dns"]
entries = [{ prefix = "203.0.113.128/25" }]
"#;

#[test]
fn lists_become_entries_of_their_vips() {
    let lowered = look(LISTS, &Image::default(), Duration::ZERO);
    let image = &lowered.image;
    let dns = image.service_at(Address::v4([198, 51, 100, 53]), PROTO_TCP, 53).expect("dns");
    let web = image.service_at(Address::v4([198, 51, 100, 10]), PROTO_TCP, 80).expect("web");
    let scope = image.guards[&dns].scope;
    let block = rule(&lowered, 0, "203.0.113.0/24");
    assert_eq!((block.action, block.until_s, block.len_bits), (ACCESS_BLOCK, 0, 120));
    let block6 = rule(&lowered, 0, "2001:db8:bad::/48");
    assert_eq!((block6.until_s, block6.len_bits), (701, 48), "100.5 s after the boot, and ten minutes");
    let allow = rule(&lowered, scope, "203.0.113.128/25");
    assert_eq!(allow.action, ACCESS_ALLOW);
    assert_eq!(image.access.len(), 3, "what has ended is left out");
    assert_ne!(block.list, allow.list);
    assert!(block.list >= LIST_FIRST && allow.list >= LIST_FIRST && block.list != LIST_DEFAULT);
    assert_eq!(lowered.lists[&allow.list].as_str(), "office");
    assert_eq!((image.guards[&dns].only_allowed, image.guards[&web].only_allowed), (1, 0));
    assert_eq!(image.services[&dns].flags, SERVICE_IN_USE | SERVICE_ACCESS);
    assert_eq!(image.services[&web].flags, SERVICE_IN_USE | SERVICE_SYN_COOKIES);
    assert_eq!(image.config.guarded, GUARDED_ACCESS);
    assert_eq!(lowered.wake, Some(Duration::from_secs(701)));
}

#[test]
fn nothing_is_guarded_by_default_but_against_floods() {
    let lowered = look("", &Image::default(), Duration::ZERO);
    assert_eq!(lowered.image.config.guarded, 0);
    let flags = lowered.image.services.values().fold(0, |flags, service| flags | service.flags);
    assert_eq!(flags & (SERVICE_ACCESS | SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE | SERVICE_SOURCES), 0);
    // UDP has no SYNs: dns and web together have one TCP service with cookies per port and address of web.
    assert_eq!(lowered.image.guards.len(), 4);
}

#[test]
fn the_same_lists_later_change_nothing_though_clocks_disagree_a_little() {
    let first = look(LISTS, &Image::default(), Duration::ZERO).image;
    let file = SourceFile { path: "test.toml".into(), text: format!("{TEXT}{LISTS}") };
    let snapshot = Snapshot::read(&[file]).expect("valid");
    let (node, none) = ("a".parse().expect("name"), BTreeMap::new());
    for drift_ms in [0, 700, 1_400] {
        let input = Lowering {
            snapshot: &snapshot,
            node: &node,
            health: &BTreeMap::new(),
            servers: &Default::default(),
            current: &first,
            history: &BTreeMap::new(),
            now: NOW + Duration::from_secs(60),
            lingering: &none,
        };
        let mut lowered = lower(input).expect("lowered");
        let wall = UNIX_EPOCH + WALL + Duration::from_secs(60) + Duration::from_millis(drift_ms);
        guards(&input, wall, &mut lowered).expect("guarded");
        assert_eq!(lowered.image.access, first.access, "{drift_ms} ms apart");
    }
}

#[test]
fn a_list_keeps_its_number_when_others_come_and_go() {
    let first = look(LISTS, &Image::default(), Duration::ZERO);
    let number = |lowered: &Lowered, name: &str| {
        *lowered.lists.iter().find(|(_, list)| list.as_str() == name).expect("a list").0
    };
    let before = number(&first, "office");
    let more =
        format!("{LISTS}[access.aaa]\naction = \"block\"\nentries = [{{ prefix = \"192.0.2.1/32\" }}]\n");
    let second = look(&more, &first.image, Duration::ZERO);
    assert_eq!(number(&second, "office"), before);
    assert_ne!(number(&second, "aaa"), number(&second, "bad-hosts"));
}

#[test]
fn an_entry_of_the_moment_stays_until_it_ends_and_no_longer() {
    let mut image = look("", &Image::default(), Duration::ZERO).image;
    let net: IpNet = "203.0.113.7/32".parse().expect("prefix");
    let (key, rule) = block(&image, NOW, net, Duration::from_secs(30)).expect("blocked");
    assert_eq!(super::net(&key), Some(net));
    image.access.insert(key, rule);
    let kept = look("", &image, Duration::from_secs(29));
    assert_eq!(kept.image.access.get(&key), Some(&rule));
    assert_eq!((kept.image.config.guarded, kept.wake), (GUARDED_ACCESS, Some(Duration::from_secs(131))));
    let ended = look("", &image, Duration::from_secs(31)).image;
    assert!(ended.access.is_empty());
    assert_eq!(ended.config.guarded, 0);
    assert_eq!(unblock(&image, net), Ok(key));
    assert_eq!(unblock(&ended, net), Err(AccessRefusal::Absent(net)));
}

#[test]
fn what_a_file_says_is_not_overruled_for_the_moment() {
    let image = look(LISTS, &Image::default(), Duration::ZERO).image;
    let net: IpNet = "203.0.113.0/24".parse().expect("prefix");
    assert_eq!(block(&image, NOW, net, Duration::from_secs(30)), Err(AccessRefusal::Listed(net)));
}

#[test]
fn entries_of_the_moment_are_bounded() {
    let mut image = Image::default();
    for n in 0..MOMENT_MAX as u32 {
        let net = IpNet::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 32).expect("prefix");
        let (key, rule) = block(&image, NOW, net, Duration::from_secs(30)).expect("blocked");
        image.access.insert(key, rule);
        if n == 8 {
            // Longer, not one more.
            block(&image, NOW, net, Duration::from_secs(60)).expect("blocked again");
        }
    }
    let net = "192.0.2.1/32".parse().expect("prefix");
    assert_eq!(block(&image, NOW, net, Duration::from_secs(30)), Err(AccessRefusal::Full));
}

#[test]
fn too_many_entries_are_refused() {
    let mut text = String::from("[access.all]\naction = \"block\"\nentries = [\n");
    for n in 0..=LISTED_MAX {
        let [a, b, c, d] = (0x0a00_0000 + n).to_be_bytes();
        text += &format!("{{ prefix = \"{a}.{b}.{c}.{d}/32\" }},\n");
    }
    let refused = look_at(&(text + "]\n"), &Image::default(), Duration::ZERO).expect_err("refused");
    assert_eq!(refused, LowerError::Full { what: "entries of access lists", max: LISTED_MAX });
}

#[test]
fn limits_become_intervals_of_tcp_services_only() {
    let text = r#"
[vip.game]
addresses = ["198.51.100.77"]
group = "edge"
services = ["tcp/77", "udp/77"]
new_connections_per_source = { rate = 100, burst = 200 }
syn_protection = { cookies_above = "5000/s", max = "100000/s" }
"#;
    let image = look(text, &Image::default(), Duration::ZERO).image;
    let address = Address::v4([198, 51, 100, 77]);
    let tcp = image.service_at(address, PROTO_TCP, 77).expect("tcp");
    let udp = image.service_at(address, weir_abi::service::PROTO_UDP, 77).expect("udp");
    let guard = image.guards[&tcp];
    assert_eq!((guard.source_interval_ns, guard.source_burst), (10_000_000, 200));
    assert_eq!((guard.cookie_interval_ns, guard.syn_interval_ns), (200_000, 10_000));
    assert_eq!((guard.mss4, guard.mss6), (1_460, 1_440));
    let flags = SERVICE_IN_USE | SERVICE_SOURCE_LIMIT | SERVICE_SYN_COOKIES | SERVICE_SYN_RATE;
    assert_eq!((image.services[&tcp].flags, image.services[&udp].flags & flags), (flags, SERVICE_IN_USE));
    assert_eq!(image.config.guarded, GUARDED_RATES);
}
