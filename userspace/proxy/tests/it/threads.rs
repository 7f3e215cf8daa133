//! Several threads with sockets of their own behave as one proxy.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    clients::{Client, get},
    servers::Server,
    subject::{LIMIT, Proxy},
};

/// More than this host has processors: what holds for these holds for fewer.
const THREADS: usize = 4;
const FOUR: [&str; 2] = ["--threads", "4"];

fn config(server: &Server, listener: &str) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n{listener}\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
}

/// Listening sockets at an address, as the kernel sees them.
pub(crate) fn sockets_at(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!("0100007F:{port:04X}");
    let is_listening = |line: &&str| {
        line.split_whitespace().nth(1) == Some(&wanted) && line.split_whitespace().nth(3) == Some("0A")
    };
    table.lines().filter(is_listening).count()
}

#[tokio::test]
async fn connections_spread_over_the_threads() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, ""), &FOUR).await;
    let web = proxy.address("web").await;
    assert_eq!(sockets_at(web.port()), THREADS);
    for _ in 0..64 {
        assert_eq!(get(web, "/").await.status(), 200);
    }
    // Each thread keeps a connection of its own, and serves all its clients by it. That one of four gets none of 64 happens once
    // in ten million times.
    assert_eq!(server.state.accepted.load(std::sync::atomic::Ordering::SeqCst), THREADS);
    let status = proxy.until("all are counted", |status| status.listeners["web"].requests == 64).await;
    assert_eq!(status.pools["p"].servers["s"].requests, 64);
    let metrics = proxy.metrics().await;
    for line in [
        "weir_proxy_requests_total{listener=\"web\",pool=\"p\",code=\"2xx\"} 64\n",
        "weir_proxy_request_duration_seconds_count{listener=\"web\",pool=\"p\"} 64\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(proxy.logged(64).await.len(), 64);
}

#[tokio::test]
async fn an_address_that_another_proxy_has_is_refused_although_it_could_be_shared() {
    let server = Server::start("s").await;
    let first = Proxy::start(&config(&server, ""), &FOUR).await;
    let bind = format!("bind = \"{}\"", first.address("web").await);
    let mut second = Proxy::spawn(&config(&server, "").replace("bind = \"127.0.0.1:0\"", &bind), &[], &FOUR);
    assert_eq!(second.exited().await.code(), Some(1));
    assert!(second.log().contains("cannot listen"), "{}", second.log());
}

#[tokio::test]
async fn a_reload_drops_no_connection_of_any_thread() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, ""), &FOUR).await;
    let web = proxy.address("web").await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut client = Client::connect(web).await.unwrap();
        assert_eq!(client.get("/").await.unwrap().status(), 200);
        open.push(client);
    }
    for round in 0..3 {
        let before = proxy.status().await.unwrap().config.generation;
        let other = format!(
            "max_connections = {}\n[listener.more{round}]\nprotocol = \"http\"\nbind = \"127.0.0.2:0\"\npool = \"p\"",
            1000 + round
        );
        proxy.write("a.toml", &config(&server, &other));
        proxy.until("it is in force", |status| status.config.generation != before).await;
        for client in &mut open {
            assert_eq!(client.get("/").await.unwrap().status(), 200, "round {round}");
        }
        assert_eq!(sockets_at(web.port()), THREADS);
    }
}

#[tokio::test]
async fn the_limit_of_a_listener_holds_for_all_threads_together() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, "max_connections = 5"), &FOUR).await;
    let web = proxy.address("web").await;
    let mut waiting = JoinSet::new();
    for _ in 0..40 {
        waiting.spawn(async move {
            let mut client = Client::connect(web).await.unwrap();
            (client.get("/").await.unwrap().status().as_u16(), client)
        });
    }
    let mut served = Vec::new();
    while served.len() < 5 {
        served.push(timeout(LIMIT, waiting.join_next()).await.unwrap().unwrap().unwrap());
    }
    // Nobody else is, whatever thread has room in its queue.
    assert!(timeout(Duration::from_millis(300), waiting.join_next()).await.is_err());
    assert_eq!(proxy.status().await.unwrap().listeners["web"].connections, 5);
    // Everybody else is, one after the other, whatever thread they are with.
    for _ in 0..35 {
        drop(served.pop());
        served.insert(0, timeout(LIMIT, waiting.join_next()).await.unwrap().unwrap().unwrap());
    }
    assert!(served.iter().all(|(status, _)| *status == 200));
}

#[tokio::test]
async fn a_stop_answers_what_waits_in_every_queue() {
    let server = Server::start("s").await;
    let mut proxy = Proxy::start(&config(&server, "max_connections = 1"), &FOUR).await;
    let web = proxy.address("web").await;
    let mut first = Client::connect(web).await.unwrap();
    assert_eq!(first.get("/").await.unwrap().status(), 200);
    // One is served; these wait in the queues of all four, or have been taken from there and wait for room.
    let mut waiting = JoinSet::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(web).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        waiting.spawn(async move {
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer).await;
            read.map_err(|error| error.to_string()).map(|_| answer.lines().next().unwrap_or("").to_owned())
        });
    }
    proxy.terminate();
    let answers: BTreeSet<_> = waiting.join_all().await.into_iter().collect();
    assert_eq!(answers, BTreeSet::from([Ok("HTTP/1.1 200 OK".to_owned())]));
    assert!(proxy.exited().await.success(), "{}", proxy.log());
}

#[tokio::test]
async fn whoever_connects_while_a_stop_closes_the_sockets_is_answered_or_refused_but_never_reset() {
    let server = Server::start("s").await;
    let mut proxy = Proxy::start(&config(&server, ""), &FOUR).await;
    let web = proxy.address("web").await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let mut answered = 0;
            // Refused, or no longer heard: the end.
            while let Ok(Ok(mut stream)) = timeout(Duration::from_millis(500), TcpStream::connect(web)).await
            {
                let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
                let mut answer = String::new();
                let read = stream.read_to_string(&mut answer).await;
                assert!(asked.is_ok() && read.is_ok(), "after {answered}: {asked:?} {read:?}");
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                answered += 1;
            }
            answered
        });
    }
    while server.requests() < 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.terminate();
    let answered: usize = clients.join_all().await.into_iter().sum();
    assert!(answered >= 200, "{answered}");
    assert!(proxy.exited().await.success(), "{}", proxy.log());
}
