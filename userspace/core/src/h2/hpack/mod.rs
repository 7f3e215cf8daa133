//! Fields packed and unpacked. RFC 7541.
//!
//! Clients may use a table of [`TABLE_LEN`] bytes, the size all begin with. We use none: most of what responses repeat is in the
//! table everybody knows, and what is literal costs both sides less than looking it up would.

mod decode;
mod dynamic;
mod encode;
mod fixed;
mod huffman;
#[cfg(test)]
mod tests;

pub(super) use decode::Decoder;
pub(super) use encode::{Encoder, put_field, put_status};

/// Bytes of a client's table, by RFC 7541 §4.1; what everybody begins with. RFC 9113 §6.5.2.
pub(super) const TABLE_LEN: usize = 4096;

/// Fields that cannot be unpacked. RFC 9113 §4.3: a COMPRESSION_ERROR, after which nothing can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Takes an integer whose first byte has so many bits for it. RFC 7541 §5.1.
fn take_integer(bytes: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (&first, mut rest) = bytes.split_first().ok_or(Broken)?;
    let most = (1u32 << prefix) - 1;
    let mut value = u32::from(first) & most;
    if value == most {
        // Four more bytes say what is longer than any head; RFC 7541 §5.1 wants a limit.
        for shift in [0, 7, 14, 21, 28] {
            let (&byte, after) = rest.split_first().ok_or(Broken)?;
            rest = after;
            if shift == 28 {
                return Err(Broken);
            }
            value += u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
    }
    *bytes = rest;
    Ok(value as usize)
}

/// Appends an integer behind so many bits that say what it is of.
fn put_integer(out: &mut Vec<u8>, kind: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(kind | value as u8);
        return;
    }
    out.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
