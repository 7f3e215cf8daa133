//! How much of its weight a server gets that came up a while ago.
//!
//! ```text
//!  share = max(BEGIN, time since it came up / slow start), at most all of it
//! ```
//!
//! It climbs in [`STEPS`] steps, each of which makes the tables of its pool anew.

use std::time::Duration;

/// The share of its weight a server begins with, in hundredths.
pub const BEGIN_PERCENT: u32 = 10;
/// Steps from nothing to everything.
pub const STEPS: u32 = 50;

/// The share of its weight, in hundredths, a server gets `up_for` after it came up.
pub fn share_percent(up_for: Duration, slow_start: Duration) -> u32 {
    let done = up_for.as_secs_f64() / slow_start.as_secs_f64().max(f64::MIN_POSITIVE);
    let steps = (done * f64::from(STEPS)).floor().min(f64::from(STEPS)) as u32;
    (steps * 100 / STEPS).clamp(BEGIN_PERCENT, 100)
}

/// How long after it came up a server's share next changes; `None` once it has all of it.
pub fn next_step(up_for: Duration, slow_start: Duration) -> Option<Duration> {
    let step = slow_start / STEPS;
    let next = step * (up_for.as_nanos() / step.as_nanos().max(1)).min(u128::from(STEPS)) as u32 + step;
    (up_for < slow_start).then_some(next.min(slow_start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_server_climbs_from_a_tenth_to_all_of_its_weight() {
        let share = |s| share_percent(Duration::from_secs(s), Duration::from_secs(100));
        assert_eq!([0, 5, 10, 20, 50, 98, 100, 1_000].map(share), [10, 10, 10, 20, 50, 98, 100, 100]);
        assert_eq!(share_percent(Duration::ZERO, Duration::ZERO), 10);
    }

    proptest! {
        #[test]
        fn it_never_falls_and_every_step_is_waited_for(slow_ms in 100u64..3_600_000, at in 0.0..1.2f64) {
            let slow = Duration::from_millis(slow_ms);
            let now = slow.mul_f64(at);
            let share = share_percent(now, slow);
            prop_assert!(share_percent(now + slow / 10, slow) >= share);
            match next_step(now, slow) {
                // Waiting for each step takes at most so many turns, and ends at all of it.
                Some(next) => prop_assert!(next > now && next <= now + slow / STEPS + Duration::from_nanos(1)),
                None => prop_assert_eq!(share, 100),
            }
        }
    }
}
