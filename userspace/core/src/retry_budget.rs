//! How many retries a pool can afford, so that one in trouble does not get more requests than one in health.
//!
//! ```text
//!  retries of the last ten seconds < share × requests of the last ten seconds + ten × min_per_second
//! ```
//!
//! Shared by all threads without a lock; threads that meet at the turn of a second may forget a request or a retry. Time is
//! given, in milliseconds from any moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_model::RetryBudget as Spec;

/// Seconds that are remembered.
const WINDOW_S: u64 = 10;

/// What a pool has spent of late.
#[derive(Debug, Default)]
pub struct RetryBudget {
    seconds: [Second; WINDOW_S as usize],
}

#[derive(Debug, Default)]
struct Second {
    /// Which one, from 1; 0 for none yet.
    number: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    /// A request came.
    pub fn note_request(&self, now_ms: u64) {
        self.second(now_ms).requests.fetch_add(1, Relaxed);
    }

    /// Takes one retry out of the budget, if it has one.
    pub fn take(&self, spec: &Spec, now_ms: u64) -> bool {
        let current = self.second(now_ms);
        let last = number(now_ms);
        let recent = self.seconds.iter().filter(|second| second.number.load(Relaxed) + WINDOW_S > last);
        let (requests, retries) = recent.fold((0, 0), |(requests, retries), second| {
            (requests + second.requests.load(Relaxed), retries + second.retries.load(Relaxed))
        });
        let allowed =
            spec.share.as_factor() * requests as f64 + (WINDOW_S * u64::from(spec.min_per_second)) as f64;
        let has_room = (retries as f64) < allowed;
        if has_room {
            current.retries.fetch_add(1, Relaxed);
        }
        has_room
    }

    fn second(&self, now_ms: u64) -> &Second {
        let number = number(now_ms);
        let second = &self.seconds[(number % WINDOW_S) as usize];
        if second.number.load(Relaxed) != number && second.number.swap(number, Relaxed) != number {
            second.requests.store(0, Relaxed);
            second.retries.store(0, Relaxed);
        }
        second
    }
}

fn number(now_ms: u64) -> u64 {
    now_ms / 1_000 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_model::Percent;

    fn spec(percent: u32, min_per_second: u32) -> Spec {
        Spec { share: Percent::whole(percent), min_per_second }
    }

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few_more() {
        let budget = RetryBudget::default();
        let taken =
            |at, percent, min| (0..1_000).take_while(|_| budget.take(&spec(percent, min), at)).count();
        assert_eq!(taken(0, 20, 0), 0);
        for at in 0..100 {
            budget.note_request(at * 10);
        }
        assert_eq!(taken(1_000, 20, 0), 20);
        assert_eq!(taken(2_000, 20, 0), 0, "they are spent");
        assert_eq!(taken(3_000, 20, 1), 10);
        // The requests are forgotten in the tenth second after, and so are the retries.
        assert_eq!(taken(10_000, 20, 0), 0);
        assert_eq!(taken(15_000, 20, 2), 20);
        assert_eq!(taken(24_999, 20, 2), 0);
        assert_eq!(taken(25_000, 20, 2), 20);
    }

    proptest! {
        #[test]
        fn no_window_has_more_retries_than_it_may(
            steps in proptest::collection::vec((any::<bool>(), 0u64..700), 1..300),
        ) {
            let (budget, spec) = (RetryBudget::default(), spec(50, 1));
            let (mut now, mut requests, mut retries) = (0, Vec::new(), Vec::new());
            for (is_request, wait) in steps {
                now += wait;
                let first = (now / 1_000 + 1).saturating_sub(WINDOW_S) * 1_000;
                let recent = |times: &[u64]| times.iter().filter(|at| **at >= first).count();
                if is_request {
                    budget.note_request(now);
                    requests.push(now);
                } else {
                    let may = (recent(&retries) as f64) < 0.5 * recent(&requests) as f64 + 10.0;
                    prop_assert_eq!(budget.take(&spec, now), may);
                    if may { retries.push(now); }
                }
            }
        }
    }
}
