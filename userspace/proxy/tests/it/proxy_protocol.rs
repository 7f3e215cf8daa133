//! Who the client is, said in front of a connection: to the proxy, and by it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep, timeout},
};
use weir_core::proxy_protocol::{Addresses, Header, Tlvs, Version, parse, write};

use crate::{
    authority::{Authority, connect},
    servers::Server,
    subject::{LIMIT, Proxy},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn header(version: Version, addresses: Option<Addresses>, tlvs: &Tlvs) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, version, addresses, tlvs);
    out
}

fn config(listener: &str, pool: &str, server: SocketAddr) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[listener.l]\n{listener}\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{server}\"\nzone = \"az1\"\n"
    )
}

/// A server that wants a header in front of each connection, tells of it, and answers each request.
async fn origin() -> (SocketAddr, UnboundedReceiver<(Header, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut came = Vec::new();
                let mut told = false;
                while stream.read_buf(&mut came).await? > 0 {
                    if !told && let Some(header) = parse(&came).unwrap() {
                        told = true;
                        came.drain(..header.len);
                        tell.send((header, came.clone())).unwrap();
                    }
                    if told && came.ends_with(b"\r\n\r\n") {
                        came.clear();
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, told)
}

async fn next<T>(told: &mut UnboundedReceiver<T>) -> T {
    timeout(LIMIT, told.recv()).await.expect("in time").unwrap()
}

/// Writes pieces with pauses that let each be read by itself, and reads what comes back, until the end.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, pieces: &[&[u8]]) -> String {
    let mut answer = Vec::new();
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        stream.flush().await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    // A reset is an end too.
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_header_says_who_the_client_is_however_it_comes() {
    let server = Server::start("s").await;
    let listener = "protocol = \"http\"\nproxy_protocol_from = [\"127.0.0.0/8\"]";
    let proxy = Proxy::start(&config(listener, "", server.address), &[]).await;
    let to = proxy.address("l").await;
    let (v4, v6) = (
        addresses("192.0.2.7:4711", "198.51.100.1:443"),
        addresses("[2001:db8::7]:4711", "[2001:db8::1]:443"),
    );
    let tlvs = Tlvs { unique_id: Some(vec![7; 100]), ..Tlvs::default() };
    let local = Version::V2;
    let headers = [
        (header(Version::V1, Some(v4), &tlvs), "192.0.2.7"),
        (header(Version::V1, Some(v6), &tlvs), "2001:db8::7"),
        (header(Version::V2, Some(v4), &tlvs), "192.0.2.7"),
        (header(Version::V2, Some(v6), &tlvs), "2001:db8::7"),
        // Whoever speaks for itself is who it is.
        (header(local, None, &tlvs), "127.0.0.1"),
        (header(Version::V1, None, &tlvs), "127.0.0.1"),
    ];
    for (header, client) in &headers {
        let whole = [&header[..], GET].concat();
        let bytes: Vec<&[u8]> = header.chunks(1).chain([GET]).collect();
        let halves: Vec<&[u8]> = vec![&whole[..header.len() / 2], &whole[header.len() / 2..]];
        for pieces in [vec![&whole[..]], bytes, halves] {
            let answer = say(&mut TcpStream::connect(to).await.unwrap(), &pieces).await;
            assert!(answer.contains(&format!("x-forwarded-for: {client}\n")), "{client}: {answer}");
        }
    }
    let log = proxy.logged(18).await;
    let by_v6 = log.iter().find(|line| line["client"] == "2001:db8::7").unwrap();
    assert_eq!((&by_v6["client_port"], &by_v6["local"]), (&4711.into(), &"[2001:db8::1]:443".into()));
    assert!(proxy.metrics().await.contains("weir_proxy_bad_proxy_headers_total{listener=\"l\"} 0\n"));
}

#[tokio::test]
async fn whoever_should_begin_with_a_header_and_does_not_is_cut_and_counted() {
    let server = Server::start("s").await;
    let listener = "protocol = \"http\"\nproxy_protocol_from = [\"127.0.0.2/32\"]";
    let proxy = Proxy::start(&config(listener, "", server.address), &[]).await;
    let to = proxy.address("l").await;
    let from = async |ip: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    };
    // Others are who they are, and a header is no request of theirs.
    let answer = say(&mut from("127.0.0.1").await, &[GET]).await;
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");
    let good = header(Version::V2, Some(addresses("192.0.2.7:1", "192.0.2.8:2")), &Tlvs::default());
    let forged = header(Version::V1, Some(addresses("192.0.2.7:1", "192.0.2.8:2")), &Tlvs::default());
    let answer = say(&mut from("127.0.0.1").await, &[&forged]).await;
    assert!(answer.starts_with("HTTP/1.1 505"), "{answer}");

    let mut wrong = good.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let garbage: [&[u8]; 6] = [GET, b"PROXY TCP4 1.2.3.4\r\n", b"\0", &wrong, &long, b"PROXY TCP5 x\r\n"];
    for bytes in garbage {
        assert_eq!(say(&mut from("127.0.0.2").await, &[bytes]).await, "", "{bytes:?}");
    }
    // Cut by the client; silent from the first byte, which nobody counts; and one that stops half-way.
    for cut in [&good[..5], &good[..good.len() - 1], b""] {
        let mut stream = from("127.0.0.2").await;
        stream.write_all(cut).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(say(&mut stream, &[]).await, "");
    }
    let mut slow = from("127.0.0.2").await;
    let began = Instant::now();
    assert_eq!(say(&mut slow, &[&good[..20]]).await, "");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("weir_proxy_bad_proxy_headers_total{listener=\"l\"} 9\n"), "{metrics}");
    assert_eq!(server.requests(), 1);
    proxy.until("all have ended", |status| status.listeners["l"].connections == 0).await;
}

#[tokio::test]
async fn a_server_is_told_who_the_client_is_on_a_connection_of_its_own_for_each_request() {
    let (server, mut told) = origin().await;
    for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let listener = "protocol = \"http\"\nproxy_protocol_from = [\"127.0.0.0/8\"]";
        let proxy = Proxy::start(&config(listener, &format!("send_proxy = \"{name}\""), server), &[]).await;
        let to = proxy.address("l").await;
        for client in ["192.0.2.7:4711", "192.0.2.9:4712"] {
            let said = addresses(client, "198.51.100.1:80");
            let tlvs = Tlvs { unique_id: Some(b"id".to_vec()), is_tls: true, ..Tlvs::default() };
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.write_all(&header(Version::V2, Some(said), &tlvs)).await.unwrap();
            for _ in 0..2 {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                let (header, _) = next(&mut told).await;
                assert_eq!(header.addresses, Some(said));
                assert_eq!(header.tlvs, if version == Version::V2 { tlvs.clone() } else { Tlvs::default() });
                let mut answer = [0; 200];
                let len = timeout(LIMIT, stream.read(&mut answer)).await.unwrap().unwrap();
                assert!(answer[..len].starts_with(b"HTTP/1.1 200"));
            }
        }
    }
}

#[tokio::test]
async fn behind_tls_a_server_is_told_name_and_protocol_as_well() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign(&["a.example"]);
    let (server, mut told) = origin().await;
    let listener = "protocol = \"https\"\nproxy_protocol_from = [\"127.0.0.0/8\"]\n\
                    tls.certificates = [{ certificate = \"c.pem\", key = \"c.key\" }]";
    let files = [("c.pem", certificate), ("c.key", key)];
    let config = config(listener, "send_proxy = \"v2\"", server);
    let proxy = Proxy::start_with_files(&config, &files, &[]).await;
    let to = proxy.address("l").await;
    let said = addresses("[2001:db8::7]:4711", "[2001:db8::1]:443");
    for alpn in ["http/1.1", "h2"] {
        let mut client = authority.client();
        client.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&header(Version::V1, Some(said), &Tlvs::default())).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("a.example").unwrap();
        let mut stream =
            tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
        let serving = if alpn == "h2" {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(
                hyper_util::rt::TokioExecutor::new(),
                hyper_util::rt::TokioIo::new(stream),
            )
            .await
            .unwrap();
            tokio::spawn(connection);
            tokio::spawn(async move {
                let request = hyper::Request::get("https://a.example/").body(String::new()).unwrap();
                assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
            })
        } else {
            tokio::spawn(async move {
                assert!(say(&mut stream, &[GET]).await.starts_with("HTTP/1.1 200"));
            })
        };
        let (header, _) = next(&mut told).await;
        assert_eq!(header.addresses, Some(said));
        let tlvs = Tlvs {
            alpn: Some(alpn.into()),
            authority: Some("a.example".into()),
            unique_id: None,
            is_tls: true,
        };
        assert_eq!(header.tlvs, tlvs);
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn bytes_are_relayed_behind_a_header_too() {
    let (server, mut told) = origin().await;
    let listener = "protocol = \"tcp\"\nproxy_protocol_from = [\"127.0.0.0/8\"]";
    let proxy = Proxy::start(&config(listener, "send_proxy = \"v1\"", server), &[]).await;
    let said = addresses("192.0.2.7:4711", "198.51.100.1:80");
    let mut stream = TcpStream::connect(proxy.address("l").await).await.unwrap();
    let whole = [&header(Version::V2, Some(said), &Tlvs::default())[..], GET].concat();
    stream.write_all(&whole).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(next(&mut told).await.0.addresses, Some(said));
    assert!(say(&mut stream, &[]).await.ends_with("\r\n\r\nok"));
    assert_eq!(proxy.logged(1).await[0]["client"], "192.0.2.7");

    let listener = "protocol = \"tls-passthrough\"\nproxy_protocol_from = [\"127.0.0.0/8\"]";
    let proxy = Proxy::start(&config(listener, "send_proxy = \"v2\"", server), &[]).await;
    let to = proxy.address("l").await;
    // Nobody speaks for this one, so that it is cut.
    let authority = Authority::new();
    let tls = Arc::new(authority.client());
    assert!(connect(&tls, to, "a.example").await.is_err());
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&header(Version::V1, Some(said), &Tlvs::default())).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("b.example").unwrap();
    let shaking = tokio_rustls::TlsConnector::from(tls).connect(name, stream);
    let shaking = tokio::spawn(async move { shaking.await.map(|_| ()) });
    let (header, _) = next(&mut told).await;
    assert_eq!(header.addresses, Some(said));
    assert_eq!(header.tlvs, Tlvs { authority: Some("b.example".into()), ..Tlvs::default() });
    shaking.abort();
}

#[tokio::test]
async fn checks_tell_a_server_that_they_are_the_proxys_own() {
    for version in ["v1", "v2"] {
        let (server, mut told) = origin().await;
        let pool = format!(
            "send_proxy = \"{version}\"\ncheck = {{ kind = \"http\", interval = \"20ms\", rise = 1 }}"
        );
        let proxy = Proxy::start(&config("protocol = \"tcp\"", &pool, server), &[]).await;
        let (header, rest) = next(&mut told).await;
        assert_eq!(header.addresses, None);
        assert!(rest.is_empty() || rest.starts_with(b"GET / HTTP/1.1\r\n"), "{rest:?}");
        let up = |status: &weir_model::status::ProxyStatus| {
            status.pools["p"].servers.values().all(|s| s.health == weir_model::status::Health::Up)
        };
        proxy.until("the server is up", up).await;
    }
}
