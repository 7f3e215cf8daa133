//! Packet captures as files: pcapng written (draft-ietf-opsawg-pcapng), pcapng and the older pcap (draft-ietf-opsawg-pcap)
//! read. Bytes in, bytes out.

mod read;
mod write;

pub use read::{ReadError, frame};
pub use write::{Record, Writer};

/// Block type of a section header.
const SECTION: u32 = 0x0a0d_0d0a;
/// Block type of an interface description.
const INTERFACE: u32 = 1;
/// Block type of a packet that says nothing but its bytes.
const SIMPLE_PACKET: u32 = 3;
/// Block type of interface statistics.
pub const STATISTICS: u32 = 5;
/// Block type of a packet.
pub const PACKET: u32 = 6;
/// What a section header's byte order is seen by.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Link type of Ethernet.
const ETHERNET: u16 = 1;
/// Link types of IP packets without a link header.
const RAW: [u16; 4] = [12, 101, 228, 229];

#[cfg(test)]
mod tests;
