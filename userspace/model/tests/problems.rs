//! What is wrong with a configuration: said all at once, each with its place and a hint.

use std::time::Duration;

use weir_model::{Problem, Snapshot, SourceFile};

/// A small configuration that makes sense.
const GOOD: &str = r#"
[zone.az1]
client_prefixes = ["10.1.0.0/16"]
[zone.az2]
[node.lb1]
zone = "az1"
address = "10.1.0.11"
[group.edge]
nodes = ["lb1"]
[vip.web]
addresses = ["198.51.100.10", "2001:db8::10"]
group = "edge"
services = ["tcp/80", "tcp/443", "tcp/8000-8099", "udp/any"]
[pool.app]
check = { kind = "http", path = "/healthz" }
[server.app1]
pools = ["app"]
address = "10.1.1.1:8080"
zone = "az1"
[listener.web]
protocol = "http"
vip = "web"
port = 80
pool = "app"
[peer.tor]
node = "lb1"
address = "10.1.0.1"
asn = 65001
local_asn = 65100
[failover.f1]
zone = "az1"
created = "2026-01-01T00:00:00Z"
expires = "2026-01-01T01:00:00Z"
"#;

fn read(text: &str) -> Result<Snapshot, Vec<Problem>> {
    Snapshot::read(&[SourceFile { path: "a.toml".into(), text: text.into() }]).map_err(|problems| problems.0)
}

fn problems(text: &str) -> Vec<Problem> {
    read(text).expect_err("this configuration is wrong")
}

#[test]
fn bfd_needs_no_more_than_to_be_asked_for() {
    let text = |bfd: &str| GOOD.replacen("asn = 65001\n", &format!("asn = 65001\nbfd = {bfd}\n"), 1);
    assert_eq!(read(GOOD).expect("no problems").peers["tor"].bfd, None);
    let bfd = read(&text("{}")).expect("no problems").peers["tor"].bfd.clone().expect("bfd");
    assert_eq!((bfd.interval, bfd.receive_interval, bfd.multiplier), (Duration::from_millis(50), None, 3));
    assert!(!bfd.multihop && !bfd.passive && !bfd.strict);
    let all = "{ interval = \"10ms\", receive_interval = \"20ms\", multiplier = 5, multihop = true, \
               minimum_ttl = 250, passive = true, strict = true }";
    let bfd = read(&text(all)).expect("no problems").peers["tor"].bfd.clone().expect("bfd");
    assert_eq!((bfd.receive_interval, bfd.minimum_ttl), (Some(Duration::from_millis(20)), Some(250)));
    assert!(bfd.multihop && bfd.passive && bfd.strict);
}

#[test]
fn a_configuration_that_makes_sense_is_read_whole() {
    let snapshot = read(GOOD).expect("no problems");
    assert_eq!(snapshot.vips["web"].services.len(), 4);
    assert_eq!(snapshot.servers.len(), 1);
    assert_eq!(
        snapshot.generation,
        read(GOOD).expect("no problems").generation,
        "equal text, equal generation"
    );
    assert_ne!(snapshot.generation, read(&format!("{GOOD}\n")).expect("no problems").generation);
}

#[test]
fn every_mistake_is_named_with_its_field_and_line() {
    // (what stands there, what is written instead, field of the problem, part of what is said)
    let cases = [
        (
            "zone = \"az1\"\naddress = \"10.1.0.11\"",
            "zone = \"az9\"\naddress = \"10.1.0.11\"",
            "node.lb1.zone",
            "no zone \"az9\"",
        ),
        ("address = \"10.1.0.11\"", "", "node.lb1", "has no address"),
        ("address = \"10.1.0.11\"", "address = \"10.1.0.300\"", "node.lb1.address", "IPv4"),
        ("nodes = [\"lb1\"]", "nodes = [\"lb1\", \"lb1\"]", "group.edge.nodes.1", "named twice"),
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
        ("port = 80", "port = 81", "listener.web.port", "does not serve tcp/81"),
        ("port = 80", "port = 80\nbind = \"127.0.0.1:80\"", "listener.web", "either vip and port, or bind"),
        ("protocol = \"http\"", "protocol = \"https\"", "listener.web.tls", "needs a certificate"),
        ("protocol = \"http\"", "protocol = \"gopher\"", "listener.web.protocol", "gopher"),
        ("port = 80", "port = 80\nrequest_id = \"maybe\"", "listener.web.request_id", "maybe"),
        (
            "protocol = \"http\"",
            "protocol = \"tcp\"\nrequest_id = \"make\"",
            "listener.web.request_id",
            "no requests to name",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"tcp\"\ntrace = \"make\"",
            "listener.web.trace",
            "no requests to trace",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"tls-passthrough\"\ntls.directory = \"certs\"",
            "listener.web.tls",
            "does not terminate TLS",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"tls-passthrough\"\nroutes = [{ path = \"/a\", pool = \"app\" }]",
            "listener.web.routes.0.path",
            "paths are encrypted",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"https\"\ntls.directory = \"c\"\nroutes = [{ pool = \"app\", client_certificate = true }]",
            "listener.web.routes.0.client_certificate",
            "no certificates of clients",
        ),
        (
            "protocol = \"http\"",
            "protocol = \"https\"\ntls.directory = \"c\"\ntls.min_version = \"1.1\"",
            "listener.web.tls.min_version",
            "1.1",
        ),
        ("path = \"/healthz\"", "path = \"healthz\"", "pool.app.check.path", "not a path"),
        ("path = \"/healthz\"", "via = \"tunnel\"", "pool.app.check.via", "no vip points straight at"),
        ("path = \"/healthz\"", "interval = \"5\"", "pool.app.check", "no unit"),
        ("path = \"/healthz\"", "interval = \"1ms\"", "pool.app.check.interval", "out of range"),
        ("[pool.app]", "[pool.app]\noverprovision = \"50%\"", "pool.app.overprovision", "out of range"),
        ("[pool.app]", "[pool.app]\nretires = 3", "pool.app.retires", "unknown field"),
        (
            "[pool.app]",
            "[pool.app]\nsticky = { cookie = \"a b\", key = \"short\" }",
            "pool.app.sticky.cookie",
            "cookie name",
        ),
        (
            "address = \"10.1.1.1:8080\"",
            "address = \"10.1.1.1:0\"",
            "server.app1.address",
            "cannot be connected to",
        ),
        (
            "address = \"10.1.1.1:8080\"",
            "address = \"app1.example.org:80\"",
            "server.app1.address",
            "socket address",
        ),
        ("pools = [\"app\"]", "pools = []", "server.app1.pools", "no pool"),
        ("asn = 65001\n", "asn = 0\n", "peer.tor.asn", "out of range"),
        ("asn = 65001\n", "asn = 65001\nhold_time = \"1s\"\n", "peer.tor.hold_time", "not a hold time"),
        (
            "asn = 65001\n",
            "asn = 65001\ncommunities = [\"x\"]\n",
            "peer.tor.communities.0",
            "not a community",
        ),
        ("asn = 65001\n", "asn = 65001\ninterface = \"eth0\"\n", "peer.tor.interface", "link-local session"),
        ("\"10.1.0.1\"\n", "\"fe80::1\"\n", "peer.tor.interface", "needs an interface"),
        ("address = \"10.1.0.1\"\n", "", "peer.tor", "no address"),
        ("\"10.1.0.1\"\n", "\"10.1.0.1/24\"\n", "peer.tor.address", "bits beyond"),
        ("\"10.1.0.1\"\n", "\"tor1\"\n", "peer.tor.address", "not an address or a prefix"),
        ("asn = 65001\n", "asn = 65001\nttl_security = 255\n", "peer.tor.ttl_security", "out of range"),
        ("asn = 65001\n", "asn = 65001\nttl_security = \"on\"\n", "peer.tor.ttl_security", "true, false or"),
        (
            "asn = 65001\n",
            "asn = 65001\nttl_security = true\nmultihop = 2\n",
            "peer.tor.multihop",
            "together with ttl_security",
        ),
        ("asn = 65001\n", "asn = 65001\npassword = \"\"\n", "peer.tor.password", "out of range"),
        ("asn = 65001\n", "asn = 65001\npassword = 1234\n", "peer.tor.password", "a secret is a text"),
        (
            "asn = 65001\n",
            "asn = 65001\npassword = \"x\"\npassword_file = \"/x\"\n",
            "peer.tor.password_file",
            "as well",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nsend_hold_time = \"5s\"\n",
            "peer.tor.send_hold_time",
            "not longer than the hold time",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\ngraceful_restart = { time = \"2h\" }\n",
            "peer.tor.graceful_restart.time",
            "not a restart time",
        ),
        ("asn = 65001\n", "asn = 65001\nrole = \"boss\"\n", "peer.tor.role", "unknown variant"),
        ("asn = 65001\n", "asn = 65001\nrole_strict = true\n", "peer.tor.role_strict", "no role"),
        ("asn = 65001\n", "asn = 65100\nrole = \"customer\"\n", "peer.tor.role", "inside an AS"),
        ("asn = 65001\n", "asn = 65001\nmax_routes = 0\n", "peer.tor.max_routes", "out of range"),
        (
            "asn = 65001\n",
            "asn = 65001\nmax_prefixes_received = 0\n",
            "peer.tor.max_prefixes_received",
            "out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\ncommunities = [\"1:2:3:4\"]\n",
            "peer.tor.communities.0",
            "not a community",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { interval = \"9ms\" }\n",
            "peer.tor.bfd.interval",
            "9ms is out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { receive_interval = \"2m\" }\n",
            "peer.tor.bfd.receive_interval",
            "2m is out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { multiplier = 0 }\n",
            "peer.tor.bfd.multiplier",
            "out of range",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { interval = \"10ms\", multiplier = 2 }\n",
            "peer.tor.bfd.multiplier",
            "20ms of silence",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { minimum_ttl = 250 }\n",
            "peer.tor.bfd.minimum_ttl",
            "always heard with 255",
        ),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = { multihop = true, minimum_ttl = 0 }\n",
            "peer.tor.bfd.minimum_ttl",
            "out of range",
        ),
        ("asn = 65001\n", "asn = 65001\nbfd = { intervall = \"50ms\" }\n", "peer.tor.bfd", "unknown field"),
        (
            "asn = 65001\n",
            "asn = 65001\nbfd = {}\nlocal_asn = 65100\n[peer.tor2]\nnode = \"lb1\"\naddress = \"10.1.0.1\"\nport = 180\n\
             asn = 65001\nlocal_asn = 65100\nbfd = {}\n[peer.tor3]\nnode = \"lb1\"\naddress = \"10.1.0.3\"\nasn = 65001\n",
            "peer.tor2.bfd",
            "already",
        ),
        (
            "expires = \"2026-01-01T01",
            "expires = \"2025-01-01T01",
            "failover.f1.expires",
            "not after created",
        ),
        ("expires = \"2026-01-01T01:00:00Z\"", "expires = \"tomorrow\"", "failover.f1.expires", "not a time"),
        ("[failover.f1]", "[failover.f1]\npercent = \"101%\"", "failover.f1.percent", "more than 100%"),
        ("[failover.f1]", "[failover.f1]\npercent = 50", "failover.f1.percent", "expected a string"),
        (
            "client_prefixes = [\"10.1.0.0/16\"]",
            "client_prefixes = [\"10.1.2.3/16\"]",
            "zone.az1.client_prefixes.0",
            "beyond its length",
        ),
        (
            "[zone.az2]",
            "[zone.az2]\nclient_prefixes = [\"10.1.0.0/16\"]",
            "zone.az2.client_prefixes.0",
            "already a prefix",
        ),
        ("[zone.az2]", "[zone.az2]\ndistance = { az3 = 1 }", "zone.az2.distance.az3", "no zone"),
        ("[zone.az2]", "[zone.AZ2]", "zone.AZ2", "not 1 to 63"),
        ("[zone.az2]", "[zona.az2]", "zona", "unknown kind"),
    ];
    for (from, to, path, what) in cases {
        assert!(GOOD.contains(from), "{from:?} is not in the text");
        let text = GOOD.replacen(from, to, 1);
        let found = problems(&text);
        let problem = found.iter().find(|p| p.path == path && p.what.contains(what));
        let problem = problem.unwrap_or_else(|| panic!("{to:?}: no {what:?} at {path}, but {found:#?}"));
        assert_eq!(problem.file, "a.toml");
        assert!(problem.line > 0, "{problem} has no line");
    }
}

#[test]
fn all_problems_of_all_files_are_reported_at_once() {
    let files = [
        SourceFile {
            path: "a.toml".into(),
            text: "[node.a]\nzone = \"az1\"\n\n[group.g]\nnodes = [\"b\"]\n".into(),
        },
        SourceFile { path: "b.toml".into(), text: "[zone.az1]\nspill_weight = 0\n[vip.v]\n".into() },
        SourceFile { path: "c.toml".into(), text: "[zone.az1]\n[broken\nx = [1,\n".into() },
    ];
    let found = Snapshot::read(&files).expect_err("wrong").0;
    for (file, path) in [
        ("a.toml", "node.a"),
        ("a.toml", "group.g.nodes.0"),
        ("b.toml", "zone.az1.spill_weight"),
        ("b.toml", "vip.v"),
        ("c.toml", ""),
    ] {
        assert!(
            found.iter().any(|p| p.file == file && p.path == path),
            "nothing about {file} {path:?}: {found:#?}"
        );
    }
}

#[test]
fn a_misspelt_name_is_answered_with_the_one_that_was_meant() {
    let found = problems(&GOOD.replace("group = \"edge\"", "group = \"egde\""));
    assert!(found.iter().any(|problem| problem.hint.contains("\"edge\"")), "{found:#?}");
}

#[test]
fn text_cut_anywhere_is_read_or_refused_and_never_a_panic() {
    for end in 0..GOOD.len() {
        if let Err(found) = read(&GOOD[..end]) {
            assert!(!found.is_empty());
        }
    }
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

#[test]
fn a_pool_says_how_it_balances_ejects_and_checks_or_what_is_wrong_with_it() {
    let text = |pool: &str, check: &str| {
        GOOD.replacen("[pool.app]", &format!("[pool.app]\n{pool}"), 1).replacen(
            "path = \"/healthz\"",
            &format!("path = \"/healthz\"{check}"),
            1,
        )
    };
    let good = read(&text(
        "balance = \"hash\"\nhash_on = \"header:x-user\"\nbounded_load = \"125%\"\nslow_start = \"30s\"\n\
         eject = { success_rate = \"90%\" }\nbreaker = { consecutive = 20 }\nretry_budget = {}",
        ", version = \"1.0\", method = \"HEAD\", expect = [[200, 299], [404, 404]], headers = { X-Key = \"a b\" }, \
         fast_interval = \"100ms\", and = [{ kind = \"tls\", port = 443, tls = { name = \"a.example\" } }, \
         { kind = \"agent\", port = 99 }]",
    ));
    let snapshot = good.expect("no problems");
    let pool = &snapshot.pools["app"];
    assert_eq!(pool.hash_on.as_ref().map(ToString::to_string).as_deref(), Some("header:x-user"));
    let check = pool.check.as_ref().expect("check");
    assert_eq!(check.steps().count(), 3);
    assert!(check.expect.contains(404) && !check.expect.contains(301));
    let eject = pool.eject.as_ref().expect("eject");
    assert_eq!(
        (eject.consecutive, eject.time, eject.max_ejected.to_string().as_str()),
        (5, Duration::from_secs(10), "50%")
    );

    let cases = [
        ("balance = \"hash\"", "", "hash_on", "needs something to go by"),
        ("hash_on = \"path\"", "", "hash_on", "only balance"),
        ("balance = \"hash\"\nhash_on = \"heder:x\"", "", "hash_on", "nothing to hash by"),
        ("balance = \"hash\"\nhash_on = \"cookie:a b\"", "", "hash_on", "not the name of a cookie"),
        ("bounded_load = \"125%\"", "", "bounded_load", "have a bound"),
        ("balance = \"source\"\nbounded_load = \"100%\"", "", "bounded_load", "out of range"),
        ("protocol = \"h2\"", "", "protocol", "over TLS"),
        ("protocol = \"h2c\"\ntls = { verify = false }", "", "protocol", "without TLS"),
        ("protocol = \"h3\"", "", "protocol", "unknown variant"),
        ("tls = {}", "", "tls.ca", "without authorities"),
        ("tls = { ca = \"a.pem\", verify = false }", "", "tls.ca", "not looked at"),
        ("tls = { ca = \"a.pem\", key = \"a.key\" }", "", "tls.certificate", "belong together"),
        ("tls = { ca = \"a.pem\", name = \"a b\" }", "", "tls.name", "not a name"),
        ("random_of = 0", "", "random_of", "out of range"),
        ("slow_start = \"1ms\"", "", "slow_start", "out of range"),
        ("eject = { consecutive = 0 }", "", "eject", "neither"),
        ("eject = { max_time = \"1s\" }", "", "eject.max_time", "out of range"),
        ("eject = { max_ejected = \"101%\" }", "", "eject.max_ejected", "out of range"),
        ("breaker = { consecutive = 0 }", "", "breaker.consecutive", "out of range"),
        ("breaker = {}", "", "breaker", "missing field"),
        ("retry_budget = { share = \"2000%\" }", "", "retry_budget.share", "out of range"),
        ("", ", expect = [[200, 299], [300, 200]]", "check.expect", "not a range"),
        ("", ", expect = 200", "check", "first and last status code"),
        ("", ", method = \"G T\"", "check.method", "not a method"),
        ("", ", method = \"HEAD\", body_contains = \"x\"", "check.method", "no body"),
        ("", ", body_matches = \"(\"", "check", "not a regular expression: unclosed group"),
        ("", ", version = \"2\"", "check", "unknown variant"),
        ("", ", headers = { Host = \"a\" }", "check.headers", "set by the check itself"),
        ("", ", headers = { x = \"a\\r\\nb: c\" }", "check.headers", "cannot be sent"),
        ("", ", tls = {}", "check.tls", "no TLS"),
        ("", ", fast_interval = \"1ms\"", "check.fast_interval", "out of range"),
        ("", ", and = [{ kind = \"agent\" }]", "check.and.0.port", "port of its own"),
        ("", ", and = [{ kind = \"tcp\", port = 1, rise = 7 }]", "check.and.0", "timing of its own"),
        ("", ", and = [{ kind = \"tcp\", method = \"PUT\" }]", "check.and.0", "none is made"),
        ("", ", and = [{ kind = \"tcp\", and = [{ kind = \"tcp\" }] }]", "check.and.0.and", "nested"),
    ];
    for (pool, check, path, what) in cases {
        let found = problems(&text(pool, check));
        let wanted = |p: &Problem| {
            p.path.starts_with(&format!("pool.app.{path}")) && p.what.contains(what) && p.line > 0
        };
        assert!(found.iter().any(wanted), "{pool}{check}: {found:#?}");
    }
}

#[test]
fn who_speaks_for_clients_and_how_servers_are_connected_to_is_said_or_what_is_wrong_with_it() {
    let text = |listener: &str, pool: &str| {
        let listener = format!("[listener.web]\n{listener}");
        GOOD.replacen("[listener.web]", &listener, 1).replacen(
            "[pool.app]",
            &format!("[pool.app]\n{pool}"),
            1,
        )
    };
    let good = read(&text(
        "proxy_protocol_from = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nidle_timeout = \"1h\"\nhalf_closed_timeout = \"30s\"",
        "send_proxy = \"v2\"\nsource = \"client\"\ntcp = { fast_open = true, user_timeout = \"3s\" }",
    ));
    let snapshot = good.expect("no problems");
    assert!(snapshot.pools["app"].dials_for_one_client());
    let cases = [
        (
            "proxy_protocol_from = [\"10.0.0.1/8\"]",
            "",
            "listener.web.proxy_protocol_from.0",
            "beyond its length",
        ),
        ("proxy_protocol_from = [\"all\"]", "", "listener.web", "invalid IP address"),
        ("idle_timeout = \"8d\"", "", "listener.web.idle_timeout", "out of range"),
        ("half_closed_timeout = \"1ms\"", "", "listener.web.half_closed_timeout", "out of range"),
        ("", "send_proxy = \"v3\"", "pool.app", "unknown variant"),
        ("", "source = \"everybody\"", "pool.app", "neither"),
        ("", "source = \"0.0.0.0\"", "pool.app.source", "nothing can come from"),
        ("", "tcp = { keep_alive = \"1ms\" }", "pool.app.tcp.keep_alive", "out of range"),
        ("", "tcp = { user_timeout = \"2h\" }", "pool.app.tcp.user_timeout", "out of range"),
        ("", "tcp = { nodelay = true }", "pool.app.tcp", "unknown field"),
        ("", "protocol = \"h2c\"\nsend_proxy = \"v2\"", "pool.app.protocol", "are shared by clients"),
    ];
    for (listener, pool, path, what) in cases {
        let found = problems(&text(listener, pool));
        let wanted = |p: &Problem| p.path.starts_with(path) && p.what.contains(what) && p.line > 0;
        assert!(found.iter().any(wanted), "{listener}{pool}: {found:#?}");
    }
}

#[test]
fn a_listener_that_passes_bytes_on_needs_a_pool_that_is_spoken_to_in_the_clear() {
    let text = GOOD.replacen("[pool.app]\n", "[pool.app]\ntls = { ca = \"ca.pem\" }\n", 1);
    assert!(read(&text).is_ok());
    let tcp = text.replacen("protocol = \"http\"", "protocol = \"tcp\"", 1);
    let found = problems(&tcp);
    assert!(found.iter().any(|p| p.path == "listener.web.pool" && p.line > 0), "{found:#?}");
}
