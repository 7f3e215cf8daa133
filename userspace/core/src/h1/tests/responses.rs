//! Responses as they come, and what becomes of them.

use super::*;

type Row = (&'static str, bool, &'static [u8], Result<Framing, Bad>);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // RFC 9112 §4, §6.3. The second column: an answer to HEAD.
    ("a length", false, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok(Framing::Length(3))),
    ("chunked", false, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(Framing::Chunked)),
    ("until the end", false, b"HTTP/1.1 200 OK\r\n\r\n", Ok(Framing::UntilClose)),
    ("1.0", false, b"HTTP/1.0 200 OK\r\n\r\n", Ok(Framing::UntilClose)),
    ("no reason", false, b"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n", Ok(Framing::Length(3))),
    ("an empty reason", false, b"HTTP/1.1 200 \r\nContent-Length: 3\r\n\r\n", Ok(Framing::Length(3))),
    ("to HEAD", true, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Ok(Framing::None)),
    ("chunked to HEAD", true, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ok(Framing::None)),
    ("204", false, b"HTTP/1.1 204 No Content\r\n\r\n", Ok(Framing::None)),
    ("204 with a length", false, b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", Ok(Framing::None)),
    ("204 in chunks", false, b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("304", false, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", Ok(Framing::None)),
    ("100", false, b"HTTP/1.1 100 Continue\r\n\r\n", Ok(Framing::None)),
    ("103", false, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", Ok(Framing::None)),
    ("101", false, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Ok(Framing::None)),
    ("length zero", false, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok(Framing::None)),
    ("both", false, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("both, the other way round", false, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Err(Bad::TwoLengths)),
    ("both to HEAD", true, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Err(Bad::TwoLengths)),
    ("two lengths", false, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", Err(Bad::ContentLength)),
    ("two equal lengths", false, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Err(Bad::ContentLength)),
    ("a length that is none", false, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Err(Bad::ContentLength)),
    ("chunked in 1.0", false, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Bad::TwoLengths)),
    ("a coding we do not speak", false, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err(Bad::Coding)),
    ("identity", false, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", Err(Bad::TwoLengths)),
    ("bare LF", false, b"HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\n", Err(Bad::BareLineFeed)),
    ("a folded field", false, b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n", Err(Bad::Folded)),
    ("a space before the colon", false, b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n", Err(Bad::Syntax)),
    ("a NUL in a value", false, b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", Err(Bad::Syntax)),
    ("a CR in a value", false, b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", Err(Bad::Syntax)),
    ("two digits", false, b"HTTP/1.1 20 OK\r\n\r\n", Err(Bad::Syntax)),
    ("four digits", false, b"HTTP/1.1 2000 OK\r\n\r\n", Err(Bad::Syntax)),
    ("beyond 599", false, b"HTTP/1.1 600 OK\r\n\r\n", Err(Bad::Syntax)),
    ("below 100", false, b"HTTP/1.1 099 OK\r\n\r\n", Err(Bad::Syntax)),
    ("another version", false, b"HTTP/2.0 200 OK\r\n\r\n", Err(Bad::Version)),
    ("another protocol", false, b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Err(Bad::Version)),
];

#[test]
fn responses_are_taken_or_refused_as_the_table_says() {
    for (name, to_head, bytes, wanted) in TABLE {
        let mut room = field_room();
        let seen = parse_response(bytes, &mut room, *to_head).map(|seen| seen.expect("whole").framing);
        assert_eq!(seen, *wanted, "{name}: {}", bytes.escape_ascii());
    }
}

#[test]
fn a_response_is_written_anew_with_the_framing_of_what_follows() {
    let bytes =
        b"HTTP/1.1 200 Fine\r\nVia: 1.0 q\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
                  Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut room = field_room();
    let head = parse_response(bytes, &mut room, false).unwrap().unwrap();
    assert!(!head.is_persistent);
    let mut out = Vec::new();
    write_response(&mut out, &head, head.framing, &[b"weir-cause: x\r\n"]);
    let wanted = "HTTP/1.1 200 Fine\r\nvia: 1.0 q, 1.1 weir\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  transfer-encoding: chunked\r\nweir-cause: x\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
}

#[test]
fn an_answer_to_head_still_says_how_long_the_body_would_be() {
    let mut room = field_room();
    let head =
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &mut room, true).unwrap().unwrap();
    let mut out = Vec::new();
    write_response(&mut out, &head, Framing::None, &[]);
    assert!(String::from_utf8(out).unwrap().contains("content-length: 3\r\n"));
}
