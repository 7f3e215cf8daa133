//! HTTP/2 with prior knowledge: a few connections with many requests at once on each.
//!
//! A client of its own, which knows of RFC 9113 what four kinds of frames take and of RFC 7541 how 200 is written: a whole one
//! costs more than the proxies that it is to load.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Budget, Done, Load, together};
use crate::{origin::BODY_LEN, proxies::Places, tls::HOST};

const CONNECTIONS: usize = 4;
/// Requests under way on each; no proxy of these allows fewer.
const STREAMS: usize = 100;
/// Requests of a round.
const REQUESTS: usize = 40_000;

pub(crate) struct Http2 {
    connections: Vec<Connection>,
}

impl Http2 {
    pub(crate) async fn open(places: &Places) -> Result<Self> {
        let to = places.h2;
        let connections = together((0..CONNECTIONS).map(|_| Connection::open(to))).await?;
        Ok(Self { connections })
    }
}

impl Load for Http2 {
    async fn round(&mut self) -> Result<Done> {
        let budget = Budget::new(REQUESTS);
        let asking = self.connections.drain(..).map(|mut connection| {
            let budget = budget.clone();
            async move {
                connection.ask(&budget).await?;
                Ok(connection)
            }
        });
        self.connections = together(asking.collect::<Vec<_>>()).await?;
        Ok(Done::Units(REQUESTS as f64))
    }
}

// RFC 9113 §6: types and flags of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

const FRAME_HEAD_LEN: usize = 9;
/// RFC 9113 §6.5.2: the longest frame we may be sent, since we do not say otherwise.
const FRAME_LEN_MAX: usize = 16 << 10;
/// Bytes read at once.
const READ_LEN: usize = 64 << 10;
/// What the window of the connection is widened by, each time as much of it was used.
const WINDOW: u32 = 1 << 30;
/// RFC 9113 §6.9.2: what it is before.
const FIRST_WINDOW: u32 = 65_535;

/// RFC 7541 §A: `:status: 200` is entry 8 of the static table.
const STATUS_200: u8 = 0x88;

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    written: Vec<u8>,
    next_id: u32,
    /// Requests under way: their answers so far.
    open: HashMap<u32, Answer>,
    /// Bytes the peer may still send on the connection.
    window: u32,
}

#[derive(Default)]
struct Answer {
    is_200: bool,
    body_len: usize,
}

impl Connection {
    async fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        let mut this = Self {
            stream,
            read: Vec::with_capacity(READ_LEN),
            written: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            next_id: 1,
            open: HashMap::new(),
            window: FIRST_WINDOW,
        };
        this.write_frame(SETTINGS, 0, 0, &[]);
        this.widen();
        Ok(this)
    }

    /// Keeps [`STREAMS`] requests under way until none is left to make and all are answered.
    async fn ask(&mut self, budget: &Budget) -> Result<()> {
        loop {
            while self.open.len() < STREAMS && budget.take() {
                self.request()?;
            }
            self.stream.write_all(&self.written).await?;
            self.written.clear();
            if self.open.is_empty() {
                return Ok(());
            }
            self.read.reserve(READ_LEN);
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection ended");
            self.take_frames()?;
        }
    }

    fn request(&mut self) -> Result<()> {
        // RFC 7541 §A: `:method: GET`, `:scheme: http`, `:path: /`; then `:authority`, which the peer shall remember.
        let mut block = vec![0x82, 0x86, 0x84];
        if self.next_id == 1 {
            block.extend([0x41, u8::try_from(HOST.len())?]);
            block.extend(HOST.as_bytes());
        } else {
            block.push(0x80 | 62);
        }
        self.write_frame(HEADERS, END_HEADERS | END_STREAM, self.next_id, &block);
        self.open.insert(self.next_id, Answer::default());
        self.next_id = self.next_id.checked_add(2).filter(|id| id >> 31 == 0).context("no stream is left")?;
        Ok(())
    }

    fn take_frames(&mut self) -> Result<()> {
        let read = std::mem::take(&mut self.read);
        let mut rest = &read[..];
        while let Some((head, after)) = rest.split_first_chunk::<FRAME_HEAD_LEN>() {
            let [a, b, c, kind, flags, stream @ ..] = *head;
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            ensure!(len <= FRAME_LEN_MAX, "a frame of {len} bytes");
            let Some((payload, after)) = after.split_at_checked(len) else { break };
            self.take_frame(kind, flags, u32::from_be_bytes(stream), payload)?;
            rest = after;
        }
        let used = read.len() - rest.len();
        self.read = read;
        self.read.drain(..used);
        Ok(())
    }

    fn take_frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<()> {
        match kind {
            HEADERS => {
                let answer = self.open.get_mut(&id).with_context(|| format!("an answer on stream {id}"))?;
                ensure!(first_field(payload) == Some(STATUS_200), "not a 200: {payload:02x?}");
                answer.is_200 = true;
            }
            DATA => {
                let answer = self.open.get_mut(&id).with_context(|| format!("a body on stream {id}"))?;
                answer.body_len += payload.len();
                let used = u32::try_from(payload.len())?;
                self.window = self.window.checked_sub(used).context("more than the window allows")?;
                if self.window < WINDOW / 2 {
                    self.widen();
                }
            }
            SETTINGS if flags & ACK == 0 => self.write_frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.write_frame(PING, ACK, 0, payload),
            SETTINGS | PING | WINDOW_UPDATE => {}
            _ => bail!("a frame of type {kind} on stream {id}: {payload:02x?}"),
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            let Answer { is_200, body_len } = self.open.remove(&id).unwrap_or_default();
            ensure!(is_200 && body_len == BODY_LEN, "stream {id} ended after a body of {body_len} bytes");
        }
        Ok(())
    }

    fn widen(&mut self) {
        self.window += WINDOW;
        self.write_frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
    }

    fn write_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // No frame of ours is longer than 255 bytes.
        self.written.extend([0, 0, payload.len() as u8, kind, flags]);
        self.written.extend(stream.to_be_bytes());
        self.written.extend(payload);
    }
}

/// The first octet of the first field: RFC 9113 §8.3 has pseudo-header fields first, and a response has but one.
fn first_field(block: &[u8]) -> Option<u8> {
    // RFC 7541 §6.3: an update of the table's size may stand before; it fits five bits, or goes on while the top bit is set.
    let mut rest = block;
    while let [first, after @ ..] = rest {
        if first & 0xe0 != 0x20 {
            return Some(*first);
        }
        let more =
            if first & 0x1f == 0x1f { after.iter().take_while(|b| **b & 0x80 != 0).count() + 1 } else { 0 };
        rest = after.get(more..)?;
    }
    None
}
