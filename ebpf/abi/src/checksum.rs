//! The Internet checksum (RFC 1071): of an IPv4 header without options, and changed along with what it covers.

use crate::{Address, headers::Ipv4, service::PROTO_TCP};

/// The checksum that belongs into `header`, whatever stands there now.
#[inline(always)]
pub fn ipv4(header: &Ipv4) -> [u8; 2] {
    // In the order of the machine, which the sum does not depend on (RFC 1071 §2 B): nine swaps less.
    let pair = |a: u8, b: u8| u32::from(u16::from_ne_bytes([a, b]));
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
    (!(sum as u16)).to_ne_bytes()
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

/// The checksum of a TCP header with four bytes of options and nothing behind it, whose own field is zero (RFC 9293 §3.1), as it
/// lies in memory.
///
/// One pseudo header does for both families: the `ffff` before an IPv4 address is the other form of zero.
#[inline(always)]
pub fn tcp24(header: &[u16; 12], source: &Address, destination: &Address) -> u16 {
    // Word by word: the kernel's verifier follows no iterator that ends at a pointer.
    let words = |a: &Address| a.0[0] as u64 + a.0[1] as u64 + a.0[2] as u64 + a.0[3] as u64;
    let mut sum = (header.len() as u32 * 2).to_be() as u64 + u32::from(PROTO_TCP).to_be() as u64;
    sum += words(source) + words(destination);
    let mut index = 0;
    while index < header.len() {
        sum += u64::from(header[index]);
        index += 1;
    }
    // Less than 2³⁶: at most two folds to 32 bits, and two to 16.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
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
    fn a_tcp_header_with_its_checksum_sums_up_to_nothing() {
        let v6 = |last| Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let v4 = |last| Address::v4([198, 51, 100, last]);
        for (source, destination) in [(v4(1), v4(200)), (v6(7), v6(0xff))] {
            for seed in 0..1_000u16 {
                let mut header: [u16; 12] =
                    core::array::from_fn(|n| seed.wrapping_mul((n as u16).wrapping_mul(7_919) + 1));
                header[8] = 0;
                header[8] = tcp24(&header, &source, &destination);
                // Bytes in network order, with the pseudo header of RFC 9293 §3.1 or RFC 8200 §8.1.
                let pair = |bytes: &[u8]| u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                let mut sum = 24 + u32::from(PROTO_TCP);
                for address in [source, destination] {
                    let octets = address.octets();
                    let skipped = if address.is_v4() { 12 } else { 0 };
                    sum += octets[skipped..].chunks(2).map(pair).sum::<u32>();
                }
                sum += header.iter().map(|half| pair(&half.to_ne_bytes())).sum::<u32>();
                while sum > 0xffff {
                    sum = (sum & 0xffff) + (sum >> 16);
                }
                assert_eq!(sum, 0xffff);
            }
        }
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
