//! How slow a client may be with a body it sends or takes: a bound for silence, and one for the average.
//!
//! ```text
//!  time waited for the client > grace + bytes / rate_min     too slow
//! ```
//!
//! Only time in which nothing but the client was waited for counts, so that nobody is blamed for a server that takes or says little.
//! The average is over the whole body: whoever sent much at first may pause for as long as silence is allowed, and whoever sends a
//! byte now and then, to be never silent, runs out of time.

use std::time::{Duration, Instant};

/// What is asked of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceLimits {
    /// How long nothing at all may move.
    pub silence: Duration,
    /// Bytes/s; 0 for any rate.
    pub rate_min: u32,
    /// Time that is not looked at.
    pub grace: Duration,
}

/// What a client did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooSlow {
    /// Nothing moved for too long.
    Silent,
    /// Too little did.
    Slow,
}

/// One body as far as its client was waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// In waits that are over.
    waited: Duration,
    /// Since when it is waited for now.
    since: Option<Instant>,
}

impl PaceLimits {
    /// How long so many bytes may be waited for; `None` for ever.
    fn allowed(&self, bytes: u64) -> Option<Duration> {
        let rate = u64::from(self.rate_min);
        let us = bytes.checked_div(rate)?.saturating_mul(1_000_000) + bytes % rate * 1_000_000 / rate;
        Some(self.grace.saturating_add(Duration::from_micros(us)))
    }
}

impl Pace {
    /// The client is waited for, after so many bytes: until when, if no more come.
    pub fn wait(&mut self, limits: &PaceLimits, bytes: u64, now: Instant) -> Instant {
        self.rest(now);
        self.since = Some(now);
        let left = limits.allowed(bytes).map(|allowed| allowed.saturating_sub(self.waited));
        now + left.map_or(limits.silence, |left| left.min(limits.silence))
    }

    /// It is not waited for any more.
    pub fn rest(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// What is wrong, after a wait in which nothing has moved.
    pub fn judge(&self, limits: &PaceLimits, bytes: u64, now: Instant) -> Option<TooSlow> {
        let silent = now.saturating_duration_since(self.since?);
        if silent >= limits.silence {
            return Some(TooSlow::Silent);
        }
        limits.allowed(bytes).filter(|allowed| self.waited + silent >= *allowed).map(|_| TooSlow::Slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits =
        PaceLimits { silence: Duration::from_secs(60), rate_min: 500, grace: Duration::from_secs(20) };

    /// What becomes of a client that moves `bytes` each `every`: when it is cut, and why.
    fn drip(limits: &PaceLimits, bytes: u64, every: Duration) -> Option<(Duration, TooSlow)> {
        let begin = Instant::now();
        let (mut pace, mut moved, mut now) = (Pace::default(), 0, begin);
        while now < begin + Duration::from_secs(86_400) {
            let due = pace.wait(limits, moved, now);
            let next = now + every;
            if due < next {
                return pace.judge(limits, moved, due).map(|why| (due - begin, why));
            }
            assert_eq!(
                pace.judge(limits, moved, due - Duration::from_micros(1)),
                None,
                "not before it is due"
            );
            (now, moved) = (next, moved + bytes);
        }
        None
    }

    #[test]
    fn who_drips_is_cut_after_the_grace_and_who_keeps_the_rate_never_is() {
        let s = Duration::from_secs;
        let (at, why) = drip(&LIMITS, 1, s(1)).unwrap();
        assert!((s(20)..s(21)).contains(&at) && why == TooSlow::Slow, "{at:?} {why:?}");
        let (at, _) = drip(&LIMITS, 250, s(1)).unwrap();
        assert!((s(39)..s(41)).contains(&at), "half the rate: twice the grace, {at:?}");
        assert_eq!(drip(&LIMITS, 500, s(1)), None);
        assert_eq!(drip(&LIMITS, 15_000, s(19)), None);
        assert_eq!(
            drip(&LIMITS, 1 << 20, s(61)).map(|(_, why)| why),
            Some(TooSlow::Slow),
            "nothing came at first"
        );
        let any = PaceLimits { rate_min: 0, ..LIMITS };
        assert_eq!(drip(&any, 1, s(59)), None);
        assert_eq!(drip(&any, 1, s(61)), Some((s(60), TooSlow::Silent)));
    }

    #[test]
    fn time_in_which_somebody_else_was_waited_for_does_not_count() {
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        let mut pace = Pace::default();
        assert_eq!(pace.wait(&LIMITS, 0, at(0)), at(20));
        pace.rest(at(5));
        assert_eq!(pace.judge(&LIMITS, 0, at(500)), None, "nobody waits for it");
        assert_eq!(pace.wait(&LIMITS, 0, at(500)), at(515));
        assert_eq!(pace.judge(&LIMITS, 0, at(514)), None);
        assert_eq!(pace.judge(&LIMITS, 0, at(515)), Some(TooSlow::Slow));
        // Much that came early is time that is left later, silence apart.
        assert_eq!(pace.wait(&LIMITS, 1 << 20, at(515)), at(575));
        assert_eq!(pace.judge(&LIMITS, 1 << 20, at(575)), Some(TooSlow::Silent));
    }

    #[test]
    fn no_number_of_bytes_is_too_much() {
        let limits = PaceLimits { rate_min: 1, ..LIMITS };
        for rate_min in [1, 3, u32::MAX] {
            assert!(PaceLimits { rate_min, ..limits }.allowed(u64::MAX).unwrap() >= limits.grace);
        }
    }
}
