//! What goes wrong while requests come: none of those that may be repeated fails. The figures are printed: `--nocapture`.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tokio::time::sleep;
use weir_model::status::{Health, ProxyStatus};

use crate::{
    clients::{Client, Load, Tally},
    servers::Server,
    subject::Proxy,
};

/// Fast checks, so that the whole of a fault fits into a test: a server is down after two of them.
const POOL: &str = "connect_timeout = \"300ms\"\nresponse_timeout = \"2s\"\n\
    check = { kind = \"http\", path = \"/health\", interval = \"100ms\", timeout = \"200ms\", rise = 2, fall = 2 }\n";
/// How long requests come before a fault, and after its end.
const A_WHILE: Duration = Duration::from_millis(300);

struct Site {
    servers: [Server; 3],
    proxy: Proxy,
}

impl Site {
    async fn start(pool: &str, options: &[&str]) -> Self {
        let servers = [Server::start("s1").await, Server::start("s2").await, Server::start("s3").await];
        let proxy = Proxy::start(&config(&servers, pool, ""), options).await;
        let site = Self { servers, proxy };
        site.until_first_is(Health::Up).await;
        site
    }

    async fn until_first_is(&self, wanted: Health) {
        let is = |status: &ProxyStatus| status.pools["p"].servers["s1"].health == wanted;
        self.proxy.until("the first server is as wanted", is).await;
    }

    async fn load(&self, target: &'static str) -> Load {
        let load = Load::of(self.proxy.address("web").await, target, 8);
        sleep(A_WHILE).await;
        load
    }
}

fn config(servers: &[Server], pool: &str, first: &str) -> String {
    let mut text = format!(
        "[zone.az1]\n[pool.p]\n{POOL}{pool}\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n"
    );
    for server in servers {
        let first = if server.name == "s1" { first } else { "" };
        text.push_str(&format!(
            "[server.{}]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n{first}\n",
            server.name, server.address
        ));
    }
    text
}

async fn none_failed(fault: &str, load: Load) -> Tally {
    sleep(A_WHILE).await;
    let tally = load.finish().await;
    println!(
        "{fault}: {} requests, {} failed, the slowest took {:?}",
        tally.good,
        tally.failures.len(),
        tally.slowest
    );
    assert!(tally.failures.is_empty(), "{fault}: {:?}", tally.failures);
    assert!(tally.good > 100, "{fault}: {tally:?}");
    tally
}

#[tokio::test]
async fn a_server_that_is_killed_costs_no_request() {
    let mut site = Site::start("", &[]).await;
    let load = site.load("/").await;
    site.servers[0].kill().await;
    site.until_first_is(Health::Down).await;
    site.servers[0].revive().await;
    site.until_first_is(Health::Up).await;
    none_failed("killed and started again", load).await;
}

#[tokio::test]
async fn a_server_that_is_drained_costs_no_request() {
    let site = Site::start("", &[]).await;
    let load = site.load("/").await;
    site.proxy.write("a.toml", &config(&site.servers, "", "admin = \"drain\""));
    let mut before = 0;
    // Nothing new goes there.
    loop {
        sleep(A_WHILE).await;
        if std::mem::replace(&mut before, site.servers[0].requests()) == site.servers[0].requests() {
            break;
        }
    }
    none_failed("drained", load).await;
}

#[tokio::test]
async fn a_server_behind_a_black_hole_costs_time_and_no_request() {
    let mut site = Site::start("", &[]).await;
    let load = site.load("/").await;
    site.servers[0].become_a_black_hole().await;
    site.until_first_is(Health::Down).await;
    let tally = none_failed("black-holed", load).await;
    // Once to find out, and once more at another server at most.
    assert!(tally.slowest < Duration::from_millis(1500), "{tally:?}");
}

#[tokio::test]
async fn a_server_that_takes_requests_and_says_nothing_costs_none_where_a_second_is_asked() {
    let hedged = "hedge_after = \"100ms\"\nretry_budget = { share = \"100%\", min_per_second = 100 }";
    let mut site = Site::start(hedged, &[]).await;
    let load = site.load("/").await;
    site.servers[0].fall_silent().await;
    site.until_first_is(Health::Down).await;
    none_failed("half-open, with hedging", load).await;
}

#[tokio::test]
async fn a_server_that_becomes_slow_costs_no_request() {
    let site = Site::start("balance = \"least-connections\"", &[]).await;
    let load = site.load("/slow").await;
    site.servers[0].state.delay_ms.store(300, SeqCst);
    sleep(3 * A_WHILE).await;
    let tally = none_failed("slow by 300 ms", load).await;
    assert!(tally.slowest >= Duration::from_millis(300), "{tally:?}");
}

#[tokio::test]
async fn reloads_cost_no_request_and_no_idle_connection() {
    let site = Site::start("", &[]).await;
    let mut idle = Client::connect(site.proxy.address("web").await).await.unwrap();
    idle.get("/").await.unwrap();
    let load = site.load("/").await;
    for retries in 3..6 {
        let generation = site.proxy.status().await.unwrap().config.generation;
        site.proxy.write("a.toml", &config(&site.servers, &format!("retries = {retries}"), ""));
        site.proxy.until("it is in force", |status| status.config.generation != generation).await;
        sleep(A_WHILE).await;
    }
    none_failed("three reloads", load).await;
    assert_eq!(idle.get("/").await.expect("the same connection").status(), 200);
}

#[tokio::test]
async fn a_full_disk_of_the_log_costs_lines_and_no_request() {
    let site = Site::start("", &["--access-log", "/dev/full"]).await;
    let load = site.load("/").await;
    none_failed("the disk of the log is full", load).await;
    let metrics = site.proxy.metrics().await;
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("weir_proxy_access_log_dropped_total "));
    assert!(dropped.is_some_and(|count| count != "0"), "{metrics}");
}
