//! HTTP/2 as it comes: nothing depends on how it is cut, what becomes a request is one of HTTP/1, and what is written is frames.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use weir_core::{
    h1::{self, Bad},
    h2::{Event, Head, Server, Terms},
};

/// Little of everything, so that bounds are met.
const TERMS: Terms =
    Terms { streams_max: 4, head_len_max: 4096, stream_window: 1 << 16, connection_window: 1 << 17 };
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|bytes: &[u8]| {
    let cut = bytes.first().map_or(0, |first| usize::from(*first)).min(bytes.len());
    let whole = talk(&[BEGIN, bytes]);
    assert_eq!(whole, talk(&[BEGIN, &bytes[..cut], &bytes[cut..]]));
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(whole, talk(&[&[BEGIN], &single[..]].concat()));
    // Without an honest beginning.
    talk(&[bytes]);
});

/// A server that answers each request, echoes its data, and reads at once: what it was told, data apart, and what it wrote.
fn talk(parts: &[&[u8]]) -> (Vec<String>, Vec<u8>, Vec<u8>) {
    let mut server = Server::new(TERMS);
    let (mut came, mut told, mut data, mut written) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        came.extend_from_slice(part);
        let mut at = 0;
        loop {
            let (used, event) = server.receive(&came[at..], Duration::ZERO);
            at += used;
            let is_told = event.is_some();
            match event {
                Some(Event::Request { id, head, ends }) => {
                    let asked = asked(&head);
                    told.push(format!("{id} {ends} {asked:?}"));
                    let status = asked.err().map_or(200, Bad::status);
                    server.respond(id, status, head.fields(), false).expect("it has just come");
                    if ends {
                        server.send(id, &[b'x'; 5000], true).expect("it has not ended");
                    }
                }
                Some(Event::Data { id, bytes, ends }) => {
                    data.extend_from_slice(bytes);
                    server.consumed(id, bytes.len());
                    if ends {
                        told.push(format!("{id} ends"));
                        server.end(id).expect("it has not ended");
                    }
                }
                Some(Event::Trailers { id, fields }) => {
                    told.push(format!("{id} {:?}", fields.fields().collect::<Vec<_>>()));
                    server.trailers(id, fields.fields()).expect("it has not ended");
                }
                Some(Event::Room { id }) => {
                    server.send(id, b"more", true).expect("it has waited");
                }
                Some(event) => told.push(format!("{event:?}")),
                None if used == 0 => break,
                None => {}
            }
            // It never becomes so much that less is read.
            if is_told {
                written.append(server.output());
            }
        }
        came.drain(..at);
        assert!(server.is_over() || came.len() < 9 + 16_384, "more than a frame is waited for");
    }
    assert!(server.open_streams() <= 4);
    written.append(server.output());
    (told, data, frames(&written))
}

/// What is sent on is one request of HTTP/1.1, read as it was meant.
fn asked(head: &Head) -> Result<String, Bad> {
    let mut room = h1::field_room();
    let request = head.request(&mut room)?;
    let mut out = Vec::new();
    h1::write_request(&mut out, &request, &h1::Sender::new([203, 0, 113, 7].into(), true));
    let mut room = h1::field_room();
    match h1::parse_request(&out, &mut room) {
        Ok(again) => {
            let again = again.expect("a whole head stays whole");
            assert_eq!((again.len, again.framing), (out.len(), request.framing));
            assert_eq!((again.method, again.target, again.host), (request.method, request.target, request.host));
        }
        // With what is said of the client there may be too many fields; it is the server's to say so.
        Err(error) => assert_eq!(error, Bad::HeadLen),
    }
    Ok(format!("{} {} {}", request.method, request.host, request.target))
}

/// Frames that are whole, without those that grant windows: when they come depends on the pieces.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        assert!(len <= 16_384);
        let (frame, rest) = bytes.split_at(9 + len);
        if frame[3] != 8 {
            all.extend_from_slice(frame);
        }
        bytes = rest;
    }
    all
}
