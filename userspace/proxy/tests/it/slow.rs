//! Clients and servers that take their time: how much of it they have, and what is said and counted when it is over.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use crate::{
    raw::{OK, Origin, until},
    secure::SecureServer,
    subject::{LIMIT, Proxy},
};

async fn proxy_to(origin: SocketAddr, listener: &str, pool: &str) -> (Proxy, SocketAddr) {
    let config = format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[server.s]\npools = [\"p\"]\naddress = \"{origin}\"\nzone = \"az1\"\n\
         [listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n{listener}\n"
    );
    let proxy = Proxy::start(&config, &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    (proxy, web)
}

/// All that comes until the end, and when that was.
async fn rest(stream: &mut TcpStream, began: Instant) -> (String, Duration) {
    let mut all = Vec::new();
    // A reset is an end, too.
    let _either_way = timeout(LIMIT, stream.read_to_end(&mut all)).await.expect("an end in time");
    (String::from_utf8_lossy(&all).into_owned(), began.elapsed())
}

/// Sends a byte now and then until the other side has enough, and returns what it says.
async fn drip(stream: TcpStream, bytes: &[u8], every: Duration) -> (String, Duration) {
    let began = Instant::now();
    let (mut reading, mut writing) = stream.into_split();
    let bytes = bytes.to_vec();
    let dripping = tokio::spawn(async move {
        for byte in bytes.iter().cycle() {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(every).await;
        }
    });
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = timeout(LIMIT, reading.read(&mut buffer)).await.expect("an end in time") {
        all.extend_from_slice(&buffer[..len]);
    }
    let took = began.elapsed();
    dripping.abort();
    (String::from_utf8_lossy(&all).into_owned(), took)
}

fn within(took: Duration, from_ms: u64, to_ms: u64) {
    let range = Duration::from_millis(from_ms)..Duration::from_millis(to_ms);
    assert!(range.contains(&took), "{took:?}, not within {range:?}");
}

/// How often something ended by a timeout.
async fn ended_by(proxy: &Proxy, setting: &str) -> u64 {
    let metrics = proxy.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with("weir_proxy_timeouts_total{"));
    let lines = lines.filter(|line| line.contains(&format!("timeout=\"{setting}\"")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[tokio::test]
async fn the_head_of_a_request_has_its_time_and_bytes_now_and_then_make_it_no_longer() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let times = "header_timeout = \"500ms\"\nkeep_alive_timeout = \"5s\"\nrequest_id = \"make\"";
    let (proxy, web) = proxy_to(origin.address, times, "").await;
    // Long enough for a head that is not over when its time is.
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {}", "b".repeat(1_000));
    let (said, took) =
        drip(TcpStream::connect(web).await.unwrap(), head.as_bytes(), Duration::from_millis(20)).await;
    within(took, 490, 1_500);
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("weir-cause: header-timeout\r\n"), "{said}");
    assert!(said.contains("x-request-id: ") && said.contains("connection: close\r\n"), "{said}");

    // The time between two requests is another.
    let mut kept = TcpStream::connect(web).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(&mut kept, "\r\n\r\nok").await;
    sleep(Duration::from_millis(700)).await;
    kept.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (said, took) = rest(&mut kept, Instant::now()).await;
    within(took, 490, 1_500);
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");

    // Who asks nothing is told nothing.
    let (said, took) = rest(&mut TcpStream::connect(web).await.unwrap(), Instant::now()).await;
    within(took, 490, 1_500);
    assert_eq!(said, "");

    let log = proxy.logged(3).await;
    let slow: Vec<_> = log.iter().filter(|line| line["cause"] == "header-timeout").collect();
    assert_eq!((log.len(), slow.len()), (3, 2), "{log:#?}");
    for line in slow {
        assert_eq!((&line["state"], &line["status"]), (&"cR".into(), &408.into()));
        assert!((490_000..1_500_000).contains(&line["request_us"].as_u64().unwrap()), "{line}");
    }
    assert_eq!(ended_by(&proxy, "header_timeout").await, 3);
    assert_eq!(origin.seen().matches("GET / ").count(), 1);
}

#[tokio::test]
async fn a_head_in_two_pieces_is_timed_from_its_first_byte_and_one_in_one_piece_is_not() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (proxy, web) = proxy_to(origin.address, "", "").await;
    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(b"GET /one HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(&mut client, "\r\n\r\nok").await;
    client.write_all(b"GET /two HTTP/1.1\r\n").await.unwrap();
    sleep(Duration::from_millis(200)).await;
    client.write_all(b"host: a\r\n\r\n").await.unwrap();
    until(&mut client, "\r\n\r\nok").await;
    let log = proxy.logged(2).await;
    assert_eq!((&log[0]["target"], &log[0]["request_us"]), (&"/one".into(), &0.into()));
    let took = log[1]["request_us"].as_u64().unwrap();
    assert!(log[1]["target"] == "/two" && (195_000..5_000_000).contains(&took), "{log:#?}");
    assert!(log[1]["duration_us"].as_u64().unwrap() < took, "{log:#?}");
}

#[tokio::test]
async fn a_connection_is_idle_for_as_long_as_it_may_be() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (proxy, web) = proxy_to(origin.address, "keep_alive_timeout = \"300ms\"", "").await;
    let mut client = TcpStream::connect(web).await.unwrap();
    for _ in 0..3 {
        sleep(Duration::from_millis(150)).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        until(&mut client, "\r\n\r\nok").await;
    }
    let (said, took) = rest(&mut client, Instant::now()).await;
    within(took, 290, 1_200);
    assert_eq!(said, "");
    assert_eq!((ended_by(&proxy, "keep_alive_timeout").await, proxy.logged(3).await.len()), (1, 3));
}

const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";

#[tokio::test]
async fn a_body_that_stops_or_drips_is_given_up_and_no_server_is_blamed() {
    let origin = Origin::start(b"never", OK, false).await;
    // The server's time is shorter than the client's, and does not run while the client is waited for.
    let times = "client_timeout = \"600ms\"\nbody_rate_min = 1000\nbody_rate_grace = \"1s\"";
    let (proxy, web) = proxy_to(origin.address, times, "response_timeout = \"200ms\"").await;
    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(POST).await.unwrap();
    client.write_all(b"and then nothing").await.unwrap();
    let (said, took) = rest(&mut client, Instant::now()).await;
    within(took, 590, 1_900);
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("weir-cause: client-timeout\r\n"), "{said}");

    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(POST).await.unwrap();
    let (said, took) = drip(client, b"x", Duration::from_millis(50)).await;
    within(took, 990, 2_500);
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("weir-cause: body-too-slow\r\n"), "{said}");

    let log = proxy.logged(2).await;
    let ends: Vec<_> = log.iter().map(|line| (line["state"].as_str(), line["cause"].as_str())).collect();
    assert_eq!(ends, [(Some("cH"), Some("client-timeout")), (Some("cH"), Some("body-too-slow"))]);
    assert_eq!((ended_by(&proxy, "client_timeout").await, ended_by(&proxy, "body_rate_min").await), (1, 1));
    assert_eq!(proxy.status().await.unwrap().pools["p"].servers["s"].failures, 0);
}

#[tokio::test]
async fn a_body_that_is_slow_and_fast_enough_arrives_and_so_does_one_the_server_is_slow_to_want() {
    let origin = Origin::start(b"the end", OK, false).await;
    let times = "client_timeout = \"500ms\"\nbody_rate_min = 100\nbody_rate_grace = \"300ms\"";
    let (proxy, web) = proxy_to(origin.address, times, "").await;
    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1507\r\n\r\n").await.unwrap();
    for _ in 0..15 {
        client.write_all(&[b'x'; 100]).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    client.write_all(b"the end").await.unwrap();
    assert!(until(&mut client, "\r\n\r\nok").await.starts_with("HTTP/1.1 200 "));

    // A server that has to say "100 Continue" first is waited for, and not the client.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (patient, web) = proxy_to(listener.local_addr().unwrap(), times, "").await;
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        until(&mut stream, "\r\n\r\n").await;
        sleep(Duration::from_millis(1_200)).await;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        until(&mut stream, "hello").await;
        stream.write_all(OK).await.unwrap();
    });
    let mut client = TcpStream::connect(web).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    client.write_all(head).await.unwrap();
    until(&mut client, "\r\n\r\n").await;
    client.write_all(b"hello").await.unwrap();
    until(&mut client, "\r\n\r\nok").await;
    serving.await.unwrap();
    for proxy in [&proxy, &patient] {
        assert_eq!(proxy.logged(1).await[0]["state"], "--");
    }
}

/// A response of many MB, to all who ask.
async fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let _asked = stream.read(&mut buffer).await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
                let _ = stream.write_all(head).await;
                while stream.write_all(&[b'x'; 16 << 10]).await.is_ok() {}
            });
        }
    });
    address
}

async fn small_reader(web: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(web).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until(&mut client, "HTTP/1.1 200 OK\r\n").await;
    client
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_response_or_too_little_is_cut() {
    let server = endless().await;
    let (proxy, web) = proxy_to(server, "client_timeout = \"500ms\"", "").await;
    let (client, began) = (small_reader(web).await, Instant::now());
    let log = proxy.logged(1).await;
    within(began.elapsed(), 490, 3_000);
    assert_eq!((&log[0]["state"], &log[0]["cause"]), (&"cD".into(), &"client-timeout".into()));
    drop(client);

    let rate = "client_timeout = \"8s\"\nbody_rate_min = 1000000\nbody_rate_grace = \"200ms\"";
    let (proxy, web) = proxy_to(server, rate, "").await;
    let mut client = small_reader(web).await;
    let reading = tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok(1..) = client.read(&mut buffer).await {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let log = proxy.logged(1).await;
    assert_eq!((&log[0]["state"], &log[0]["cause"]), (&"cD".into(), &"body-too-slow".into()));
    assert_eq!(proxy.status().await.unwrap().pools["p"].servers["s"].failures, 0);
    reading.abort();
}

#[tokio::test]
async fn servers_of_http_2_and_their_clients_have_the_same_times() {
    let server = SecureServer::start(true, None).await;
    let times = "client_timeout = \"600ms\"\nbody_rate_min = 1000\nbody_rate_grace = \"1s\"";
    let pool = "protocol = \"h2c\"\nresponse_timeout = \"200ms\"";
    let (proxy, web) = proxy_to(server.address, times, pool).await;
    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(POST).await.unwrap();
    client.write_all(b"and then nothing").await.unwrap();
    let (said, took) = rest(&mut client, Instant::now()).await;
    within(took, 590, 1_900);
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("weir-cause: client-timeout\r\n"), "{said}");
    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(POST).await.unwrap();
    let (said, took) = drip(client, b"x", Duration::from_millis(50)).await;
    within(took, 990, 2_500);
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("weir-cause: body-too-slow\r\n"), "{said}");
    let log = proxy.logged(2).await;
    assert!(log.iter().all(|line| line["state"] == "cH"), "{log:#?}");
    assert_eq!(proxy.status().await.unwrap().pools["p"].servers["s"].failures, 0);
}

#[tokio::test]
async fn a_server_that_stops_within_its_response_is_given_up_in_its_own_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let times = "client_timeout = \"100ms\"\nbody_rate_grace = \"100ms\"";
    let (proxy, web) = proxy_to(listener.local_addr().unwrap(), times, "server_timeout = \"600ms\"").await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await.unwrap();
        for _ in 0..5 {
            stream.write_all(b"x").await.unwrap();
            sleep(Duration::from_millis(300)).await;
        }
        sleep(LIMIT).await;
    });
    let mut client = TcpStream::connect(web).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (said, took) = rest(&mut client, Instant::now()).await;
    within(took, 1_790, 4_000);
    assert!(said.ends_with("\r\n\r\nxxxxx"), "{said}");
    let log = proxy.logged(1).await;
    assert_eq!((&log[0]["state"], &log[0]["cause"]), (&"sD".into(), &"response-stalled".into()));
    assert_eq!(ended_by(&proxy, "server_timeout").await, 1);
}
