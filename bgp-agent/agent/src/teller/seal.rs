//! Signed datagrams: `weir-announcers 1`, a line feed, HMAC-SHA256 (RFC 2104) of all that follows, and the text. Pure.
//!
//! What is signed says when it was said; who has heard something newer, or has a clock that differs by more than [`AGE_MAX`],
//! does not believe it. Nothing is secret in it.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::time::Duration;
use weir_model::Secret;

/// How far the clocks of two nodes may differ. What was recorded is worth nothing after that, not even to a process that has
/// just started.
pub(super) const AGE_MAX: Duration = Duration::from_secs(60);

/// Begins no JSON.
const MAGIC: &[u8] = b"weir-announcers 1\n";

const MAC_LEN: usize = 32;

/// A datagram, taken apart.
pub(super) struct Sealed<'a> {
    mac: Option<&'a [u8]>,
    pub(super) text: &'a [u8],
}

/// Takes a datagram apart; nothing of it is believed yet.
pub(super) fn open(datagram: &[u8]) -> Sealed<'_> {
    match datagram.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(MAC_LEN)) {
        Some((mac, text)) => Sealed { mac: Some(mac), text },
        None => Sealed { mac: None, text: datagram },
    }
}

impl Sealed<'_> {
    /// Whether it is what somebody with this key would send; without a key, unsigned.
    pub(super) fn fits(&self, key: Option<&Secret>) -> bool {
        match (key, self.mac) {
            (None, None) => true,
            // The comparison takes constant time.
            (Some(key), Some(mac)) => tag(key, self.text).verify_slice(mac).is_ok(),
            _ => false,
        }
    }

    pub(super) fn is_signed(&self) -> bool {
        self.mac.is_some()
    }
}

/// A datagram of this text.
pub(super) fn seal(text: Vec<u8>, key: Option<&Secret>) -> Vec<u8> {
    match key {
        None => text,
        Some(key) => [MAGIC, &tag(key, &text).finalize().into_bytes(), &text].concat(),
    }
}

fn tag(key: &Secret, text: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "RFC 2104 §2: a key may have any length")]
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.reveal().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(text);
    mac
}
