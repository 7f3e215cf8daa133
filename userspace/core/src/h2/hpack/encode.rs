//! Heads packed. RFC 7541 §6.

use super::{fixed::index_of, put_integer};

/// What packs the heads of one connection.
#[derive(Debug, Default)]
pub(in crate::h2) struct Encoder {
    has_begun: bool,
}

impl Encoder {
    /// Begins a head.
    pub(in crate::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.has_begun {
            // RFC 7541 §6.3, once: there will be no table, whatever size the client allows and comes to allow.
            put_integer(out, 0x20, 5, 0);
            self.has_begun = true;
        }
    }
}

/// Appends the status, three digits.
pub(in crate::h2) fn put_status(out: &mut Vec<u8>, status: u16) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            let digit = |unit: u16| b'0' + (status / unit % 10) as u8;
            out.extend_from_slice(&[0x08, 3, digit(100), digit(10), digit(1)]);
            return;
        }
    };
    put_integer(out, 0x80, 7, index);
}

/// Appends a field. RFC 9113 §8.2.1: its name in small letters.
pub(in crate::h2) fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    match index_of(name) {
        // RFC 7541 §6.2.2: literal, not remembered.
        Some(index) => put_integer(out, 0, 4, index),
        None => {
            out.push(0);
            put_integer(out, 0, 7, name.len());
            let begin = out.len();
            out.extend_from_slice(name.as_bytes());
            if let Some(name) = out.get_mut(begin..) {
                name.make_ascii_lowercase();
            }
        }
    }
    put_integer(out, 0, 7, value.len());
    out.extend_from_slice(value);
}
