//! Bytes in, bytes out: what a server gets to see of a request, and a client of a response, with an origin that records.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::subject::{LIMIT, Proxy};

/// A server that says the same to everybody, whatever it is told; it waits for `until` first.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    /// In the order it came, over whichever connection.
    bytes: Vec<u8>,
}

impl Origin {
    /// One answer for each `until` it has seen; `closes` afterwards.
    pub(crate) async fn start(until: &'static [u8], answer: &'static [u8], closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let record = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                record.lock().unwrap().connections += 1;
                let record = Arc::clone(&record);
                tokio::spawn(async move {
                    let (mut answered, mut came, mut buffer) = (0, Vec::new(), [0; 4096]);
                    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                        came.extend_from_slice(&buffer[..len]);
                        record.lock().unwrap().bytes.extend_from_slice(&buffer[..len]);
                        let count = came.windows(until.len()).filter(|window| *window == until).count();
                        while answered < count {
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                            answered += 1;
                            if closes {
                                return;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// All that came.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().bytes.clone()
    }

    fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// What came behind the first so many bytes, once it is what is waited for.
    pub(crate) async fn until(&self, from: usize, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let came = self.bytes()[from..].to_vec();
            if is_it(&came) {
                return came;
            }
            assert!(tokio::time::Instant::now() < deadline, "only this came: {}", came.escape_ascii());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The same as text.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

pub(crate) async fn proxy(origin: &Origin) -> (Proxy, SocketAddr) {
    let config = format!(
        r#"
[zone.az1]
[pool.a]
response_timeout = "2s"
connect_timeout = "5s"
[server.a]
pools = ["a"]
address = "{}"
zone = "az1"
[listener.web]
protocol = "http"
bind = "127.0.0.1:0"
pool = "a"
"#,
        origin.address
    );
    let proxy = Proxy::start(&config, &[]).await;
    let web = proxy.address("web").await;
    (proxy, web)
}

/// Sends bytes; returns what comes until all these have, or the other side closes, and what comes right behind.
pub(crate) async fn say(to: SocketAddr, bytes: &[u8], awaited: &[&str]) -> String {
    say_until(to, bytes, |all| awaited.iter().all(|part| all.contains(part))).await
}

pub(crate) async fn say_until(to: SocketAddr, bytes: &[u8], is_enough: impl Fn(&str) -> bool) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let deadline = tokio::time::Instant::now() + LIMIT;
    let (mut all, mut buffer) = (String::new(), [0; 4096]);
    loop {
        // What should not come has a little time to come all the same.
        let end =
            if is_enough(&all) { tokio::time::Instant::now() + Duration::from_millis(100) } else { deadline };
        match tokio::time::timeout_at(end, stream.read(&mut buffer)).await {
            Ok(Ok(len @ 1..)) => all += &String::from_utf8_lossy(&buffer[..len]),
            // Closed, cut, or silent.
            Ok(_) | Err(_) => return all,
        }
    }
}

/// Reads until this has come.
pub(crate) async fn until(stream: &mut TcpStream, what: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 4096];
    while !all.contains(what) {
        let len = timeout(LIMIT, stream.read(&mut buffer)).await.expect("in time").unwrap();
        assert!(len > 0, "closed after {all:?}, without {what:?}");
        all += &String::from_utf8_lossy(&buffer[..len]);
    }
    all
}

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_reach_no_server() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (status, head) in [
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        ),
        (
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        ),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n"),
        (400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\n\r\n"),
        (400, "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        (501, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    ] {
        let seen = say(web, format!("{head}{smuggled}").as_bytes(), &["weir-cause: ", "\r\n\r\n"]).await;
        assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {seen}");
        assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{head:?}: {seen}");
        assert!(seen.contains("connection: close\r\n") && seen.contains("weir-cause: "), "{head:?}: {seen}");
    }
    assert_eq!(origin.seen(), "");
}

#[tokio::test]
async fn a_chunked_body_goes_on_as_one_and_a_broken_one_ends_the_exchange() {
    let origin = Origin::start(b"0\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let seen = say(
        web,
        format!("{head}5;x=y\r\nhello\r\n00\r\nX: 1\r\nHost: b\r\n\r\n").as_bytes(),
        &["response-timeout"],
    )
    .await;
    // The trailer goes on, the field that is none does not. This origin answers a body without any.
    assert!(origin.seen().ends_with("\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n"), "{}", origin.seen());
    assert!(seen.starts_with("HTTP/1.1 504 "), "{seen}");
    for broken in ["5\nhello\r\n0\r\n\r\n", "5\r\nhelloX0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "-1\r\n\r\n"]
    {
        let before = origin.seen().matches("\r\n0\r\n\r\n").count();
        let seen = say(
            web,
            format!("{head}{broken}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
            &["request-body"],
        )
        .await;
        assert!(seen.starts_with("HTTP/1.1 400 ") && seen.contains("request-body"), "{broken:?}: {seen}");
        assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{broken:?}: {seen}");
        assert_eq!(origin.seen().matches("\r\n0\r\n\r\n").count(), before, "{broken:?} was completed");
    }
    assert!(!origin.seen().contains("smuggled"));
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_turn_and_use_one_connection() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let seen = say_until(web, format!("\r\n{}{}{}", one("/1"), one("/2"), one("/3")).as_bytes(), |all| {
        all.matches("\r\n\r\nok").count() == 3
    })
    .await;
    assert_eq!(seen.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{seen}");
    assert_eq!(seen.matches("\r\n\r\nok").count(), 3, "{seen}");
    assert_eq!(origin.connections(), 1);
    let order: Vec<usize> =
        ["/1 ", "/2 ", "/3 "].iter().map(|path| origin.seen().find(path).unwrap()).collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_a_head() {
    let origin = Origin::start(b"abc", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    let mut stream = TcpStream::connect(web).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let seen = until(&mut stream, "\r\n\r\nok").await;
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
    assert!(origin.seen().contains("content-length: 3\r\n"), "{}", origin.seen());
}

/// What a server says, and what of it the client sees: up to the body, or the status.
#[tokio::test]
async fn responses_are_passed_on_or_are_a_bad_gateway() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let old = "GET / HTTP/1.0\r\n\r\n";
    let old_kept = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    type Row = (&'static str, &'static [u8], bool, &'static [&'static str], &'static [&'static str]);
    let rows: &[Row] = &[
        // who asks; what the server says, and whether it closes; what is in what the client sees, and what is not
        (
            get,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            &["content-length: 2\r\n", "\r\n\r\nok"],
            &["close"],
        ),
        (
            get,
            b"HTTP/1.1 200 OK\r\n\r\nall of it",
            true,
            &["transfer-encoding: chunked\r\n", "9\r\nall of it\r\n0\r\n\r\n"],
            &["close"],
        ),
        (
            old,
            b"HTTP/1.1 200 OK\r\n\r\nall of it",
            true,
            &["connection: close\r\n", "\r\n\r\nall of it"],
            &["chunked"],
        ),
        (
            old,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
            &["\r\n\r\nok"],
            &["chunked", "0\r\n"],
        ),
        (
            old_kept,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            &["connection: keep-alive\r\n"],
            &["close"],
        ),
        (
            get,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            false,
            &["2\r\nok\r\n0\r\n\r\n"],
            &["close"],
        ),
        (
            get,
            b"HTTP/1.1 204 No Content\r\n\r\n",
            false,
            &["HTTP/1.1 204 No Content\r\n"],
            &["content-length", "chunked"],
        ),
        (
            get,
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            false,
            &["HTTP/1.1 304 ", "content-length: 9\r\n"],
            &["close"],
        ),
        (
            head,
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            false,
            &["HTTP/1.1 200 ", "content-length: 9\r\n"],
            &["close"],
        ),
        (
            get,
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            &["HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n", "HTTP/1.1 200 OK\r\n"],
            &[],
        ),
        (
            old,
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            false,
            &["HTTP/1.1 200 OK\r\n"],
            &["103"],
        ),
        (
            get,
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            false,
            &["HTTP/1.1 502 ", "bad-response"],
            &["101"],
        ),
        (
            get,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            false,
            &["HTTP/1.1 502 ", "bad-response"],
            &["200"],
        ),
        (
            get,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
            &["HTTP/1.1 502 "],
            &["200"],
        ),
        (get, b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", true, &["HTTP/1.1 502 "], &["200"]),
        (get, b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", true, &["HTTP/1.1 502 "], &["200"]),
        (get, b"SSH-2.0-OpenSSH_9.2\r\n", true, &["HTTP/1.1 502 "], &["SSH"]),
        (get, b"", true, &["HTTP/1.1 502 ", "connection-broken"], &[]),
        (
            get,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2",
            true,
            &["HTTP/1.1 502 ", "connection-broken"],
            &["200"],
        ),
        // Too late for another status: the end is all there is to say.
        (
            get,
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
            true,
            &["HTTP/1.1 200 ", "\r\n\r\nok"],
            &["HTTP/1.1 502 "],
        ),
        (
            get,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokX",
            false,
            &["HTTP/1.1 502 ", "bad-response"],
            &["okX"],
        ),
    ];
    for (request, answer, closes, has, has_not) in rows {
        let origin = Origin::start(b"\r\n\r\n", answer, *closes).await;
        let (_proxy, web) = proxy(&origin).await;
        let seen = say(web, request.as_bytes(), has).await;
        let told = format!("{} to {request:?}: {seen:?}", answer.escape_ascii());
        assert!(has.iter().all(|part| seen.contains(part)), "{told}");
        assert!(!has_not.iter().any(|part| seen.contains(part)), "{told}");
    }
}

#[tokio::test]
async fn bytes_a_server_says_unasked_are_nobodys_answer() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let origin = Origin::start(b"\r\n\r\n", answer, false).await;
    let (_proxy, web) = proxy(&origin).await;
    for _ in 0..3 {
        let seen = say(web, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", &["\r\n\r\nok"]).await;
        assert!(seen.ends_with("\r\n\r\nok"), "{seen}");
    }
    assert_eq!(origin.connections(), 3, "a connection that said too much is not used again");
}

#[tokio::test]
async fn an_answer_before_the_whole_request_is_passed_on_and_ends_the_connection() {
    let origin =
        Origin::start(b"\r\n\r\n", b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno", false).await;
    let (_proxy, web) = proxy(&origin).await;
    let mut stream = TcpStream::connect(web).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin").await.unwrap();
    let seen = until(&mut stream, "\r\n\r\nno").await;
    assert!(seen.starts_with("HTTP/1.1 413 ") && seen.contains("connection: close\r\n"), "{seen}");
}

#[tokio::test]
async fn who_waits_for_a_word_before_the_body_gets_that_of_the_server() {
    let origin = Origin::start(b"expect: 100-continue\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", false).await;
    let (_proxy, web) = proxy(&origin).await;
    let mut stream = TcpStream::connect(web).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head).await.unwrap();
    until(&mut stream, "HTTP/1.1 100 Continue\r\n").await;
    assert!(!origin.seen().ends_with("abc"));
    stream.write_all(b"abc").await.unwrap();
    // This origin never answers: the timeout does.
    let seen = until(&mut stream, "response-timeout").await;
    assert!(seen.contains("HTTP/1.1 504 "), "{seen}");
    assert!(origin.seen().ends_with("\r\n\r\nabc"), "{}", origin.seen());
}

#[tokio::test]
async fn a_large_body_goes_both_ways_whole() {
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = Origin { address: listener.local_addr().unwrap(), seen: Arc::default() };
    let length = body.len();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut came = Vec::new();
        let mut buffer = vec![0; 65_536];
        let head_len = loop {
            let len = stream.read(&mut buffer).await.unwrap();
            came.extend_from_slice(&buffer[..len]);
            let head = came.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(head) = head.filter(|head| came.len() == head + 4 + length) {
                break head + 4;
            }
        };
        // In chunks of odd sizes.
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for chunk in came[head_len..].chunks(7_919) {
            let head = format!("{:X}\r\n", chunk.len());
            stream.write_all(&[head.as_bytes(), chunk, b"\r\n"].concat()).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    });
    let (_proxy, web) = proxy(&origin).await;
    let (mut reading, mut writing) = TcpStream::connect(web).await.unwrap().into_split();
    let head = format!("POST / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
    let sent = body.clone();
    tokio::spawn(async move {
        writing.write_all(head.as_bytes()).await.unwrap();
        writing.write_all(&sent).await.unwrap();
        // The other half stays open until the answer has come.
        std::future::pending::<()>().await;
    });
    let mut seen = Vec::new();
    timeout(LIMIT, reading.read_to_end(&mut seen)).await.expect("in time").unwrap();
    let at = seen.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(seen[at..] == body, "{} of {length} bytes", seen.len() - at);
}
