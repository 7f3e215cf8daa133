use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    clients::{Client, field, get},
    servers::Server,
    subject::Proxy,
};

async fn with_pool(server: &Server, pool: &str) -> Proxy {
    with_pool_and(server, pool, &[]).await
}

async fn with_pool_and(server: &Server, pool: &str, options: &[&str]) -> Proxy {
    let config = format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    Proxy::start(&config, options).await
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_in_turn_and_those_beyond_the_queue_are_refused() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(300, SeqCst);
    let proxy = with_pool(&server, "max_connections = 1\nmax_queue = 2\nqueue_timeout = \"5s\"").await;
    let web = proxy.address("web").await;
    let asking = tokio::spawn(futures_util::future::join_all((0..6).map(move |_| get(web, "/slow"))));
    proxy.until("two wait", |status| status.pools["p"].waiting == 2).await;
    assert!(proxy.metrics().await.contains("\nweir_proxy_pool_waiting{pool=\"p\"} "));
    let answers = asking.await.unwrap();
    proxy.until("nobody waits", |status| status.pools["p"].waiting == 0).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status() == status).count();
    assert_eq!((count(200), count(503)), (3, 3), "{answers:?}");
    assert!(answers.iter().any(|answer| field(answer, "weir-cause") == "queue-full"));
}

/// Each of many waits for one server that takes one at a time: it is served in the order they came. One thread, because of two
/// nobody could say which request came first.
#[tokio::test]
async fn the_queue_is_served_in_the_order_it_was_joined() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(20, SeqCst);
    let pool = "max_connections = 1\nqueue_timeout = \"30s\"";
    let proxy = with_pool_and(&server, pool, &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for index in 0..60 {
        let order = std::sync::Arc::clone(&order);
        // One after the other: the next comes when this one has asked.
        let mut client = TcpStream::connect(web).await.unwrap();
        client.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        waiting.push(tokio::spawn(async move {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            order.lock().unwrap().push(index);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }));
    }
    for waiting in waiting {
        waiting.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert!(order.is_sorted(), "{order:?}");
}

/// The limit of the process holds for all listeners together.
#[tokio::test]
async fn connections_beyond_the_limit_of_the_process_wait_whatever_listener_they_came_to() {
    let server = Server::start("s").await;
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.a]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [listener.b]\nprotocol = \"http\"\nbind = \"127.0.0.2:0\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    let proxy = Proxy::start(&config, &["--max-connections", "2"]).await;
    let (a, b) = (proxy.address("a").await, proxy.address("b").await);
    let mut open = Vec::new();
    for to in [a, b] {
        let mut client = Client::connect(to).await.unwrap();
        assert_eq!(client.get("/").await.unwrap().status(), 200);
        open.push(client);
    }
    let third = tokio::spawn(async move { get(b, "/third").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!third.is_finished() && server.requests() == 2);
    // One of the other listener.
    drop(open.remove(0));
    assert_eq!(third.await.unwrap().status(), 200);
}

#[tokio::test]
async fn waiting_ends_by_its_timeout_and_so_does_a_server_that_says_nothing() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(5_000, SeqCst);
    let limits = "max_connections = 1\nqueue_timeout = \"100ms\"\nresponse_timeout = \"1s\"";
    let proxy = with_pool(&server, limits).await;
    let web = proxy.address("web").await;
    let slow = tokio::spawn(async move { get(web, "/slow").await });
    while server.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = Instant::now();
    let answer = get(web, "/").await;
    assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (503, "queue-timeout"));
    assert!(began.elapsed() < Duration::from_millis(900));
    let answer = slow.await.unwrap();
    assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (504, "response-timeout"));
    // The slot is free again, although the server still works on the request nobody waits for.
    assert_eq!(get(web, "/").await.status(), 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_of_a_listener_wait_in_the_kernel() {
    let server = Server::start("s").await;
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         max_connections = 2\n[server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    let proxy = Proxy::start(&config, &[]).await;
    let web = proxy.address("web").await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(web).await.unwrap();
        assert_eq!(client.get("/").await.unwrap().status(), 200);
        open.push(client);
    }
    let third = tokio::spawn(async move { get(web, "/third").await });
    proxy.until("two are open", |status| status.listeners["web"].connections == 2).await;
    assert!(!third.is_finished());
    open.pop();
    assert_eq!(third.await.unwrap().status(), 200);
}
