use super::{syslog::*, *};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Literal lines, field by field as the manual has them.
#[test]
fn lines_are_what_readers_of_haproxys_formats_expect() {
    let (listener, pool, server) = (name("http-in"), name("static"), name("srv1"));
    let time = Timestamp::try_from("2026-02-06T12:14:14.764Z".to_owned()).unwrap();
    let line = LogLine {
        time,
        listener: &listener,
        client: "10.0.1.2".parse().unwrap(),
        client_port: 33317,
        local: "10.0.0.1:80".parse().unwrap(),
        protocol: "http/1.1",
        tls: false,
        method: "GET",
        host: "a",
        target: "/index.html",
        request_id: "",
        pool: Some(&pool),
        home: None,
        zone: None,
        server: Some(&server),
        status: 200,
        retries: 0,
        bytes_in: 0,
        bytes_out: 2_000,
        duration_us: 99_000,
        timers: Timers {
            request_us: 10_000,
            queue_us: Some(0),
            connect_us: Some(30_000),
            response_us: Some(69_900),
        },
        state: State::of("", Stage::Data),
        cause: "",
        head_bytes_out: 750,
        counts: Counts { process: 5, listener: 4, pool: 3, server: 2, queued: 1 },
    };
    let text = |line: &LogLine<'_>| {
        let mut out = Vec::new();
        line.write_haproxy(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        text(&line),
        "10.0.1.2:33317 [06/Feb/2026:12:14:14.655] http-in static/srv1 10/0/30/69/109 200 2750 - - ---- 5/4/3/2/0 0/1 \
         \"GET /index.html HTTP/1.1\""
    );
    let odd = LogLine { protocol: "h2", tls: true, target: "/a\"b#\u{e9}", retries: 2, ..line };
    assert!(text(&odd).contains("] http-in~ static/srv1 "), "{}", text(&odd));
    assert!(text(&odd).ends_with(" 5/4/3/2/+2 0/1 \"GET /a#22b#23#C3#A9 HTTP/2.0\""), "{}", text(&odd));
    let bad = LogLine {
        method: "",
        protocol: "http/1.1",
        pool: None,
        server: None,
        status: 0,
        timers: Timers::default(),
        state: State::of("bad-host", Stage::Request),
        ..odd
    };
    assert!(
        text(&bad).contains(" http-in~ http-in/<NOSRV> 0/-1/-1/-1/99 -1 2750 - - PR-- "),
        "{}",
        text(&bad)
    );
    assert!(text(&bad).ends_with(" \"<BADREQ>\""), "{}", text(&bad));
    let tcp = LogLine { protocol: "tcp", tls: false, retries: 0, server: Some(&server), ..bad };
    assert_eq!(
        text(&tcp),
        "10.0.1.2:33317 [06/Feb/2026:12:14:14.665] http-in http-in/srv1 -1/-1/99 2750 PR 5/4/3/2/0 0/1"
    );
}

#[test]
fn the_end_of_an_exchange_says_who_ended_it_and_where() {
    for (cause, stage, wanted) in [
        ("", Stage::Data, "--"),
        ("client-gone", Stage::Queue, "CQ"),
        ("client-gone", Stage::Connect, "CC"),
        ("client-gone", Stage::Response, "CH"),
        ("client-gone", Stage::Data, "CD"),
        ("header-timeout", Stage::Request, "cR"),
        ("client-timeout", Stage::Response, "cH"),
        ("body-too-slow", Stage::Response, "cH"),
        ("client-timeout", Stage::Data, "cD"),
        ("body-too-slow", Stage::Data, "cD"),
        ("idle", Stage::Data, "cD"),
        ("bad-host", Stage::Request, "PR"),
        ("queue-timeout", Stage::Queue, "sQ"),
        ("queue-full", Stage::Queue, "SQ"),
        ("connect-failed", Stage::Connect, "SC"),
        ("tls-failed", Stage::Connect, "SC"),
        ("connect-timeout", Stage::Connect, "sC"),
        ("connection-broken", Stage::Response, "SH"),
        ("connection-broken", Stage::Data, "SD"),
        ("response-timeout", Stage::Response, "sH"),
        ("bad-response", Stage::Response, "PH"),
        ("response-stalled", Stage::Data, "sD"),
    ] {
        assert_eq!(State::of(cause, stage).to_string(), wanted, "{cause} {stage:?}");
    }
}

#[test]
fn a_line_is_a_json_object_that_says_what_it_is_made_of() {
    let (listener, pool) = (name("web"), name("p"));
    let line = LogLine {
        time: Timestamp::try_from("2026-02-06T12:14:14.764Z".to_owned()).unwrap(),
        listener: &listener,
        client: "2001:db8::1".parse().unwrap(),
        client_port: 33317,
        local: "[2001:db8::2]:80".parse().unwrap(),
        protocol: "h2",
        tls: true,
        method: "GET",
        host: "a\\b",
        target: "/\"\u{1}\u{7f}\u{e9}",
        request_id: "",
        pool: Some(&pool),
        home: None,
        zone: None,
        server: None,
        status: 503,
        retries: 2,
        bytes_in: u64::MAX,
        bytes_out: 0,
        duration_us: 99_000,
        timers: Timers { request_us: 1, queue_us: Some(0), connect_us: None, response_us: None },
        state: State::of("no-server", Stage::Connect),
        cause: "no-server",
        head_bytes_out: 750,
        counts: Counts::default(),
    };
    let mut out = Vec::new();
    line.write_json(&mut out);
    let wanted = serde_json::json!({
        "time": "2026-02-06T12:14:14.764Z", "listener": "web", "client": "2001:db8::1", "client_port": 33317,
        "local": "[2001:db8::2]:80", "protocol": "h2", "tls": true, "method": "GET", "host": "a\\b",
        "target": "/\"\u{1}\u{7f}\u{e9}", "pool": "p", "home": null, "zone": null, "server": null, "status": 503,
        "retries": 2, "bytes_in": u64::MAX, "bytes_out": 0, "duration_us": 99_000, "request_us": 1, "queue_us": 0,
        "state": "SC", "cause": "no-server",
    });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), wanted);
}

#[test]
fn syslog_heads_say_priority_time_and_process() {
    let time = Timestamp::try_from("2026-02-06T12:14:14.764Z".to_owned()).unwrap();
    let head = |dialect: &str, facility: &str| {
        let mut out = Vec::new();
        write_head(&mut out, dialect.parse().unwrap(), facility.parse().unwrap(), time, 7);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(head("rfc3164", "local0"), "<134>Feb  6 12:14:14 weir-proxy[7]: ");
    assert_eq!(head("rfc5424", "daemon"), "<30>1 2026-02-06T12:14:14.764Z - weir-proxy 7 - - ");
    assert!("local8".parse::<Facility>().is_err() && "rfc".parse::<Dialect>().is_err());
}
