//! HTTP/2 frame by frame: what must not become a request, and clients that want work done for nothing.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    clients::get,
    raw::{OK, Origin, proxy},
    servers::Server,
    subject::{LIMIT, Proxy},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block without Huffman and without a table: each field literal, never indexed. RFC 7541 §6.2.3.
fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name.as_bytes(), value] {
            assert!(text.len() < 127, "needs a longer integer");
            block.push(text.len() as u8);
            block.extend_from_slice(text);
        }
    }
    block
}

const GET: [(&str, &[u8]); 4] =
    [(":method", b"GET"), (":scheme", b"http"), (":authority", b"a.example"), (":path", b"/")];

fn get_block() -> Vec<u8> {
    block(&GET)
}

/// The request with another field, or another value.
fn with(name: &'static str, value: &'static [u8]) -> Vec<(&'static str, &'static [u8])> {
    let mut fields = GET.to_vec();
    match fields.iter_mut().find(|field| field.0 == name) {
        Some(field) => field.1 = value,
        None => fields.push((name, value)),
    }
    fields
}

fn without(name: &str) -> Vec<(&'static str, &'static [u8])> {
    GET.into_iter().filter(|field| field.0 != name).collect()
}

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn connect(to: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        Self { stream }
    }

    /// Sends; whether the other side still listens.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        matches!(timeout(LIMIT, self.stream.write_all(bytes)).await, Ok(Ok(())))
    }

    /// The next frame: type, flags, stream and payload; `None` when there is no other.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let read = async {
            let mut header = [0; 9];
            self.stream.read_exact(&mut header).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = header;
            let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some((kind, flags, u32::from_be_bytes(stream), payload))
        };
        timeout(LIMIT, read).await.expect("the other side says nothing and does not close")
    }

    /// The first frame that ends a stream, or the connection.
    async fn outcome(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let (kind, _, _, payload) = self.next().await?;
            if matches!(kind, HEADERS | RST_STREAM | GOAWAY) {
                // The first head may say that the table of fields is not used. RFC 7541 §6.3.
                let fields = payload.strip_prefix(&[0x20]).filter(|_| kind == HEADERS);
                return Some((kind, fields.unwrap_or(&payload).to_vec()));
            }
        }
    }

    /// Waits until the connection has ended.
    async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }
}

#[tokio::test]
async fn what_must_not_become_a_request_of_http_1_reaches_no_server() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    let doubled = |name: &'static str, value: &'static [u8]| [GET.to_vec(), vec![(name, value)]].concat();
    type Row = (&'static str, Vec<(&'static str, &'static [u8])>);
    let rows: Vec<Row> = vec![
        // RFC 9113 §8.2.1: fields with what would end a line behind us.
        ("CR LF in a value", with("x", b"a\r\nhost: b")),
        ("LF in a value", with("x", b"a\nb")),
        ("CR in a value", with("x", b"a\rb")),
        ("NUL in a value", with("x", b"a\0b")),
        ("a large letter in a name", with("X", b"a")),
        ("a space in a name", with("x y", b"a")),
        ("a colon in a name", with("x:y", b"a")),
        ("CR LF in a name", with("x\r\ny", b"a")),
        ("an empty name", with("", b"a")),
        ("NUL in a name", with("x\0", b"a")),
        // RFC 9113 §8.2.2: fields of the connection.
        ("connection", with("connection", b"keep-alive")),
        ("transfer-encoding", with("transfer-encoding", b"chunked")),
        ("keep-alive", with("keep-alive", b"5")),
        ("proxy-connection", with("proxy-connection", b"close")),
        ("upgrade", with("upgrade", b"websocket")),
        ("te, not trailers", with("te", b"gzip")),
        // RFC 9113 §8.3: pseudo-fields.
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("an empty path", with(":path", b"")),
        ("a path with a space", with(":path", b"/a b")),
        ("a path with CR LF", with(":path", b"/ HTTP/1.1\r\nhost: b\r\n\r\nGET /")),
        ("a path with NUL", with(":path", b"/\0")),
        ("a path that is none", with(":path", b"x")),
        ("a path that is absolute", with(":path", b"http://b/")),
        ("a method with a space", with(":method", b"GET /x HTTP/1.1")),
        ("a method with CR LF", with(":method", b"GET\r\n")),
        ("an empty method", with(":method", b"")),
        ("an authority with CR LF", with(":authority", b"a\r\nx: b")),
        ("an authority with a space", with(":authority", b"a b")),
        ("an authority with a user", with(":authority", b"u@a.example")),
        ("an authority with a slash", with(":authority", b"a/b")),
        ("an unknown pseudo-field", with(":x", b"a")),
        ("a pseudo-field of responses", with(":status", b"200")),
        ("a pseudo-field twice", doubled(":path", b"/b")),
        ("a pseudo-field behind a field", [vec![("x", &b"a"[..])], GET.to_vec()].concat()),
        ("host and another authority", with("host", b"b.example")),
        // RFC 9113 §8.1.1, RFC 9110 §8.6: lengths.
        ("a length and no body", with("content-length", b"5")),
        ("two lengths", [with("content-length", b"0"), vec![("content-length", &b"5"[..])]].concat()),
        ("a length that is none", with("content-length", b"+0")),
    ];
    for (what, fields) in rows {
        let mut client = Client::connect(web).await;
        assert!(client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields))).await, "{what}");
        if let Some((HEADERS, payload)) = client.outcome().await {
            // An answer of our own: the first field is `:status`, from the static table where it is 200 or 400.
            assert_ne!(payload[0], 0x88, "{what} was answered 200");
        }
        assert_eq!(origin.seen(), "", "{what}");
    }
    // As it should be, to see that the frames are right.
    let mut client = Client::connect(web).await;
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block())).await;
    let (kind, payload) = client.outcome().await.unwrap();
    assert_eq!((kind, payload[0]), (HEADERS, 0x88));
    let seen = origin.seen();
    assert!(seen.starts_with("GET / HTTP/1.1\r\n") && seen.contains("\r\nhost: a.example\r\n"), "{seen}");
}

/// Bytes of memory of the process.
fn memory(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn who_wants_work_for_nothing_is_cut_and_others_are_served() {
    let server = Server::start("s").await;
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    let proxy = Proxy::start(&config, &[]).await;
    let web = proxy.address("web").await;
    assert_eq!(get(web, "/").await.status(), 200);
    let before = memory(&proxy);

    let rapid_reset = |stream: u32| {
        let begin = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get_block());
        [begin, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    // A window grown beyond its bound is an error of the stream, which we then reset. RFC 9113 §6.9.1.
    let made_you_reset = |stream: u32| {
        let begin = frame(HEADERS, END_HEADERS, stream, &get_block());
        [begin, frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat()
    };
    // One large field put into the table, then thousands of times named by one byte. RFC 7541 §7.3.
    let bomb = |stream: u32| {
        let mut large = vec![0x40, 1, b'x', 0x7f, 0x81, 0x1e];
        large.extend([b'v'; 127 + 0xf01]);
        large.extend([0xbe; 12_000]);
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &[get_block(), large].concat())
    };
    type Attack<'a> = (&'a str, Vec<u8>, &'a dyn Fn(u32) -> Vec<u8>);
    let open = frame(HEADERS, END_HEADERS, 1, &get_block());
    let attacks: [Attack<'_>; 9] = [
        ("rapid reset", vec![], &rapid_reset),
        ("made you reset", vec![], &made_you_reset),
        ("pings", vec![], &|_| frame(PING, 0, 0, &[7; 8])),
        ("settings", vec![], &|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("priorities", vec![], &|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 9])),
        ("empty data", open, &|_| frame(DATA, 0, 1, &[])),
        ("continuations", frame(HEADERS, END_STREAM, 1, &get_block()), &|_| {
            frame(CONTINUATION, 0, 1, &block(&[("x", &[b'v'; 100])]))
        }),
        ("empty continuations", frame(HEADERS, END_STREAM, 1, &get_block()), &|_| {
            frame(CONTINUATION, 0, 1, &[])
        }),
        ("a bomb", vec![], &bomb),
    ];
    for (what, first, more) in attacks {
        let mut client = Client::connect(web).await;
        client.send(&first).await;
        let began = Instant::now();
        let mut stream = 1;
        let (mut reading, mut writing) = client.stream.into_split();
        // Whoever attacks takes no interest in the answers, and leaves room for more.
        let drained =
            tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
        let cut = async {
            loop {
                let mut bytes = Vec::new();
                for _ in 0..16 {
                    bytes.extend(more(stream));
                    stream += 2;
                }
                if writing.write_all(&bytes).await.is_err() || drained.is_finished() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, cut).await.unwrap_or_else(|_| panic!("{what}: not cut after {stream} frames"));
        let other = get(web, "/").await;
        assert_eq!(other.status(), 200, "{what}");
        eprintln!("{what}: cut after {} frames and {:?}", stream / 2, began.elapsed());
    }
    let grown = memory(&proxy).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more memory");
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("weir_proxy_http2_floods_total{listener=\"web\"}"), "{metrics}");
}

/// A client that opens many streams and never reads: what waits for it is bounded.
#[tokio::test]
async fn a_client_that_takes_nothing_holds_little() {
    let body = vec![b'x'; 2 << 20];
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer: &'static [u8] = [head.as_bytes(), &body].concat().leak();
    let origin = Origin::start(b"\r\n\r\n", answer, false).await;
    let (proxy, web) = proxy(&origin).await;
    let before = memory(&proxy);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(web).await;
        // Windows of two gigabytes, of which nothing is ever read.
        client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).await;
        client.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])).await;
        for stream in 0..40 {
            client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * stream + 1, &get_block())).await;
        }
        clients.push(client);
    }
    let requests = || origin.seen().matches("GET / ").count();
    let deadline = Instant::now() + LIMIT;
    while requests() < 160 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(requests(), 160);
    // 320 MB would be there to hold. Looked at until it grows no more.
    let mut last = 0;
    let deadline = Instant::now() + LIMIT;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = memory(&proxy);
        if now <= last + (1 << 20) || Instant::now() > deadline {
            break;
        }
        last = now;
    }
    let grown = memory(&proxy).saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB for 160 streams that nobody reads", grown >> 20);
    eprintln!("{} KiB a stream that nobody reads", grown / 160 / 1024);
    for client in &mut clients {
        drop(client.stream.shutdown().await);
    }
}

#[tokio::test]
async fn a_preface_that_is_none_ends_the_connection() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    for bytes in [
        [PREFACE, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"].concat(),
        [PREFACE, &frame(HEADERS, 5, 2, &get_block())].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[0; 5])].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(DATA, 0, 1, b"x")].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &[0xff; 64]].concat(),
    ] {
        let mut client = Client { stream: TcpStream::connect(web).await.unwrap() };
        client.send(&bytes).await;
        client.ended().await;
    }
    assert_eq!(origin.seen(), "");
}
