//! Rates: the generic cell rate algorithm (ITU-T I.371 annex A), a token bucket in one word.
//!
//! What is kept is when the next event would be due if events came evenly. One that comes earlier than that by more than the
//! burst is refused and leaves no trace.

/// Whether an event at `now_ns` is within the rate of one per `interval_ns` with `burst_ns` ahead of it; moves `due_ns` on if so.
#[inline(always)]
pub const fn admits(due_ns: &mut u64, now_ns: u64, interval_ns: u64, burst_ns: u64) -> bool {
    let due = if *due_ns > now_ns { *due_ns } else { now_ns };
    if due - now_ns > burst_ns {
        return false;
    }
    *due_ns = due + interval_ns;
    true
}

/// How far ahead of the rate `burst` events at once are.
#[inline(always)]
pub const fn burst_ns(interval_ns: u32, burst: u32) -> u64 {
    interval_ns as u64 * burst.saturating_sub(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_admitted_at_once_and_then_the_rate() {
        let (interval, burst) = (10_000_000, burst_ns(10_000_000, 200));
        let mut due = 0;
        let start = 5_000_000_000;
        let admitted = |due: &mut u64, now| (0..1_000).filter(|_| admits(due, now, interval, burst)).count();
        assert_eq!(admitted(&mut due, start), 200);
        assert_eq!(admitted(&mut due, start + 1_000_000_000), 100);
        assert_eq!(admitted(&mut due, start + 1_005_000_000), 0);
        assert_eq!(admitted(&mut due, start + 60_000_000_000), 200);
    }

    #[test]
    fn what_is_refused_leaves_no_trace() {
        let mut due = 0;
        assert!(admits(&mut due, 100, 50, 0));
        for _ in 0..100 {
            assert!(!admits(&mut due, 120, 50, 0));
        }
        assert!(admits(&mut due, 150, 50, 0));
    }
}
