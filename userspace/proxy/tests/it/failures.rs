use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use weir_model::status::Health;

use crate::{
    clients::{Client, Load, field, get},
    servers::Server,
    subject::Proxy,
};

fn config(servers: &[Server], pool: &str) -> String {
    let mut text = format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n"
    );
    for server in servers {
        text.push_str(&format!(
            "[server.{}]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
            server.name, server.address
        ));
    }
    text
}

const CHECK: &str = "check = { kind = \"http\", path = \"/health\", interval = \"50ms\", timeout = \"500ms\", rise = 2, fall = 2 }";

#[tokio::test]
async fn a_server_dies_under_load_and_returns_and_no_request_is_lost() {
    let mut servers = [Server::start("s1").await, Server::start("s2").await, Server::start("s3").await];
    let proxy = Proxy::start(&config(&servers, CHECK), &[]).await;
    let web = proxy.address("web").await;
    let health = |name: &'static str, wanted: Health| {
        move |status: &weir_model::status::ProxyStatus| status.pools["p"].servers[name].health == wanted
    };
    proxy.until("checks pass", health("s1", Health::Up)).await;
    let load = Load::start(web, 8);
    tokio::time::sleep(Duration::from_millis(100)).await;
    servers[0].kill().await;
    proxy.until("the death is noticed", health("s1", Health::Down)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    servers[0].revive().await;
    proxy.until("the return is noticed", health("s1", Health::Up)).await;
    let before = servers[0].requests();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let tally = load.finish().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.good > 100, "{tally:?}");
    assert!(servers[0].requests() > before, "the returned server gets nothing");
}

#[tokio::test]
async fn without_checks_a_dead_server_is_passed_over() {
    let mut servers = [Server::start("s1").await, Server::start("s2").await];
    let proxy = Proxy::start(&config(&servers, ""), &[]).await;
    let web = proxy.address("web").await;
    servers[0].kill().await;
    for _ in 0..20 {
        assert_eq!(get(web, "/").await.status(), 200);
    }
    let noted = |status: &weir_model::status::ProxyStatus| status.pools["p"].servers["s1"].failures > 0;
    let failures = proxy.until("the failure is counted", noted).await.pools["p"].servers["s1"].failures;
    assert!((1..=3).contains(&failures), "a server known to be dead was asked {failures} times");
}

#[tokio::test]
async fn a_request_that_may_have_been_carried_out_is_not_sent_again() {
    let mut servers = [Server::start("s1").await, Server::start("s2").await];
    for server in &servers {
        server.state.delay_ms.store(60_000, SeqCst);
    }
    let proxy = Proxy::start(&config(&servers, ""), &[]).await;
    let web = proxy.address("web").await;
    let post = tokio::spawn(async move {
        let body = Full::<Bytes>::from("x");
        let request = Request::post("/slow").header("host", "x").body(body).unwrap();
        Client::connect(web).await.unwrap().send(request).await.unwrap()
    });
    let busy = |servers: &[Server]| servers.iter().position(|server| server.requests() > 0);
    let first = loop {
        match busy(&servers) {
            Some(index) => break index,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    servers[first].kill().await;
    let answer = post.await.unwrap();
    assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (502, "connection-broken"));
    assert_eq!(servers[1 - first].requests(), 0);
}

#[tokio::test]
async fn all_servers_dead_is_said_and_the_first_that_returns_serves() {
    let mut servers = [Server::start("s1").await];
    let proxy = Proxy::start(&config(&servers, CHECK), &[]).await;
    let web = proxy.address("web").await;
    servers[0].kill().await;
    let answer = get(web, "/").await;
    assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (502, "connect-failed"));
    servers[0].revive().await;
    // Fail-static: a server is tried although no check has passed yet.
    assert_eq!(get(web, "/").await.status(), 200);
}
