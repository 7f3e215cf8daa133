//! Clients of all kinds, byte by byte.

mod any;
mod frames;
mod heads;
mod responses;
mod windows;

use std::time::Duration;

use super::{
    frame::{flag, kind},
    hpack::put_field,
    *,
};

const TERMS: Terms = Terms {
    streams_max: 8,
    head_len_max: 16 << 10,
    stream_window: WINDOW_MIN,
    connection_window: WINDOW_MIN,
};
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as somebody sends it.
fn frame(kind: u8, flags: u8, stream: StreamId, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_header(&mut out, payload.len(), kind, flags, stream);
    [&out[..], payload].concat()
}

/// A head, packed by nothing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        // Pseudo-header fields, and what is wrong with names, go as they are.
        if name.starts_with(':') || name.bytes().any(|byte| !byte.is_ascii_lowercase()) {
            out.extend_from_slice(&[0, name.len() as u8]);
            out.extend_from_slice(name.as_bytes());
            assert!(name.len() < 127 && value.len() < 127);
            out.push(value.len() as u8);
            out.extend_from_slice(value.as_bytes());
        } else {
            put_field(&mut out, name, value.as_bytes());
        }
    }
    out
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a")];
const POST: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "https"), (":path", "/"), (":authority", "a")];

fn headers(stream: StreamId, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block(fields))
}

fn get(stream: StreamId) -> Vec<u8> {
    headers(stream, flag::END_STREAM, GET)
}

fn post(stream: StreamId) -> Vec<u8> {
    headers(stream, 0, POST)
}

fn data(stream: StreamId, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

fn reset(stream: StreamId) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &Reason::CANCEL.0.to_be_bytes())
}

fn window_update(stream: StreamId, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_settings(&mut out, settings);
    out
}

/// What has come, in words of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Method and target; whether no body follows.
    Request(StreamId, String, bool),
    Data(StreamId, Vec<u8>, bool),
    Trailers(StreamId, Vec<(String, Vec<u8>)>),
    Room(StreamId),
    Reset(StreamId, Reason),
    PingAnswered,
    Fatal(Fatal),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Request { id, head, ends } => {
                Self::Request(id, format!("{} {}", head.method(), head.target()), ends)
            }
            Event::Data { id, bytes, ends } => Self::Data(id, bytes.to_vec(), ends),
            Event::Trailers { id, fields } => {
                let fields = fields.fields().map(|(name, value)| (name.to_owned(), value.to_vec()));
                Self::Trailers(id, fields.collect())
            }
            Event::Room { id } => Self::Room(id),
            Event::Reset { id, reason } => Self::Reset(id, reason),
            Event::PingAnswered => Self::PingAnswered,
            Event::Fatal(fatal) => Self::Fatal(fatal),
        }
    }
}

/// A frame that was written to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    kind: u8,
    flags: u8,
    stream: StreamId,
    payload: Vec<u8>,
}

/// Frames, all of which are whole.
fn written(mut bytes: &[u8]) -> Vec<Written> {
    let mut all = Vec::new();
    while let Some(header) = bytes.first_chunk().map(|bytes| frame::Header::read(*bytes)) {
        let payload = bytes[FRAME_HEADER_LEN..FRAME_HEADER_LEN + header.len].to_vec();
        assert!(payload.len() <= FRAME_LEN_MAX);
        bytes = &bytes[FRAME_HEADER_LEN + header.len..];
        all.push(Written { kind: header.kind, flags: header.flags, stream: header.stream, payload });
    }
    assert!(bytes.is_empty());
    all
}

/// A connection and what was not taken of the bytes that came on it.
struct Connection {
    server: Server,
    came: Vec<u8>,
    now: Duration,
}

impl Connection {
    /// One on which both have said their settings.
    fn new(terms: Terms) -> Self {
        let mut connection = Self { server: Server::new(terms), came: Vec::new(), now: Duration::ZERO };
        assert_eq!(connection.hears(&[PREFACE, &settings(&[])].concat()), []);
        connection.writes();
        connection
    }

    /// Gives it bytes: what they say.
    fn hears(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.came.extend_from_slice(bytes);
        let (mut seen, mut at) = (Vec::new(), 0);
        loop {
            let (used, event) = self.server.receive(&self.came[at..], self.now);
            at += used;
            if event.is_none() && used == 0 {
                break;
            }
            seen.extend(event.map(Seen::from));
        }
        self.came.drain(..at);
        seen
    }

    /// Takes what is written.
    fn writes(&mut self) -> Vec<Written> {
        written(&std::mem::take(self.server.output()))
    }

    fn answers(&mut self, id: StreamId, end: bool) -> Result<(), Gone> {
        self.server.respond(id, 200, [].into_iter(), end)
    }
}
