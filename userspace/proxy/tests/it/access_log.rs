//! The access log: both formats, and places that take their time, are full, or are not there.

use std::{
    fs,
    net::UdpSocket,
    os::unix::net::UnixDatagram,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use regex::Regex;

use crate::{
    clients::{Client, get},
    raw::say,
    servers::Server,
    subject::{LIMIT, Proxy},
};

fn config(server: &Server) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [listener.bytes]\nprotocol = \"tcp\"\nbind = \"127.0.0.2:0\"\npool = \"p\"\n\
         [listener.nowhere]\nprotocol = \"http\"\nbind = \"127.0.0.3:0\"\nroutes = [{{ path = \"/x\", pool = \"none\" }}]\n\
         [pool.none]\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
}

/// Lines of a file, once there are so many.
async fn lines(path: &std::path::Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        if complete.lines().count() >= count {
            return complete.lines().map(str::to_owned).collect();
        }
        assert!(Instant::now() < deadline, "waited in vain for {count} lines: {text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many lines were dropped, once it is what is waited for.
async fn dropped(proxy: &Proxy, wanted: impl Fn(u64) -> bool) -> u64 {
    let deadline = Instant::now() + LIMIT;
    loop {
        let metrics = proxy.metrics().await;
        let line = metrics.lines().find(|line| line.starts_with("weir_proxy_access_log_dropped_total "));
        let dropped: f64 = line.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap();
        if wanted(dropped as u64) {
            return dropped as u64;
        }
        assert!(Instant::now() < deadline, "{dropped} were dropped");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_line_is_one_that_readers_of_haproxys_log_can_read() {
    let server = Server::start("s").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("haproxy.log");
    let options = ["--access-log", path.to_str().unwrap(), "--access-log-format", "haproxy"];
    let proxy = Proxy::start(&config(&server), &options).await;
    let web = proxy.address("web").await;
    server.state.delay_ms.store(50, SeqCst);
    assert_eq!(get(web, "/slow").await.status(), 200);
    assert_eq!(get(web, "/%22?q=1").await.status(), 200);
    say(web, b"GET / HTTP/1.1\r\n\r\n", &["bad-host"]).await;
    assert_eq!(get(proxy.address("nowhere").await, "/x").await.status(), 503);
    say(
        proxy.address("bytes").await,
        b"GET /tcp HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        &["/tcp"],
    )
    .await;
    let lines = lines(&path, 5).await;
    let begin = r"^127\.0\.0\.1:[0-9]+ \[[0-9][0-9]/[A-Z][a-z]{2}/[0-9]{4}:[0-9][0-9]:[0-9][0-9]:[0-9][0-9]\.[0-9]{3}\] ([!-~]+) ([!-~]+)/([!-~]+) ";
    let end = r"[0-9]+/[0-9]+/[0-9]+/[0-9]+/\+?[0-9]+ [0-9]+/[0-9]+";
    let http = format!(
        r#"{begin}(-?[0-9]+)/(-?[0-9]+)/(-?[0-9]+)/(-?[0-9]+)/([0-9]+) (-1|[0-9]{{3}}) ([0-9]+) - - ([!-~][!-~])-- {end} "(.*)"$"#
    );
    let (http, tcp) = (
        Regex::new(&http).unwrap(),
        Regex::new(&format!(r"{begin}(-?[0-9]+)/(-?[0-9]+)/([0-9]+) ([0-9]+) ([!-~][!-~]) {end}$")).unwrap(),
    );
    let of = |regex: &Regex, wanted: &str| {
        let line = lines.iter().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{lines:#?}"));
        let found = regex.captures(line).unwrap_or_else(|| panic!("{line}"));
        let parts: Vec<String> = found.iter().skip(1).map(|part| part.unwrap().as_str().into()).collect();
        parts
    };
    let slow = of(&http, "GET /slow HTTP/1.1");
    assert_eq!(slow[..3], ["web", "p", "s"]);
    assert_eq!((slow[8].as_str(), slow[10].as_str(), slow[11].as_str()), ("200", "--", "GET /slow HTTP/1.1"));
    let timers: Vec<i64> = slow[3..8].iter().map(|timer| timer.parse().unwrap()).collect();
    assert!(timers[3] >= 50 && timers[4] >= timers[3] && timers[..3].iter().all(|t| *t >= 0), "{timers:?}");
    assert!(timers[4] - timers[..4].iter().sum::<i64>() >= 0 && timers[4] < 5_000, "{timers:?}");
    assert!(slow[9].parse::<u64>().unwrap() > 100, "head and body: {slow:?}");
    let bad = of(&http, "<BADREQ>");
    assert_eq!(bad[..9], ["web", "web", "<NOSRV>", "0", "-1", "-1", "-1", &bad[7], "400"]);
    assert_eq!(bad[10], "PR");
    let nowhere = of(&http, "none/<NOSRV>");
    assert_eq!((nowhere[8].as_str(), nowhere[10].as_str()), ("503", "SC"));
    let bytes = of(&tcp, " bytes ");
    assert_eq!(bytes[..3], ["bytes", "p", "s"]);
    assert_eq!(bytes[7], "--");
    for line in &lines {
        assert!(http.is_match(line) || tcp.is_match(line), "{line}");
    }
    // The test's own log has the same lines, since every place gets them all.
    assert!(lines.iter().any(|line| line.contains("/%22?q=1")));
}

#[tokio::test]
async fn syslog_gets_a_datagram_a_line_and_json_has_the_timers() {
    let server = Server::start("s").await;
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("log");
    let unix = UnixDatagram::bind(&socket).unwrap();
    unix.set_read_timeout(Some(LIMIT)).unwrap();
    let udp = format!("udp://{}?facility=local3&format=rfc5424", receiver.local_addr().unwrap());
    let unix_place = format!("unix://{}", socket.display());
    let proxy = Proxy::start(&config(&server), &["--access-log", &udp, "--access-log", &unix_place]).await;
    let web = proxy.address("web").await;
    assert_eq!(get(web, "/one").await.status(), 200);
    let mut buffer = [0; 8192];
    let len = receiver.recv(&mut buffer).unwrap();
    let datagram = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let (head, json) = datagram.split_at(datagram.find('{').unwrap());
    assert!(
        head.starts_with("<158>1 2") && head.ends_with(&format!(" - weir-proxy {} - - ", proxy.pid())),
        "{head}"
    );
    let line: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!((&line["target"], &line["state"]), (&"/one".into(), &"--".into()));
    for timer in ["request_us", "queue_us", "connect_us", "response_us", "duration_us"] {
        assert!(line[timer].is_u64(), "{timer}: {line}");
    }
    let len = unix.recv(&mut buffer).unwrap();
    let datagram = String::from_utf8_lossy(&buffer[..len]);
    assert!(datagram.starts_with("<134>") && datagram.contains(" weir-proxy["), "{datagram}");
    assert_eq!(proxy.logged(1).await.len(), 1);
    assert_eq!(dropped(&proxy, |_| true).await, 0);
}

/// A full disk, nobody at the port, nobody at the path, and one who never reads.
#[tokio::test]
async fn places_that_take_no_lines_cost_no_request_and_what_they_lose_is_counted() {
    let server = Server::start("s").await;
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let deaf = dir.path().join("deaf");
    let _never_read = UnixDatagram::bind(&deaf).unwrap();
    let (nobody, deaf) =
        (format!("unix://{}/nobody", dir.path().display()), format!("unix://{}", deaf.display()));
    let udp = format!("udp://{free}");
    let options = ["/dev/full", &udp, &nobody, &deaf].map(|place| ["--access-log", place]).concat();
    let proxy = Proxy::start(&config(&server), &options).await;
    let mut client = Client::connect(proxy.address("web").await).await.unwrap();
    let began = Instant::now();
    for _ in 0..500 {
        assert_eq!(client.get("/").await.unwrap().status(), 200);
    }
    assert!(began.elapsed() < LIMIT, "requests waited for a log");
    // All of the first and the third, every second one of the other two or more.
    let lost = dropped(&proxy, |lost| lost >= 1_200).await;
    assert!(lost <= 2_000, "{lost}");
    // The file beside them has every line.
    assert_eq!(proxy.logged(500).await.len(), 500);
}

#[tokio::test]
async fn a_log_file_that_is_rotated_is_made_anew() {
    let server = Server::start("s").await;
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    let proxy = Proxy::start(&config(&server), &["--access-log", path.to_str().unwrap()]).await;
    let web = proxy.address("web").await;
    get(web, "/before").await;
    lines(&path, 1).await;
    fs::rename(&path, &old).unwrap();
    let deadline = Instant::now() + LIMIT;
    let mut sent = 0;
    while !path.exists() {
        assert!(Instant::now() < deadline);
        get(web, "/after").await;
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Not a line was lost on the way.
    get(web, "/last").await;
    let new = lines(&path, 1).await;
    let deadline = Instant::now() + LIMIT;
    loop {
        let count = |path| fs::read_to_string(path).unwrap().lines().count();
        if count(&old) + count(&path) == sent + 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{new:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
