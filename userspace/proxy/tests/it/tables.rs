//! The tables of requests, responses and chunks that `weir_core::h1` is tested by, once more through the sockets of the proxy.

use weir_core::h1::{Bad, Framing, field_room, parse_request};

use crate::raw::{OK, Origin, proxy, say, say_until};

type RequestRow = (&'static str, &'static [u8], Result<Framing, Bad>);
const REQUESTS: &[RequestRow] = include!("../../../core/src/h1/tests/table/requests.in");

type ResponseRow = (&'static str, bool, &'static [u8], Result<Framing, Bad>);
const RESPONSES: &[ResponseRow] = include!("../../../core/src/h1/tests/table/responses.in");

const BROKEN_CHUNKS: &[&[u8]] = &include!("../../../core/src/h1/tests/table/chunks.in");

/// Sent behind each request: a server that gets to see it was told where the request ends by somebody who was wrong.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn each_request_of_the_table_reaches_a_server_whole_or_not_at_all() {
    let origin = Origin::start(b"\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    for (name, bytes, wanted) in REQUESTS {
        let before = origin.bytes().len();
        match wanted {
            Ok(framing) => {
                let body: &[u8] = if *framing == Framing::Chunked { b"0\r\n\r\n" } else { b"" };
                let all = [bytes, body].concat();
                let seen = say(web, &all, &["\r\n\r\n", "ok"]).await;
                assert!(seen.starts_with("HTTP/1.1 200 "), "{name}: {seen}");
                let rest = match framing {
                    Framing::Length(_) => b"abc".as_slice(),
                    Framing::Chunked => b"0\r\n\r\n",
                    _ => b"",
                };
                // The origin answers the head and does not wait for the rest.
                let recorded =
                    origin.until(before, |seen| seen.ends_with(&[b"\r\n\r\n", rest].concat())).await;
                let mut room = field_room();
                let head = parse_request(&recorded, &mut room).expect(name).expect(name);
                assert_eq!(head.framing, *framing, "{name}");
                assert_eq!(&recorded[head.len..], rest, "{name}");
            }
            Err(bad) => {
                let seen = say(web, &[bytes, NEXT].concat(), &["weir-cause: ", "\r\n\r\n"]).await;
                assert!(seen.starts_with(&format!("HTTP/1.1 {} ", bad.status())), "{name}: {seen}");
                assert!(seen.contains(&format!("weir-cause: {}\r\n", bad.cause())), "{name}: {seen}");
                assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{name}: {seen}");
                assert_eq!(origin.bytes().len(), before, "{name}: {}", origin.seen());
            }
        }
    }
    assert!(!origin.seen().contains("/next"), "{}", origin.seen());
}

#[tokio::test]
async fn each_response_of_the_table_reaches_the_client_whole_or_is_a_bad_gateway() {
    for (name, to_head, bytes, wanted) in RESPONSES {
        // What is informational is followed by what is final, and what is framed by its body.
        let status: u16 =
            bytes.get(9..12).and_then(|s| std::str::from_utf8(s).ok()?.parse().ok()).unwrap_or(0);
        let rest: &[u8] = match wanted {
            Ok(Framing::Chunked) => b"3\r\nabc\r\n0\r\n\r\n",
            Ok(Framing::UntilClose) => b"abc",
            Ok(Framing::Length(3)) if !bytes.ends_with(b"abc") => b"abc",
            Ok(_) if (100..200).contains(&status) && status != 101 => OK,
            _ => b"",
        };
        let answer: &'static [u8] = [bytes, rest].concat().leak();
        let origin = Origin::start(b"\r\n\r\n", answer, true).await;
        let (_proxy, web) = proxy(&origin).await;
        let method = if *to_head { "HEAD" } else { "GET" };
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        // The proxy closes when it is done.
        let seen = say_until(web, request.as_bytes(), |_| false).await;
        // RFC 9110 §7.8: nobody asked for another protocol.
        let is_refused = wanted.is_err() || status == 101;
        if is_refused {
            assert!(
                seen.starts_with("HTTP/1.1 502 ") && seen.contains("weir-cause: bad-response\r\n"),
                "{name}: {seen}"
            );
        } else {
            assert!(seen.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {seen}");
            let has_body = matches!(wanted, Ok(Framing::Length(_) | Framing::Chunked | Framing::UntilClose));
            assert_eq!(seen.contains("abc"), has_body, "{name}: {seen}");
        }
    }
}

#[tokio::test]
async fn no_broken_chunk_of_the_table_is_a_whole_body_to_a_server() {
    let origin = Origin::start(b"\r\n0\r\n\r\n", OK, false).await;
    let (_proxy, web) = proxy(&origin).await;
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for bytes in BROKEN_CHUNKS {
        let seen = say(web, &[head, *bytes, NEXT].concat(), &["weir-cause: request-body\r\n"]).await;
        assert!(seen.starts_with("HTTP/1.1 400 "), "{}: {seen}", bytes.escape_ascii());
        assert_eq!(seen.matches("HTTP/1.1 ").count(), 1, "{}: {seen}", bytes.escape_ascii());
        let recorded = origin.seen();
        assert!(!recorded.contains("\r\n0\r\n"), "{}: {recorded}", bytes.escape_ascii());
        assert!(!recorded.contains("/next"), "{}: {recorded}", bytes.escape_ascii());
    }
}
