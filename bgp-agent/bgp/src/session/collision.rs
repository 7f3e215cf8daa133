//! Two connections with one peer: which one stays. RFC 4271 §6.8, RFC 6286 §2.3.

use super::lane::Role;
use std::net::Ipv4Addr;

/// The connection that stays is the one opened by the speaker with the higher BGP identifier; between equal identifiers
/// (only possible between two AS) by the one with the higher AS number. Both sides come to the same connection.
pub(super) fn survivor(local: (Ipv4Addr, u32), remote: (Ipv4Addr, u32)) -> Role {
    // RFC 4271 §6.8: "the comparison is done by treating them as unsigned integers in host byte order", as Ipv4Addr does.
    if local > remote { Role::Outgoing } else { Role::Incoming }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_keep_the_same_connection() {
        let speakers = [
            (Ipv4Addr::new(10, 0, 0, 1), 65001),
            (Ipv4Addr::new(9, 255, 0, 0), 65002),
            (Ipv4Addr::new(10, 0, 0, 1), 65002),
        ];
        for a in speakers {
            for b in speakers.into_iter().filter(|b| *b != a) {
                assert_eq!(survivor(a, b), survivor(b, a).other());
            }
        }
        assert_eq!(survivor(speakers[0], speakers[1]), Role::Outgoing);
        assert_eq!(survivor(speakers[0], speakers[2]), Role::Incoming);
    }
}
