//! What is taken, what is refused, and what goes on from here.

mod requests;
mod responses;

use super::*;

fn request(bytes: &[u8]) -> Result<Option<(String, Framing)>, Bad> {
    let mut room = field_room();
    let Some(head) = parse_request(bytes, &mut room)? else { return Ok(None) };
    let sender = Sender::new("203.0.113.7".parse().unwrap(), false);
    let mut out = Vec::new();
    write_request(&mut out, &head, &sender);
    Ok(Some((String::from_utf8_lossy(&out).into_owned(), head.framing)))
}

/// The body of a chunked message and how many bytes it took; `None` while it has not ended.
fn dechunk(bytes: &[u8], cut: usize) -> Result<Option<(Vec<u8>, usize)>, Bad> {
    let (mut chunked, mut body, mut at) = (Chunked::default(), Vec::new(), 0);
    for end in [cut.min(bytes.len()), bytes.len()] {
        loop {
            let (framing, progress) = chunked.advance(&bytes[at..end])?;
            at += framing;
            match progress {
                Progress::Data(len) => {
                    body.extend_from_slice(&bytes[at..at + len]);
                    at += len;
                }
                Progress::More => break,
                Progress::End => return Ok(Some((body, at))),
            }
        }
    }
    Ok(None)
}

#[test]
fn a_request_is_written_anew_without_what_was_meant_for_this_hop() {
    let (seen, framing) = request(
        b"POST http://a.example:80/x?y HTTP/1.1\r\nHost: other\r\nConnection: close, X-Secret, host\r\nx-secret: 1\r\n\
          TE: trailers\r\nUpgrade: h2c\r\nX-Forwarded-For: 198.51.100.1\r\nx-forwarded-for: 198.51.100.2\r\nCookie: a=1\r\n\
          Keep-Alive: timeout=5\r\nContent-Length: 5\r\nAccept: */*\r\nVia: 1.0 p\r\n\r\nhello",
    )
    .unwrap()
    .unwrap();
    assert_eq!(framing, Framing::Length(5));
    let wanted = "POST /x?y HTTP/1.1\r\nhost: a.example:80\r\nCookie: a=1\r\nAccept: */*\r\ncontent-length: 5\r\n\
                  x-forwarded-for: 198.51.100.1, 198.51.100.2, 203.0.113.7\r\nx-forwarded-proto: http\r\n\
                  x-forwarded-host: a.example:80\r\nforwarded: for=203.0.113.7;host=\"a.example:80\";proto=http\r\n\
                  via: 1.0 p, 1.1 weir\r\n\r\n";
    assert_eq!(seen, wanted);
}

#[test]
fn a_head_cut_anywhere_is_waited_for() {
    let whole = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    for len in 0..whole.len() - 3 {
        assert_eq!(request(&whole[..len]), Ok(None), "{len}");
    }
    let mut room = field_room();
    let head = parse_request(whole, &mut room).unwrap().unwrap();
    assert_eq!(&whole[head.len..], b"abc");
}

#[test]
fn chunks_cut_anywhere_are_the_same_body() {
    let whole = b"5\r\nhello\r\n6;ext=\"1\"\r\n world\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\nnext";
    for cut in 0..=whole.len() {
        let (body, len) = dechunk(whole, cut).unwrap().unwrap();
        assert_eq!((&body[..], len), (&b"hello world"[..], whole.len() - 4), "{cut}");
    }
    let mut chunked = Chunked::default();
    let mut at = 0;
    while !chunked.is_done() {
        let (framing, progress) = chunked.advance(&whole[at..]).unwrap();
        at += framing + if let Progress::Data(len) = progress { len } else { 0 };
    }
    let mut out = Vec::new();
    chunked.write_end(&mut out).unwrap();
    assert_eq!(out, b"0\r\nX-Sum: 1\r\n\r\n", "a trailer says nothing of where the message ends");
}

const BROKEN_CHUNKS: &[&[u8]] = &include!("tests/table/chunks.in");

#[test]
fn chunks_that_two_could_read_differently_are_refused() {
    for bytes in BROKEN_CHUNKS {
        assert_eq!(dechunk(bytes, 3), Err(Bad::Chunk), "{}", bytes.escape_ascii());
    }
    let endless = [b"5;", &[b'a'; CHUNK_LINE_LEN_MAX][..]].concat();
    assert_eq!(dechunk(&endless, 3), Err(Bad::Chunk));
    let endless = [b"0\r\nx: ", &[b'a'; TRAILERS_LEN_MAX][..]].concat();
    assert_eq!(dechunk(&endless, 3), Err(Bad::Chunk));
}

proptest::proptest! {
    /// What is sent on is understood as what came, however strange it was: nobody behind can disagree about where it ends.
    #[test]
    fn what_is_sent_on_reads_the_same_again(
        method in "[A-Z]{1,7}",
        path in "/[!-~]{0,20}",
        fields in proptest::collection::vec(("[a-zA-Z-]{1,18}", "[ -~]{0,20}"), 0..8),
        length in proptest::option::of(0u32..99),
    ) {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n");
        for (name, value) in fields {
            bytes += &format!("{name}: {value}\r\n");
        }
        if let Some(length) = length {
            bytes += &format!("Content-Length: {length}\r\n");
        }
        bytes += "\r\n";
        if let Ok(Some((seen, framing))) = request(bytes.as_bytes()) {
            let mut room = field_room();
            let again = parse_request(seen.as_bytes(), &mut room).unwrap().unwrap();
            let has_end = again.framing == framing && again.len == seen.len();
            proptest::prop_assert!(has_end, "{seen}");
            proptest::prop_assert_eq!((again.method, again.target, again.host), (&method[..], &path[..], "a"));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..300) {
        let _any = request(&bytes);
        let _any = dechunk(&bytes, cut);
        let mut room = field_room();
        let _any = parse_response(&bytes, &mut room, false);
    }
}
