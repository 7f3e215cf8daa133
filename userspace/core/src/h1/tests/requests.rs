//! Requests as they come, and what becomes of them.

use super::*;

/// `Ok`: how the body is framed.
type Row = (&'static str, &'static [u8], Result<Framing, Bad>);

const TABLE: &[Row] = include!("table/requests.in");

#[test]
fn requests_are_taken_or_refused_as_the_table_says() {
    let seen = |bytes| request(bytes).map(|seen| seen.expect("whole").1);
    let wrong: Vec<_> = TABLE.iter().filter(|(_, bytes, wanted)| seen(bytes) != *wanted).collect();
    let told =
        wrong.iter().map(|(name, bytes, wanted)| format!("{name}: {:?} and not {wanted:?}\n", seen(bytes)));
    assert!(wrong.is_empty(), "{}", told.collect::<String>());
}

#[test]
fn whatever_is_taken_has_one_host_and_one_length_on_the_way_out() {
    for (name, bytes, _) in TABLE {
        let Ok(Some((seen, framing))) = request(bytes) else { continue };
        let count = |field: &str| seen.matches(&format!("\r\n{field}: ")).count();
        assert_eq!(count("host"), 1, "{name}");
        let lengths = (count("content-length"), count("transfer-encoding"));
        match framing {
            Framing::Chunked => assert_eq!(lengths, (0, 1), "{name}"),
            Framing::Length(_) => assert_eq!(lengths, (1, 0), "{name}"),
            _ => assert!(lengths.1 == 0 && !seen.contains("content-length: 3"), "{name}"),
        }
    }
}

#[test]
fn heads_are_bounded() {
    let with = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    let long = "x".repeat(HEAD_LEN_MAX);
    assert_eq!(request(with(&format!("x: {long}")).as_bytes()), Err(Bad::HeadLen));
    assert_eq!(
        request(format!("GET /{long}").as_bytes()),
        Err(Bad::HeadLen),
        "not yet whole, and never small enough"
    );
    let many = "x: 1\r\n".repeat(FIELDS_MAX);
    assert_eq!(request(with(many.trim_end()).as_bytes()), Err(Bad::HeadLen));
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(TARGET_LEN_MAX));
    assert_eq!(request(target.as_bytes()), Err(Bad::TargetLen));
    let nominated: String = (0..=NOMINATED_MAX).map(|n| format!("x{n}, ")).collect();
    assert_eq!(request(with(&format!("Connection: {nominated}")).as_bytes()), Err(Bad::Connection));
}

#[test]
fn a_connection_stays_as_both_versions_say() {
    for (bytes, stays) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        let mut room = field_room();
        let head = parse_request(bytes.as_bytes(), &mut room).unwrap().unwrap();
        assert_eq!(head.is_persistent, stays, "{bytes}");
    }
}

#[test]
fn an_upgrade_needs_both_fields_and_the_version() {
    for (bytes, wanted) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Some("websocket")),
        ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n", None),
        ("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", None),
    ] {
        let mut room = field_room();
        let head = parse_request(bytes.as_bytes(), &mut room).unwrap().unwrap();
        assert_eq!(head.upgrade, wanted, "{bytes}");
    }
}
