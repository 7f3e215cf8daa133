//! Frames on the wire. RFC 9113 §4.1, §6.
//!
//! ```text
//!  length (3)  type (1)  flags (1)  stream (4)   payload …
//! ```

use super::{FRAME_HEADER_LEN, Fatal, Reason, StreamId};

/// Types of frames.
pub(super) mod kind {
    pub(in crate::h2) const DATA: u8 = 0;
    pub(in crate::h2) const HEADERS: u8 = 1;
    pub(in crate::h2) const PRIORITY: u8 = 2;
    pub(in crate::h2) const RST_STREAM: u8 = 3;
    pub(in crate::h2) const SETTINGS: u8 = 4;
    pub(in crate::h2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::h2) const PING: u8 = 6;
    pub(in crate::h2) const GOAWAY: u8 = 7;
    pub(in crate::h2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::h2) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in crate::h2) const ACK: u8 = 0x1;
    pub(in crate::h2) const END_STREAM: u8 = 0x1;
    pub(in crate::h2) const END_HEADERS: u8 = 0x4;
    pub(in crate::h2) const PADDED: u8 = 0x8;
    pub(in crate::h2) const PRIORITY: u8 = 0x20;
}

/// What stands in front of each payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: StreamId,
}

impl Header {
    pub(super) fn read(bytes: [u8; FRAME_HEADER_LEN]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The first bit says nothing.
        Self { len, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload of a head or data without its padding. RFC 9113 §6.1.
    pub(super) fn without_padding<'p>(&self, payload: &'p [u8]) -> Result<&'p [u8], Fatal> {
        if !self.has(flag::PADDED) {
            return Ok(payload);
        }
        let (&padding, rest) = payload.split_first().ok_or(Fatal::FrameSize)?;
        let len = rest.len().checked_sub(padding.into()).ok_or(Fatal::Padding)?;
        Ok(&rest[..len])
    }
}

/// A number of four bytes, which is all the payload.
pub(super) fn number(payload: &[u8]) -> Result<u32, Fatal> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| Fatal::FrameSize)
}

/// Appends a header; where its flags stand is told.
pub(super) fn put_header(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: StreamId) -> usize {
    let [_, len @ ..] = (len as u32).to_be_bytes();
    let at = out.len() + 4;
    let mut header = [0; FRAME_HEADER_LEN];
    header[..3].copy_from_slice(&len);
    header[3..5].copy_from_slice(&[kind, flags]);
    header[5..].copy_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&header);
    at
}

fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: StreamId, payload: &[u8]) {
    put_header(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_settings_ack(out: &mut Vec<u8>) {
    put(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

pub(super) fn put_ping(out: &mut Vec<u8>, flags: u8, payload: &[u8]) {
    put(out, kind::PING, flags, 0, payload);
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: StreamId, reason: Reason) {
    put(out, kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes());
}

pub(super) fn put_window_update(out: &mut Vec<u8>, stream: StreamId, increment: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
}

/// Appends a GOAWAY; `told`: words for whoever looks into it.
pub(super) fn put_go_away(out: &mut Vec<u8>, last: StreamId, reason: Reason, told: &str) {
    put_header(out, 8 + told.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&reason.0.to_be_bytes());
    out.extend_from_slice(told.as_bytes());
}
