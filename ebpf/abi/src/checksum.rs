//! The Internet checksum (RFC 1071): of an IPv4 header without options, and changed along with what it covers.

use crate::headers::Ipv4;

/// The checksum that belongs into `header`, whatever stands there now.
#[inline(always)]
pub fn ipv4(header: &Ipv4) -> [u8; 2] {
    let pair = |a: u8, b: u8| u32::from(u16::from_be_bytes([a, b]));
    let (s, d) = (header.source, header.destination);
    let sum = pair(header.version_ihl, header.tos)
        + pair(header.total_len[0], header.total_len[1])
        + pair(header.id[0], header.id[1])
        + pair(header.fragment[0], header.fragment[1])
        + pair(header.ttl, header.protocol)
        + pair(s[0], s[1])
        + pair(s[2], s[3])
        + pair(d[0], d[1])
        + pair(d[2], d[3]);
    // Nine 16-bit words: two folds are enough.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

/// `checksum` after the 16-bit word `from` below it became `to` (RFC 1624 §3, equation 3).
#[inline(always)]
pub const fn adjusted(checksum: [u8; 2], from: [u8; 2], to: [u8; 2]) -> [u8; 2] {
    let sum = !u16::from_be_bytes(checksum) as u32
        + !u16::from_be_bytes(from) as u32
        + u16::from_be_bytes(to) as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_known_header_is_right() {
        // 45 00 00 73 00 00 40 00 40 11 b8 61 c0 a8 00 01 c0 a8 00 c7: the example everybody uses.
        let header = Ipv4 {
            version_ihl: 0x45,
            total_len: [0, 0x73],
            fragment: [0x40, 0],
            ttl: 0x40,
            protocol: 0x11,
            source: [192, 168, 0, 1],
            destination: [192, 168, 0, 199],
            ..Ipv4::default()
        };
        assert_eq!(ipv4(&header), [0xb8, 0x61]);
    }

    #[test]
    fn an_adjusted_checksum_is_that_of_the_changed_header() {
        let mut header = Ipv4 {
            version_ihl: 0x45,
            protocol: 6,
            source: [10, 0, 0, 1],
            destination: [10, 0, 0, 2],
            ..Ipv4::default()
        };
        for ttl in 0..=255 {
            header.checksum = ipv4(&header);
            let from = [header.ttl, header.protocol];
            header.ttl = ttl;
            assert_eq!(adjusted(header.checksum, from, [header.ttl, header.protocol]), ipv4(&header));
        }
    }
}
