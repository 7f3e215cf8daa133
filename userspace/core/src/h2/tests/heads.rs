//! Heads that are requests and heads that are none. RFC 9113 §8.2, §8.3, RFC 8441.

use super::*;
use crate::h1::{self, Bad, Framing};

/// A request as a server of HTTP/1.1 is asked it, and how its body is framed.
fn asked(fields: &[(&str, &str)], ends: bool) -> Result<(String, Framing), Bad> {
    let mut connection = Connection::new(TERMS);
    let came = headers(1, if ends { flag::END_STREAM } else { 0 }, fields);
    let (_, Some(Event::Request { head, .. })) = connection.server.receive(&came, Duration::ZERO) else {
        panic!("no request");
    };
    let mut room = h1::field_room();
    let request = head.request(&mut room)?;
    assert_eq!((request.version, request.is_persistent, request.len), (h1::Version::Http2, true, 0));
    let sender = h1::Sender::new("203.0.113.7".parse().unwrap(), true).with_nonce(*b"the sample nonce");
    let mut out = Vec::new();
    h1::write_request(&mut out, &request, &sender);
    // What is sent on is one request of HTTP/1.1, of the same length.
    let mut room = h1::field_room();
    let again = h1::parse_request(&out, &mut room).unwrap().unwrap();
    assert_eq!((again.len, again.framing), (out.len(), request.framing));
    assert_eq!((again.method, again.target, again.host), (request.method, request.target, request.host));
    Ok((String::from_utf8(out).unwrap(), request.framing))
}

#[test]
fn a_request_is_asked_of_servers_as_one_of_http_1() {
    let fields = [
        (":method", "POST"),
        (":authority", "a.example"),
        (":scheme", "https"),
        (":path", "/x?y"),
        ("user-agent", "u"),
        ("cookie", "a=1"),
        ("te", "trailers"),
        ("x-served", "no"),
        ("cookie", "b=2"),
        ("content-length", "5"),
        ("via", "1.0 p"),
        ("cookie", "c=3"),
    ];
    let (seen, framing) = asked(&fields, false).unwrap();
    assert_eq!(framing, Framing::Length(5));
    let wanted = "POST /x?y HTTP/1.1\r\nhost: a.example\r\nuser-agent: u\r\ncookie: a=1; b=2; c=3\r\nx-served: no\r\n\
                  content-length: 5\r\nx-forwarded-for: 203.0.113.7\r\nx-forwarded-proto: https\r\n\
                  x-forwarded-host: a.example\r\nforwarded: for=203.0.113.7;host=\"a.example\";proto=https\r\n\
                  via: 1.0 p, 2.0 weir\r\n\r\n";
    assert_eq!(seen, wanted);
}

type Fields<'f> = Vec<(&'f str, &'f str)>;

/// GET of these, and of further fields.
fn with<'f>(control: [&'f str; 4], more: &[(&'f str, &'f str)]) -> Fields<'f> {
    let names = [":method", ":scheme", ":path", ":authority"];
    let said = names.into_iter().zip(control).filter(|(_, value)| *value != "-");
    said.chain(more.iter().copied()).collect()
}

const PLAIN: [&str; 4] = ["GET", "https", "/", "a"];

#[test]
fn heads_are_requests_or_not_as_the_table_says() {
    let field = |name, value| with(PLAIN, &[(name, value)]);
    let control = |control| with(control, &[]);
    let none = || Ok(Framing::None);
    let table: Vec<(&str, Fields<'_>, Result<Framing, Bad>)> = vec![
        ("plain", control(PLAIN), none()),
        // §8.2.1.
        ("a name in capitals", field("Accept", "x"), Err(Bad::Syntax)),
        ("one capital", field("x-Accept", "x"), Err(Bad::Syntax)),
        ("an empty name", field("", "x"), Err(Bad::Syntax)),
        ("a colon in a name", field("a:b", "x"), Err(Bad::Syntax)),
        ("a blank in a name", field("a b", "x"), Err(Bad::Syntax)),
        ("a line end in a name", field("a\r\nb", "x"), Err(Bad::Syntax)),
        ("a NUL in a name", field("a\0", "x"), Err(Bad::Syntax)),
        ("letters beyond ASCII in a name", field("ä", "x"), Err(Bad::Syntax)),
        ("a name of signs", field("!#$%&'*+-.^_`|~09", "x"), none()),
        ("CR LF in a value", field("x", "a\r\nb: c"), Err(Bad::Syntax)),
        ("LF in a value", field("x", "a\nb"), Err(Bad::Syntax)),
        ("CR in a value", field("x", "a\rb"), Err(Bad::Syntax)),
        ("NUL in a value", field("x", "a\0b"), Err(Bad::Syntax)),
        ("another control in a value", field("x", "a\x01b"), Err(Bad::Syntax)),
        ("DEL in a value", field("x", "a\x7fb"), Err(Bad::Syntax)),
        ("a tab in a value", field("x", "a\tb"), none()),
        ("letters beyond ASCII in a value", field("x", "ä"), none()),
        ("a blank in front of a value", field("x", " a"), Err(Bad::Syntax)),
        ("a tab behind a value", field("x", "a\t"), Err(Bad::Syntax)),
        ("no value", field("x", ""), none()),
        // §8.2.2.
        ("connection", field("connection", "close"), Err(Bad::Connection)),
        ("proxy-connection", field("proxy-connection", "close"), Err(Bad::Connection)),
        ("keep-alive", field("keep-alive", "5"), Err(Bad::Connection)),
        ("transfer-encoding", field("transfer-encoding", "chunked"), Err(Bad::Connection)),
        ("upgrade", field("upgrade", "h2c"), Err(Bad::Connection)),
        ("te", field("te", "trailers"), none()),
        ("te of more", field("te", "trailers, gzip"), Err(Bad::Connection)),
        ("te of another", field("te", "gzip"), Err(Bad::Connection)),
        // §8.3.
        ("an unknown pseudo-header", field(":x", "x"), Err(Bad::Syntax)),
        ("a pseudo-header of responses", field(":status", "200"), Err(Bad::Syntax)),
        ("a colon alone", field(":", "x"), Err(Bad::Syntax)),
        ("the same twice", field(":path", "/"), Err(Bad::Syntax)),
        ("two methods", field(":method", "GET"), Err(Bad::Syntax)),
        (
            "one behind a field",
            with(["GET", "https", "/", "-"], &[("x", "y"), (":authority", "a")]),
            Err(Bad::Syntax),
        ),
        (
            "one behind a cookie",
            with(["GET", "https", "/", "-"], &[("cookie", "y"), (":authority", "a")]),
            Err(Bad::Syntax),
        ),
        // §8.3.1.
        ("no method", control(["-", "https", "/", "a"]), Err(Bad::Syntax)),
        ("an empty method", control(["", "https", "/", "a"]), Err(Bad::Syntax)),
        ("a method with a blank", control(["GET /x", "https", "/", "a"]), Err(Bad::Syntax)),
        ("a method of its own", control(["BREW", "https", "/", "a"]), none()),
        ("no scheme", control(["GET", "-", "/", "a"]), Err(Bad::Target)),
        ("an empty scheme", control(["GET", "", "/", "a"]), Err(Bad::Target)),
        ("another scheme", control(["GET", "ftp", "/", "a"]), Err(Bad::Target)),
        ("http", control(["GET", "http", "/", "a"]), none()),
        ("no path", control(["GET", "https", "-", "a"]), Err(Bad::Target)),
        ("an empty path", control(["GET", "https", "", "a"]), Err(Bad::Target)),
        ("no slash", control(["GET", "https", "x", "a"]), Err(Bad::Target)),
        ("an absolute path", control(["GET", "https", "https://b/", "a"]), Err(Bad::Target)),
        ("an asterisk", control(["GET", "https", "*", "a"]), Err(Bad::Target)),
        ("OPTIONS of the server", control(["OPTIONS", "https", "*", "a"]), none()),
        ("a blank in the path", control(["GET", "https", "/ HTTP/1.1", "a"]), Err(Bad::Target)),
        ("a tab in the path", control(["GET", "https", "/\tx", "a"]), Err(Bad::Target)),
        ("a line end in the path", control(["GET", "https", "/\r\n", "a"]), Err(Bad::Syntax)),
        ("a fragment", control(["GET", "https", "/#x", "a"]), Err(Bad::Target)),
        ("letters beyond ASCII in the path", control(["GET", "https", "/ä", "a"]), Err(Bad::Target)),
        ("no authority", control(["GET", "https", "/", "-"]), Err(Bad::Host)),
        ("an empty authority", control(["GET", "https", "/", ""]), Err(Bad::Host)),
        ("a user", control(["GET", "https", "/", "u@a"]), Err(Bad::Host)),
        ("a path in the authority", control(["GET", "https", "/", "a/b"]), Err(Bad::Host)),
        ("a port", control(["GET", "https", "/", "a:8443"]), none()),
        ("host instead", with(["GET", "https", "/", "-"], &[("host", "a")]), none()),
        ("host alike", field("host", "A"), none()),
        ("another host", field("host", "b"), Err(Bad::Host)),
        ("two hosts", with(PLAIN, &[("host", "a"), ("host", "a")]), Err(Bad::Host)),
        (
            "two hosts and no authority",
            with(["GET", "https", "/", "-"], &[("host", "a"), ("host", "a")]),
            Err(Bad::Host),
        ),
        ("an empty host", with(["GET", "https", "/", "-"], &[("host", "")]), Err(Bad::Host)),
        // §8.1.1, RFC 9110 §8.6.
        ("a length of nothing", field("content-length", "0"), none()),
        ("a length and no body", field("content-length", "3"), Err(Bad::ContentLength)),
        ("a length that is none", field("content-length", "+0"), Err(Bad::ContentLength)),
        (
            "two lengths",
            with(PLAIN, &[("content-length", "0"), ("content-length", "0")]),
            Err(Bad::ContentLength),
        ),
        // §8.5.
        ("CONNECT", control(["CONNECT", "-", "-", "a:443"]), Err(Bad::Connect)),
        ("a protocol of GET", field(":protocol", "websocket"), Err(Bad::Syntax)),
    ];
    for (name, fields, wanted) in table {
        assert_eq!(asked(&fields, true).map(|(_, framing)| framing), wanted, "{name}");
    }
}

#[test]
fn a_body_without_a_length_is_sent_in_chunks() {
    for (more, wanted) in [
        (&[][..], Framing::Chunked),
        (&[("content-length", "3")], Framing::Length(3)),
        (&[("content-length", "0")], Framing::None),
    ] {
        assert_eq!(asked(&with(["POST", "https", "/", "a"], more), false).unwrap().1, wanted);
    }
}

#[test]
fn an_extended_connect_is_an_upgrade() {
    let control = ["CONNECT", "https", "/chat", "a"];
    assert_eq!(asked(&with(control, &[]), false), Err(Bad::Connect), "without a protocol it is a tunnel");
    let websocket = |more: &[(&'static str, &'static str)]| {
        let mut fields = with(control, &[(":protocol", "websocket"), ("sec-websocket-version", "13")]);
        fields.extend_from_slice(more);
        asked(&fields, false)
    };
    let (seen, framing) = websocket(&[]).unwrap();
    assert_eq!(framing, Framing::None);
    let wanted = "GET /chat HTTP/1.1\r\nhost: a\r\nsec-websocket-version: 13\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert!(seen.starts_with(wanted), "{seen}");
    let (seen, _) = websocket(&[("sec-websocket-key", "mine")]).unwrap();
    assert_eq!(seen.matches("sec-websocket-key").count(), 1, "{seen}");
    assert_eq!(websocket(&[("content-length", "5")]).map(|_| ()), Err(Bad::ContentLength));
    let fields = with(["CONNECT", "https", "-", "a"], &[(":protocol", "websocket")]);
    assert_eq!(asked(&fields, false).map(|_| ()), Err(Bad::Target));
    let fields = with(control, &[(":protocol", "web socket")]);
    assert_eq!(asked(&fields, false).map(|_| ()), Err(Bad::Syntax));
}

/// The head of a request with many fields, in as many frames as it takes.
fn head_with(count: usize, len: usize) -> Vec<u8> {
    let mut all = block(GET);
    for _ in 0..count {
        put_field(&mut all, "x-y", &vec![b'z'; len]);
    }
    let pieces: Vec<&[u8]> = all.chunks(FRAME_LEN_MAX).collect();
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let flags = if index + 1 == pieces.len() { flag::END_HEADERS } else { 0 };
        let (kind, first) =
            if index == 0 { (kind::HEADERS, flag::END_STREAM) } else { (kind::CONTINUATION, 0) };
        out.extend(frame(kind, flags | first, 1, piece));
    }
    out
}

#[test]
fn heads_are_bounded() {
    let terms = Terms { head_len_max: 64 << 10, ..TERMS };
    for (name, came, wanted) in [
        ("as many fields as there may be", head_with(h1::FIELDS_MAX, 10), Ok(())),
        ("one more", head_with(h1::FIELDS_MAX + 1, 10), Err(Bad::HeadLen)),
        ("as large as it may be", head_with(60, 1000), Ok(())),
        ("too large by what fields count for", head_with(64, 990), Err(Bad::HeadLen)),
    ] {
        let mut connection = Connection::new(terms);
        let (_, event) = connection.server.receive(&came, Duration::ZERO);
        let Some(Event::Request { head, .. }) = event else { panic!("{name}: {event:?}") };
        let mut room = h1::field_room();
        assert_eq!(head.request(&mut room).map(|_| ()), wanted, "{name}");
        assert_eq!((head.method(), head.target(), head.host()), ("GET", "/", "a"), "{name}: for the log");
    }
    for (count, len) in [(66, 1000), (10_000, 1000)] {
        let seen = Connection::new(terms).hears(&head_with(count, len));
        assert_eq!(seen, [Seen::Fatal(Fatal::HeadLen)], "too large to be unpacked at all");
    }
}

#[test]
fn what_was_remembered_is_right_behind_a_head_that_was_too_large() {
    let mut connection = Connection::new(Terms { head_len_max: 220, ..TERMS });
    // Within the bound when packed, above it with what the fields count for; the last is remembered.
    let large = [block(GET), b"\x00\x01x\x01y".repeat(3), b"\x40\x05x-far\x04away".to_vec()].concat();
    let small = [block(GET), b"\xbe".to_vec()].concat();
    let came = [&large, &small].map(|block| block.as_slice());
    let ends = flag::END_HEADERS | flag::END_STREAM;
    let came: Vec<u8> =
        came.into_iter().zip([1, 3]).flat_map(|(block, id)| frame(kind::HEADERS, ends, id, block)).collect();
    let mut seen = Vec::new();
    let mut at = 0;
    while let (used, Some(Event::Request { head, .. })) =
        connection.server.receive(&came[at..], Duration::ZERO)
    {
        at += used;
        let mut room = h1::field_room();
        let flaw = head.request(&mut room).err();
        seen.push((flaw, head.fields().last().map(|(name, value)| (name.to_owned(), value.to_vec()))));
    }
    assert_eq!(seen[0].0, Some(Bad::HeadLen));
    assert_eq!(seen[1], (None, Some(("x-far".to_owned(), b"away".to_vec()))));
}

#[test]
fn trailers_go_on_as_those_of_chunks_do() {
    let mut connection = Connection::new(TERMS);
    let trailers = headers(1, flag::END_STREAM, &[("x-sum", "1"), ("content-type", "x"), ("host", "b")]);
    connection.hears(&post(1));
    let (_, Some(Event::Trailers { id: 1, fields })) = connection.server.receive(&trailers, Duration::ZERO)
    else {
        panic!("no trailers");
    };
    let mut out = Vec::new();
    h1::write_last_chunk(&mut out, fields.fields());
    assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
}
