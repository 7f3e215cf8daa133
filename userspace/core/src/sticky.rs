//! The signed cookie that keeps a browser's home zone: `zone:expiry:mac`.
//!
//! It names the client's *home* zone, not the zone that happened to answer: a client that was moved by a failure must
//! return with everybody else. A value that is forged, stale or damaged is no error, only no cookie.
//!
//! `expiry` is Unix seconds in decimal; `mac` is the first half of HMAC-SHA256 (RFC 2104 §5 permits truncation to no
//! less than half) in hexadecimal. All characters are cookie-octets (RFC 6265 §4.1.1).

use hmac::{Hmac, Mac};
use sha2::Sha256;
use weir_model::Name;

/// The longest value read: a name of 63, 20 digits, 32 hexadecimal digits and two colons.
pub const VALUE_LEN_MAX: usize = 63 + 1 + 20 + 1 + 2 * MAC_LEN;

const MAC_LEN: usize = 16;

/// Separates these signatures from any other use of the same secret.
const CONTEXT: &[u8] = b"weir zone cookie 1\n";

/// The value of a cookie for `zone` that is valid before `expires_unix` (seconds).
pub fn encode(zone: &Name, expires_unix: u64, key: &[u8]) -> String {
    let mut value = format!("{zone}:{expires_unix}");
    let tag = tag(&value, key).finalize().into_bytes();
    value.push(':');
    for byte in &tag[..MAC_LEN] {
        value.push_str(&format!("{byte:02x}"));
    }
    value
}

/// The zone a cookie names, if it is ours and `now_unix` (seconds) is before its end.
pub fn decode(value: &str, now_unix: u64, key: &[u8]) -> Option<Name> {
    if value.len() > VALUE_LEN_MAX {
        return None;
    }
    let (signed, mac) = value.rsplit_once(':')?;
    // The signature first: nothing of an unsigned value is looked at. The comparison takes constant time.
    tag(signed, key).verify_truncated_left(&unhex(mac)?).ok()?;
    let (zone, expires) = signed.split_once(':')?;
    (now_unix < expires.parse().ok()?).then_some(())?;
    zone.parse().ok()
}

fn tag(signed: &str, key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "RFC 2104 §2: a key may have any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(CONTEXT);
    mac.update(signed.as_bytes());
    mac
}

fn unhex(text: &str) -> Option<[u8; MAC_LEN]> {
    let text: &[u8; 2 * MAC_LEN] = text.as_bytes().try_into().ok()?;
    let mut out = [0; MAC_LEN];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16).filter(|_| !b.is_ascii_uppercase());
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &[u8] = b"sixteen bytes or more";

    fn name() -> impl Strategy<Value = Name> {
        "[a-z0-9][a-z0-9._-]{0,62}".prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        #[test]
        fn a_cookie_names_its_zone_until_it_ends(zone in name(), end in 1u64.., early in 0u64..) {
            let value = encode(&zone, end, KEY);
            prop_assert!(value.len() <= VALUE_LEN_MAX);
            prop_assert!(value.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)));
            prop_assert_eq!(decode(&value, early % end, KEY), Some(zone));
            prop_assert_eq!(decode(&value, end, KEY), None);
        }

        #[test]
        fn a_changed_byte_makes_it_worthless(zone in name(), at in 0usize..200, byte in 0x21u8..0x7f) {
            let value = encode(&zone, 1_000, KEY);
            let mut forged = value.clone().into_bytes();
            let at = at % forged.len();
            forged[at] = byte;
            let forged = String::from_utf8(forged).unwrap();
            prop_assume!(forged != value);
            prop_assert_eq!(decode(&forged, 0, KEY), None);
        }

        #[test]
        fn any_text_is_read_without_harm(text in ".{0,300}") {
            prop_assert_eq!(decode(&text, 0, KEY), None);
        }
    }

    #[test]
    fn another_key_and_a_cut_signature_are_refused() {
        let zone: Name = "az1".parse().unwrap();
        let value = encode(&zone, 1_000, KEY);
        assert_eq!(decode(&value, 0, b"another key of some length"), None);
        for cut in 0..value.len() {
            assert_eq!(decode(&value[..cut], 0, KEY), None);
        }
    }
}
