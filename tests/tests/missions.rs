//! The laboratory's missions as acceptance tests: each builds a laboratory, breaks something, measures, mends.

use std::process::Command;

use serde_json::Value;
use weir_tests::programs;

/// Runs one mission in a laboratory of its own and checks every line of its report.
fn mission(name: &str) {
    let output = Command::new(programs::path("weir"))
        .args(["lab", "run", name, "--fresh", "-o", "json"])
        .env("WEIR_EBPF", weir_tests::prog_run::object_path())
        .output()
        .expect("start weir");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reports: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {:?}\n{stderr}", String::from_utf8_lossy(&output.stdout)));
    let report = &reports[0];
    let checks = report["checks"].as_array().expect("checks");
    for check in checks {
        println!("{name}: {}: expected {}, seen {}", check["what"], check["expected"], check["seen"]);
    }
    assert!(!checks.is_empty(), "{name} checked nothing\n{stderr}");
    let failed: Vec<_> = checks.iter().filter(|check| check["passed"] != Value::Bool(true)).collect();
    assert!(failed.is_empty(), "{name}: {failed:#?}\n{stderr}");
    assert_eq!((&report["mission"], &report["passed"]), (&Value::from(name), &Value::Bool(true)));
    assert!(output.status.success(), "{name} ended with {}\n{stderr}", output.status);
}

#[test]
fn every_client_is_served_in_its_own_zone() {
    mission("baseline");
}

#[test]
fn a_zone_without_balancers_is_served_by_its_own_servers_through_another() {
    mission("balancers-die");
}

#[test]
fn a_zone_without_servers_is_split_evenly_and_stickily() {
    mission("servers-die");
}

#[test]
fn a_dead_zone_leaves_the_others_own_traffic_where_it_was() {
    mission("both-die");
}

#[test]
fn a_failed_over_zone_loses_no_request_and_gets_its_clients_back() {
    mission("zone-failover");
}

#[test]
fn long_lived_connections_survive_proxies_that_come_and_go() {
    mission("long-lived");
}

#[test]
fn killing_every_weir_l4_loses_no_packet_and_moves_no_flow() {
    mission("l4-killed");
}

#[test]
fn announcements_return_after_resets_and_never_too_early() {
    mission("bgp-reset");
}

#[test]
fn a_broken_configuration_is_refused_everywhere() {
    mission("broken-config");
}

#[test]
fn two_thousand_busy_connections_outlive_all_that_is_done_to_balancers() {
    mission("steadfast");
}

#[test]
fn nothing_is_left_behind() {
    mission("baseline");
    let left = |dir: &str| {
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    // Another laboratory may be up on this machine; ours are named after processes that have ended.
    let ended = |name: &str| {
        let pid = name.strip_prefix("weir-p").unwrap_or(name).trim_start_matches('p');
        let pid: String = pid.chars().take_while(char::is_ascii_digit).collect();
        !pid.is_empty() && !std::path::Path::new("/proc").join(pid).exists()
    };
    for dir in ["/run/netns", "/sys/fs/bpf", "/run/weir-lab"] {
        let stale: Vec<_> =
            left(dir).into_iter().filter(|name| name.contains("weir") && ended(name)).collect();
        assert!(stale.is_empty(), "{dir}: {stale:?}");
    }
}
