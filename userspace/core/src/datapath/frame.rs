//! A frame on its way through the model: bytes, the room in front of them, and headers read and written one field after the
//! other, in the order in which they stand on the wire.

use weir_abi::{
    counters::Reason,
    gue::{Chain, Gue},
    headers::{Eth, Icmp, Ipv4, Ipv6, Tcp, Udp},
};

/// Shorter than an Ethernet header no frame becomes: the kernel refuses.
const LEN_MIN: usize = 14;

/// The bytes of a frame, and how many the kernel would still put in front of them.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    headroom: usize,
}

impl Frame {
    pub(super) fn new(bytes: &[u8], headroom: usize) -> Self {
        Self { bytes: bytes.to_vec(), headroom }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The `N` bytes that stand at `at`.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Reason> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or(Reason::DropMalformed)
    }

    /// The header that stands at `at`.
    pub(super) fn read<H: Header>(&self, at: usize) -> Result<H, Reason> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        H::take(&mut { rest }).ok_or(Reason::DropMalformed)
    }

    /// Writes a header over what stands at `at`.
    pub(super) fn write(&mut self, at: usize, header: &impl Header) -> Result<(), Reason> {
        let mut wire = Vec::with_capacity(40);
        header.put(&mut wire);
        self.write_bytes(at, &wire)
    }

    /// Writes bytes over what stands at `at`.
    pub(super) fn write_bytes(&mut self, at: usize, wire: &[u8]) -> Result<(), Reason> {
        let place = self.bytes.get_mut(at..at + wire.len()).ok_or(Reason::DropMalformed)?;
        place.copy_from_slice(wire);
        Ok(())
    }

    /// Puts `len` bytes in front, whose content does not matter.
    pub(super) fn grow(&mut self, len: usize) -> Result<(), Reason> {
        self.headroom = self.headroom.checked_sub(len).ok_or(Reason::DropHeadroom)?;
        self.bytes.splice(..0, std::iter::repeat_n(0, len));
        Ok(())
    }

    /// Takes `len` bytes from the front; false when too little would be left.
    #[must_use]
    pub(super) fn shrink(&mut self, len: usize) -> bool {
        let is_enough_left = self.len() >= len + LEN_MIN;
        if is_enough_left {
            self.bytes.drain(..len);
            self.headroom += len;
        }
        is_enough_left
    }

    /// Cuts the end off, so that `len` bytes stay.
    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Puts other bytes in the place of all.
    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Everything from `at` on.
    pub(super) fn from(&self, at: usize) -> &[u8] {
        self.bytes.get(at..).unwrap_or_default()
    }
}

/// A header of `weir_abi` as it stands on the wire.
pub(crate) trait Header: Sized {
    /// Takes it off the front of `wire`; `None` when that is too short.
    fn take(wire: &mut &[u8]) -> Option<Self>;
    /// Appends it to `wire`.
    fn put(&self, wire: &mut Vec<u8>);
}

impl Header for u8 {
    fn take(wire: &mut &[u8]) -> Option<Self> {
        let (first, rest) = wire.split_first()?;
        *wire = rest;
        Some(*first)
    }

    fn put(&self, wire: &mut Vec<u8>) {
        wire.push(*self);
    }
}

impl<const N: usize> Header for [u8; N] {
    fn take(wire: &mut &[u8]) -> Option<Self> {
        let (first, rest) = wire.split_first_chunk()?;
        *wire = rest;
        Some(*first)
    }

    fn put(&self, wire: &mut Vec<u8>) {
        wire.extend(self);
    }
}

macro_rules! header {
    ($name:ident: $($field:ident),+) => {
        impl Header for $name {
            fn take(wire: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Header::take(wire)?),+ })
            }

            fn put(&self, wire: &mut Vec<u8>) {
                $(self.$field.put(wire);)+
            }
        }
    };
}

header!(Eth: destination, source, ethertype);
header!(Ipv4: version_ihl, tos, total_len, id, fragment, ttl, protocol, checksum, source, destination);
header!(Ipv6: version_class_label, payload_len, next_header, hop_limit, source, destination);
header!(Icmp: kind, code, checksum, rest);
header!(Udp: source, destination, len, checksum);
header!(Tcp: source, destination, sequence, acknowledgement, data_offset, flags, window, checksum, urgent);
header!(Gue: version_control_len, protocol, flags);
header!(Chain: kind, index, count, _pad);

/// The Internet checksum (RFC 1071 §1), not yet complemented: 16-bit words in network order, an odd byte as the high one.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    words.sum()
}

/// The sum as it is written: folded to 16 bits, and complemented.
pub(super) fn folded(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_only_whole() {
        let ip = Ipv4 { version_ihl: 0x45, ttl: 9, source: [1, 2, 3, 4], ..Ipv4::default() };
        let mut frame = Frame::new(&[0; 40], 8);
        frame.write(14, &ip).expect("room");
        assert_eq!(frame.read::<Ipv4>(14), Ok(ip));
        assert_eq!(frame.from(26), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(frame.read::<Ipv4>(21), Err(Reason::DropMalformed));
        assert_eq!(frame.read::<Ipv4>(99), Err(Reason::DropMalformed));
    }

    #[test]
    fn there_is_room_in_front_but_not_without_end() {
        let mut frame = Frame::new(&[7; 20], 8);
        assert_eq!(frame.grow(8), Ok(()));
        assert_eq!(frame.grow(1), Err(Reason::DropHeadroom));
        assert!(frame.shrink(14) && !frame.shrink(1));
        assert_eq!(frame.from(0), [7; 14]);
        assert_eq!(frame.grow(14), Ok(()));
    }
}
