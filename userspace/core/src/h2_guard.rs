//! What a client of HTTP/2 may make us do for nothing: frames that ask for work and carry none, counted as they pass. Pure.
//!
//! The frames are read by somebody else; this looks at their headers only (RFC 9113 §4.1), and says when a connection is to be cut.
//!
//! ```text
//!  length (3)  type (1)  flags (1)  stream (4)   payload …
//! ```
//!
//! A client that is well spends next to none of this. Rapid reset (CVE-2023-44487), floods of PING, SETTINGS, PRIORITY, empty DATA
//! (CVE-2019-9512 to 9518) and CONTINUATION (CVE-2024-27316), and resets provoked by what is wrong (CVE-2025-8671) spend it within
//! a moment.

use std::time::Duration;

/// The client's first bytes. RFC 9113 §3.4.
const PREFACE_LEN: usize = 24;
const HEADER_LEN: usize = 9;

/// Frames without work a connection may send at once: some hundred requests given up together, with all that belongs to them.
pub const BURST: u32 = 2_000;
/// Frames without work a second it may send for ever.
pub const RATE_PER_S: u32 = 200;
/// Of frames that are cheap, and common in honest downloads, so many count as one.
const CHEAP: u32 = 16;
/// In this time one of these is earned.
const EARN: Duration = Duration::from_nanos(1_000_000_000 / (RATE_PER_S * CHEAP) as u64);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;

/// One connection's account.
#[derive(Clone, Debug)]
pub struct H2Guard {
    /// Bytes to pass over until the next header.
    skip: usize,
    header: [u8; HEADER_LEN],
    have: usize,
    /// What may still be spent, in cheap frames.
    left: u32,
    /// When that was true, since the connection began.
    at: Duration,
}

/// A client that asks for too much work for nothing; RFC 9113 §7 calls it ENHANCE_YOUR_CALM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a flood of frames without work")]
pub struct Flood;

impl Default for H2Guard {
    fn default() -> Self {
        Self { skip: PREFACE_LEN, header: [0; HEADER_LEN], have: 0, left: BURST * CHEAP, at: Duration::ZERO }
    }
}

impl H2Guard {
    /// Looks at the next bytes a client has sent, `now` after it began.
    pub fn look(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), Flood> {
        let mut spent = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let len = self.skip.min(bytes.len());
                self.skip -= len;
                bytes = &bytes[len..];
                continue;
            }
            let len = (HEADER_LEN - self.have).min(bytes.len());
            self.header[self.have..self.have + len].copy_from_slice(&bytes[..len]);
            self.have += len;
            bytes = &bytes[len..];
            if self.have == HEADER_LEN {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                spent += cost(kind, flags, self.skip);
            }
        }
        if spent > 0 { self.spend(spent, now) } else { Ok(()) }
    }

    fn spend(&mut self, cost: u32, now: Duration) -> Result<(), Flood> {
        let earned = now.saturating_sub(self.at).as_nanos() / EARN.as_nanos();
        let full = BURST * CHEAP;
        match u32::try_from(earned) {
            Ok(earned) if earned < full - self.left => {
                self.left += earned;
                self.at += EARN * earned;
            }
            _ => (self.left, self.at) = (full, now),
        }
        self.left = self.left.checked_sub(cost).ok_or(Flood)?;
        Ok(())
    }
}

/// What a frame costs.
fn cost(kind: u8, flags: u8, len: usize) -> u32 {
    match kind {
        // An end says something.
        DATA if len == 0 && flags & END_STREAM == 0 => CHEAP,
        DATA => 0,
        // The request it begins has bounds of its own.
        HEADERS => 0,
        // Each answer to ours is one we asked for.
        SETTINGS | PING if flags & ACK != 0 => 0,
        RST_STREAM | SETTINGS | PING | PRIORITY | CONTINUATION => CHEAP,
        WINDOW_UPDATE => 1,
        // Unknown types are passed over by everybody (RFC 9113 §5.5).
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn begun() -> H2Guard {
        let mut guard = H2Guard::default();
        guard.look(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Duration::ZERO).unwrap();
        guard
    }

    /// How many of a frame are let pass at once.
    fn passes(frame: &[u8]) -> Option<u32> {
        let mut guard = begun();
        (0..20 * BURST).find(|_| guard.look(frame, Duration::ZERO).is_err())
    }

    #[test]
    fn frames_without_work_are_let_pass_up_to_a_burst() {
        for (what, frame, most) in [
            ("RST_STREAM", frame(RST_STREAM, 0, &[0, 0, 0, 8]), Some(BURST)),
            ("PING", frame(PING, 0, &[0; 8]), Some(BURST)),
            ("an answer to PING", frame(PING, ACK, &[0; 8]), None),
            ("SETTINGS", frame(SETTINGS, 0, &[]), Some(BURST)),
            ("an answer to SETTINGS", frame(SETTINGS, ACK, &[]), None),
            ("PRIORITY", frame(PRIORITY, 0, &[0; 5]), Some(BURST)),
            ("CONTINUATION", frame(CONTINUATION, 0, b"x"), Some(BURST)),
            ("empty DATA", frame(DATA, 0, &[]), Some(BURST)),
            ("the end of DATA", frame(DATA, END_STREAM, &[]), None),
            ("DATA", frame(DATA, 0, b"x"), None),
            ("HEADERS", frame(HEADERS, 0x5, b"x"), None),
            ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]), Some(BURST * CHEAP)),
            ("an unknown frame", frame(0xbe, 0, b"x"), Some(BURST * CHEAP)),
        ] {
            assert_eq!(passes(&frame), most, "{what}");
        }
    }

    #[test]
    fn who_spends_no_more_than_the_rate_goes_on_for_ever() {
        let reset = frame(RST_STREAM, 0, &[0, 0, 0, 8]);
        let step = Duration::from_millis(1000 / u64::from(RATE_PER_S));
        let mut guard = begun();
        for n in 0..100 * BURST {
            guard.look(&reset, step * n).unwrap();
        }
        // Twice that ends when the burst is spent.
        let mut guard = begun();
        let ended = (0..100 * BURST).find(|n| guard.look(&reset, step * *n / 2).is_err());
        assert!(ended.is_some_and(|n| (2 * BURST - 10..2 * BURST + 10).contains(&n)), "{ended:?}");
        // A long pause is worth no more than a burst.
        let mut guard = begun();
        let later = Duration::from_secs(1_000_000);
        assert_eq!((0..2 * BURST).find(|_| guard.look(&reset, later).is_err()), Some(BURST));
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_they_are_cut(
            frames in proptest::collection::vec((0u8..12, any::<u8>(), 0usize..40), 0..200),
            cuts in proptest::collection::vec(1usize..50, 1..50),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, len)| frame(*kind, *flags, &vec![9; *len])).collect();
            let (mut whole, mut cut) = (begun(), begun());
            prop_assert!(whole.look(&bytes, Duration::ZERO).is_ok());
            let mut rest = &bytes[..];
            for len in cuts.iter().cycle() {
                let (part, more) = rest.split_at((*len).min(rest.len()));
                prop_assert!(cut.look(part, Duration::ZERO).is_ok());
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!((whole.left, whole.skip, whole.have), (cut.left, cut.skip, cut.have));
        }
    }
}
