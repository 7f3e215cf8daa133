//! Connection ids that name their server (draft-ietf-quic-load-balancers §3 and §5.2, plaintext, server id of two bytes).
//!
//! ```text
//!  config rotation (3 bits) │ length or random (5 bits) │ server id, 2 bytes │ nonce, 4 bytes or more
//! ```
//!
//! A client moves to another address or port and keeps its connection id: the flow hash sends it elsewhere, the server id
//! does not. Only ids a server chose can name one, so packets are looked at in which they stand (RFC 9000 §5.2, §17):
//! those with a short header and handshake packets. The first packets of a connection bear an id of the client's choice
//! and go by the flow hash. The fixed bit says nothing: clients of servers that speak RFC 9287 set it at random, and a
//! service is QUIC because its VIP says so.

/// Config rotation bits of ids that name a server as above.
pub const CONFIG_ID: u8 = 0;
/// The shortest connection id with a server in it: the first byte, the server id, and the least nonce the draft allows.
pub const CID_LEN_MIN: u8 = 1 + 2 + 4;

/// First bytes of a UDP payload in which a server id can stand: those of a long header up to the id, and of the id.
pub const LOOKED_AT_LEN: usize = 9;

/// The number of the server a QUIC packet is for; `None` when it bears no id of ours, or may bear one a client chose.
#[inline(always)]
pub const fn server_id(start: &[u8; LOOKED_AT_LEN]) -> Option<u16> {
    let [first, rest @ ..] = start;
    let [a, b, c, _, len, d, e, f] = *rest;
    let [head, high, low] = if *first & 0x80 == 0 {
        [a, b, c]
    } else if *first & 0x30 == 0x20 && len >= CID_LEN_MIN {
        [d, e, f]
    } else {
        return None;
    };
    if head >> 5 == CONFIG_ID { Some(u16::from_be_bytes([high, low])) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_a_server_chose_name_one() {
        let short = [0x40, 0x07, 0x12, 0x34, 9, 9, 9, 9, 9];
        let handshake = [0xe0, 0, 0, 0, 1, 8, 0x07, 0x12, 0x34];
        assert_eq!((server_id(&short), server_id(&handshake)), (Some(0x1234), Some(0x1234)));
        // RFC 9287: the fixed bit at random.
        let greased = |packet: [u8; LOOKED_AT_LEN]| {
            let mut packet = packet;
            packet[0] &= !0x40;
            server_id(&packet)
        };
        assert_eq!((greased(short), greased(handshake)), (Some(0x1234), Some(0x1234)));
        assert_eq!(server_id(&[0x40, 0xe7, 0x12, 0x34, 9, 9, 9, 9, 9]), None, "another config");
        for (what, at, byte) in [
            ("initial", 0, 0xc0),
            ("0-RTT", 0, 0xd0),
            ("retry", 0, 0xf0),
            ("short id", 5, 6),
            ("unroutable", 6, 0xe0),
        ] {
            let mut packet = handshake;
            packet[at] = byte;
            assert_eq!(server_id(&packet), None, "{what}");
        }
    }
}
