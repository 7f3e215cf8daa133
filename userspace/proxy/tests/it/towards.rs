//! TLS and HTTP/2 to servers, whichever their clients speak.

use std::{net::SocketAddr, sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time::timeout};
use weir_model::status::Health;

use crate::{
    authority::Authority,
    clients::{Client, field, get, text},
    raw::say,
    secure::{SecureServer, server_config},
    subject::{LIMIT, Proxy},
};

fn config(pool: &str, servers: &[&SecureServer]) -> String {
    let mut config = format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n"
    );
    for (index, server) in servers.iter().enumerate() {
        let address = server.address;
        config += &format!("[server.s{index}]\npools = [\"p\"]\naddress = \"{address}\"\nzone = \"az1\"\n");
    }
    config
}

const NAMED: &str = "tls = { ca = \"ca.pem\", name = \"app.example\" }";

#[tokio::test]
async fn servers_are_spoken_to_by_tls_and_only_those_with_the_right_certificate() {
    let authority = Authority::new();
    let good =
        SecureServer::start(false, Some(server_config(&authority, &["app.example"], "http/1.1", None))).await;
    let foreign = server_config(&Authority::new(), &["app.example"], "http/1.1", None);
    let foreign = SecureServer::start(false, Some(foreign)).await;
    let misnamed = server_config(&authority, &["other.example"], "http/1.1", None);
    let misnamed = SecureServer::start(false, Some(misnamed)).await;
    let files = [("ca.pem", authority.pem.clone())];

    let proxy =
        Proxy::start_with_files(&config(NAMED, &[&good, &foreign, &misnamed]), &files, &["--threads", "1"])
            .await;
    let web = proxy.address("web").await;
    for _ in 0..12 {
        let answer = get(web, "/").await;
        assert_eq!(answer.status(), 200);
        assert!(text(&answer).contains("host: test.example\n"), "{}", text(&answer));
    }
    assert_eq!((good.requests(), foreign.requests(), misnamed.requests()), (12, 0, 0));
    assert_eq!(good.accepted(), 1, "the connection is used again");
    assert_eq!(good.seen.hellos.lock().unwrap()[0].0.as_deref(), Some("app.example"));
    assert!(foreign.accepted() > 0 && misnamed.accepted() > 0, "they were tried");

    for bad in [&foreign, &misnamed] {
        let proxy = Proxy::start_with_files(&config(NAMED, &[bad]), &files, &[]).await;
        let answer = get(proxy.address("web").await, "/").await;
        assert_eq!((answer.status().as_u16(), field(&answer, "weir-cause")), (502, "tls-failed"));
    }
    let any = Proxy::start(&config("tls = { verify = false }", &[&foreign]), &[]).await;
    assert_eq!(get(any.address("web").await, "/").await.status(), 200);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_is_shown_the_pools_and_sessions_are_resumed() {
    let (authority, ours) = (Authority::new(), Authority::new());
    let config_of = server_config(&authority, &["127.0.0.1"], "http/1.1", Some(&ours));
    let server = SecureServer::start(false, Some(config_of)).await;
    server.seen.closes.store(true, SeqCst);
    let (certificate, key) = ours.sign(&["weir.example"]);
    let files = [("ca.pem", authority.pem.clone()), ("us.pem", certificate), ("us.key", key)];
    let tls = "tls = { ca = \"ca.pem\", certificate = \"us.pem\", key = \"us.key\" }";
    let proxy = Proxy::start_with_files(&config(tls, &[&server]), &files, &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    for _ in 0..5 {
        assert_eq!(get(web, "/").await.status(), 200);
    }
    assert_eq!(server.accepted(), 5);
    let hellos = server.seen.hellos.lock().unwrap().clone();
    // RFC 6066 §3: an address is no name to ask for.
    assert!(hellos.iter().all(|hello| *hello == (None, 1)), "{hellos:?}");
    assert!(server.seen.resumed.load(SeqCst) >= 3, "{} resumed", server.seen.resumed.load(SeqCst));

    let without =
        Proxy::start_with_files(&config("tls = { ca = \"ca.pem\" }", &[&server]), &files, &[]).await;
    let answer = get(without.address("web").await, "/").await;
    assert_eq!(answer.status(), 502);
}

#[tokio::test]
async fn a_renewed_authority_is_believed_and_a_file_that_holds_none_changes_nothing() {
    let (first, second) = (Authority::new(), Authority::new());
    let old = SecureServer::start(false, Some(server_config(&first, &["127.0.0.1"], "http/1.1", None))).await;
    let new =
        SecureServer::start(false, Some(server_config(&second, &["127.0.0.1"], "http/1.1", None))).await;
    let pool = "tls = { ca = \"ca.pem\" }\nretries = 0";
    let files = [("ca.pem", first.pem.clone())];
    let old_proxy = Proxy::start_with_files(&config(pool, &[&old]), &files, &[]).await;
    let web = old_proxy.address("web").await;
    assert_eq!(get(web, "/").await.status(), 200);
    old_proxy.write("ca.pem", "nothing");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !old_proxy.log().contains("the old ones stay") {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(get(web, "/").await.status(), 200);

    let proxy = Proxy::start_with_files(&config(pool, &[&new]), &files, &[]).await;
    let web = proxy.address("web").await;
    assert_eq!(field(&get(web, "/").await, "weir-cause"), "tls-failed");
    proxy.write("ca.pem", &second.pem);
    let deadline = tokio::time::Instant::now() + LIMIT;
    while get(web, "/").await.status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the renewed authority is not believed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_check_by_http_goes_by_tls_where_requests_do() {
    let authority = Authority::new();
    let good = server_config(&authority, &["app.example"], "http/1.1", None);
    let good = SecureServer::start(false, Some(good)).await;
    let foreign = server_config(&Authority::new(), &["app.example"], "http/1.1", None);
    let foreign = SecureServer::start(false, Some(foreign)).await;
    let pool = format!("{NAMED}\ncheck = {{ kind = \"http\", interval = \"50ms\", rise = 1, fall = 1 }}");
    let files = [("ca.pem", authority.pem.clone())];
    let proxy = Proxy::start_with_files(&config(&pool, &[&good, &foreign]), &files, &[]).await;
    proxy
        .until("one is up and one is down", |status| {
            let health = |server: &str| status.pools["p"].servers[server].health;
            health("s0") == Health::Up && health("s1") == Health::Down
        })
        .await;
}

struct Http2(http2::SendRequest<Full<Bytes>>);

impl Http2 {
    async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// Status, fields, body and trailers; `None` when the response breaks off.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Option<(u16, HeaderMap, Bytes, HeaderMap)> {
        let request = Request::builder().method(method).uri(format!("http://test.example{path}"));
        let request = request.header("te", "trailers").body(Full::new(body)).unwrap();
        let exchange = async {
            let (parts, body) = self.0.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.ok()?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            Some((parts.status.as_u16(), parts.headers, body.to_bytes(), trailers))
        };
        timeout(LIMIT, exchange).await.unwrap()
    }
}

#[tokio::test]
async fn either_version_of_clients_is_served_by_either_version_of_servers() {
    let authority = Authority::new();
    let tls = |alpn: &str| Some(server_config(&authority, &["app.example"], alpn, None));
    let rows = [
        ("", SecureServer::start(false, None).await, "HTTP/1.1"),
        (NAMED, SecureServer::start(false, tls("http/1.1")).await, "HTTP/1.1"),
        ("protocol = \"h2c\"", SecureServer::start(true, None).await, "HTTP/2.0"),
        (&format!("protocol = \"h2\"\n{NAMED}"), SecureServer::start(true, tls("h2")).await, "HTTP/2.0"),
    ];
    let large = Bytes::from((0..1_500_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    for (pool, server, version) in &rows {
        let files = [("ca.pem", authority.pem.clone())];
        let proxy = Proxy::start_with_files(&config(pool, &[server]), &files, &["--threads", "1"]).await;
        let web = proxy.address("web").await;

        let mut http2 = Http2::connect(web).await;
        let (status, _, body, _) = http2.ask(Method::GET, "/a?b", Bytes::new()).await.unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(status, 200, "{pool}");
        assert!(body.lines().next().unwrap().ends_with(version), "{pool}: {body}");
        assert!(body.contains("via: 2.0 weir\n") && body.contains("/a?b "), "{pool}: {body}");
        assert!(!body.contains("connection:") && body.matches("test.example").count() >= 2, "{pool}: {body}");
        let (_, _, body, trailers) = http2.ask(Method::POST, "/trailers", large.clone()).await.unwrap();
        assert!(body.ends_with(&large), "{pool}: {} bytes", body.len());
        // A server of HTTP/1.1 is not told that trailers are welcome, and then need not send them.
        if *version == "HTTP/2.0" {
            assert_eq!(trailers["x-sum"], "1500000", "{pool}");
        }
        let (status, _, body, _) = http2.ask(Method::HEAD, "/", Bytes::new()).await.unwrap();
        assert_eq!((status, body.len()), (200, 0), "{pool}");
        let (status, _, body, _) = http2.ask(Method::GET, "/204", Bytes::new()).await.unwrap();
        assert_eq!((status, body.len()), (204, 0), "{pool}");
        assert!(http2.ask(Method::GET, "/broken", Bytes::new()).await.is_none(), "{pool}");

        let mut http1 = Client::connect(web).await.unwrap();
        let answer = http1.get("/a?b").await.unwrap();
        let body = text(&answer);
        assert!(body.lines().next().unwrap().ends_with(version), "{pool}: {body}");
        assert!(body.contains("via: 1.1 weir\n") && body.contains("/a?b "), "{pool}: {body}");
        let ask = |method: Method, target: &str, body: &Bytes| {
            let request = Request::builder().method(method).uri(target).header("host", "test.example");
            request.body(Full::new(body.clone())).unwrap()
        };
        let answer = http1.send(ask(Method::POST, "/", &large)).await.unwrap();
        assert!(answer.body().ends_with(&large), "{pool}");
        let answer = http1.send(ask(Method::HEAD, "/", &Bytes::new())).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().len()), (200, 0), "{pool}");
        let answer = http1.send(ask(Method::GET, "/204", &Bytes::new())).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.body().len()), (204, 0), "{pool}");
        assert!(http1.get("/broken").await.is_err(), "{pool}");

        // Chunks in, chunks and trailers out, on one connection with what follows.
        let bytes = "POST /trailers HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\n\
                     transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n\
                     GET /last HTTP/1.1\r\nhost: a\r\n\r\n";
        let came = say(web, bytes.as_bytes(), &["/last"]).await;
        assert!(came.contains("abc") && came.contains("de\r\n0\r\n"), "{pool}: {came}");
        if *version == "HTTP/2.0" {
            assert!(came.contains("0\r\nx-sum: 5\r\n\r\nHTTP/1.1 200"), "{pool}: {came}");
        }
        // HTTP/1.0 knows no chunks.
        let came = say(web, b"GET / HTTP/1.0\r\n\r\n", &["via: 1.0 weir\n"]).await;
        assert!(came.contains("via: 1.0 weir\n") && !came.contains("chunked"), "{pool}: {came}");
        if *version == "HTTP/2.0" {
            assert_eq!(server.accepted(), 1, "{pool}: all of it on one connection");
        }
    }
}

#[tokio::test]
async fn a_check_whose_authorities_are_missing_is_refused_at_once() {
    let server = SecureServer::start(false, None).await;
    let mut files = Vec::new();
    for (check, path) in [
        ("check = { kind = \"tls\", tls = { ca = \"none.pem\" } }", "pool.p.check.tls.ca"),
        (
            "check = { kind = \"tcp\", and = [{ kind = \"tls\", port = 9, tls = { ca = \"empty.pem\" } }] }",
            "pool.p.check.and.0.tls.ca",
        ),
    ] {
        let mut proxy = Proxy::spawn(&config(check, &[&server]), &files, &[]);
        assert!(!proxy.exited().await.success());
        assert!(proxy.log().contains(path), "{}", proxy.log());
        files.push(("empty.pem", String::new()));
    }
}

#[tokio::test]
async fn many_requests_at_once_share_a_connection_of_http_2() {
    let server = SecureServer::start(true, None).await;
    let proxy = Proxy::start(&config("protocol = \"h2c\"", &[&server]), &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let clients: Vec<_> = (0..100).map(|_| tokio::spawn(async move { get(web, "/slow").await })).collect();
    for client in clients {
        assert_eq!(client.await.unwrap().status(), 200);
    }
    assert_eq!((server.requests(), server.accepted()), (100, 1));
}
