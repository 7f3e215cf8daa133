//! Responses as they come, and what becomes of them.

use super::*;

type Row = (&'static str, bool, &'static [u8], Result<Framing, Bad>);

const TABLE: &[Row] = include!("table/responses.in");

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
                  Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut room = field_room();
    let head = parse_response(bytes, &mut room, false).unwrap().unwrap();
    assert!(!head.is_persistent);
    let (mut out, via) = (Vec::new(), head.via());
    let fields = head.passed_on("date").chain([("via", &*via)]);
    write_response(&mut out, (200, "Fine"), fields, head.framing, &[b"connection: close\r\n"]);
    let wanted = "HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nvia: 1.0 q, 1.1 weir\r\n\
                  transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), wanted);
}

#[test]
fn an_answer_to_head_still_says_how_long_the_body_would_be() {
    let mut room = field_room();
    let head =
        parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &mut room, true).unwrap().unwrap();
    assert_eq!(head.told_length(head.framing), Some(3));
}
