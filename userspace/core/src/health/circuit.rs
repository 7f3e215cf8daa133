//! Whether requests may go where requests have gone wrong: a circuit breaker.
//!
//! ```text
//!            bad × consecutive, or told to               the time is over
//!  ┌────────┐ ─────────────────────────────► ┌──────┐ ────────────────────► ┌───────┐
//!  │ Closed │                                │ Open │                       │ Trial │
//!  └────────┘ ◄───────────────┐              └──────┘ ◄───────── bad ────── └───────┘
//!                             └───────────────────────── good × successes ──────┘
//! ```
//!
//! Shared by all threads without a lock, as requests pass it: where nothing goes wrong a request costs two relaxed loads. Threads
//! that meet in a change may count one answer more or less; none can leave it in a state that does not end. Time is given, in
//! milliseconds from any moment but 0.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use weir_model::{Breaker, Ejection};

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bad answers in a row that open it; 0 for any number.
    pub consecutive: u32,
    /// How long it is open the first time; twice as long each further time,
    pub time: Duration,
    /// but never longer than this.
    pub max_time: Duration,
    /// Good answers in a row that end the trial.
    pub successes: u32,
    /// Whether a trial that ends well makes the next opening a first one. Else [`Circuit::calm`] does, by and by.
    pub forgives: bool,
}

impl From<&Ejection> for Limits {
    fn from(spec: &Ejection) -> Self {
        Self {
            consecutive: spec.consecutive,
            time: spec.time,
            max_time: spec.max_time,
            successes: spec.successes,
            forgives: false,
        }
    }
}

impl From<&Breaker> for Limits {
    fn from(spec: &Breaker) -> Self {
        Self {
            consecutive: spec.consecutive,
            time: spec.time,
            max_time: spec.max_time,
            successes: spec.successes,
            forgives: true,
        }
    }
}

/// Where a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// None does, for so long.
    Open(Duration),
    /// One at a time does.
    Trial,
}

/// What a bad answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Nothing yet, or nothing more.
    Nothing,
    /// So many in a row should open it: it is the caller's to say whether it may ([`Circuit::open`]).
    Enough(u32),
    /// The trial has failed: it is open again, for so long.
    Reopened(Duration),
}

/// One circuit.
#[derive(Debug, Default)]
pub struct Circuit {
    bad_in_a_row: AtomicU32,
    good_in_trial: AtomicU32,
    /// 0 while it is closed; from then on, a trial.
    open_until_ms: AtomicU64,
    /// The request that tries it out has so long to tell; then another one may.
    trial_until_ms: AtomicU64,
    /// How often it has opened without being forgiven.
    times: AtomicU32,
}

impl Circuit {
    /// Whether requests pass: the question that is asked for every request.
    pub fn is_closed(&self) -> bool {
        self.open_until_ms.load(Relaxed) == 0
    }

    /// Where it stands.
    pub fn state(&self, now_ms: u64) -> State {
        match self.open_until_ms.load(Relaxed) {
            0 => State::Closed,
            until if now_ms < until => State::Open(Duration::from_millis(until - now_ms)),
            _ => State::Trial,
        }
    }

    /// Whether a request may pass now: always, never, or when no other one tries it out.
    pub fn admits(&self, now_ms: u64) -> bool {
        match self.state(now_ms) {
            State::Closed => true,
            State::Open(_) => false,
            State::Trial => self.trial_until_ms.load(Relaxed) <= now_ms,
        }
    }

    /// A request passes; `false` when another one tries it out already, or none may.
    pub fn enter(&self, limits: &Limits, now_ms: u64) -> bool {
        match self.state(now_ms) {
            State::Closed => return true,
            State::Open(_) => return false,
            State::Trial => {}
        }
        let before = self.trial_until_ms.load(Relaxed);
        let until = now_ms + limits.time.as_millis() as u64;
        before <= now_ms && self.trial_until_ms.compare_exchange(before, until, Relaxed, Relaxed).is_ok()
    }

    /// A good answer; `true` when it has closed the circuit.
    pub fn good(&self, limits: &Limits, now_ms: u64) -> bool {
        if self.bad_in_a_row.load(Relaxed) != 0 {
            self.bad_in_a_row.store(0, Relaxed);
        }
        if self.is_closed() || self.state(now_ms) != State::Trial {
            return false;
        }
        self.trial_until_ms.store(0, Relaxed);
        if self.good_in_trial.fetch_add(1, Relaxed) + 1 < limits.successes {
            return false;
        }
        if limits.forgives {
            self.times.store(0, Relaxed);
        }
        self.open_until_ms.swap(0, Relaxed) != 0
    }

    /// A bad answer. While it is open, one to a request from before says nothing new.
    pub fn bad(&self, limits: &Limits, now_ms: u64) -> Bad {
        match self.state(now_ms) {
            State::Closed => {
                let bad = self.bad_in_a_row.fetch_add(1, Relaxed).saturating_add(1);
                if limits.consecutive > 0 && bad >= limits.consecutive {
                    Bad::Enough(bad)
                } else {
                    Bad::Nothing
                }
            }
            State::Open(_) => Bad::Nothing,
            State::Trial => Bad::Reopened(self.open(limits, now_ms)),
        }
    }

    /// Opens it; how long for.
    pub fn open(&self, limits: &Limits, now_ms: u64) -> Duration {
        let times = self.times.fetch_update(Relaxed, Relaxed, |times| Some(times.saturating_add(1)));
        let (Ok(times) | Err(times)) = times;
        let time =
            limits.time.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(limits.max_time);
        self.bad_in_a_row.store(0, Relaxed);
        self.good_in_trial.store(0, Relaxed);
        self.trial_until_ms.store(0, Relaxed);
        self.open_until_ms.store(now_ms + (time.as_millis() as u64).max(1), Relaxed);
        time
    }

    /// Closes it, whatever happened.
    pub fn reset(&self) {
        self.bad_in_a_row.store(0, Relaxed);
        self.times.store(0, Relaxed);
        self.open_until_ms.store(0, Relaxed);
    }

    /// A while has passed in which it did not open: the next opening is half as long.
    pub fn calm(&self) {
        if self.is_closed() {
            // Without a change there is nothing to write.
            let _unchanged = self.times.fetch_update(Relaxed, Relaxed, |times| times.checked_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        consecutive: 3,
        time: Duration::from_millis(100),
        max_time: Duration::from_millis(350),
        successes: 2,
        forgives: false,
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bad_answers_in_a_row_are_enough_and_a_good_one_between_starts_over() {
        let circuit = Circuit::default();
        let say = |good: bool| match good {
            true => {
                circuit.good(&LIMITS, 1);
                Bad::Nothing
            }
            false => circuit.bad(&LIMITS, 1),
        };
        let said: Vec<Bad> = [false, false, true, false, false, false, false].into_iter().map(say).collect();
        use Bad::{Enough, Nothing};
        assert_eq!(said, [Nothing, Nothing, Nothing, Nothing, Nothing, Enough(3), Enough(4)]);
        assert!(circuit.is_closed(), "it is the caller who opens");
    }

    #[test]
    fn it_is_tried_out_by_one_request_at_a_time_and_closes_after_enough_good_ones() {
        let circuit = Circuit::default();
        assert_eq!(circuit.open(&LIMITS, 1_000), ms(100));
        assert_eq!(circuit.state(1_040), State::Open(ms(60)));
        assert!(!circuit.admits(1_099) && circuit.admits(1_100));
        assert!(circuit.enter(&LIMITS, 1_100) && !circuit.admits(1_150) && !circuit.enter(&LIMITS, 1_150));
        assert!(!circuit.good(&LIMITS, 1_160) && circuit.admits(1_160));
        // One that never tells keeps the others out for `time` only.
        assert!(circuit.enter(&LIMITS, 1_160) && !circuit.admits(1_259) && circuit.admits(1_260));
        assert!(circuit.good(&LIMITS, 1_270) && circuit.is_closed());
    }

    #[test]
    fn each_failed_trial_doubles_the_time_up_to_the_longest_and_calm_halves_it() {
        let circuit = Circuit::default();
        let mut now = 1_000;
        for expected in [200, 350, 350] {
            let before = if now == 1_000 { circuit.open(&LIMITS, now) } else { ms(0) };
            assert!(before == ms(100) || now != 1_000);
            let State::Open(left) = circuit.state(now) else { panic!("it is not open") };
            now += left.as_millis() as u64;
            assert_eq!(circuit.bad(&LIMITS, now), Bad::Reopened(ms(expected)));
        }
        // What comes of requests from before changes nothing.
        assert_eq!(circuit.bad(&LIMITS, now + 1), Bad::Nothing);
        assert!(!circuit.good(&LIMITS, now + 1));
        now += 350;
        assert!(!circuit.good(&LIMITS, now) && circuit.good(&LIMITS, now) && circuit.is_closed());
        for _ in 0..3 {
            circuit.calm();
        }
        assert_eq!(circuit.open(&LIMITS, now), ms(200));
        let forgiving = Limits { forgives: true, ..LIMITS };
        assert!(!circuit.good(&forgiving, now + 200) && circuit.good(&forgiving, now + 200));
        assert_eq!(circuit.open(&LIMITS, now), ms(100));
    }

    proptest! {
        #[test]
        fn whatever_happens_it_ends_and_is_tried_again(
            steps in proptest::collection::vec((0u8..5, 0u64..200), 1..200),
        ) {
            let circuit = Circuit::default();
            let mut now = 1;
            for (step, wait) in steps {
                now += wait;
                match step {
                    0 => { circuit.good(&LIMITS, now); }
                    1 => if let Bad::Enough(_) = circuit.bad(&LIMITS, now) { circuit.open(&LIMITS, now); }
                    2 => circuit.calm(),
                    _ => prop_assert_eq!(circuit.admits(now), circuit.enter(&LIMITS, now)),
                }
                if let State::Open(left) = circuit.state(now) {
                    prop_assert!(left <= LIMITS.max_time);
                }
                prop_assert!(circuit.admits(now + 351 + 100), "no request would ever try it again");
            }
        }
    }
}
