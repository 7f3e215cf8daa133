//! IPv6 extension headers in front of what a packet carries: skipped, up to a bound.
//!
//! Whoever sends them at all sends one or two short ones. More than the bounds is a way to make others work, and dropped.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    counters::Reason,
    headers::Ipv6,
    limits::{EXTENSIONS_LEN_BYTES_MAX, EXTENSIONS_MAX},
};

use crate::{Verdict, classify::L3_AT, packet, work::Parsed};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// Fragment header (RFC 8200 §4.5).
pub(crate) const FRAGMENT: u8 = 44;
/// Destination options (RFC 8200 §4.6).
pub(crate) const DESTINATION_OPTIONS: u8 = 60;
/// All lengths are multiples of this.
const UNIT: usize = 8;

/// Whether a header of this number is one that is skipped.
#[inline(always)]
pub(crate) const fn is_one(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Moves `parsed` behind the extension headers it begins with, or as far as a fragment that is not the first has them.
#[inline(always)]
pub(crate) fn skip(ctx: &XdpContext, parsed: &mut Parsed) -> Verdict<()> {
    const START: usize = L3_AT + size_of::<Ipv6>();
    let (mut next_header, mut at) = (parsed.flow.protocol, START);
    for _ in 0..EXTENSIONS_MAX {
        if !is_one(next_header) || parsed.is_later {
            break;
        }
        let [first, second, id_high, id_low]: [u16; 4] = packet::read(ctx, at)?;
        let [this, len] = [next_header, first.to_ne_bytes()[1]];
        [next_header, _] = first.to_ne_bytes();
        if this == FRAGMENT {
            let offset = u16::from_be(second);
            parsed.is_later = offset & 0xfff8 != 0;
            // One that is alone is none (RFC 6946).
            parsed.is_fragment = parsed.is_later || offset & 1 != 0;
            parsed.fragment_id = u32::from(id_high) | u32::from(id_low) << 16;
            at += UNIT;
        } else {
            let [_, segments_left] = second.to_ne_bytes();
            if this == ROUTING && segments_left != 0 {
                return Err(Reason::DropExtension); // somebody else's address is where it goes
            }
            at += UNIT + usize::from(len) * UNIT;
        }
        if at > START + EXTENSIONS_LEN_BYTES_MAX {
            return Err(Reason::DropExtension);
        }
    }
    if is_one(next_header) && !parsed.is_later {
        return Err(Reason::DropExtension);
    }
    (parsed.flow.protocol, parsed.l4_at) = (next_header, at as u32);
    Ok(())
}
