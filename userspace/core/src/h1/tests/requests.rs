//! Requests as they come, and what becomes of them.

use super::*;

/// `Ok`: how the body is framed.
type Row = (&'static str, &'static [u8], Result<Framing, Bad>);

const NONE: Result<Framing, Bad> = Ok(Framing::None);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // First line. RFC 9112 §2.2, §3.
    ("plain", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("1.0 without host", b"GET / HTTP/1.0\r\n\r\n", NONE),
    ("an empty line before it", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("a bare LF before it", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::BareLineFeed)),
    ("bare LF", b"GET / HTTP/1.1\nHost: a\r\n\r\n", Err(Bad::BareLineFeed)),
    ("bare LF behind a field", b"GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Bad::BareLineFeed)),
    ("bare LF at the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Err(Bad::BareLineFeed)),
    ("bare CR", b"GET / HTTP/1.1\rHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("version 1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", Err(Bad::Version)),
    ("version 2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Err(Bad::Version)),
    ("version 0.9", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Err(Bad::Version)),
    ("version in small letters", b"GET / http/1.1\r\nHost: a\r\n\r\n", Err(Bad::Version)),
    ("no version", b"GET /\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("two spaces", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("a tab", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("a space behind", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("no method", b" / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("a method that is no token", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("a method nobody knows", b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Connect)),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", Err(Bad::Syntax)),
    // Targets. RFC 9112 §3.2.
    ("absolute", b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("absolute without a path", b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("absolute in large letters", b"GET HTTP://b/ HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("absolute without a host", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("absolute with a user", b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Host)),
    ("absolute with a query and no path", b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("another scheme", b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("authority-form", b"GET b:80 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("no slash", b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    ("asterisk of another method", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("a fragment", b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("a NUL", b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("DEL", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("bytes beyond ASCII", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("bytes that are no UTF-8", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Syntax)),
    ("a backslash", b"GET /\\x HTTP/1.1\r\nHost: a\r\n\r\n", Err(Bad::Target)),
    ("percent-encoded line end", b"GET /%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n", NONE),
    // Host. RFC 9112 §3.2, RFC 9110 §7.2.
    ("no host", b"GET / HTTP/1.1\r\n\r\n", Err(Bad::Host)),
    ("no host, absolute", b"GET http://b/ HTTP/1.1\r\n\r\n", Err(Bad::Host)),
    ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Err(Bad::Host)),
    ("the same host twice", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(Bad::Host)),
    ("two hosts in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", Err(Bad::Host)),
    ("two hosts in one field", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(Bad::Host)),
    ("empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", NONE),
    ("host with a port", b"GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n", NONE),
    ("host with an empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", NONE),
    ("host with a port too large", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", Err(Bad::Host)),
    ("host with a port that is none", b"GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n", Err(Bad::Host)),
    ("host with two ports", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", Err(Bad::Host)),
    ("IPv6 host", b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", NONE),
    ("IPv6 host without brackets", b"GET / HTTP/1.1\r\nHost: 2001:db8::1\r\n\r\n", Err(Bad::Host)),
    ("brackets around nothing", b"GET / HTTP/1.1\r\nHost: []\r\n\r\n", Err(Bad::Host)),
    ("host with a slash", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Err(Bad::Host)),
    ("host with a user", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Err(Bad::Host)),
    ("host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Err(Bad::Host)),
    ("host with a tab", b"GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n", Err(Bad::Host)),
    ("host beyond ASCII", b"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", Err(Bad::Host)),
    ("host with a query", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Err(Bad::Host)),
    ("host with a percent", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", Err(Bad::Host)),
    // Fields. RFC 9112 §5.
    ("a folded line", b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", Err(Bad::Folded)),
    ("a folded first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Err(Bad::Folded)),
    ("a line of white space", b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n", Err(Bad::Folded)),
    ("a space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Err(Bad::Syntax)),
    ("a space before a length's colon", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n", Err(Bad::Syntax)),
    ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", Err(Bad::Syntax)),
    ("no name", b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", Err(Bad::Syntax)),
    ("a name that is no token", b"GET / HTTP/1.1\r\nHost: a\r\nX(: x\r\n\r\n", Err(Bad::Syntax)),
    ("a NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: x\r\n\r\n", Err(Bad::Syntax)),
    ("a NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", Err(Bad::Syntax)),
    ("a control in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x08b\r\n\r\n", Err(Bad::Syntax)),
    ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", Err(Bad::Syntax)),
    ("a CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Err(Bad::Syntax)),
    ("a tab in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n", NONE),
    ("bytes beyond ASCII in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n", NONE),
    ("an empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", NONE),
    // Content-Length. RFC 9110 §8.6, RFC 9112 §6.3.
    ("a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Ok(Framing::Length(3))),
    ("length zero", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", NONE),
    ("leading zeros", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc", Ok(Framing::Length(3))),
    ("two equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", Err(Bad::ContentLength)),
    ("two lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Err(Bad::ContentLength)),
    ("a list of lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", Err(Bad::ContentLength)),
    ("a sign", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", Err(Bad::ContentLength)),
    ("less than nothing", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", Err(Bad::ContentLength)),
    ("hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", Err(Bad::ContentLength)),
    ("an empty length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", Err(Bad::ContentLength)),
    ("a space inside", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 3\r\n\r\n", Err(Bad::ContentLength)),
    ("a point", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n\r\n", Err(Bad::ContentLength)),
    ("beyond 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551619\r\n\r\n", Err(Bad::ContentLength)),
    ("a length of a GET", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Ok(Framing::Length(3))),
    // Transfer-Encoding. RFC 9112 §6.1, §6.3, §11.2.
    ("chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(Framing::Chunked)),
    ("chunked in large letters", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n", Ok(Framing::Chunked)),
    ("CL.TE", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("TE.CL", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Err(Bad::TwoLengths)),
    ("TE with length zero", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", Err(Bad::TwoLengths)),
    ("TE.TE", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("TE.TE, one of them strange", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", Err(Bad::TwoLengths)),
    ("TE.TE, the first strange", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("chunked twice in one", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("chunked not last", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Err(Bad::TwoLengths)),
    ("a coding we do not speak", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(Bad::Coding)),
    ("identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", Err(Bad::TwoLengths)),
    ("an empty coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", Err(Bad::TwoLengths)),
    ("xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("chunked in quotes", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", Err(Bad::TwoLengths)),
    ("chunked and a comma", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", Err(Bad::TwoLengths)),
    ("chunked with a parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", Err(Bad::TwoLengths)),
    ("vertical tab before chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Err(Bad::Syntax)),
    ("a tab before chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n", Ok(Framing::Chunked)),
    ("a space in the name", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer Encoding: chunked\r\n\r\n", Err(Bad::Syntax)),
    ("an underscore in the name is another field", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n", NONE),
    ("chunked in 1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("chunked in 1.0 with keep-alive", b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    // Connection. RFC 9110 §7.6.1.
    ("a field that may not be nominated", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", NONE),
    ("a Connection beyond UTF-8", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: \xff\r\n\r\n", Err(Bad::Connection)),
    ("two upgrades", b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n", Err(Bad::Connection)),
];

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
