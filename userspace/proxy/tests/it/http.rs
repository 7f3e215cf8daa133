use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    clients::{Client, field, get, text},
    servers::Server,
    subject::Proxy,
};

fn config(a: &Server, b: &Server) -> String {
    format!(
        r#"
[zone.az1]
[pool.a]
[pool.b]
[server.a]
pools = ["a"]
address = "{}"
zone = "az1"
[server.b]
pools = ["b"]
address = "{}"
zone = "az1"
[listener.web]
protocol = "http"
bind = "127.0.0.1:0"
routes = [
    {{ hosts = ["b.example"], pool = "b" }},
    {{ path = "/api", pool = "b" }},
    {{ path = "/only", pool = "a" }},
]
"#,
        a.address, b.address
    )
}

#[tokio::test]
async fn requests_are_routed_by_host_and_path_and_tell_who_asked() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let proxy = Proxy::start(&config(&a, &b), &[]).await;
    let web = proxy.address("web").await;

    let answer = get(web, "/api/x?y=1").await;
    assert_eq!((answer.status().as_u16(), field(&answer, "x-served-by")), (200, "b"));
    let seen = text(&answer);
    assert!(seen.starts_with("GET /api/x?y=1 HTTP/1.1\n"), "{seen}");
    for line in [
        "host: test.example",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: test.example",
        "forwarded: for=127.0.0.1;host=\"test.example\";proto=http",
        "via: 1.1 weir",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is not in:\n{seen}");
    }
    assert_eq!(field(&answer, "x-internal"), "", "a field nominated by Connection came through");
    assert_eq!(field(&answer, "via"), "1.1 weir");

    let request = Request::post("/only").header("host", "x").body(Full::from("hello")).unwrap();
    let answer = Client::connect(web).await.unwrap().send(request).await.unwrap();
    assert_eq!(field(&answer, "x-served-by"), "a");
    assert!(text(&answer).ends_with("\n\nhello"));

    let request = Request::get("/only").header("host", "B.Example:8080").body(Full::default()).unwrap();
    let answer = Client::connect(web).await.unwrap().send(request).await.unwrap();
    assert_eq!(field(&answer, "x-served-by"), "b");

    let answer = get(web, "/other").await;
    assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (404, "no-route"));

    let log = proxy.logged(4).await;
    let metrics = proxy.metrics().await;
    assert!(
        metrics.contains("weir_proxy_requests_total{listener=\"web\",pool=\"b\",code=\"2xx\"} 2\n"),
        "{metrics}"
    );
    // The lines of different threads come in any order.
    let line = log.iter().find(|line| line["target"] == "/api/x?y=1").unwrap();
    assert_eq!((&line["server"], &line["status"]), (&"b".into(), &200.into()));
    assert!(log.iter().any(|line| line["cause"] == "no-route"), "{log:#?}");
}

#[tokio::test]
async fn connections_to_servers_are_used_again() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    // By the thread that made them.
    let proxy = Proxy::start(&config(&a, &b), &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    for _ in 0..20 {
        assert_eq!(get(web, "/only").await.status(), 200);
    }
    assert_eq!(a.state.accepted.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(a.requests(), 20);
}

#[tokio::test]
async fn http2_with_prior_knowledge_carries_many_requests_at_once() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let proxy = Proxy::start(&config(&a, &b), &[]).await;
    let web = proxy.address("web").await;
    let stream = TcpStream::connect(web).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |index: usize| {
        let mut sender = sender.clone();
        async move {
            let body = Full::<Bytes>::from(format!("body {index}"));
            let request = Request::post("http://b.example/x").body(body).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.headers()["x-served-by"], "b");
            String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        }
    };
    let answers = futures_util::future::join_all((0..50).map(ask)).await;
    for (index, answer) in answers.iter().enumerate() {
        assert!(answer.ends_with(&format!("\nbody {index}")), "{answer}");
        assert!(answer.contains("host: b.example\n") && answer.contains("via: 2.0 weir\n"), "{answer}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_hurts_nobody() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let proxy = Proxy::start(&config(&a, &b), &[]).await;
    let web = proxy.address("web").await;
    let huge = format!("GET /only HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    for (raw, expected) in [
        ("GET /only HTTP/1.1\r\n\r\n", "HTTP/1.1 400"),
        ("GET /only HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "HTTP/1.1 400"),
        ("GET /only HTTP/1.1\r\nhost: a b\r\n\r\n", "HTTP/1.1 400"),
        ("POST /only HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "HTTP/1.1 400"),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", "HTTP/1.1 501"),
        ("nonsense\r\n\r\n", "HTTP/1.1 400"),
        (&huge, "HTTP/1.1 431"),
    ] {
        let mut stream = TcpStream::connect(web).await.unwrap();
        // The proxy may refuse before it has read everything.
        let _ = stream.write_all(raw.as_bytes()).await;
        let mut answer = vec![0; 64];
        let len = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..len]);
        assert!(answer.starts_with(expected), "{}… was answered {answer:?}", &raw[..raw.len().min(60)]);
    }
    assert_eq!(get(web, "/only").await.status(), 200);
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.local_addr().unwrap()
    );
    let proxy = Proxy::start(&config, &[]).await;
    let mut client = TcpStream::connect(proxy.address("web").await).await.unwrap();
    client
        .write_all(
            b"GET /chat HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    let head = read_head(&mut accepted).await;
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    accepted
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
        )
        .await
        .unwrap();
    let head = read_head(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket\r\n"), "{head}");
    let mut buffer = [0; 5];
    client.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    client.write_all(b"world").await.unwrap();
    accepted.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"world");
    drop(client);
    assert_eq!(accepted.read(&mut buffer).await.unwrap(), 0);
    drop(accepted);
    proxy.until("the tunnel is over", |status| status.listeners["web"].connections == 0).await;
    proxy.until("its slot is free", |status| status.pools["p"].servers["s"].active == 0).await;
    let line = &proxy.logged(1).await[0];
    assert_eq!((&line["status"], &line["bytes_out"]), (&101.into(), &5.into()));
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
