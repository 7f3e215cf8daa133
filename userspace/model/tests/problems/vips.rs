//! VIPs, what may come to them, and those straight at servers.

use super::{GOOD, each_is_named, problems, read};

#[test]
fn every_mistake_about_a_vip_is_named() {
    each_is_named(&[
        ("\"2001:db8::10\"", "\"198.51.100.10\"", "vip.web.addresses.1", "already an address"),
        ("\"2001:db8::10\"", "\"10.1.0.11\"", "vip.web.addresses.1", "own address of node"),
        ("\"2001:db8::10\"", "\"224.0.0.1\"", "vip.web.addresses.1", "cannot be a VIP"),
        ("\"tcp/443\"", "\"tcp/8080-8090\"", "vip.web.services.2", "overlaps"),
        ("\"tcp/443\"", "\"tcp/https\"", "vip.web.services", "not a service"),
        ("\"tcp/443\"", "\"tcp/90-80\"", "vip.web.services", "ends before it begins"),
        ("group = \"edge\"", "group = \"edgy\"", "vip.web.group", "no group \"edgy\""),
        (
            "[pool.app]",
            "[access.a]\naction = \"block\"\ndefault = \"block\"\nvips = [\"web\"]\n[pool.app]",
            "access.a.default",
            "blocks all others too",
        ),
        (
            "[pool.app]",
            "[access.a]\naction = \"allow\"\ndefault = \"block\"\n[pool.app]",
            "access.a.default",
            "close every VIP",
        ),
        (
            "[pool.app]",
            "[access.a]\naction = \"block\"\nvips = [\"wep\"]\n[pool.app]",
            "access.a.vips.0",
            "no vip \"wep\"",
        ),
        (
            "[pool.app]",
            "[access.a]\naction = \"block\"\nentries = [{ prefix = \"10.0.0.1/8\" }]\n[pool.app]",
            "access.a.entries.0",
            "bits beyond its length",
        ),
        (
            "[pool.app]",
            "[access.a]\naction = \"block\"\nentries = [{ prefix = \"::ffff:10.0.0.0/104\" }]\n[pool.app]",
            "access.a.entries.0",
            "IPv4 prefix",
        ),
        (
            "group = \"edge\"",
            "group = \"edge\"\nsources = [{ prefixes = [\"10.0.0.0/8\"], group = \"edgy\" }]",
            "vip.web.sources.0.group",
            "no group \"edgy\"",
        ),
        (
            "group = \"edge\"",
            "group = \"edge\"\nnew_connections_per_source = { rate = 0, burst = 1 }",
            "vip.web.new_connections_per_source.rate",
            "out of range",
        ),
        (
            "group = \"edge\"",
            "group = \"edge\"\nsyn_protection = { max = \"5\" }",
            "vip.web.syn_protection",
            "not a rate",
        ),
    ]);
}

/// A VIP straight at servers, and tunnels of others, that make sense.
const DIRECT: &str = r#"
[zone.az1]
[node.lb1]
zone = "az1"
address = "10.1.0.11"
tunnel = "ipip"
[group.edge]
nodes = ["lb1"]
accept_tunnels = [{ from = "192.0.2.0/24", kind = "ipip" }, { from = "192.0.2.0/24", kind = "gue" }]
[vip.dns]
addresses = ["198.51.100.53", "2001:db8::53"]
group = "edge"
pool = "dns"
services = ["udp/53", "tcp/53"]
[pool.dns]
check = { kind = "tcp" }
[server.dns1]
pools = ["dns"]
address = "10.1.1.1:53"
tunnel = "ipip"
zone = "az1"
[server.dns2]
pools = ["dns"]
address = "10.1.1.2:53"
zone = "az1"
"#;

#[test]
fn a_vip_straight_at_servers_needs_servers_that_can_be_reached_and_no_listener() {
    let snapshot = read(DIRECT).expect("no problems");
    assert_eq!(snapshot.vips["dns"].pool.as_ref().expect("pool"), "dns");
    let cases = [
        ("pool = \"dns\"\nservices", "pool = \"dnss\"\nservices", "vip.dns.pool", "no pool \"dnss\""),
        ("pools = [\"dns\"]", "pools = [\"other\"]", "vip.dns.pool", "has no servers"),
        ("address = \"10.1.0.11\"", "address6 = \"fd00::11\"", "vip.dns.pool", "node lb1 reaches no server"),
        ("group = \"edge\"", "group = \"edge\"\nhome_zone = \"az1\"", "vip.dns.home_zone", "no proxy"),
        ("10.1.1.2:53", "10.1.1.1:54", "server.dns2.address", "address of server dns1"),
        ("10.1.1.2:53", "10.1.0.11:53", "server.dns2.address", "address of node lb1"),
        ("10.1.1.2:53", "198.51.100.53:53", "server.dns2.address", "address of vip dns"),
        ("[server.dns2]", "[server.lb1]", "server.lb1", "a node lb1 too"),
        (
            "[pool.dns]",
            "[listener.l]\nprotocol = \"http\"\nvip = \"dns\"\nport = 53\npool = \"dns\"\n[pool.dns]",
            "listener.l.vip",
            "no proxy sees its packets",
        ),
        (
            "\"192.0.2.0/24\", kind = \"gue\"",
            "\"192.0.2.1/24\", kind = \"gue\"",
            "group.edge.accept_tunnels.1.from",
            "beyond",
        ),
        ("kind = \"gue\"", "kind = \"ipip\"", "group.edge.accept_tunnels.1.from", "named twice"),
    ];
    for (there, instead, path, what) in cases {
        let text = DIRECT.replace(there, instead);
        assert_ne!(text, DIRECT, "{there}");
        let text = if instead.contains("other") { format!("{text}[pool.other]\n") } else { text };
        let found = problems(&text);
        let named = found.iter().any(|problem| problem.path == path && problem.what.contains(what));
        assert!(named, "{instead}: {found:?}");
    }
}

#[test]
fn a_server_that_opens_tunnels_sees_itself_as_a_group_of_one() {
    let snapshot = read(DIRECT).expect("no problems");
    let name = |text: &str| text.parse::<weir_model::Name>().expect("name");
    let seen = snapshot.of_server(&name("dns2")).expect("server");
    assert_eq!(seen.vips_of(&name("dns2")).count(), 1);
    assert_eq!(seen.nodes.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["dns1", "dns2", "lb1"]);
    assert!(seen.vips["dns"].pool.is_none());
    assert_eq!(seen.generation, snapshot.generation);
    assert_eq!(snapshot.of_server(&name("dns3")), None);
}

#[test]
fn quic_needs_servers_with_ids_of_their_own() {
    let with = |vip: &str, nodes: &str| {
        let text = GOOD.replace("group = \"edge\"\nservices", &format!("group = \"edge\"\n{vip}\nservices"));
        text.replace("[group.edge]", &format!("{nodes}\n[group.edge]"))
    };
    let second = "[node.lb2]\nzone = \"az1\"\naddress = \"10.1.0.12\"\nquic_id = 7";
    let third = "[node.lb3]\nzone = \"az1\"\naddress = \"10.1.0.13\"\nquic_id = 7";
    let known = with("quic = true", "").replace("10.1.0.11\"", "10.1.0.11\"\nquic_id = 3");
    assert!(read(&known).is_ok(), "a node of the group has an id");
    let said = |text: &str| problems(text).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let found = said(&with("quic = true", second));
    assert!(found.contains("vip.web.quic") && found.contains("none of its servers has a quic_id"), "{found}");
    let found = said(&with("", &format!("{second}\n{third}")));
    assert!(found.contains("node.lb3.quic_id") && found.contains("already the id of node lb2"), "{found}");
    let no_udp = known.replace(", \"udp/any\"", "");
    assert!(said(&no_udp).contains("has no UDP service"));
}
