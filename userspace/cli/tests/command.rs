//! The command as its users run it: arguments in, text, files and exit status out.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;
use weir_model::status::{
    AgreedStatus, AnnounceStatus, BfdStatus, BgpStatus, Health, L4Status, PeerStatus, PoolStatus,
    ProxyStatus, RouteStatus, ServerStatus, Tier,
};

const CONFIG: &str = r#"
[zone.az1]
site = "north"
client_prefixes = ["10.1.0.0/16"]
[zone.az2]
[zone.az3]
[node.lb1]
zone = "az1"
address = "192.0.2.11"
[group.edge]
nodes = ["lb1"]
[vip.web]
addresses = ["203.0.113.10", "2001:db8::10"]
group = "edge"
services = ["tcp/80", "udp/53"]
[listener.web]
protocol = "http"
vip = "web"
port = 80
routes = [{ hosts = ["www.example.org"], path = "/", pool = "app" }]
[pool.app]
overprovision = "150%"
check = { kind = "tcp" }
[server.s1]
pools = ["app"]
address = "192.0.2.101:8080"
zone = "az1"
[server.s2]
pools = ["app"]
address = "192.0.2.102:8080"
zone = "az2"
[server.s3]
pools = ["app"]
address = "192.0.2.103:8080"
zone = "az3"
"#;

fn config() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("weir.toml"), CONFIG).unwrap();
    dir
}

fn weir(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .env("USER", "mia")
        .env_remove("WEIR_RUN_DIR")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ok(arguments: &[&str]) -> String {
    let output = weir(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(arguments: &[&str]) -> String {
    let output = weir(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(&[arguments, &["-o", "json"]].concat())).unwrap()
}

fn path(dir: &TempDir) -> &str {
    dir.path().to_str().unwrap()
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A daemon that answers every request with one status, for as long as the test runs.
fn daemon(run_dir: &Path, socket: &str, status: &impl serde::Serialize) {
    let listener = UnixListener::bind(run_dir.join(socket)).unwrap();
    let body = serde_json::to_string(status).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
}

fn proxy(dead: &[&str]) -> ProxyStatus {
    let server = |name: &str| {
        let health = if dead.contains(&name) { Health::Down } else { Health::Up };
        (name.parse().unwrap(), ServerStatus { health, ..ServerStatus::default() })
    };
    let pool = PoolStatus { servers: ["s1", "s2", "s3"].map(server).into(), ..PoolStatus::default() };
    ProxyStatus {
        node: "lb1".into(),
        zone: "az1".into(),
        pools: [("app".parse().unwrap(), pool)].into(),
        ..ProxyStatus::default()
    }
}

#[test]
fn lint_is_silent_about_a_good_directory_and_names_every_problem_of_a_bad_one() {
    let dir = config();
    assert!(ok(&["lint", path(&dir)]).contains("11 objects in 1 file, no problems"));

    let bad = r#"
[listener.tls]
protocol = "https"
bind = "127.0.0.1:8443"
pool = "ap"
tls = { certificates = [
  { certificate = "missing.pem", key = "weir.toml" },
] }
[pool.slow]
queue_timeout = "5"
"#;
    fs::write(dir.path().join("bad.toml"), bad).unwrap();
    let output = refused(&["lint", path(&dir)]);
    for expected in [
        "bad.toml:5: listener.tls.pool: there is no pool \"ap\" (did you mean \"app\"?)",
        "bad.toml:7: listener.tls.tls.certificates.0.certificate: missing.pem: cannot be read",
        "bad.toml:7: listener.tls.tls.certificates.0.key: weir.toml: has no \"-----BEGIN",
        "bad.toml:10: pool.slow.queue_timeout: duration \"5\" has no unit",
        "4 problems",
    ] {
        assert!(output.contains(expected), "{expected} is not in:\n{output}");
    }
    let report = weir(&["lint", path(&dir), "-o", "json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), 4);
    assert_eq!(report["problems"][0]["line"], 5);
}

#[test]
fn lint_survives_damaged_files_and_missing_directories() {
    let dir = config();
    fs::write(dir.path().join("damaged.toml"), [0xff, 0xfe, 0, b'[']).unwrap();
    assert!(refused(&["lint", path(&dir)]).contains("damaged.toml: is not UTF-8"));
    fs::write(dir.path().join("damaged.toml"), "[zone.az9\n\u{1b}[31m = = =\n").unwrap();
    let output = refused(&["lint", path(&dir)]);
    assert!(output.contains("damaged.toml:") && !output.contains('\u{1b}'), "{output}");
    assert!(refused(&["lint", "/nonexistent/weir"]).contains("cannot be read"));
}

#[test]
fn a_zone_is_failed_by_a_file_and_restored_by_its_removal() {
    let dir = config();
    let before = json(&["zone", "status", path(&dir)]);
    assert_eq!(before["pools"]["app"]["az1"]["load"], 1.0);

    let output = ok(&["zone", "fail", path(&dir), "az1", "--for", "30m", "--reason", "fire drill"]);
    assert!(output.contains(&format!("undo: weir zone restore {} az1", path(&dir))), "{output}");
    assert_eq!(names(&dir), ["failover-az1.toml", "weir.toml"]);
    ok(&["lint", path(&dir)]);
    let during = json(&["zone", "status", path(&dir)]);
    assert_eq!(during["pools"]["app"]["az1"]["load"], 0.0);
    assert_eq!(during["pools"]["app"]["az2"]["load"], 1.5);
    assert_eq!(during["failovers"]["az1"]["author"], "mia");
    assert_eq!(during["failovers"]["az1"]["reason"], "fire drill");
    assert_eq!(during["failovers"]["az1"]["active"], true);
    assert!(ok(&["zone", "status", path(&dir)]).contains("fire drill"));

    // Once more is an update, not a second failover.
    ok(&["zone", "fail", path(&dir), "az1", "--percent", "10%"]);
    assert_eq!(json(&["zone", "status", path(&dir)])["failovers"]["az1"]["percent"], "10%");

    assert!(ok(&["zone", "restore", path(&dir), "az1", "--dry-run"]).contains("would end failover az1"));
    assert_eq!(names(&dir).len(), 2);
    assert!(ok(&["zone", "restore", path(&dir), "az1"]).contains("ended failover az1"));
    assert_eq!(names(&dir), ["weir.toml"]);
    assert_eq!(json(&["zone", "status", path(&dir)]), before);
    assert!(ok(&["zone", "restore", path(&dir), "az1"]).contains("no failover to end"));
}

#[test]
fn a_failover_beyond_capacity_needs_force() {
    let dir = config();
    ok(&["zone", "fail", path(&dir), "az1"]);
    // Two thirds of the capacity are not enough for everything.
    let output = refused(&["zone", "fail", path(&dir), "az2"]);
    assert!(
        output.contains("zone az3 would carry 3.00 of its own traffic, its capacity is 1.50"),
        "{output}"
    );
    assert!(output.contains("--force"));
    assert_eq!(names(&dir), ["failover-az1.toml", "weir.toml"]);
    refused(&["zone", "fail", path(&dir), "az2", "--dry-run"]);
    ok(&["zone", "fail", path(&dir), "az2", "--force"]);
    assert_eq!(names(&dir), ["failover-az1.toml", "failover-az2.toml", "weir.toml"]);
}

#[test]
fn a_source_is_blocked_shown_and_let_in_again_by_files() {
    let dir = config();
    ok(&[
        "access",
        "block",
        path(&dir),
        "203.0.113.0/24",
        "--for",
        "10m",
        "--reason",
        "scanner",
        "--author",
        "me",
    ]);
    ok(&["access", "allow", path(&dir), "203.0.113.7", "--vip", "web"]);
    let expected = ["access-at-203-0-113-0-24.toml", "access-at-203-0-113-7-32-web.toml", "weir.toml"];
    assert_eq!(names(&dir), expected);
    let rows = json(&["access", "list", path(&dir)]);
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!((&rows[0]["prefix"], &rows[0]["action"]), (&"203.0.113.0/24".into(), &"block".into()));
    assert_eq!((&rows[0]["author"], &rows[0]["reason"]), (&"me".into(), &"scanner".into()));
    assert!(rows[0]["until"].is_string());
    assert_eq!((&rows[1]["prefix"], &rows[1]["vips"][0]), (&"203.0.113.7/32".into(), &"web".into()));
    assert!(rows[1]["until"].is_null());
    ok(&["lint", path(&dir)]);

    // Again is longer, not one more; somewhere else it is another entry.
    ok(&["access", "block", path(&dir), "203.0.113.0/24", "--for", "1h"]);
    assert_eq!(names(&dir), expected);
    ok(&["access", "remove", path(&dir), "203.0.113.7", "--vip", "web"]);
    ok(&["access", "remove", path(&dir), "203.0.113.0/24"]);
    assert_eq!(names(&dir), ["weir.toml"]);
    assert!(!weir(&["access", "remove", path(&dir), "203.0.113.0/24"]).status.success());
}

#[test]
fn access_that_makes_no_sense_is_refused_before_anything_is_written() {
    let dir = config();
    let list = "[access.mine]\naction = \"block\"\nentries = [\n{ prefix = \"192.0.2.0/24\" },\n{ prefix = \"192.0.3.0/24\" },\n]\n";
    fs::write(dir.path().join("mine.toml"), list).unwrap();
    for (arguments, expected) in [
        (&["block", path(&dir), "203.0.113.7/24"][..], "has bits beyond its length"),
        (&["block", path(&dir), "nonsense"], "neither an address nor a prefix"),
        (&["block", path(&dir), "203.0.113.7", "--vip", "nope"], "there is no vip nope; there are web"),
        (&["block", path(&dir), "203.0.113.7", "--for", "0s"], "ends before it begins"),
        (&["allow", path(&dir), "192.0.2.0/24"], "is already in access list"),
        (&["remove", path(&dir), "192.0.2.0/24"], "access list mine has other entries too"),
    ] {
        let output = weir(&[&["access"], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(expected), "{arguments:?}: {error}");
    }
    ok(&["access", "block", path(&dir), "203.0.113.7", "--dry-run"]);
    assert_eq!(names(&dir), ["mine.toml", "weir.toml"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = config();
    let report = json(&["zone", "fail", path(&dir), "az1", "--dry-run"]);
    assert_eq!(report["preview"]["pools"]["app"]["az3"]["after"], 1.5);
    assert_eq!(report["written"], Value::Array(vec![]));
    assert_eq!(names(&dir), ["weir.toml"]);
}

#[test]
fn a_site_and_a_pool_fail_alone() {
    let dir = config();
    ok(&["zone", "fail", path(&dir), "--site", "north", "--pool", "app"]);
    assert_eq!(names(&dir), ["failover-az1-app.toml", "weir.toml"]);
    assert_eq!(json(&["zone", "status", path(&dir)])["pools"]["app"]["az1"]["failover"], 1.0);
    ok(&["zone", "restore", path(&dir), "--site", "north", "--pool", "app"]);
    assert_eq!(names(&dir), ["weir.toml"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_written() {
    let dir = config();
    for (arguments, expected) in [
        (&["az9"][..], "there is no zone az9; there are az1, az2, az3"),
        (&["--site", "south"], "no zone belongs to site south"),
        (&["az1", "--pool", "nope"], "there is no pool nope"),
        (&["az1", "--for", "0s"], "ends before it begins"),
    ] {
        let output = refused(&[&["zone", "fail", path(&dir)], arguments].concat());
        assert!(output.contains(expected), "{output}");
    }
    for arguments in
        [&["az1", "--for", "10"][..], &["az1", "--percent", "0%"], &["az1", "--percent", "101%"], &[]]
    {
        let output = weir(&[&["zone", "fail", path(&dir)], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    fs::write(dir.path().join("other.toml"), "[zone.az1]\n").unwrap();
    let output = refused(&["zone", "fail", path(&dir), "az1"]);
    assert!(output.contains("defined twice"), "{output}");
    assert_eq!(names(&dir), ["other.toml", "weir.toml"]);
}

#[test]
fn a_request_is_explained_down_to_the_server() {
    let dir = config();
    let question = ["explain", path(&dir), "web:80", "--source", "10.1.2.3", "--host", "WWW.example.org:80"];
    let answer = json(&question);
    assert_eq!(
        (&answer["home"], &answer["zone"], &answer["delivered"]),
        (&"az1".into(), &"az1".into(), &true.into())
    );
    assert_eq!(answer["servers"], serde_json::json!(["s1"]));
    let flow = ok(&[&question[..], &["--source-port", "40000"]].concat());
    assert!(flow.contains("the proxy of lb1"), "{flow}");
    let table = ok(&question);
    assert!(table.contains("client prefix 10.1.0.0/16"), "{table}");
    assert!(refused(&["explain", path(&dir), "[2001:db8::10]:80", "--source", "::1"]).contains("404"));
    assert!(refused(&["explain", path(&dir), "web:81", "--source", "::1"]).contains("port 81 is not among"));
    assert!(refused(&["explain", path(&dir), "web", "--source", "::1"]).contains("has no port"));
}

#[test]
fn a_packet_is_explained_step_by_step() {
    let dir = config();
    fn packet<'a>(dir: &'a TempDir, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["explain", "packet", path(dir)], arguments].concat()
    }
    let flow = ["--from", "10.1.2.3:40000", "--to", "web:80"];
    let answer = json(&packet(&dir, &flow));
    assert_eq!((&answer["node"], &answer["model"]["reason"]), (&"lb1".into(), &"deliver_local".into()));
    let stages: Vec<_> = answer["model"]["steps"].as_array().unwrap().iter().map(|s| &s["stage"]).collect();
    assert_eq!(stages, ["packet", "service", "slot", "owner", "syn-cookie", "verdict"]);
    let table = ok(&packet(&dir, &flow));
    assert!(table.contains("of web (203.0.113.10)") && table.contains("passed to the kernel"), "{table}");
    // The same from hex, and from a file.
    let hex = answer["packet"].as_str().unwrap();
    assert_eq!(json(&packet(&dir, &["--hex", hex]))["model"], answer["model"]);
    let frame = weir_core::datapath::from_hex(hex).unwrap();
    let record = weir_core::pcap::Record {
        interface: 0,
        at_unix_ns: 0,
        len_bytes: frame.len() as u32,
        bytes: &frame,
        came_in: true,
        comment: "",
    };
    let writer = weir_core::pcap::Writer;
    let file = dir.path().join("one.pcapng");
    fs::write(&file, [writer.section(), writer.interface("e", 0), writer.packet(&record)].concat()).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(json(&packet(&dir, &["--pcap", file]))["model"], answer["model"]);
    assert!(refused(&packet(&dir, &["--pcap", file, "--number", "2"])).contains("the file has 1 packets"));
    assert!(refused(&packet(&dir, &["--hex", "0"])).contains("hex"));
    assert!(refused(&packet(&dir, &["--from", "[::1]:1", "--to", "10.0.0.1:1"])).contains("families"));
    let expired = weir(&packet(&dir, &[&flow[..], &["--ttl", "1"]].concat()));
    assert_eq!(expired.status.code(), Some(1), "dropped");
}

#[test]
fn explain_and_preview_use_what_the_proxy_sees() {
    let (dir, run) = (config(), tempfile::tempdir().unwrap());
    daemon(run.path(), "proxy.sock", &proxy(&["s2"]));
    let run_dir = ["--run-dir", path(&run)];
    let zone = json(&[&["zone", "status", path(&dir)], &run_dir[..]].concat());
    assert_eq!(zone["pools"]["app"]["az2"]["capacity"], 0.0);
    let output = refused(&[&["zone", "fail", path(&dir), "az1"], &run_dir[..]].concat());
    assert!(output.contains("zone az3 would carry 3.00"), "{output}");
    // The client has no home of its own: that of the proxy counts.
    let question = ["explain", path(&dir), "web:80", "--source", "192.0.2.200", "--host", "www.example.org"];
    assert_eq!(json(&[&question, &run_dir[..]].concat())["home"], "az1");
    assert!(refused(&[&question[..], &["--run-dir", "/nonexistent"]].concat()).contains("not running"));
}

#[test]
fn status_shows_every_daemon_and_fails_only_when_none_answers() {
    let run = tempfile::tempdir().unwrap();
    let arguments = ["status", "--run-dir", path(&run)];
    let output = refused(&arguments);
    assert_eq!(output.matches("not running").count(), 3, "{output}");

    daemon(run.path(), "proxy.sock", &proxy(&["s2"]));
    daemon(run.path(), "l4.sock", &L4Status { node: "lb1".into(), pid: 77, ..L4Status::default() });
    let peer =
        PeerStatus { state: "Established".into(), address: "192.0.2.1".into(), ..PeerStatus::default() };
    let bgp = BgpStatus { peers: [("tor".parse().unwrap(), peer)].into(), ..BgpStatus::default() };
    daemon(run.path(), "bgp.sock", &bgp);
    let output = ok(&arguments);
    for expected in ["lb1", "77", "1 of 1 sessions established", "Established", "DOWN", "serving"] {
        assert!(output.contains(expected), "{expected} is not in:\n{output}");
    }
    let report = json(&arguments);
    assert_eq!(report[0]["proxy"]["status"]["pools"]["app"]["servers"]["s2"]["health"], "down");
    assert_eq!(report[0]["l4"]["status"]["pid"], 77);
}

#[test]
fn status_shows_the_tier_of_each_vip() {
    let run = tempfile::tempdir().unwrap();
    let vip = |announced, tier| AnnounceStatus { announced, tier, ..AnnounceStatus::default() };
    let vips = [
        ("web", vip(true, Tier::Normal)),
        ("far", vip(true, Tier::Worse)),
        ("leaving", vip(true, Tier::GracefulShutdown)),
        ("gone", vip(false, Tier::GracefulShutdown)),
    ];
    let vips = vips.into_iter().map(|(name, vip)| (name.parse().unwrap(), vip)).collect();
    daemon(run.path(), "bgp.sock", &BgpStatus { node: "lb1".into(), vips, ..BgpStatus::default() });
    for arguments in
        [["status", "--run-dir", path(&run)].as_slice(), &["bgp", "vips", "--run-dir", path(&run)]]
    {
        let output = ok(arguments);
        for (vip, expected) in [
            ("web", "yes  normal"),
            ("far", "yes  worse"),
            ("leaving", "yes  graceful shutdown"),
            ("gone", "no   -"),
        ] {
            let line = output.lines().find(|line| line.starts_with(vip)).unwrap();
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words(line).contains(&words(expected)), "{expected} is not in: {line}");
        }
    }
}

#[test]
fn status_shows_bfd_sessions() {
    let run = tempfile::tempdir().unwrap();
    let bfd = BfdStatus {
        state: "Down".into(),
        remote_state: "Init".into(),
        transmit_interval: Some(std::time::Duration::from_millis(50)),
        diagnostic: "control detection time expired".into(),
        failures: 7,
        holds_bgp: true,
        ..BfdStatus::default()
    };
    let peer = PeerStatus { bfd: Some(bfd), ..PeerStatus::default() };
    let bgp = BgpStatus { peers: [("tor".parse().unwrap(), peer)].into(), ..BgpStatus::default() };
    daemon(run.path(), "bgp.sock", &bgp);
    let arguments = ["status", "--run-dir", path(&run)];
    let output = ok(&arguments);
    for expected in ["BFD PEER", "Init", "50ms", "7", "control detection time expired; holds BGP"] {
        assert!(output.contains(expected), "{expected} is not in:\n{output}");
    }
    assert_eq!(json(&arguments)[0]["bgp"]["status"]["peers"]["tor"]["bfd"]["transmit_interval"], "50ms");
}

#[test]
fn the_looking_glass_shows_sessions_routes_and_reasons() {
    let run = tempfile::tempdir().unwrap();
    assert!(refused(&["bgp", "peers", "--run-dir", path(&run)]).contains("not running"));
    let agreed = AgreedStatus {
        router_id: "10.0.0.1".into(),
        families: vec!["ipv4".into()],
        hold_time_s: 9,
        capabilities: vec!["enhanced route refresh".into()],
    };
    let route = RouteStatus {
        prefix: "198.51.100.10/32".into(),
        next_hop: "10.1.0.11".into(),
        as_path: vec![65100, 65100],
        med: Some(7),
        local_pref: None,
        communities: vec!["no-export".into(), "65000:1:2".into()],
    };
    let tor = PeerStatus {
        state: "Established".into(),
        asn: 65001,
        announced: vec![route.prefix.clone()],
        agreed: Some(agreed),
        routes: vec![route],
        refused: [("2001:db8::1/128".to_owned(), "more routes than max_routes".to_owned())].into(),
        last_received: "cease: administrative reset (6/4)".into(),
        ..PeerStatus::default()
    };
    let other = PeerStatus { state: "Active".into(), last_error: "refused".into(), ..PeerStatus::default() };
    let web = AnnounceStatus {
        announced: true,
        reason: "1 healthy proxy".into(),
        addresses: vec!["198.51.100.10".parse().unwrap()],
        ..AnnounceStatus::default()
    };
    let dns = AnnounceStatus { reason: "no healthy proxy".into(), ..AnnounceStatus::default() };
    let bgp = BgpStatus {
        node: "lb1".into(),
        peers: [("tor".parse().unwrap(), tor), ("other".parse().unwrap(), other)].into(),
        vips: [("web".parse().unwrap(), web), ("dns".parse().unwrap(), dns)].into(),
        ..BgpStatus::default()
    };
    daemon(run.path(), "bgp.sock", &bgp);
    let ask =
        |what: &'static str, more: &[&'static str]| [&["bgp", what, "--run-dir", path(&run)], more].concat();
    let shown = ok(&ask("peers", &[]));
    for part in
        ["tor", "Established", "10.0.0.1", "enhanced route refresh", "administrative reset", "refused"]
    {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    assert!(!ok(&ask("peers", &["tor"])).contains("other"));
    let shown = ok(&ask("routes", &[]));
    for part in ["198.51.100.10/32", "65100 65100", "no-export 65000:1:2", "NOT TOLD", "more routes than"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let shown = ok(&ask("vips", &[]));
    assert!(shown.contains("no healthy proxy") && shown.contains("1 healthy proxy"), "{shown}");
    assert_eq!(json(&ask("peers", &[]))["lb1"]["tor"]["agreed"]["hold_time_s"], 9);
    assert_eq!(json(&ask("routes", &[]))["lb1"]["tor"]["announced"][0]["med"], 7);
    let vips = json(&ask("vips", &[]));
    assert_eq!(vips["lb1"]["web"]["sessions"][0], "tor");
    assert_eq!(vips["lb1"]["dns"]["sessions"].as_array().map(Vec::len), Some(0));
}

#[test]
fn help_and_completions_are_there_for_every_verb() {
    for verb in [
        &["lint"][..],
        &["status"],
        &["bgp"],
        &["bgp", "routes"],
        &["bgp", "diff"],
        &["config", "accept"],
        &["zone"],
        &["zone", "fail"],
        &["zone", "restore"],
        &["explain"],
        &["lab"],
        &["lab", "run"],
    ] {
        assert!(ok(&[verb, &["--help"]].concat()).contains("Usage: weir"));
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&["completions", shell]).contains("explain"));
    }
    assert_eq!(weir(&[]).status.code(), Some(2));
    assert_eq!(weir(&["nonsense"]).status.code(), Some(2));
}
