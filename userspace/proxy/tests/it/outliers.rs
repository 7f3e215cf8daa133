//! What bad answers lead to: ejection, an open breaker, retries that end.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use weir_model::status::ProxyStatus;

use crate::{
    balance::{config, servers, spread},
    clients::{Client, field, get},
    subject::{LIMIT, Proxy},
};

fn ejected(server: &'static str, wanted: bool) -> impl Fn(&ProxyStatus) -> bool {
    move |status| status.pools["p"].servers[server].ejected == wanted
}

/// Requests until one is answered like that by this server; how many were not 200.
async fn until_answered(web: SocketAddr, server: &str, status: u16) -> usize {
    let deadline = Instant::now() + LIMIT;
    let mut client = Client::connect(web).await.unwrap();
    let mut bad = 0;
    while Instant::now() < deadline {
        let answer = client.get("/").await.unwrap();
        bad += usize::from(answer.status() != 200);
        if field(&answer, "x-served-by") == server && answer.status() == status {
            return bad;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{server} does not answer {status}");
}

#[tokio::test]
async fn a_server_that_answers_500_is_ejected_tried_out_and_taken_back() {
    let servers = servers(["s1", "s2", "s3"]).await;
    let pool = "eject = { consecutive = 3, time = \"1s\", max_time = \"1s\", successes = 2 }";
    let proxy = Proxy::start(&config(&servers, pool), &[]).await;
    let web = proxy.address("web").await;
    servers[0].state.status.store(500, SeqCst);
    let bad = tally(web, 30).await;
    assert_eq!(bad, 3, "three answers in a row are enough");
    let status = proxy.until("it is ejected", ejected("s1", true)).await;
    let s1 = &status.pools["p"].servers["s1"];
    assert!(s1.reason.contains("3 bad answers in a row") && s1.ejections == 1, "{s1:?}");
    // A trial that fails costs one request, and a server that is well again comes back by itself.
    assert_eq!(until_answered(web, "s1", 500).await, 1);
    assert!(proxy.status().await.unwrap().pools["p"].servers["s1"].ejected);
    servers[0].state.status.store(0, SeqCst);
    assert_eq!(until_answered(web, "s1", 200).await, 0);
    until_answered(web, "s1", 200).await;
    proxy.until("it is back", ejected("s1", false)).await;
    assert_eq!(spread(web, 30).await["s1"], 10);
    assert!(
        proxy.metrics().await.contains("weir_proxy_server_ejections_total{pool=\"p\",server=\"s1\"} 2\n")
    );
}

/// How many of so many requests, one after the other, are not answered 200.
async fn tally(web: SocketAddr, requests: usize) -> usize {
    let mut client = Client::connect(web).await.unwrap();
    let mut bad = 0;
    for _ in 0..requests {
        bad += usize::from(client.get("/").await.unwrap().status() != 200);
    }
    bad
}

#[tokio::test]
async fn however_bad_they_are_somebody_is_left() {
    let servers = servers(["s1", "s2", "s3"]).await;
    let pool = "eject = { consecutive = 2, time = \"1h\", max_time = \"1h\", max_ejected = \"100%\" }";
    let proxy = Proxy::start(&config(&servers, pool), &[]).await;
    let web = proxy.address("web").await;
    for server in &servers {
        server.state.status.store(503, SeqCst);
    }
    let mut client = Client::connect(web).await.unwrap();
    for _ in 0..40 {
        let answer = client.get("/").await.unwrap();
        // Bad answers, and each a server's own.
        assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (503, ""));
    }
    let out = |status: &ProxyStatus| status.pools["p"].servers.values().filter(|s| s.ejected).count();
    proxy.until("two are ejected", |status| out(status) == 2).await;
}

#[tokio::test]
async fn a_server_whose_share_of_good_answers_is_low_is_ejected_though_never_for_long_in_a_row() {
    let servers = servers(["s1", "s2", "s3"]).await;
    let pool = "eject = { consecutive = 0, success_rate = \"90%\", min_requests = 10, interval = \"1s\", time = \"1h\", max_time = \"1h\" }";
    let proxy = Proxy::start(&config(&servers, pool), &[]).await;
    let web = proxy.address("web").await;
    let deadline = Instant::now() + LIMIT;
    let mut client = Client::connect(web).await.unwrap();
    let mut status = proxy.status().await.unwrap();
    for n in 0.. {
        // Each server answers in turn: every other answer of s1 is bad.
        servers[0].state.status.store(if n / 3 % 2 == 0 { 500 } else { 0 }, SeqCst);
        client.get("/").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        if n % 50 == 0 {
            status = proxy.status().await.unwrap();
            if ejected("s1", true)(&status) {
                break;
            }
        }
        assert!(Instant::now() < deadline, "it is not ejected: {status:?}");
    }
    let reason = &status.pools["p"].servers["s1"].reason;
    assert!(reason.contains("answers were good"), "{reason}");
    assert!(ejected("s2", false)(&status) && ejected("s3", false)(&status));
    assert_eq!(spread(web, 20).await.get("s1"), None);
}

#[tokio::test]
async fn a_breaker_refuses_at_once_and_closes_after_good_trials() {
    let servers = servers(["s1", "s2"]).await;
    let pool = "breaker = { consecutive = 5, time = \"300ms\" }";
    let proxy = Proxy::start(&config(&servers, pool), &[]).await;
    let web = proxy.address("web").await;
    for server in &servers {
        server.state.status.store(500, SeqCst);
    }
    let mut causes = Vec::new();
    for _ in 0..8 {
        let answer = get(web, "/").await;
        causes.push((answer.status().as_u16(), field(&answer, "weir-cause").to_owned()));
    }
    let expected = |n: usize| if n < 5 { (500, String::new()) } else { (503, "circuit-open".to_owned()) };
    assert_eq!(causes, (0..8).map(expected).collect::<Vec<_>>());
    assert_eq!(servers.iter().map(|server| server.requests()).sum::<usize>(), 5);
    proxy.until("it says so", |status| status.pools["p"].circuit_open).await;
    for server in &servers {
        server.state.status.store(0, SeqCst);
    }
    let deadline = Instant::now() + LIMIT;
    while get(web, "/").await.status() != 200 {
        assert!(Instant::now() < deadline, "it stays open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(tally(web, 20).await, 0, "the second good answer closes it");
    proxy.until("it says so", |status| !status.pools["p"].circuit_open).await;
}

#[tokio::test]
async fn retries_end_where_their_budget_does() {
    for (budget, lost) in [("", 0), ("retry_budget = { share = \"0%\", min_per_second = 0 }", 1)] {
        let mut servers = servers(["s1", "s2"]).await;
        let proxy = Proxy::start(&config(&servers, budget), &[]).await;
        let web = proxy.address("web").await;
        assert_eq!(tally(web, 4).await, 0);
        servers[0].kill().await;
        // The first to meet the dead server is told so; it is avoided from then on, for a second.
        assert_eq!(tally(web, 6).await, lost, "{budget}");
        let refused = |status: &ProxyStatus| status.pools["p"].retries_refused == lost as u64;
        proxy.until("it is counted", refused).await;
    }
}
