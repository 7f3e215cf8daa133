//! Listening sockets outlive the process: after a crash, during an upgrade, and when somebody else opened them.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use weir_runtime::{descriptors, status};

use crate::{
    clients::{Client, Load, field, get},
    servers::Server,
    subject::{LIMIT, PROGRAM, Proxy},
    threads::sockets_at,
};

fn config(server: &Server, bind: &str) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"{bind}\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
}

const ANY: &str = "127.0.0.1:0";

/// Waits until it is so.
async fn until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The one that serves, of a keeper that has only one.
pub(crate) async fn only_child(keeper: &Proxy) -> i32 {
    until("there is one process", || {
        let all = keeper.children();
        (all.len() == 1).then(|| all.into_iter().next()).flatten()
    })
    .await
}

/// Upgrades, and waits until the new process serves and the old one accepts no more; returns the old and the new one.
pub(crate) async fn upgrade(keeper: &Proxy) -> (i32, i32) {
    let left = || keeper.log().matches("the sockets are left to another process").count();
    // Before that it is refused: a process is being started anyway.
    until("all are ready", || {
        let log = keeper.log();
        keeper.children().iter().all(|pid| log.contains(&format!("{pid} is ready"))).then_some(())
    })
    .await;
    let (before, left_before) = (keeper.children(), left());
    keeper.signal(Signal::SIGUSR2);
    until("the old process accepts no more", || (left() > left_before).then_some(())).await;
    until("a new process serves", || {
        let log = keeper.log();
        let line = log.lines().rev().find(|line| line.contains("serves now"))?;
        let numbers: Vec<i32> = line.split([' ', ';']).filter_map(|word| word.parse().ok()).collect();
        (!before.contains(&numbers[0])).then(|| (numbers[1], numbers[0]))
    })
    .await
}

/// Clients that connect all the time, ask once, and ask again when the connection breaks.
struct Knocking {
    stop: Arc<AtomicBool>,
    clients: JoinSet<(usize, usize)>,
}

impl Knocking {
    fn start(to: SocketAddr, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let stop = Arc::clone(&stop);
            clients.spawn(async move {
                let (mut served, mut broken) = (0, 0);
                while !stop.load(SeqCst) {
                    let connected = timeout(LIMIT, TcpStream::connect(to)).await.expect("in time");
                    let mut stream = connected.expect("nobody is refused");
                    match ask(&mut stream).await {
                        Ok(answer) if answer.starts_with("HTTP/1.1 200") => served += 1,
                        Ok(other) if !other.is_empty() => panic!("{other}"),
                        // Of a process that was killed.
                        Ok(_) => broken += 1,
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => broken += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                (served, broken)
            });
        }
        Self { stop, clients }
    }

    /// How many requests were served, and how many broke off.
    async fn finish(self) -> (usize, usize) {
        self.stop.store(true, SeqCst);
        let all = self.clients.join_all().await;
        all.into_iter().fold((0, 0), |(served, broken), (s, b)| (served + s, broken + b))
    }
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time")?;
    Ok(answer)
}

#[tokio::test]
async fn a_killed_proxy_refuses_nobody() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, ANY), &["--keep", "--threads", "2"]).await;
    let web = proxy.address("web").await;
    let knocking = Knocking::start(web, 8);
    for round in 1..=4 {
        let killed = only_child(&proxy).await;
        let before = server.requests();
        kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
        until("another one serves", || {
            let is_new = proxy.children().iter().all(|child| *child != killed);
            (is_new && server.requests() > before + 20).then_some(())
        })
        .await;
        let status = proxy.until("it has a status", |status| status.config.applied_at.is_some()).await;
        assert_eq!(status.listeners["web"].addresses, [web.to_string()], "round {round}");
    }
    let (served, broken) = knocking.finish().await;
    println!("4 kills: {served} served, {broken} broken off");
    assert!(served > 80 && broken <= 4 * 8, "{served} served, {broken} broken");
    assert_eq!(sockets_at(web.port()), 2);
}

#[tokio::test]
async fn the_new_process_takes_over_while_the_old_one_drains() {
    let server = Server::start("s").await;
    let free = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let metrics = free.to_string();
    let mut proxy = Proxy::start(&config(&server, ANY), &["--keep", "--metrics", &metrics]).await;
    let web = proxy.address("web").await;
    server.state.delay_ms.store(2_000, SeqCst);
    let slow = tokio::spawn(async move { get(web, "/slow").await });
    until("the server is asked", || (server.requests() == 1).then_some(())).await;
    server.state.delay_ms.store(0, SeqCst);

    let load = Load::start(web, 4);
    let (old, new) = upgrade(&proxy).await;
    assert_eq!(proxy.children(), BTreeSet::from([old, new]), "the slow one is with the old process");
    // The status and the metrics are the new one's, which counts all that comes from now on.
    proxy.until("the new one counts", |status| status.listeners["web"].requests > 20).await;
    let mut stream = TcpStream::connect(free).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("\nweir_proxy_requests_total"), "{text}");
    assert!(!slow.is_finished());
    let answer = slow.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(field(&answer, "connection"), "close");
    until("the old one has ended", || (proxy.children() == BTreeSet::from([new])).then_some(())).await;
    let tally = load.finish().await;
    assert!(tally.failures.is_empty() && tally.good > 50, "{:?}", tally.failures);
    assert!(proxy.log().contains("handed over: every connection has ended"));

    proxy.terminate();
    assert!(proxy.exited().await.success());
    assert!(!proxy.socket().exists());
    assert_eq!(TcpStream::connect(web).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// A name of the program that can be made to mean another one.
fn program(dir: &Path) -> PathBuf {
    let path = dir.join("weir-proxy");
    symlink(PROGRAM, &path).unwrap();
    path
}

/// From now on it means this script.
fn replace(program: &Path, script: &str) {
    let new = program.with_extension("new");
    std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::rename(&new, program).unwrap();
}

#[tokio::test]
async fn an_upgrade_that_cannot_start_changes_nothing() {
    let server = Server::start("s").await;
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    let text = config(&server, ANY);
    let proxy = Proxy::spawn_by(&program, &text, &[], &["--keep"], |_| {});
    let web = proxy.address("web").await;
    let child = only_child(&proxy).await;
    let load = Load::start(web, 4);
    let given_up = |count: usize| move |log: &str| log.matches("the upgrade is given up").count() == count;
    let look = async |what: &str, is_so: &dyn Fn(&str) -> bool| {
        until(what, || is_so(&proxy.log()).then_some(())).await;
        assert_eq!(only_child(&proxy).await, child);
        assert_eq!(get(web, "/").await.status(), 200);
        assert!(proxy.status().await.is_some(), "its status socket is where it was");
    };

    proxy.write("a.toml", "[listener.web]\nprotocol = \"htp\"\n");
    proxy.signal(Signal::SIGUSR2);
    look("a bad configuration ends the new one", &given_up(1)).await;
    proxy.write("a.toml", &text);
    replace(&program, "exit 3");
    proxy.signal(Signal::SIGUSR2);
    look("a program that ends is given up", &given_up(2)).await;
    std::fs::remove_file(&program).unwrap();
    proxy.signal(Signal::SIGUSR2);
    look("a program that is not there is given up", &given_up(3)).await;
    symlink(PROGRAM, &program).unwrap();
    let (old, _new) = upgrade(&proxy).await;
    assert_eq!(old, child);
    let tally = load.finish().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
}

#[tokio::test]
async fn an_upgrade_may_change_how_many_threads_there_are() {
    let server = Server::start("s").await;
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    let proxy = Proxy::spawn_by(&program, &config(&server, ANY), &[], &["--keep"], |_| {});
    let web = proxy.address("web").await;
    let load = Load::start(web, 4);
    let before = sockets_at(web.port());
    let more = before + 2;
    // One thread accepts from all the sockets there are: to close one would reset who waits in it.
    for (threads, sockets) in [(more, more), (1, more), (more, more)] {
        replace(&program, &format!("exec {PROGRAM} \"$@\" --threads {threads}"));
        upgrade(&proxy).await;
        assert_eq!(sockets_at(web.port()), sockets);
        // Each of them is accepted from, whichever the kernel chooses.
        for _ in 0..64 {
            assert_eq!(get(web, "/").await.status(), 200);
        }
    }
    let tally = load.finish().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
}

#[tokio::test]
async fn three_upgrades_in_a_row_lose_no_request_of_any_client() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, ANY), &["--keep", "--threads", "2"]).await;
    let web = proxy.address("web").await;
    let load = Load::start(web, 6);
    let knocking = Knocking::start(web, 2);
    let first = only_child(&proxy).await;
    for round in 0..3 {
        let mut idle = Vec::new();
        for _ in 0..16 {
            let mut client = Client::connect(web).await.unwrap();
            assert_eq!(client.get("/").await.unwrap().status(), 200);
            idle.push(client);
        }
        upgrade(&proxy).await;
        // Those that were idle are answered by the process they are with, and told to go.
        for client in &mut idle {
            let answer = client.get("/").await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!((answer.status().as_u16(), field(&answer, "connection")), (200, "close"));
        }
    }
    let tally = load.finish().await;
    assert!(tally.failures.is_empty() && tally.good > 100, "{:?}", tally.failures);
    let (served, broken) = knocking.finish().await;
    println!("3 upgrades: {} and {served} served", tally.good);
    assert!(served > 50 && broken == 0, "{served} served, {broken} broken");
    assert_ne!(only_child(&proxy).await, first);
}

#[tokio::test]
async fn a_keeper_ends_with_a_first_process_that_cannot_start() {
    let mut proxy = Proxy::spawn("[listener.web]\nprotocol = \"http\"\n[zoen.a]\n", &[], &["--keep"]);
    assert_eq!(proxy.exited().await.code(), Some(1));
}

/// What systemd is to a service: it hears it, and holds its sockets.
struct Manager {
    socket: Socket,
    dir: tempfile::TempDir,
}

impl Manager {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None).unwrap();
        socket.bind(&SockAddr::unix(dir.path().join("notify")).unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("notify")
    }

    /// The next message with this in it, and what came along.
    fn hears(&self, wanted: &str) -> (String, Vec<OwnedFd>) {
        loop {
            let received = descriptors::receive(&self.socket, 4096).unwrap().unwrap();
            let text = String::from_utf8(received.message).unwrap();
            if text.contains(wanted) {
                return (text, received.descriptors);
            }
        }
    }
}

#[tokio::test]
async fn sockets_are_given_to_the_store() {
    for keep in [false, true] {
        let server = Server::start("s").await;
        let manager = Manager::start();
        let options: &[&str] = if keep { &["--threads", "2", "--keep"] } else { &["--threads", "2"] };
        let text = config(&server, ANY);
        let proxy = Proxy::spawn_by(Path::new(PROGRAM), &text, &[], options, |command| {
            command.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "10000000");
        });
        let mut held = Vec::new();
        while held.len() < 2 {
            let (message, sockets) = manager.hears("FDSTORE=1\n");
            assert!(message.contains("\nFDNAME=weir-bind-127.0.0.1-0\n"), "{message}");
            held.extend(sockets.into_iter().map(Socket::from));
        }
        manager.hears("READY=1");
        manager.hears("WATCHDOG=1");
        let web = proxy.address("web").await;
        assert!(held.iter().all(|socket| socket.local_addr().unwrap().as_socket() == Some(web)));

        proxy.write("b.toml", "[listener.more]\nprotocol = \"http\"\nbind = \"127.0.0.2:0\"\npool = \"p\"\n");
        manager.hears("FDNAME=weir-bind-127.0.0.2-0");
        std::fs::remove_file(proxy.config_dir().join("b.toml")).unwrap();
        manager.hears("FDSTOREREMOVE=1\nFDNAME=weir-bind-127.0.0.2-0");

        // A stop is no reason to let go of anything: it may be the first half of a restart.
        proxy.terminate();
        manager.hears("STOPPING=1");
        drop(proxy);
        assert!(held.iter().all(|socket| socket.is_listener().unwrap()));
    }
}

/// Starts a proxy with sockets as systemd gives them: the shell says the number of the process.
fn given(listener: &std::net::TcpListener, name: &str, config: &str, options: &[&str]) -> Proxy {
    let script = format!(
        "exec env LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={name}:other {PROGRAM} \"$@\" 3<&0 4</dev/null 0</dev/null"
    );
    Proxy::spawn_by(Path::new("/bin/sh"), config, &[], options, |command| {
        command.args(["-c", &script, "sh"]).stdin(OwnedFd::from(listener.try_clone().unwrap()));
    })
}

#[tokio::test]
async fn sockets_given_by_systemd_are_used() {
    for keep in [false, true] {
        let server = Server::start("s").await;
        let listener = std::net::TcpListener::bind(ANY).unwrap();
        let web = listener.local_addr().unwrap();
        // Before there is a proxy.
        let mut early = TcpStream::connect(web).await.unwrap();
        let options: &[&str] = if keep { &["--threads", "3", "--keep"] } else { &["--threads", "3"] };
        let mut proxy = given(&listener, "web.socket", &config(&server, &web.to_string()), options);
        assert!(ask(&mut early).await.unwrap().starts_with("HTTP/1.1 200"));
        for _ in 0..20 {
            assert_eq!(get(web, "/").await.status(), 200);
        }
        assert!(proxy.log().contains("\"other\", is no TCP socket that listens"), "{}", proxy.log());
        if keep {
            upgrade(&proxy).await;
            assert_eq!(get(web, "/").await.status(), 200);
            kill(Pid::from_raw(only_child(&proxy).await), Signal::SIGKILL).unwrap();
            assert_eq!(get(web, "/").await.status(), 200);
        }
        // Whoever opened it goes on listening, and is not made deaf.
        proxy.terminate();
        assert!(proxy.exited().await.success());
        let _waits = timeout(Duration::from_millis(500), TcpStream::connect(web)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn sockets_that_were_left_deaf_hear_again() {
    let server = Server::start("s").await;
    let manager = Manager::start();
    let text = config(&server, ANY);
    let options = ["--threads", "1"];
    let mut proxy = Proxy::spawn_by(Path::new(PROGRAM), &text, &[], &options, |command| {
        command.env("NOTIFY_SOCKET", manager.path());
    });
    let (_, mut sockets) = manager.hears("FDSTORE=1\n");
    let listener = std::net::TcpListener::from(sockets.remove(0));
    let web = proxy.address("web").await;
    proxy.terminate();
    assert!(proxy.exited().await.success());
    // The first half of a restart: clients are not refused, they try again.
    let client = tokio::spawn(async move { TcpStream::connect(web).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!client.is_finished());
    let proxy = given(&listener, "weir-bind-127.0.0.1-0", &text, &options);
    let mut stream = timeout(LIMIT, client).await.unwrap().unwrap().unwrap();
    assert!(ask(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(proxy.address("web").await, web);
}

#[tokio::test]
async fn a_socket_that_nobody_wants_after_a_crash_is_closed() {
    let server = Server::start("s").await;
    let more = "[listener.more]\nprotocol = \"http\"\nbind = \"127.0.0.2:0\"\npool = \"p\"\n".to_owned();
    let text = config(&server, ANY);
    let proxy = Proxy::spawn_by(Path::new(PROGRAM), &text, &[("b.toml", more)], &["--keep"], |_| {});
    let (web, more) = (proxy.address("web").await, proxy.address("more").await);
    let child = only_child(&proxy).await;
    // It does not live to see the change.
    kill(Pid::from_raw(child), Signal::SIGSTOP).unwrap();
    std::fs::remove_file(proxy.config_dir().join("b.toml")).unwrap();
    kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    assert_eq!(get(web, "/").await.status(), 200);
    until("it is closed", || std::net::TcpStream::connect(more).is_err().then_some(())).await;
    assert_eq!(sockets_at(more.port()), 0);
}

#[tokio::test]
async fn a_tunnel_goes_on_in_the_old_process_until_its_deadline() {
    let server = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let text = format!(
        "[zone.az1]\n[pool.p]\n[listener.tunnel]\nprotocol = \"tcp\"\nbind = \"{ANY}\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.local_addr().unwrap()
    );
    let options = ["--keep", "--hand-over-timeout", "1500ms"];
    let proxy = Proxy::start(&text, &options).await;
    let mut client = TcpStream::connect(proxy.address("tunnel").await).await.unwrap();
    client.write_all(b"a").await.unwrap();
    let (mut stream, _) = server.accept().await.unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    let (old, new) = upgrade(&proxy).await;
    let begin = Instant::now();
    for _ in 0..10 {
        client.write_all(b"b").await.unwrap();
        stream.read_exact(&mut byte).await.unwrap();
        stream.write_all(b"c").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(proxy.children(), BTreeSet::from([old, new]));
    // It ends, one way or the other.
    let ended = timeout(LIMIT, client.read(&mut byte)).await.expect("it is cut");
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(only_child(&proxy).await, new);
}

#[tokio::test]
async fn a_client_of_http2_is_answered_once_more_and_sent_away_in_good_order() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, ANY), &["--keep"]).await;
    let stream = TcpStream::connect(proxy.address("web").await).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get("http://a.example/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(client.send_request(request()).await.unwrap().status(), 200);
    let (_, new) = upgrade(&proxy).await;
    assert_eq!(client.send_request(request()).await.unwrap().status(), 200);
    // Not by an error: the proxy says that it goes, and what was the last request.
    timeout(LIMIT, connection).await.expect("it ends").unwrap().unwrap();
    assert_eq!(only_child(&proxy).await, new);
}

#[tokio::test]
async fn a_proxy_whose_keeper_was_killed_goes_on() {
    let server = Server::start("s").await;
    let mut proxy = Proxy::start(&config(&server, ANY), &["--keep"]).await;
    let web = proxy.address("web").await;
    let child = only_child(&proxy).await;
    proxy.signal(Signal::SIGKILL);
    proxy.exited().await;
    assert_eq!(get(web, "/").await.status(), 200);
    // There is nobody left to hand over to.
    kill(Pid::from_raw(child), Signal::SIGTERM).unwrap();
    until("it has stopped", || kill(Pid::from_raw(child), None).is_err().then_some(())).await;
    assert_eq!(sockets_at(web.port()), 0);
}

#[tokio::test]
async fn a_stop_during_an_upgrade_ends_everything() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(60_000, SeqCst);
    let options = ["--keep", "--stop-timeout", "100ms"];
    let mut proxy = Proxy::start(&config(&server, ANY), &options).await;
    let web = proxy.address("web").await;
    let slow = tokio::spawn(async move { Client::connect(web).await.unwrap().get("/slow").await.is_err() });
    until("the server is asked", || (server.requests() == 1).then_some(())).await;
    let (old, new) = upgrade(&proxy).await;
    proxy.terminate();
    assert!(proxy.exited().await.success());
    assert!(slow.await.unwrap());
    for pid in [old, new] {
        assert!(kill(Pid::from_raw(pid), None).is_err(), "{pid} is gone");
    }
    assert!(status::get(&proxy.socket(), "/status").await.is_err());
}
