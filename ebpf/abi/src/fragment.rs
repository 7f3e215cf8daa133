//! Fragments of TCP segments: where the ports are remembered that only the first fragment has.

use crate::Address;

/// What all fragments of a packet have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Client address.
    pub source: Address,
    /// VIP address.
    pub destination: Address,
    /// Identification as it stands in the packet: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
}
pod!(FragmentKey, 36);

/// What the first fragment said.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstFragment {
    /// Client port, network order.
    pub source_port: [u8; 2],
    /// VIP port, network order.
    pub destination_port: [u8; 2],
    /// Non-zero when it opens a connection.
    pub is_syn: u32,
}
pod!(FirstFragment, 8);
