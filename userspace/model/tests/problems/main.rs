//! What is wrong with a configuration: said all at once, each with its place and a hint.

mod listeners;
mod peers;
mod pools;
mod vips;

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

/// What stands in [`GOOD`], what is written instead, the field of the problem, and part of what is said.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

fn each_is_named(mistakes: &[Mistake]) {
    for (from, to, path, what) in mistakes {
        assert!(GOOD.contains(*from), "{from:?} is not in the text");
        let text = GOOD.replacen(from, to, 1);
        let found = problems(&text);
        let problem = found.iter().find(|p| p.path == *path && p.what.contains(*what));
        let problem = problem.unwrap_or_else(|| panic!("{to:?}: no {what:?} at {path}, but {found:#?}"));
        assert_eq!(problem.file, "a.toml");
        assert!(problem.line > 0, "{problem} has no line");
    }
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
    each_is_named(&[
        (
            "zone = \"az1\"\naddress = \"10.1.0.11\"",
            "zone = \"az9\"\naddress = \"10.1.0.11\"",
            "node.lb1.zone",
            "no zone \"az9\"",
        ),
        ("address = \"10.1.0.11\"", "", "node.lb1", "has no address"),
        ("address = \"10.1.0.11\"", "address = \"10.1.0.300\"", "node.lb1.address", "IPv4"),
        ("nodes = [\"lb1\"]", "nodes = [\"lb1\", \"lb1\"]", "group.edge.nodes.1", "named twice"),
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
    ]);
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
