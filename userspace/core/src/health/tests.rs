use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing {
    interval: Duration::from_secs(1),
    fast_interval: Duration::from_secs(1),
    timeout: Duration::from_millis(500),
    rise: 2,
    fall: 3,
};

/// A machine and its virtual clock.
struct Bench {
    machine: HealthMachine,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Self { machine: HealthMachine::new(TIMING, 7, now), start: now, now }
    }

    /// Lets time pass until a probe is handed out.
    fn probe(&mut self) -> Probe {
        for _ in 0..3 {
            if let Some(probe) = self.machine.poll_probe(self.now) {
                return probe;
            }
            let due = self.machine.poll_timeout().expect("no deadline and no probe");
            self.now = self.now.max(due);
            self.machine.handle_timeout(self.now);
        }
        panic!("no probe became due");
    }

    fn result(&mut self, outcome: Outcome) -> Option<(Health, Health)> {
        let probe = self.probe();
        self.machine.handle_result(probe.id, outcome, self.now);
        self.machine.poll_event().map(|t| (t.from, t.to))
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}

fn fail() -> Outcome {
    Outcome::Fail("connection refused".into())
}

#[test]
fn the_first_result_decides_within_a_tenth_of_the_interval() {
    for (outcome, health) in
        [(Outcome::Pass, Health::Up), (fail(), Health::Down), (Outcome::Drain, Health::Draining)]
    {
        let mut b = Bench::new();
        assert_eq!(b.machine.health(), Health::Unknown);
        assert_eq!(b.result(outcome), Some((Health::Unknown, health)));
        assert!(b.elapsed() <= TIMING.interval / 10);
    }
}

#[test]
fn results_in_a_row_decide_as_the_table_says() {
    use Health::{Down, Draining, Up};
    type Step = (char, Option<(Health, Health)>);
    let cases: &[(&str, &[Step])] = &[
        ("three failures", &[('+', None), ('-', None), ('-', None), ('-', Some((Up, Down)))]),
        (
            "a success in between",
            &[('+', None), ('-', None), ('-', None), ('+', None), ('-', None), ('-', None)],
        ),
        ("two successes", &[('-', None), ('+', None), ('+', Some((Down, Up)))]),
        ("a failure in between", &[('-', None), ('+', None), ('-', None), ('+', None)]),
        (
            "drain at once, back by rise",
            &[('+', None), ('d', Some((Up, Draining))), ('+', None), ('+', Some((Draining, Up)))],
        ),
        ("drain, then death", &[('d', None), ('-', None), ('-', None), ('-', Some((Draining, Down)))]),
        ("from the dead into draining", &[('-', None), ('d', Some((Down, Draining)))]),
    ];
    for (what, results) in cases {
        let mut b = Bench::new();
        for (n, (result, expected)) in results.iter().enumerate() {
            let outcome = match result {
                '+' => Outcome::Pass,
                'd' => Outcome::Drain,
                _ => fail(),
            };
            let seen = b.result(outcome);
            if n > 0 {
                assert_eq!(seen, *expected, "{what}, result {n}");
            }
        }
    }
}

#[test]
fn a_probe_that_takes_too_long_is_a_failure_and_its_late_result_nothing() {
    let mut b = Bench::new();
    let probe = b.probe();
    b.machine.handle_timeout(b.now + TIMING.timeout - Duration::from_millis(1));
    assert_eq!(b.machine.poll_event(), None);
    b.now += TIMING.timeout;
    b.machine.handle_timeout(b.now);
    let transition = b.machine.poll_event().unwrap();
    assert_eq!((transition.to, transition.reason.as_str()), (Health::Down, "no answer within 500ms"));
    b.machine.handle_result(probe.id, Outcome::Pass, b.now);
    assert_eq!((b.machine.health(), b.machine.poll_event()), (Health::Down, None));
}

#[test]
fn a_failed_request_finds_a_dead_server_within_milliseconds() {
    let mut b = Bench::new();
    b.result(Outcome::Pass);
    b.now += Duration::from_millis(200);
    let reported = b.now;
    b.machine.report_failure(b.now);
    assert_eq!(b.machine.poll_timeout(), Some(b.now), "the next probe is due at once");
    assert_eq!((b.result(fail()), b.result(fail())), (None, None));
    assert_eq!(b.result(fail()), Some((Health::Up, Health::Down)));
    assert!(b.now - reported <= 3 * PROBE_GAP_MIN);
    // Afterwards the dead server is probed at the ordinary pace.
    let found = b.now;
    b.probe();
    assert!(b.now - found >= TIMING.interval.mul_f64(0.8));
}

#[test]
fn one_lost_request_of_a_healthy_server_costs_one_probe() {
    let mut b = Bench::new();
    b.result(Outcome::Pass);
    for _ in 0..1_000 {
        b.machine.report_failure(b.now);
    }
    let reported = b.now;
    b.result(Outcome::Pass);
    assert!(b.now - reported <= PROBE_GAP_MIN);
    b.probe();
    assert!(b.now - reported >= TIMING.interval.mul_f64(0.9));
    assert_eq!(b.machine.health(), Health::Up);
}

#[test]
fn a_failure_reported_during_a_probe_keeps_the_machine_suspicious() {
    let mut b = Bench::new();
    b.result(Outcome::Pass);
    let probe = b.probe();
    b.machine.report_failure(b.now);
    b.machine.handle_result(probe.id, fail(), b.now);
    let failed = b.now;
    b.probe();
    assert!(b.now - failed <= PROBE_GAP_MIN);
}

#[test]
fn the_reason_tells_how_far_a_server_is_from_falling() {
    let mut b = Bench::new();
    b.result(Outcome::Pass);
    b.result(fail());
    assert_eq!(b.machine.reason(), "connection refused (1 of 3 failures)");
}

#[test]
fn a_shorter_interval_takes_effect_before_the_old_one_ends() {
    let mut b = Bench::new();
    b.machine.set_timing(Timing { interval: Duration::from_secs(3_600), ..TIMING }, b.now);
    b.result(Outcome::Pass);
    b.machine.set_timing(TIMING, b.now);
    assert!(b.machine.poll_timeout().unwrap() <= b.now + TIMING.interval);
    assert_eq!(b.machine.health(), Health::Up);
}

proptest! {
    #[test]
    fn probes_keep_their_distance_whatever_happens(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0u8..5, 0u64..2_000), 1..200),
    ) {
        let mut now = Instant::now();
        let mut machine = HealthMachine::new(TIMING, seed, now);
        let (mut last_start, mut running, mut known) = (None, None, Health::Unknown);
        for (step, wait_ms) in steps {
            now += Duration::from_millis(wait_ms);
            match step {
                0 => machine.report_failure(now),
                1 => machine.handle_timeout(now),
                _ => if let Some(id) = running.take() {
                    let outcome = [fail(), Outcome::Pass, Outcome::Drain][usize::from(step) - 2].clone();
                    machine.handle_result(id, outcome, now);
                },
            }
            machine.handle_timeout(now);
            if let Some(probe) = machine.poll_probe(now) {
                if let Some(last) = last_start {
                    prop_assert!(now - last >= PROBE_GAP_MIN);
                }
                (last_start, running) = (Some(now), Some(probe.id));
                prop_assert_eq!(machine.poll_probe(now), None);
            }
            let due = machine.poll_timeout().expect("a probe that was taken leaves a deadline");
            prop_assert!(due <= now + TIMING.interval.mul_f64(1.1));
            if let Some(t) = machine.poll_event() {
                prop_assert_eq!(t.from, known);
                prop_assert_ne!(t.from, t.to);
                known = t.to;
            }
            prop_assert_eq!(known, machine.health());
        }
    }
}

#[test]
fn a_probe_that_could_not_be_made_says_nothing_and_the_next_is_due_in_time() {
    let mut b = Bench::new();
    let first = b.probe();
    b.machine.handle_unmade(first.id, b.now);
    assert_eq!((b.machine.health(), b.machine.poll_event()), (Health::Unknown, None));
    assert_eq!(b.result(Outcome::Pass), Some((Health::Unknown, Health::Up)));
    // As often as it likes: no failure is counted.
    for _ in 0..10 {
        let (before, probe) = (b.now, b.probe());
        assert!(b.now - before >= TIMING.interval.mul_f64(0.9));
        b.machine.handle_unmade(probe.id, b.now);
    }
    assert_eq!(b.machine.health(), Health::Up);
    // That of an abandoned probe is ignored.
    b.machine.handle_unmade(first.id, b.now);
}

#[test]
fn a_target_that_changed_is_looked_at_at_once_even_if_it_is_down() {
    for outcome in [Outcome::Pass, fail()] {
        let mut b = Bench::new();
        b.result(outcome);
        b.now += PROBE_GAP_MIN;
        let before = b.now;
        b.machine.look_now(before);
        b.probe();
        assert_eq!(b.now, before);
    }
}

#[test]
fn a_target_that_is_changing_is_probed_at_the_fast_pace_and_no_other() {
    let mut b = Bench::new();
    b.machine.set_timing(Timing { fast_interval: Duration::from_millis(100), ..TIMING }, b.now);
    let took = |b: &mut Bench, outcome| {
        let before = b.now;
        b.result(outcome);
        b.now - before
    };
    let (slow, fast) = (TIMING.interval.mul_f64(0.9), Duration::from_millis(110));
    b.result(Outcome::Pass);
    // The second and third failures follow the first quickly; a server that is down is looked at as ever, until it turns.
    assert!(took(&mut b, fail()) >= slow);
    assert!(took(&mut b, fail()) <= fast);
    assert!(took(&mut b, fail()) <= fast);
    assert_eq!(b.machine.health(), Health::Down);
    assert!(took(&mut b, Outcome::Pass) >= slow);
    assert!(took(&mut b, Outcome::Pass) <= fast);
    assert_eq!(b.machine.health(), Health::Up);
    assert!(took(&mut b, Outcome::Pass) >= slow);
}

#[test]
fn an_agent_takes_its_host_out_at_once_and_changes_its_weight() {
    let said = |line: &str| Outcome::Said(Said::read(line.as_bytes()).unwrap());
    let mut b = Bench::new();
    let mut tell = |line: &str| {
        let probe = b.probe();
        b.machine.handle_result(probe.id, said(line), b.now);
        b.machine.poll_event().map(|t| (t.from, t.to, t.weight_percent))
    };
    use Health::{Down, Draining, Unknown, Up};
    assert_eq!(tell("up 75%"), Some((Unknown, Up, 75)));
    assert_eq!(tell("up 75%"), None);
    assert_eq!(tell("50%"), Some((Up, Up, 50)));
    assert_eq!(tell("drain"), Some((Up, Draining, 50)));
    assert_eq!(tell("down #disk full"), Some((Draining, Down, 50)));
    assert_eq!(b.machine.reason(), "agent says down: disk full");
    let mut tell = |line: &str| {
        let probe = b.probe();
        b.machine.handle_result(probe.id, said(line), b.now);
        b.machine.poll_event().map(|t| (t.from, t.to, t.weight_percent))
    };
    assert_eq!(tell("ready up 100%"), Some((Down, Down, 100)), "back by rise");
    assert_eq!(tell("up"), Some((Down, Up, 100)));
    assert_eq!(tell("maint"), Some((Up, Down, 100)));
}
