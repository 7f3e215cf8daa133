//! Stable hashing: the same number for the same text on every host, process and version.
//!
//! Not for secrets: clients can find collisions, and gain nothing by it but their own place.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    net::{IpAddr, Ipv6Addr},
};

/// What identifies a client for stickiness: an IPv4 address, the /64 of an IPv6 address, or a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub u64);

impl ClientKey {
    /// The key of an address. IPv6 hosts change the lower half of their address daily (RFC 8981), so only the /64 counts.
    pub fn of_address(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => bytes(&v4.octets()),
            IpAddr::V6(v6) => bytes(&subnet(v6)),
        })
    }

    /// The key of a session, such as the value of a cookie.
    pub fn of_session(session: &[u8]) -> Self {
        Self(bytes(session))
    }

    /// The client's place in [0, 1), independent of every [`draw`](Self::draw).
    pub fn position(self) -> f64 {
        unit(mix(self.0 ^ 0x706f_7369_7469_6f6e))
    }

    /// The client's number for one contender of a rendezvous: among equals the greatest wins, as by [`score`](Self::score).
    pub(crate) fn rank(self, seed: u64) -> u64 {
        mix(self.0.rotate_left(32) ^ mix(seed))
    }

    /// The same in (0, 1).
    pub(crate) fn draw(self, seed: u64) -> f64 {
        unit(self.rank(seed)).max(f64::MIN_POSITIVE)
    }

    /// Weighted rendezvous: the contender with the greatest score wins, each in proportion to its weight, and when one
    /// leaves only its own clients move (Schindelhauer, Schomaker: "Weighted distributed hash tables", SPAA 2005).
    pub(crate) fn score(self, seed: u64, weight: f64) -> f64 {
        // -ln of a number in (0, 1) is positive; the score of weight 0 is 0 and loses against everything.
        weight / -self.draw(seed).ln()
    }
}

fn subnet(address: Ipv6Addr) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    [a, b, c, d, e, f, g, h]
}

/// A table whose keys operators choose, not clients: looked into for every request.
pub type NameMap<K, V> = HashMap<K, V, BuildHasherDefault<NameHasher>>;

/// Quick, and no protection against keys that are chosen to collide.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

/// Hash of a byte string: FNV-1a, then [`mix`], because FNV alone spreads short strings badly in the upper bits.
pub fn bytes(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// The finaliser of SplitMix64: a bijection in which every input bit changes every output bit half of the time.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The upper 53 bits as a number in [0, 1).
pub(crate) fn unit(value: u64) -> f64 {
    (value >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_every_earlier_version() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(bytes(b""), mix(0xcbf2_9ce4_8422_2325));
    }

    #[test]
    fn an_ipv6_client_is_its_subnet_and_a_mapped_ipv4_client_its_address() {
        let key = |text: &str| ClientKey::of_address(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
