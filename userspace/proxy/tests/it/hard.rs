//! Crowds and nonsense: what many clients at once, and things too large, cost the others and the process.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{setsockopt, sockopt},
    },
    unistd::{SysconfVar, sysconf},
};
use socket2::{Domain, Socket, Type};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::{
    authority::Authority,
    clients::{Client, get},
    servers::Server,
    subject::{LIMIT, Proxy},
};

fn config(server: &Server, listener: &str) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n{listener}\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
}

/// A number of a file of the process, in its own unit.
fn of_proc(proxy: &Proxy, file: &str, find: impl Fn(&str) -> Option<u64>) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", proxy.pid())).unwrap();
    find(&text).unwrap_or_else(|| panic!("{file}: {text}"))
}

/// Memory it has, in bytes.
fn memory(proxy: &Proxy) -> u64 {
    let kib = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    of_proc(proxy, "status", kib) * 1024
}

/// Processor time it has used.
fn cpu(proxy: &Proxy) -> Duration {
    let ticks = of_proc(proxy, "stat", |text| {
        let fields: Vec<&str> = text.rsplit(") ").next()?.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
    Duration::from_millis(ticks * 1_000 / per_second)
}

/// Lets this process, and those it starts, have so many descriptors if it may: how many it has.
fn descriptors(wanted: u64) -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft >= wanted {
        return soft;
    }
    // More than the hard limit is for the privileged only.
    let _either_way = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    let _either_way = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard));
    getrlimit(Resource::RLIMIT_NOFILE).unwrap().0
}

/// Begins to connect from 127.0.0.`from`, and waits for nothing.
fn call(to: SocketAddr, from: u8) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, from], 0)).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _in_progress = socket.connect(&to.into());
    socket
}

/// One client that asks again and again, on one connection and a thread of its own.
struct Regular {
    stop: Arc<AtomicBool>,
    asking: thread::JoinHandle<Vec<Duration>>,
}

impl Regular {
    fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let asking = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut client = Client::connect(to).await.unwrap();
                let mut took = Vec::new();
                while !stopped.load(SeqCst) {
                    let began = Instant::now();
                    assert_eq!(client.get("/").await.unwrap().status(), 200);
                    took.push(began.elapsed());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                took
            })
        });
        Self { stop, asking }
    }

    /// How long each answer took, shortest first.
    async fn finish(self) -> Vec<Duration> {
        self.stop.store(true, SeqCst);
        // The server answers on this thread.
        while !self.asking.is_finished() {
            pause(1).await;
        }
        let mut took = self.asking.join().expect("every request was answered");
        took.sort();
        took
    }
}

/// In the middle, and of the slowest hundredth.
fn figures(sorted: &[Duration]) -> [Duration; 2] {
    [sorted[sorted.len() / 2], sorted[sorted.len() * 99 / 100]]
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test]
async fn two_thousand_that_drip_cost_others_no_time_and_no_more_memory_than_they_send() {
    const CROWD: usize = 2_000;
    assert!(descriptors(2 * CROWD as u64 + 1_000) > 2 * CROWD as u64);
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, "header_timeout = \"5s\""), &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let regular = Regular::start(web);
    pause(1_000).await;
    let [alone, _] = figures(&regular.finish().await);

    let before = memory(&proxy);
    let mut crowd: Vec<Socket> = (0..CROWD).map(|index| call(web, (index % 200) as u8 + 10)).collect();
    proxy.until("all of them are here", |status| status.listeners["web"].connections == CROWD as u64).await;
    let regular = Regular::start(web);
    let head = b"GET / HTTP/1.1\r\nhost: a\r\n";
    let began = Instant::now();
    for byte in head.iter().take(3) {
        for socket in &mut crowd {
            socket.write_all(&[*byte]).unwrap();
        }
        pause(1_000).await;
    }
    let each = memory(&proxy).saturating_sub(before) / CROWD as u64;
    let [within, slowest] = figures(&regular.finish().await);
    println!("{each} B for each that drips; {alone:?} alone, {within:?} within, p99 {slowest:?}");
    assert!(each < 4_096, "{each} bytes for each");
    assert!(within < 3 * alone + Duration::from_millis(5), "{alone:?} alone, {within:?} within");

    // They are answered and gone when their time is over, all of them.
    proxy.until("nobody is left", |status| status.listeners["web"].connections == 0).await;
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    let log = proxy.logged(CROWD).await;
    assert_eq!(log.iter().filter(|line| line["cause"] == "header-timeout").count(), CROWD);
}

#[tokio::test]
async fn twenty_thousand_that_come_at_once_do_not_disturb_who_is_there() {
    const MAX: u64 = 1_000;
    let crowd = descriptors(24_000).saturating_sub(4_000).min(20_000);
    assert!(crowd > 10_000, "too few descriptors for a flood: {crowd}");
    let server = Server::start("s").await;
    let listener = format!("max_connections = {MAX}\nheader_timeout = \"2s\"");
    let proxy = Proxy::start(&config(&server, &listener), &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let regular = Regular::start(web);
    proxy.until("one is served", |status| status.pools["p"].servers["s"].requests > 0).await;
    let before = memory(&proxy);
    let flood = thread::spawn(move || {
        let began = Instant::now();
        let mut flood = Vec::new();
        for index in 0..crowd {
            let mut socket = call(web, (index % 200) as u8 + 10);
            // Those that are connected yet.
            let _either_way = socket.write_all(b"GET / HT");
            flood.push(socket);
        }
        (flood, began.elapsed())
    });
    let mut most = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        most = most.max(proxy.status().await.expect("a status").listeners["web"].connections);
        pause(20).await;
    }
    while !flood.is_finished() {
        pause(1).await;
    }
    let (flood, took) = flood.join().unwrap();
    let grown = memory(&proxy).saturating_sub(before);
    let [within, slowest] = figures(&regular.finish().await);
    println!("{crowd} within {took:?}: {most} open, {} KiB more, {within:?}, p99 {slowest:?}", grown / 1024);
    assert!(most <= MAX && most > MAX / 2, "{most} open");
    assert!(grown < MAX * 8_192, "{grown} bytes");
    assert!(slowest < Duration::from_millis(500), "{within:?}, p99 {slowest:?}");
    drop(flood);
    let began = Instant::now();
    assert_eq!(get(web, "/").await.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    proxy.until("they are gone", |status| status.listeners["web"].connections <= 1).await;
}

#[tokio::test]
async fn without_descriptors_nothing_spins_no_server_is_blamed_and_all_goes_on_when_there_are_some() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(500, SeqCst);
    // One bad answer would be told by.
    let config = config(&server, "").replace("[pool.p]", "[pool.p]\nbreaker = { consecutive = 1 }");
    let proxy = Proxy::start(&config, &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let mut regular = Client::connect(web).await.unwrap();
    assert_eq!(regular.get("/").await.unwrap().status(), 200);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count();
    let limit = |count: usize| {
        let nofile = format!("--nofile={count}:");
        let set = Command::new("prlimit").args(["--pid", &proxy.pid().to_string(), &nofile]).status();
        assert!(set.unwrap().success());
    };
    let most = open() + 20;
    limit(most);
    let crowd: Vec<Socket> = (0..100).map(|_| call(web, 10)).collect();
    let deadline = Instant::now() + LIMIT;
    while open() < most || !proxy.log().contains("Too many open files") {
        assert!(Instant::now() < deadline, "{} are open", open());
        pause(10).await;
    }
    // Somebody who wants to know how it is waits as well.
    let socket = proxy.socket();
    let asking = tokio::spawn(async move { weir_runtime::status::get(&socket, "/metrics").await.is_ok() });
    let (used, began) = (cpu(&proxy), Instant::now());
    while began.elapsed() < Duration::from_secs(2) {
        // Who is there, with a connection to a server that is kept, is served.
        assert_eq!(regular.get("/").await.unwrap().status(), 200);
        pause(100).await;
    }
    let used = cpu(&proxy) - used;
    println!("{used:?} of processor time in two seconds");
    assert!(used < Duration::from_millis(200), "{used:?} of processor time in two seconds");
    assert_eq!(proxy.log().matches("accept: Too many open files").count(), 1, "said once");
    // The one connection is in use, and there is none to be had.
    let asked = server.requests();
    let slow = tokio::spawn(async move { (regular.get("/slow").await.unwrap().status(), regular) });
    while server.requests() == asked {
        pause(5).await;
    }
    let mut first = &crowd[0];
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let failed = |line: &serde_json::Value| line["cause"] == "connect-failed";
    while !proxy.logged(1).await.iter().any(failed) {
        assert!(Instant::now() < deadline + LIMIT);
        pause(10).await;
    }
    let (answer, mut regular) = slow.await.unwrap();
    assert_eq!((answer.as_u16(), regular.get("/").await.unwrap().status().as_u16()), (200, 200));

    limit(4_096);
    let _either_way = asking.await.unwrap();
    let status = proxy.until("all are here", |status| status.listeners["web"].connections == 101).await;
    assert!(!status.pools["p"].circuit_open, "the server had no part in it");
    assert_eq!(get(web, "/").await.status(), 200);
    assert!(proxy.log().contains("accepts again"));
    drop(crowd);
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_status_and_costs_nobody_else() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, ""), &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let before = memory(&proxy);
    let of = |len: usize| "x".repeat(len);
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let rows = [
        ("a target", format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", of(33 << 10)), 414, "target-too-long"),
        ("a target without end", format!("GET /{}", of(1 << 20)), 431, "head-too-large"),
        (
            "a field",
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", of(64 << 10)),
            431,
            "head-too-large",
        ),
        (
            "a field without end",
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", of(1 << 20)),
            431,
            "head-too-large",
        ),
        (
            "fields",
            format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(128)),
            431,
            "head-too-large",
        ),
        (
            "fields without end",
            format!("GET / HTTP/1.1\r\n{}", "x: 1\r\n".repeat(100_000)),
            431,
            "head-too-large",
        ),
        ("a method", format!("{} / HTTP/1.1\r\nhost: a\r\n\r\n", of(65 << 10)), 431, "head-too-large"),
        (
            "an extension of a chunk",
            format!("{chunked}1;{}\r\nx\r\n0\r\n\r\n", of(2 << 10)),
            400,
            "request-body",
        ),
        ("a length of a chunk", format!("{chunked}{}\r\n", "f".repeat(64)), 400, "request-body"),
        ("a trailer", format!("{chunked}0\r\nx: {}\r\n\r\n", of(17 << 10)), 400, "request-body"),
        (
            "trailers without end",
            format!("{chunked}0\r\n{}", "x: 1\r\n".repeat(100_000)),
            400,
            "request-body",
        ),
        (
            "a length",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n".into(),
            400,
            "bad-content-length",
        ),
    ];
    let other = Regular::start(web);
    for (what, bytes, status, cause) in &rows {
        let answer = tokio::spawn(say_all(web, bytes.clone().into_bytes())).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer:?}");
        assert!(answer.contains(&format!("weir-cause: {cause}\r\n")), "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer:?}");
    }
    let answered = other.finish().await;
    assert!(!answered.is_empty());
    let grown = memory(&proxy).saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes");
    proxy.until("nobody is left", |status| status.listeners["web"].connections == 0).await;
}

/// Sends all of it, however much of that is taken, and returns what is said.
async fn say_all(to: SocketAddr, bytes: Vec<u8>) -> String {
    let (mut reading, mut writing) = TcpStream::connect(to).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        let _either_way = tokio::io::AsyncWriteExt::write_all(&mut writing, &bytes).await;
        writing
    });
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = timeout(LIMIT, reading.read(&mut buffer)).await.expect("an end in time") {
        all.extend_from_slice(&buffer[..len]);
    }
    sending.abort();
    String::from_utf8_lossy(&all).into_owned()
}

/// A hello of TLS 1.2 that offers one suite, as it is on the wire; not worth an answer, but well formed.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\xc0\x2f\x01\x00\x00\x00";

#[tokio::test]
async fn handshakes_that_are_nonsense_or_never_end_are_cut_and_take_bounded_memory() {
    const CROWD: usize = 600;
    descriptors(4_000);
    let server = Server::start("s").await;
    let authority = Authority::new();
    let (certificate, key) = authority.sign(&["test.example"]);
    let files = [("a.pem", certificate), ("a.key", key)];
    let config = format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"https\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         header_timeout = \"2s\"\ntls.certificates = [{{ certificate = \"a.pem\", key = \"a.key\" }}]\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    );
    let proxy = Proxy::start_with_files(&config, &files, &["--threads", "1"]).await;
    let web = proxy.address("web").await;
    let before = memory(&proxy);
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        &[0xff; 600],
        b"\x16\x03\x01\xff\xff",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ];
    let coming = thread::spawn(move || {
        let come = |index: usize| {
            let mut socket = call(web, (index % 200) as u8 + 10);
            socket.set_nonblocking(false).unwrap();
            let words = match index % 6 {
                kind @ 0..=3 => garbage[kind],
                4 => &HELLO[..HELLO.len() / 2],
                _ => HELLO,
            };
            // Connected, or the answer was a reset already.
            let _either_way = socket.write_all(words);
            socket
        };
        (0..CROWD).map(come).collect::<Vec<_>>()
    });
    let (mut most, mut grown) = (0, 0);
    let mut all_here = None;
    loop {
        let open = proxy.status().await.expect("a status").listeners["web"].connections;
        (most, grown) = (most.max(open), grown.max(memory(&proxy).saturating_sub(before)));
        if all_here.is_none() && coming.is_finished() {
            all_here = Some(Instant::now());
        }
        match all_here {
            Some(_) if open == 0 => break,
            Some(since) => assert!(since.elapsed() < Duration::from_secs(5), "{open} are still here"),
            None => {}
        }
        pause(10).await;
    }
    println!("{most} at once, {} KiB more", grown / 1024);
    assert!(most > 0 && grown < CROWD as u64 * (16 << 10), "{most} at once, {grown} bytes more");
    let metrics = proxy.metrics().await;
    let failed = metrics.lines().find(|line| line.starts_with("weir_proxy_tls_handshake_failures_total"));
    assert!(failed.is_some_and(|line| line.ends_with(&format!(" {CROWD}"))), "{failed:?}");
    let stream = authority.connect(web, "test.example", &["http/1.1"]).await.unwrap();
    assert_eq!(Client::over(stream).await.unwrap().get("/").await.unwrap().status(), 200);
}
