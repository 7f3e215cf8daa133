//! Measures requests of HTTP/2 without sockets, each from its frame to its answer: `cargo bench -p weir-core --bench h2`.
//!
//! What nghttp2 packs for a browser's ten fields, first with all of them spelled out, then with what it has told to remember.
#![expect(clippy::expect_used, reason = "a benchmark that goes wrong shall end")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use weir_core::{
    h1,
    h2::{Event, Server, StreamId, Terms},
};

const TERMS: Terms =
    Terms { streams_max: 100, head_len_max: 64 << 10, stream_window: 1 << 18, connection_window: 1 << 20 };
/// The preface, settings of nothing, and a window for all answers.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\x40\0\0\0";
/// Of a GET: a path of its own, then authority, User-Agent, Accept, Accept-Language, Accept-Encoding, Referer, Cookie, two
/// Sec-Fetch and Cache-Control, each to be remembered.
const FIRST: &str = "\
    8204042f613f6286418b089d5c0b8170dc0bcfbeff7ab5d07f66a281b0dae053fafc087ed4ce6aadf2a7979c89c6bed4b3bdc089e5c1fda988a4ea76\
    040080010054c26b0b29fcb0113cb83f53b0497ca589d34d1f43aeba0c41a4c7a98f33a69a3fdf9a68fa1d75d0620d263d4c79a68fbed00177febe58\
    f9fbed00177b518b2d4b70ddf45abefb4005db50929bd9abfa5242cb40d25fa523b3e94f684c9f73959d29ad171863c78f0b97c8e9ae82ae43d2c212\
    3b1360a54150831ea8001132d36e3af3e38c921650044cb4db8ebcf8e3248597ed44ce5a4b0483b3af408a4148b4a549275a42a13f8690e4b692d49f\
    408a4148b4a549275a93c85f86a87dcd30d25f5886a8eb10649cbf";
/// The same again.
const AGAIN: &str = "8204042f613f6286c7c6c5c4c3c2c1c0bfbe";
const FIELDS: [(&str, &[u8]); 5] = [
    ("Server", b"origin/1.0"),
    ("Date", b"Sat, 21 Nov 2026 20:13:21 GMT"),
    ("Content-Type", b"text/html; charset=utf-8"),
    ("content-length", b"120"),
    ("via", b"1.1 weir"),
];
const BODY: [u8; 120] = [b'x'; 120];

fn frame(block: &str, id: StreamId) -> Vec<u8> {
    let digits: Vec<_> = block.bytes().filter_map(|digit| char::from(digit).to_digit(16)).collect();
    let payload = digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8);
    let mut out = [&[0, 0, 0, 1, 5][..], &id.to_be_bytes()].concat();
    out.extend(payload);
    let len = (out.len() - 9) as u16;
    out[1..3].copy_from_slice(&len.to_be_bytes());
    out
}

/// Reads a request; the number of bytes it has as one of HTTP/1.1.
fn read(server: &mut Server, came: &[u8], out: &mut Vec<u8>) {
    let (_, event) = server.receive(came, Duration::ZERO);
    let Some(Event::Request { head, .. }) = event else { panic!("not a request: {event:?}") };
    let mut room = h1::field_room();
    let request = head.request(&mut room).expect("a right one");
    out.clear();
    h1::write_request(out, &request, &h1::Sender::new([203, 0, 113, 7].into(), true));
    black_box(&out);
}

fn answer(server: &mut Server, id: StreamId, out: &mut Vec<u8>) {
    server.respond(id, 200, FIELDS.into_iter(), false).expect("it is there");
    assert_eq!(server.send(id, &BODY, true), Ok(BODY.len()));
    // Taken with the memory that was taken before.
    out.clear();
    std::mem::swap(server.output(), out);
    black_box(&out);
}

/// Prints the least time of one in rounds of a thousand.
fn measure(what: &str, mut round: impl FnMut() -> Duration) {
    let least = (0..300).map(|_| round()).min().unwrap_or_default();
    println!("{what:<48} {:>6} ns", least.as_nanos() / 1000);
}

/// A connection on which all has been said once.
fn begun() -> Server {
    let mut server = Server::new(TERMS);
    assert_eq!(server.receive(BEGIN, Duration::ZERO).0, BEGIN.len());
    server
}

fn main() {
    let frames: Vec<Vec<u8>> = (1..=1000).map(|n| frame(AGAIN, 2 * n + 1)).collect();
    let first = frame(FIRST, 1);
    let mut out = Vec::new();
    measure("a request of ten fields, spelled out, and answer", || {
        let mut servers: Vec<Server> = (0..1000).map(|_| begun()).collect();
        let mut asked = Vec::new();
        let began = Instant::now();
        for server in &mut servers {
            read(server, &first, &mut asked);
            answer(server, 1, &mut out);
        }
        began.elapsed()
    });
    let mut asked = Vec::new();
    measure("a request of ten fields, remembered, and answer", || {
        let mut server = begun();
        read(&mut server, &first, &mut asked);
        answer(&mut server, 1, &mut out);
        let began = Instant::now();
        for (n, came) in frames.iter().enumerate() {
            read(&mut server, came, &mut asked);
            answer(&mut server, 2 * n as u32 + 3, &mut out);
        }
        began.elapsed()
    });
    measure("that, a hundred at once", || {
        let mut server = begun();
        read(&mut server, &first, &mut asked);
        answer(&mut server, 1, &mut out);
        let began = Instant::now();
        for (n, burst) in frames.chunks(100).enumerate() {
            for came in burst {
                read(&mut server, came, &mut asked);
            }
            for at in 0..burst.len() {
                answer(&mut server, 2 * (100 * n + at) as u32 + 3, &mut out);
            }
        }
        began.elapsed()
    });
    measure("the answer alone", || {
        let mut server = begun();
        read(&mut server, &first, &mut asked);
        answer(&mut server, 1, &mut out);
        let mut spent = Duration::ZERO;
        for burst in frames.chunks(100) {
            burst.iter().for_each(|came| read(&mut server, came, &mut asked));
            let began = Instant::now();
            for came in burst {
                let id = u32::from_be_bytes([came[5], came[6], came[7], came[8]]);
                answer(&mut server, id, &mut out);
            }
            spent += began.elapsed();
        }
        spent
    });
}
