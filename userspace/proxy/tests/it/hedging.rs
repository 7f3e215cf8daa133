//! A second server is asked when the first takes its time.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;

use crate::{
    clients::{Client, field, get},
    servers::Server,
    subject::{LIMIT, Proxy},
};

const SLOW_MS: u64 = 1_500;

async fn with(servers: [&Server; 2], pool: &str) -> Proxy {
    let mut config = format!(
        "[zone.az1]\n[pool.p]\nhedge_after = \"100ms\"\n{pool}\n\
         [listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n"
    );
    for server in servers {
        let (name, address) = (&server.name, server.address);
        config += &format!("[server.{name}]\npools = [\"p\"]\naddress = \"{address}\"\nzone = \"az1\"\n");
    }
    Proxy::start(&config, &["--threads", "1"]).await
}

/// Asks until the slow server has had so many requests, and returns how long each answer took, and whose it was.
async fn ask(proxy: &Proxy, slow: &Server, count: usize) -> Vec<(Duration, String)> {
    let web = proxy.address("web").await;
    let mut client = Client::connect(web).await.unwrap();
    let mut answers = Vec::new();
    while slow.requests() < count {
        let began = Instant::now();
        let answer = client.get("/slow").await.unwrap();
        assert_eq!(answer.status(), 200);
        answers.push((began.elapsed(), field(&answer, "x-served-by").to_owned()));
    }
    answers
}

#[tokio::test]
async fn a_second_server_answers_for_one_that_takes_its_time() {
    let (fast, slow) = (Server::start("fast").await, Server::start("slow").await);
    slow.state.delay_ms.store(SLOW_MS, SeqCst);
    let proxy = with([&fast, &slow], "retry_budget = { share = \"100%\" }").await;
    let answers = ask(&proxy, &slow, 5).await;
    assert!(
        answers.iter().all(|(took, by)| *took < Duration::from_millis(1_000) && by == "fast"),
        "{answers:?}"
    );
    let late = answers.iter().filter(|(took, _)| *took >= Duration::from_millis(100)).count();
    assert_eq!(late, 5, "{answers:?}");
    let status = proxy.until("nobody is asked", |status| status.pools["p"].servers["slow"].active == 0).await;
    let pool = &status.pools["p"];
    assert_eq!((pool.hedges, pool.hedges_won, pool.servers["slow"].failures), (5, 5, 0));
    let log = proxy.logged(answers.len()).await;
    assert_eq!(
        log.iter().filter(|line| line["retries"] == 1 && line["server"] == "fast").count(),
        5,
        "{log:#?}"
    );
    assert!(log.iter().all(|line| line["state"] == "--"), "{log:#?}");

    // One that answers after all is believed, though the other one has been asked.
    fast.state.delay_ms.store(2 * SLOW_MS, SeqCst);
    slow.state.delay_ms.store(300, SeqCst);
    let answers = ask(&proxy, &slow, 7).await;
    assert!(
        answers.iter().all(|(took, by)| *took < Duration::from_millis(1_400) && by == "slow"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_asked_twice_is_not_and_nothing_is_beyond_the_budget() {
    let (fast, slow) = (Server::start("fast").await, Server::start("slow").await);
    slow.state.delay_ms.store(400, SeqCst);
    let proxy = with([&fast, &slow], "retry_budget = { share = \"100%\" }").await;
    let mut client = Client::connect(proxy.address("web").await).await.unwrap();
    while slow.requests() < 3 {
        let request = Request::post("/slow").header("host", "a").body(Full::new(Bytes::new())).unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), 200);
    }
    let with_body = Request::put("/slow").header("host", "a").body(Full::new(Bytes::from("x"))).unwrap();
    assert_eq!(client.send(with_body).await.unwrap().status(), 200);
    assert_eq!(proxy.status().await.unwrap().pools["p"].hedges, 0);

    let spent = "retry_budget = { share = \"0%\", min_per_second = 0 }";
    let asked = slow.requests();
    let proxy = with([&fast, &slow], spent).await;
    let answers = ask(&proxy, &slow, asked + 3).await;
    assert_eq!(answers.iter().filter(|(_, by)| by == "slow").count(), 3, "{answers:?}");
    let status = proxy.status().await.unwrap();
    assert_eq!((status.pools["p"].hedges, status.pools["p"].retries_refused), (0, 3));
}

#[tokio::test]
async fn a_server_that_breaks_while_another_is_asked_costs_nothing() {
    let (good, mut bad) = (Server::start("good").await, Server::start("bad").await);
    good.state.delay_ms.store(500, SeqCst);
    bad.state.delay_ms.store(5_000, SeqCst);
    let proxy = with([&good, &bad], "retry_budget = { share = \"100%\" }\nretries = 0").await;
    let web = proxy.address("web").await;
    let asking = tokio::spawn(futures_util::future::join_all((0..2).map(move |_| get(web, "/slow"))));
    let deadline = Instant::now() + LIMIT;
    while (good.requests(), bad.requests()) != (2, 2) {
        assert!(Instant::now() < deadline, "both are asked twice");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    bad.kill().await;
    for answer in asking.await.unwrap() {
        assert_eq!((answer.status().as_u16(), field(&answer, "x-served-by")), (200, "good"));
    }
}
