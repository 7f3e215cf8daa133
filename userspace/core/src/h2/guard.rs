//! What a client may make us do for nothing: frames that ask for work and carry none, counted as they come.
//!
//! A client that is well spends next to none of this. Rapid reset (CVE-2023-44487), floods of PING, SETTINGS, PRIORITY, empty DATA
//! (CVE-2019-9512 to 9518) and CONTINUATION (CVE-2024-27316), and resets provoked by what is wrong (CVE-2025-8671) spend it within
//! a moment.

use std::time::Duration;

use super::{
    Fatal,
    frame::{Header, flag, kind, number},
};

/// Frames without work a connection may send at once: some hundred requests given up together, with all that belongs to them.
pub const BURST: u32 = 2_000;
/// Frames without work a second it may send for ever.
pub const RATE_PER_S: u32 = 200;
/// Of frames that are cheap, and common in honest downloads, so many count as one.
const CHEAP: u32 = 16;
/// Bytes a window must be opened by for it to be no trifle: clients that take a download as it comes open both windows for each
/// piece they read, thousands of times a second. Nobody does so for nothing, for windows end ([`super::WINDOW_MAX`]).
const GRANT_LEN: u32 = 4096;
/// In this time one of these is earned.
const EARN: Duration = Duration::from_nanos(1_000_000_000 / (RATE_PER_S * CHEAP) as u64);

/// One connection's account.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// What may still be spent, in cheap frames.
    left: u32,
    /// When that was true, since the connection began.
    at: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self { left: BURST * CHEAP, at: Duration::ZERO }
    }
}

impl Guard {
    /// Counts a frame, `now` after the connection began; of DATA the payload is of no interest.
    pub(super) fn saw(&mut self, header: &Header, payload: &[u8], now: Duration) -> Result<(), Fatal> {
        match cost(header, payload) {
            0 => Ok(()),
            cost => self.spend(cost, now),
        }
    }

    /// Counts work that was for nothing in the end: a stream that had to be reset for something the client did wrong, a head that
    /// was too large or too late.
    pub(super) fn provoked(&mut self, now: Duration) -> Result<(), Fatal> {
        self.spend(CHEAP, now)
    }

    /// Counts data for a stream that had ended: a sender in full flow may have a lot on its way.
    pub(super) fn was_late(&mut self, now: Duration) -> Result<(), Fatal> {
        self.spend(1, now)
    }

    fn spend(&mut self, cost: u32, now: Duration) -> Result<(), Fatal> {
        let earned = now.saturating_sub(self.at).as_nanos() / EARN.as_nanos();
        let full = BURST * CHEAP;
        match u32::try_from(earned) {
            Ok(earned) if earned < full - self.left => {
                self.left += earned;
                self.at += EARN * earned;
            }
            _ => (self.left, self.at) = (full, now),
        }
        self.left = self.left.checked_sub(cost).ok_or(Fatal::Flood)?;
        Ok(())
    }
}

/// What a frame costs.
fn cost(header: &Header, payload: &[u8]) -> u32 {
    match header.kind {
        // An end says something.
        kind::DATA if header.len == 0 && !header.has(flag::END_STREAM) => CHEAP,
        kind::DATA => 0,
        // The request it begins has bounds of its own.
        kind::HEADERS => 0,
        // Each answer to ours is one we asked for.
        kind::SETTINGS | kind::PING if header.has(flag::ACK) => 0,
        kind::RST_STREAM | kind::SETTINGS | kind::PING | kind::PRIORITY | kind::CONTINUATION => CHEAP,
        kind::WINDOW_UPDATE if number(payload).is_ok_and(|increment| increment >= GRANT_LEN) => 0,
        kind::WINDOW_UPDATE => 1,
        // Unknown types are passed over by everybody (RFC 9113 §5.5).
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: usize) -> Header {
        Header { len, kind, flags, stream: 1 }
    }

    /// How many of a frame are let pass at once.
    fn passes(frame: &Header) -> Option<u32> {
        let mut guard = Guard::default();
        (0..20 * BURST).find(|_| guard.saw(frame, &1u32.to_be_bytes(), Duration::ZERO).is_err())
    }

    #[test]
    fn frames_without_work_are_let_pass_up_to_a_burst() {
        for (what, frame, most) in [
            ("RST_STREAM", frame(kind::RST_STREAM, 0, 4), Some(BURST)),
            ("PING", frame(kind::PING, 0, 8), Some(BURST)),
            ("an answer to PING", frame(kind::PING, flag::ACK, 8), None),
            ("SETTINGS", frame(kind::SETTINGS, 0, 0), Some(BURST)),
            ("an answer to SETTINGS", frame(kind::SETTINGS, flag::ACK, 0), None),
            ("PRIORITY", frame(kind::PRIORITY, 0, 5), Some(BURST)),
            ("CONTINUATION", frame(kind::CONTINUATION, 0, 1), Some(BURST)),
            ("empty DATA", frame(kind::DATA, 0, 0), Some(BURST)),
            ("the end of DATA", frame(kind::DATA, flag::END_STREAM, 0), None),
            ("DATA", frame(kind::DATA, 0, 1), None),
            ("HEADERS", frame(kind::HEADERS, 0x5, 1), None),
            ("WINDOW_UPDATE", frame(kind::WINDOW_UPDATE, 0, 4), Some(BURST * CHEAP)),
            ("an unknown frame", frame(0xbe, 0, 1), Some(BURST * CHEAP)),
        ] {
            assert_eq!(passes(&frame), most, "{what}");
        }
    }

    #[test]
    fn who_spends_no_more_than_the_rate_goes_on_for_ever() {
        let reset = frame(kind::RST_STREAM, 0, 4);
        let step = Duration::from_millis(1000 / u64::from(RATE_PER_S));
        let mut guard = Guard::default();
        for n in 0..100 * BURST {
            guard.saw(&reset, &[], step * n).unwrap();
        }
        // Twice that ends when the burst is spent.
        let mut guard = Guard::default();
        let ended = (0..100 * BURST).find(|n| guard.saw(&reset, &[], step * *n / 2).is_err());
        assert!(ended.is_some_and(|n| (2 * BURST - 10..2 * BURST + 10).contains(&n)), "{ended:?}");
        // A long pause is worth no more than a burst.
        let mut guard = Guard::default();
        let later = Duration::from_secs(1_000_000);
        assert_eq!((0..2 * BURST).find(|_| guard.saw(&reset, &[], later).is_err()), Some(BURST));
    }
}
