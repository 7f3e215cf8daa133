//! Responses as they are written. RFC 9113 §8.1.

use super::*;
use crate::h2::{hpack::Decoder, list::List};

/// A connection with a request on stream 1.
fn asked() -> Connection {
    let mut connection = Connection::new(TERMS);
    connection.hears(&get(1));
    connection
}

fn kinds(written: &[Written]) -> Vec<(u8, u8)> {
    written.iter().map(|written| (written.kind, written.flags)).collect()
}

fn fields<'f>(fields: &'f [(&'f str, &'f str)]) -> impl Iterator<Item = (&'f str, &'f [u8])> {
    fields.iter().map(|(name, value)| (*name, value.as_bytes()))
}

const HEAD: (u8, u8) = (kind::HEADERS, flag::END_HEADERS);
const DATA: (u8, u8) = (kind::DATA, 0);
const END: (u8, u8) = (kind::DATA, flag::END_STREAM);
const WHOLE: (u8, u8) = (kind::HEADERS, flag::END_HEADERS | flag::END_STREAM);

#[test]
fn a_head_is_packed_with_what_everybody_knows() {
    let mut connection = asked();
    let said = [("Content-Type", "text/html"), ("X-Served-By", "b"), ("date", "today")];
    connection.server.respond(1, 200, fields(&said), true).unwrap();
    let told = connection.writes();
    assert_eq!(kinds(&told), [WHOLE]);
    // No table; :status 200; content-type, a new name in small letters, date.
    let wanted = b"\x20\x88\x0f\x10\x09text/html\x00\x0bx-served-by\x01b\x0f\x12\x05today";
    assert_eq!(told[0].payload.escape_ascii().to_string(), wanted.escape_ascii().to_string());
    // That there is no table is said once.
    connection.hears(&get(3));
    connection.server.respond(3, 503, fields(&[]), true).unwrap();
    assert_eq!(connection.writes()[0].payload, b"\x08\x03503");
}

#[test]
fn the_end_is_in_the_last_frame_where_it_was_not_taken() {
    let mut connection = asked();
    connection.answers(1, false).unwrap();
    connection.server.send(1, b"x", false).unwrap();
    connection.server.end(1).unwrap();
    assert_eq!(kinds(&connection.writes()), [HEAD, END]);
    assert_eq!(connection.server.end(1), Err(Gone));

    let mut connection = asked();
    connection.answers(1, false).unwrap();
    connection.server.end(1).unwrap();
    assert_eq!(kinds(&connection.writes()), [WHOLE]);

    let mut connection = asked();
    connection.answers(1, false).unwrap();
    assert_eq!(connection.server.send(1, b"x", true), Ok(1));
    assert_eq!(kinds(&connection.writes()), [HEAD, END]);

    // It was taken.
    let mut connection = asked();
    connection.answers(1, false).unwrap();
    assert_eq!(kinds(&connection.writes()), [HEAD]);
    assert_eq!(connection.server.send(1, b"", true), Ok(0));
    let told = connection.writes();
    assert_eq!((kinds(&told), told[0].payload.len()), (vec![END], 0));

    // Another stream's is behind it.
    let mut connection = asked();
    connection.hears(&get(3));
    connection.answers(1, false).unwrap();
    connection.answers(3, false).unwrap();
    connection.server.end(1).unwrap();
    assert_eq!(kinds(&connection.writes()), [HEAD, HEAD, END]);
}

#[test]
fn interim_responses_end_nothing() {
    let mut connection = asked();
    connection.server.respond(1, 103, fields(&[("link", "x")]), false).unwrap();
    connection.server.end(1).unwrap();
    assert_eq!(kinds(&connection.writes()), [HEAD, END]);
    let mut connection = asked();
    connection.server.respond(1, 100, fields(&[]), false).unwrap();
    connection.answers(1, true).unwrap();
    assert_eq!(kinds(&connection.writes()), [HEAD, WHOLE]);
}

#[test]
fn trailers_end_a_response() {
    let mut connection = asked();
    connection.answers(1, false).unwrap();
    connection.server.send(1, b"x", false).unwrap();
    connection.server.trailers(1, fields(&[("grpc-status", "0")])).unwrap();
    let told = connection.writes();
    assert_eq!(kinds(&told), [HEAD, DATA, WHOLE]);
    assert_eq!(told[2].payload, b"\x00\x0bgrpc-status\x010");
    assert_eq!(connection.server.open_streams(), 0);
    assert_eq!(connection.server.trailers(1, fields(&[])), Err(Gone));
}

#[test]
fn a_large_head_goes_in_several_frames() {
    let mut connection = asked();
    let value = "v".repeat(1000);
    let said: Vec<_> = (0..40).map(|_| ("set-cookie", &value[..])).collect();
    connection.server.respond(1, 200, fields(&said), false).unwrap();
    connection.server.end(1).unwrap();
    let told = connection.writes();
    let wanted =
        [(kind::HEADERS, flag::END_STREAM), (kind::CONTINUATION, 0), (kind::CONTINUATION, flag::END_HEADERS)];
    assert_eq!(kinds(&told), wanted);
    let block: Vec<u8> = told.into_iter().flat_map(|written| written.payload).collect();
    let mut list = List::new(1 << 20);
    Decoder::default().decode(&block, &mut list).unwrap();
    let head = list.head(true);
    assert!(head.fields().all(|field| field == ("set-cookie", value.as_bytes())));
    assert_eq!(head.fields().count(), 40);
}

#[test]
fn data_goes_in_frames_everybody_takes() {
    let mut connection = asked();
    connection.answers(1, false).unwrap();
    assert_eq!(connection.server.send(1, &[7; 40_000], true), Ok(40_000));
    let told = connection.writes();
    assert_eq!(kinds(&told), [HEAD, DATA, DATA, END]);
    let lens: Vec<_> = told.iter().map(|written| written.payload.len()).collect();
    assert_eq!(lens[1..], [FRAME_LEN_MAX, FRAME_LEN_MAX, 40_000 - 2 * FRAME_LEN_MAX]);
}

#[test]
fn nothing_is_said_on_a_stream_that_is_gone() {
    let mut connection = asked();
    assert_eq!(connection.hears(&reset(1)), [Seen::Reset(1, Reason::CANCEL)]);
    connection.writes();
    for id in [1, 3, 0, 2] {
        assert_eq!(connection.answers(id, true), Err(Gone));
        assert_eq!(connection.server.send(id, b"x", true), Err(Gone));
        assert_eq!(connection.server.end(id), Err(Gone));
        assert_eq!(connection.server.trailers(id, fields(&[])), Err(Gone));
        connection.server.reset(id, Reason::CANCEL);
        connection.server.consumed(id, 5);
    }
    assert_eq!(connection.writes(), []);
}
