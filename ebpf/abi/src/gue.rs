//! Generic UDP Encapsulation (draft-ietf-intarea-gue) with the rest of the hop chain in its private data.
//!
//! ```text
//!  outer IPv4 or IPv6 │ UDP, destination port 6080 │ GUE │ [chain: kind, index, count, 0, address] │ inner packet
//! ```
//!
//! A settled slot has one hop and carries no chain: 4 bytes of GUE. A slot that changed carries the second hop, where a
//! receiver that does not know the flow sends it on.

use crate::hop::{Backend, KIND_NONE};

/// UDP port of GUE (IANA).
pub const GUE_PORT: [u8; 2] = 6080u16.to_be_bytes();

/// GUE header, version 0, data message.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gue {
    /// Version (2 bits, 0), control flag (1 bit, 0), header length in words beyond these four bytes (5 bits).
    pub version_control_len: u8,
    /// IP protocol number of the inner packet.
    pub protocol: u8,
    /// Flags; none are used.
    pub flags: [u8; 2],
}
pod!(Gue, 4);

/// The chain in front of a second hop's address: how the receiver reaches it.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The [`kind`](crate::hop::Backend::kind) of the second hop: the tunnel to it, and the family of the address that follows.
    pub kind: u8,
    /// Index of the hop that comes next, from 1.
    pub index: u8,
    /// How many hops there are; 2.
    pub count: u8,
    /// Zero.
    pub _pad: u8,
}
pod!(Chain, 4);

/// [`Gue::version_control_len`] without a chain.
pub const LEN_PLAIN: u8 = 0;
/// [`Gue::version_control_len`] with an IPv4 second hop: 8 bytes.
pub const LEN_CHAIN4: u8 = 2;
/// [`Gue::version_control_len`] with an IPv6 second hop: 20 bytes.
pub const LEN_CHAIN6: u8 = 5;

/// First half byte of [`Gue::version_control_len`] in variant 1: the version of IP, whose header begins here (§4 of the draft).
pub const VARIANT_1_IPV4: u8 = 4;
/// The same for IPv6.
pub const VARIANT_1_IPV6: u8 = 6;

/// Bytes the largest tunnel adds in front of a packet: IPv6, UDP, GUE, IPv6 second hop. Between IPv4 nodes it is 40.
pub const OVERHEAD_LEN_BYTES_MAX: u32 = 40 + 8 + 4 + 20;
/// Bytes the tunnel between IPv4 nodes adds: IPv4, UDP, GUE, IPv4 second hop.
pub const OVERHEAD_V4_LEN_BYTES: u32 = 20 + 8 + 4 + 8;

/// Bytes of the largest tunnel to a backend of this kind in front of a packet. Room for a second hop is always kept: its
/// coming and going shall not change what fits.
#[inline(always)]
pub const fn overhead(first: &Backend, second: &Backend) -> u32 {
    match (first.is_over_v4(), first.is_ipip()) {
        (true, true) => 20,
        (false, true) => 40,
        (true, false) if second.kind == KIND_NONE || second.address.is_v4() => OVERHEAD_V4_LEN_BYTES,
        (_, false) => OVERHEAD_LEN_BYTES_MAX,
    }
}
