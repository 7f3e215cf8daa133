//! Texts of which each byte takes 5 to 30 bits. RFC 7541 §5.2, Appendix B.
//!
//! The code is canonical: shorter codes come before longer ones, and those of one length in the order of their symbols. So the
//! lengths are all there is to know.

use super::Broken;

const SYMBOLS: usize = 257;
/// What no text may hold.
const END: u16 = 256;
/// Bits of the longest code.
const LEN_MAX: u32 = 30;

/// Bits of each symbol. RFC 7541 Appendix B.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The code, as it is read: texts by [`Self::short`], the rest by the others.
struct Code {
    /// By the next eight bits: a symbol of at most as many, and how many; no length where it has more.
    short: [(u8, u8); 256],
    /// All symbols by their codes.
    sorted: [u16; SYMBOLS],
    /// By length: the first code beyond those of it, at the left of 32 bits; and what to add to a code to have its place among
    /// the sorted.
    beyond: [u64; LEN_MAX as usize + 1],
    offset: [i64; LEN_MAX as usize + 1],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut built = Code {
        short: [(0, 0); 256],
        sorted: [0; SYMBOLS],
        beyond: [0; LEN_MAX as usize + 1],
        offset: [0; LEN_MAX as usize + 1],
    };
    let (mut next, mut count, mut len) = (0u64, 0, 1);
    while len <= LEN_MAX {
        next <<= 1;
        built.offset[len as usize] = count as i64 - next as i64;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as u32 == len {
                built.sorted[count] = symbol as u16;
                count += 1;
                // All bytes that begin with it.
                let mut tail = 0;
                while len <= 8 && tail < 1 << (8 - len) {
                    built.short[((next as usize) << (8 - len)) + tail] = (symbol as u8, len as u8);
                    tail += 1;
                }
                next += 1;
            }
            symbol += 1;
        }
        built.beyond[len as usize] = next << (32 - len);
        len += 1;
    }
    built
}

/// The first symbol of bits that begin at the left, and its length.
fn first(bits: u64) -> (u16, u32) {
    let (symbol, len) = CODE.short[(bits >> 56) as usize];
    if len > 0 { (symbol.into(), len.into()) } else { first_long(bits) }
}

#[cold]
fn first_long(bits: u64) -> (u16, u32) {
    let window = bits >> 32;
    let len = (9..LEN_MAX).find(|len| window < CODE.beyond[*len as usize]).unwrap_or(LEN_MAX);
    let at = (window >> (32 - len)) as i64 + CODE.offset[len as usize];
    (CODE.sorted.get(at as usize).copied().unwrap_or(END), len)
}

/// Appends what a text says.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    out.reserve(text.len() * 8 / 5 + 1);
    // Bits yet to be read, from the left, and how many are certain; those behind them are the same when they are read again.
    let (mut bits, mut have, mut rest) = (0u64, 0u32, text);
    loop {
        if let Some(word) = rest.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*word) >> have;
            let taken = (64 - have) / 8;
            rest = &rest[taken as usize..];
            have += taken * 8;
        } else {
            while let (Some((&byte, after)), true) = (rest.split_first(), have <= 56) {
                bits |= u64::from(byte) << (56 - have);
                have += 8;
                rest = after;
            }
        }
        while have >= LEN_MAX {
            let (symbol, len) = first(bits);
            if symbol == END {
                return Err(Broken);
            }
            out.push(symbol as u8);
            bits <<= len;
            have -= len;
        }
        if rest.is_empty() {
            break;
        }
    }
    while have > 0 {
        let ones = u64::MAX >> have;
        let (symbol, len) = first(bits | ones);
        if len > have {
            // RFC 7541 §5.2: padding is the beginning of END, which is all ones, and shorter than a byte.
            return if have < 8 && bits | ones == u64::MAX { Ok(()) } else { Err(Broken) };
        }
        out.push(symbol as u8);
        bits <<= len;
        have -= len;
    }
    Ok(())
}

/// Appends a text, packed.
#[cfg(test)]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0);
    for byte in text {
        let len = LENGTHS[usize::from(*byte)];
        let at = CODE.sorted.iter().position(|symbol| *symbol == u16::from(*byte)).unwrap();
        bits = bits << len | (at as i64 - CODE.offset[usize::from(len)]) as u64;
        have += u32::from(len);
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
        bits &= (1 << have) - 1;
    }
    if have > 0 {
        out.push((bits << (8 - have)) as u8 | 0xff >> have);
    }
}
