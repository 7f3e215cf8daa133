//! Streams of HTTP/2 to servers of HTTP/1.1: bodies larger than any window, trailers, tunnels, and how a connection ends.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{client::SendRequest, ext::Protocol};
use http::{Method, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::subject::{LIMIT, Proxy};

/// Bytes of a body that fits into no window and no buffer of a socket.
const LARGE: usize = 24 << 20;

/// A server of HTTP/1.1 that reads one head, says `head`, and then does with the stream what it is told to.
async fn origin<F>(head: &'static [u8], go_on: impl Fn(TcpStream, String) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(head).await.unwrap();
            tokio::spawn(go_on(stream, String::from_utf8(asked).unwrap()));
        }
    });
    address
}

async fn proxy(origin: SocketAddr, more: &str) -> (Proxy, SendRequest<Bytes>) {
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n{more}\n\
         [server.s]\npools = [\"p\"]\naddress = \"{origin}\"\nzone = \"az1\"\n"
    );
    let proxy = Proxy::start(&config, &[]).await;
    let stream = TcpStream::connect(proxy.address("web").await).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    (proxy, sender.ready().await.unwrap())
}

async fn limited<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("in time")
}

#[tokio::test]
async fn bodies_larger_than_all_windows_go_both_ways_at_once() {
    let echo = |stream: TcpStream, _: String| async move {
        let (mut reading, mut writing) = stream.into_split();
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
    };
    // What comes is in chunks, and so is what goes.
    let origin = origin(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", echo).await;
    let (_proxy, mut sender) = proxy(origin, "").await;
    let request = Request::post("http://a.example/").body(()).unwrap();
    let (answer, mut body) = sender.send_request(request, false).unwrap();
    let sending = tokio::spawn(async move {
        let mut left = LARGE;
        while left > 0 {
            body.reserve_capacity(left.min(64 << 10));
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
            let len = room.min(left);
            body.send_data(Bytes::from(vec![(left % 251) as u8; len]), false).unwrap();
            left -= len;
        }
        body.send_data(Bytes::new(), true).unwrap();
    });
    let mut answer = limited(answer).await.unwrap().into_body();
    let mut seen = 0;
    while let Some(data) = limited(answer.data()).await {
        let data = data.unwrap();
        seen += data.len();
        answer.flow_control().release_capacity(data.len()).unwrap();
    }
    limited(sending).await.unwrap();
    assert_eq!(seen, LARGE);
}

#[tokio::test]
async fn fields_behind_a_body_in_chunks_reach_clients_of_http2() {
    let end = |mut stream: TcpStream, _| async move {
        stream.write_all(b"2\r\nhi\r\n0\r\nx-sum: 5\r\nset-cookie: no\r\n\r\n").await.unwrap();
    };
    let origin = origin(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", end).await;
    let (_proxy, mut sender) = proxy(origin, "").await;
    let request = Request::get("http://a.example/").body(()).unwrap();
    let mut body = limited(sender.send_request(request, true).unwrap().0).await.unwrap().into_body();
    assert_eq!(limited(body.data()).await.unwrap().unwrap(), "hi");
    assert!(limited(body.data()).await.is_none());
    let trailers = limited(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["x-sum"], "5");
    // RFC 9110 §6.5.1: such as this has no business there.
    assert!(!trailers.contains_key("set-cookie"));
}

#[tokio::test]
async fn a_websocket_over_http2_reaches_a_server_of_http1() {
    let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: x\r\nsec-websocket-protocol: chat\r\n\r\n";
    let echo = |mut stream: TcpStream, asked: String| async move {
        stream.write_all(asked.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
        writing.write_all(b"bye").await.unwrap();
    };
    let (_proxy, mut sender) = proxy(origin(head, echo).await, "").await;
    let wait = async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    };
    limited(wait).await;
    let mut request = Request::builder().method(Method::CONNECT).uri("http://a.example/chat");
    request = request.header("sec-websocket-version", "13").extension(Protocol::from_static("websocket"));
    let (answer, mut up) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    let answer = limited(answer).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["sec-websocket-protocol"]),
        (200, &"chat".parse().unwrap())
    );
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    up.send_data("to and fro".into(), true).unwrap();
    let mut down = answer.into_body();
    let mut seen = Vec::new();
    while let Some(data) = limited(down.data()).await {
        seen.extend_from_slice(&data.unwrap());
    }
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("GET /chat HTTP/1.1\r\n") && seen.ends_with("\r\n\r\nto and frobye"), "{seen}");
    for line in
        ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: "]
    {
        assert!(seen.contains(&format!("\r\n{line}")), "{line} in {seen}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_switch_makes_no_tunnel() {
    let origin = origin(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", |_, _| async {}).await;
    let (_proxy, mut sender) = proxy(origin, "").await;
    let request = Request::builder().method(Method::CONNECT).uri("http://a.example/chat");
    let request = request.extension(Protocol::from_static("websocket")).body(()).unwrap();
    let wait = async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    };
    limited(wait).await;
    let answer = limited(sender.send_request(request, false).unwrap().0).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["weir-cause"]),
        (502, &"bad-response".parse().unwrap())
    );
}

#[tokio::test]
async fn a_stream_under_way_is_finished_when_the_proxy_stops() {
    let slow = |mut stream: TcpStream, _| async move {
        let mut go = [0];
        stream.write_all(b"1").await.unwrap();
        stream.read_exact(&mut go).await.unwrap();
        stream.write_all(b"2").await.unwrap();
    };
    let origin = origin(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", slow).await;
    let (mut proxy, mut sender) = proxy(origin, "").await;
    let request = Request::put("http://a.example/").body(()).unwrap();
    let (answer, mut up) = sender.send_request(request, false).unwrap();
    let mut body = limited(answer).await.unwrap().into_body();
    assert_eq!(limited(body.data()).await.unwrap().unwrap(), "1");
    proxy.terminate();
    // The client is told to go elsewhere with what it wants next: it cannot open another stream.
    let refused = async {
        while sender.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    limited(refused).await;
    up.send_data("x".into(), true).unwrap();
    assert_eq!(limited(body.data()).await.unwrap().unwrap(), "2");
    assert!(limited(body.data()).await.is_none());
    assert!(limited(proxy.exited()).await.success());
}

#[tokio::test]
async fn a_client_of_http2_that_wants_nothing_for_long_is_told_to_go() {
    let origin = origin(b"HTTP/1.1 204 No Content\r\n\r\n", |_, _| async {}).await;
    let (proxy, sender) = proxy(origin, "keep_alive_timeout = \"300ms\"").await;
    for _ in 0..2 {
        let mut sender = limited(sender.clone().ready()).await.unwrap();
        let request = Request::get("http://a.example/").body(()).unwrap();
        assert_eq!(limited(sender.send_request(request, true).unwrap().0).await.unwrap().status(), 204);
    }
    let gone = async {
        while sender.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    limited(gone).await;
    proxy
        .until("the connection is closed", |status| status.listeners.values().all(|l| l.connections == 0))
        .await;
}

#[tokio::test]
async fn a_head_of_http2_in_drips_takes_no_longer_than_it_may() {
    let origin = origin(b"HTTP/1.1 204 No Content\r\n\r\n", |_, _| async {}).await;
    let (proxy, _sender) = proxy(origin, "header_timeout = \"300ms\"").await;
    let mut client = TcpStream::connect(proxy.address("web").await).await.unwrap();
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // A head that is said to go on, and then does so byte by byte.
    client.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82").await.unwrap();
    let drips = async {
        for byte in [0, 0, 200, 9, 0, 0, 0, 0, 1].into_iter().chain([0x82; 200]) {
            if client.write_all(&[byte]).await.is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    };
    assert!(limited(drips).await, "it still listens");
}
