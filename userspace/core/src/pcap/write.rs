//! Writing pcapng.

use super::{BYTE_ORDER, ETHERNET, INTERFACE, PACKET, SECTION, STATISTICS};

/// Option that ends a list of them.
const END: u16 = 0;
/// Option of every block: text for people.
const COMMENT: u16 = 1;
/// Option of an interface: its name,
const IF_NAME: u16 = 2;
/// and the unit of its packets' times.
const IF_TSRESOL: u16 = 9;
/// Option of a packet: flags; the lowest two bits are 1 for one that came in, 2 for one that went out.
const PACKET_FLAGS: u16 = 2;
/// Options of statistics: packets that came, and that were lost.
const RECEIVED: u16 = 4;
const DROPPED: u16 = 5;
/// The only section starts with these: byte order, version 1.0, and that nobody knows its length.
const VERSION: [u16; 2] = [1, 0];

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Number of its interface, in the order in which they were written.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// How long it was.
    pub len_bytes: u32,
    /// Its first bytes.
    pub bytes: &'a [u8],
    /// Whether it came in; else it went out.
    pub came_in: bool,
    /// What is said of it.
    pub comment: &'a str,
}

/// Makes the blocks of one file; each function returns a whole one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writer;

impl Writer {
    /// What a file begins with.
    pub fn section(&self) -> Vec<u8> {
        let mut body = Vec::from(BYTE_ORDER.to_le_bytes());
        body.extend(VERSION.map(u16::to_le_bytes).concat());
        body.extend(u64::MAX.to_le_bytes());
        block(SECTION, body)
    }

    /// An Ethernet interface.
    pub fn interface(&self, name: &str, snap_len_bytes: u32) -> Vec<u8> {
        let mut body = Vec::from(ETHERNET.to_le_bytes());
        body.extend([0, 0]);
        body.extend(snap_len_bytes.to_le_bytes());
        option(&mut body, IF_NAME, name.as_bytes());
        option(&mut body, IF_TSRESOL, &[9]);
        option(&mut body, END, &[]);
        block(INTERFACE, body)
    }

    /// A packet.
    pub fn packet(&self, record: &Record<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(record.bytes.len() + 96);
        body.extend(record.interface.to_le_bytes());
        body.extend(((record.at_unix_ns >> 32) as u32).to_le_bytes());
        body.extend((record.at_unix_ns as u32).to_le_bytes());
        body.extend((record.bytes.len() as u32).to_le_bytes());
        body.extend(record.len_bytes.to_le_bytes());
        body.extend(record.bytes);
        pad(&mut body);
        option(&mut body, COMMENT, record.comment.as_bytes());
        let direction: u32 = if record.came_in { 1 } else { 2 };
        option(&mut body, PACKET_FLAGS, &direction.to_le_bytes());
        option(&mut body, END, &[]);
        block(PACKET, body)
    }

    /// How many packets came and were lost in all.
    pub fn statistics(&self, at_unix_ns: u64, received: u64, dropped: u64) -> Vec<u8> {
        let mut body = Vec::from(0_u32.to_le_bytes());
        body.extend(((at_unix_ns >> 32) as u32).to_le_bytes());
        body.extend((at_unix_ns as u32).to_le_bytes());
        option(&mut body, RECEIVED, &received.to_le_bytes());
        option(&mut body, DROPPED, &dropped.to_le_bytes());
        option(&mut body, END, &[]);
        block(STATISTICS, body)
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Names and comments are far shorter than an option may be.
    let value = value.get(..value.len().min(usize::from(u16::MAX))).unwrap_or_default();
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    pad(&mut body);
    let len = (12 + body.len() as u32).to_le_bytes();
    [&kind.to_le_bytes()[..], &len, &body, &len].concat()
}
