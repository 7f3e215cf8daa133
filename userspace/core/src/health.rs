//! Health of one check target: when to probe, and what the results mean.
//!
//! The machine opens no connection: the shell runs the probe it is handed and reports the outcome. Which servers take
//! traffic because of it is `routing::assess`.
//!
//! ```text
//!             first result decides at once
//!            ┌────────────────┬─────────────────┐
//!            ▼                ▼                 ▼
//!          ┌────┐ fall ×✗  ┌──────┐  drain  ┌──────────┐
//!          │ Up │─────────►│ Down │────────►│ Draining │
//!          │    │◄─────────│      │◄────────│          │
//!          └────┘ rise ×✓  └──────┘ fall ×✗ └──────────┘
//!            │  ▲               drain            ▲  │
//!            │  └──────────────── rise ×✓ ───────┼──┘
//!            └───────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use weir_model::{Check, Node, status::Health};

use crate::hash;

mod agent;
pub mod circuit;
pub mod eject;
mod view;

use agent::Agent;
pub use agent::{ANSWER_LEN_MAX as AGENT_ANSWER_LEN_MAX, Said, Wish};
pub use view::HealthView;

/// The shortest time from the start of one probe to the start of the next, whatever asks for it: a thousand failing
/// requests in a millisecond are one reason to look again, not a thousand.
pub const PROBE_GAP_MIN: Duration = Duration::from_millis(10);

/// When to probe, and how many results in a row decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the start of one probe to the start of the next, spread by ±10 %.
    pub interval: Duration,
    /// The same while the last results contradict what is known, though not for long enough.
    pub fast_interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// Successes in a row that bring the target up.
    pub rise: u32,
    /// Failures in a row that bring it down.
    pub fall: u32,
}

impl From<&Check> for Timing {
    fn from(check: &Check) -> Self {
        Self {
            interval: check.interval,
            fast_interval: check.fast_interval.unwrap_or(check.interval),
            timeout: check.timeout,
            rise: check.rise,
            fall: check.fall,
        }
    }
}

impl From<&Node> for Timing {
    fn from(node: &Node) -> Self {
        Self {
            interval: node.probe_interval,
            fast_interval: node.probe_interval,
            timeout: node.probe_timeout,
            rise: node.probe_rise,
            fall: node.probe_fall,
        }
    }
}

/// The health of what is probed in two ways and needs both: a wish to drain counts while it can be reached.
pub fn both(direct: Health, path: Health) -> Health {
    match (direct, path) {
        (Health::Down, _) | (_, Health::Down) => Health::Down,
        (Health::Unknown, _) | (_, Health::Unknown) => Health::Unknown,
        (Health::Draining, _) | (_, Health::Draining) => Health::Draining,
        (Health::Up, Health::Up) => Health::Up,
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It serves.
    Pass,
    /// It serves, and asks for no new flows.
    Drain,
    /// It does not serve, and why.
    Fail(String),
    /// It says itself that it does not serve, and why: there is nothing to confirm.
    Stop(String),
    /// Its agent says this.
    Said(Said),
}

/// A probe for the shell to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Returned with its outcome, so that the outcome of an abandoned probe is recognised.
    pub id: u64,
    /// How long it may take; afterwards the machine counts a failure by itself.
    pub timeout: Duration,
}

/// The health of the target changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: Health,
    /// What it is; the same when only the weight changed.
    pub to: Health,
    /// The share of its weight its agent asks for, in hundredths.
    pub weight_percent: u32,
    /// Why.
    pub reason: String,
}

/// What results in a row mean: the machine above without a schedule.
#[derive(Clone, Debug)]
pub struct Standing {
    health: Health,
    reason: String,
    /// Results in a row that contradict `health`.
    streak: u32,
    agent: Agent,
}

impl Default for Standing {
    fn default() -> Self {
        Self { health: Health::Unknown, reason: "not checked yet".into(), streak: 0, agent: Agent::default() }
    }
}

impl Standing {
    /// What is known now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Why; the last failure while a target that is up has failed less than `fall` times.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The share of its weight its agent asks for, in hundredths; all of it where there is none.
    pub fn weight_percent(&self) -> u32 {
        self.agent.weight_percent()
    }

    /// Notes a result; returns the health before, if it is another one now.
    pub fn note(&mut self, outcome: Outcome, rise: u32, fall: u32) -> Option<Health> {
        let (seen, fall, reason) = match outcome {
            Outcome::Pass => (Health::Up, fall, "check passed".to_owned()),
            Outcome::Drain => (Health::Draining, fall, "server asks for no new flows".to_owned()),
            Outcome::Fail(reason) => (Health::Down, fall, reason),
            Outcome::Stop(reason) => (Health::Down, 1, reason),
            Outcome::Said(said) => {
                let outcome = self.agent.hear(said);
                return self.note(outcome, rise, fall);
            }
        };
        let needed = match (self.health, seen) {
            // The first result decides: a fresh proxy must not wait `rise` intervals before it serves.
            (Health::Unknown, _) => 1,
            // A wish to drain costs nothing to obey, and obeying late loses requests.
            (Health::Up | Health::Down, Health::Draining) => 1,
            (Health::Up | Health::Draining, Health::Down) => fall,
            (Health::Down | Health::Draining, Health::Up) => rise,
            (Health::Up, Health::Up)
            | (Health::Down, Health::Down)
            | (Health::Draining, Health::Draining)
            | (_, Health::Unknown) => {
                self.streak = 0;
                self.reason = reason;
                return None;
            }
        };
        self.streak += 1;
        if self.streak < needed {
            self.reason = match seen {
                Health::Down => format!("{reason} ({} of {needed} failures)", self.streak),
                _ => format!("{reason} ({} of {needed})", self.streak),
            };
            return None;
        }
        self.streak = 0;
        self.reason = reason;
        Some(std::mem::replace(&mut self.health, seen))
    }

    /// Whether the last results contradict what is known, though not for long enough.
    fn is_turning(&self) -> bool {
        self.streak > 0
    }
}

/// The machine of one check target.
#[derive(Debug)]
pub struct HealthMachine {
    timing: Timing,
    random: u64,
    standing: Standing,
    /// A live request failed since the last successful probe: probes follow quickly until it is clear why.
    suspect: bool,
    schedule: Schedule,
    last_start: Option<Instant>,
    next_id: u64,
    transition: Option<Transition>,
    /// The weight the listener knows.
    told_weight: u32,
}

#[derive(Clone, Copy, Debug)]
enum Schedule {
    Waiting { due: Instant },
    Ready { id: u64 },
    Running { id: u64, started: Instant, deadline: Instant },
}

impl HealthMachine {
    /// A machine that knows nothing yet. `seed` (say, a hash of host and target) spreads the probes of many machines:
    /// the first is due within a tenth of the interval.
    pub fn new(timing: Timing, seed: u64, now: Instant) -> Self {
        let random = hash::mix(seed);
        let due = now + (timing.interval / 10).mul_f64(hash::unit(random));
        Self {
            timing,
            random,
            standing: Standing::default(),
            suspect: false,
            schedule: Schedule::Waiting { due },
            last_start: None,
            next_id: 0,
            transition: None,
            told_weight: 100,
        }
    }

    /// What is known now.
    pub fn health(&self) -> Health {
        self.standing.health()
    }

    /// Why; the last failure while a target that is up has failed less than `fall` times.
    pub fn reason(&self) -> &str {
        self.standing.reason()
    }

    /// Other timing from the next probe on; what is known stays.
    pub fn set_timing(&mut self, timing: Timing, now: Instant) {
        self.timing = timing;
        if let Schedule::Waiting { due } = self.schedule {
            self.schedule = Schedule::Waiting { due: due.min(now + timing.interval) };
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; `None` while a probe waits to be taken.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.schedule {
            Schedule::Waiting { due } => Some(due),
            Schedule::Ready { .. } => None,
            Schedule::Running { deadline, .. } => Some(deadline),
        }
    }

    /// Starts a probe that is due, or gives up one that takes too long. Does nothing when called too early.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.schedule {
            Schedule::Waiting { due } if due <= now => {
                self.schedule = Schedule::Ready { id: self.next_id };
                self.next_id += 1;
            }
            Schedule::Running { started, deadline, .. } if deadline <= now => {
                let timeout = weir_model::units::duration::print(self.timing.timeout);
                self.finish(Outcome::Fail(format!("no answer within {timeout}")), started, now);
            }
            Schedule::Waiting { .. } | Schedule::Ready { .. } | Schedule::Running { .. } => {}
        }
    }

    /// The probe to run now, once; its time runs from here.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Probe> {
        let Schedule::Ready { id } = self.schedule else { return None };
        let timeout = self.timing.timeout;
        self.schedule = Schedule::Running { id, started: now, deadline: now + timeout };
        self.last_start = Some(now);
        Some(Probe { id, timeout })
    }

    /// The outcome of probe `id`; that of an abandoned probe is ignored.
    pub fn handle_result(&mut self, id: u64, outcome: Outcome, now: Instant) {
        if let Schedule::Running { id: running, started, .. } = self.schedule
            && running == id
        {
            self.finish(outcome, started, now);
        }
    }

    /// Probe `id` could not be made, which says nothing about the target: what is known stays, and the next is due in time.
    pub fn handle_unmade(&mut self, id: u64, now: Instant) {
        if let Schedule::Running { id: running, started, .. } = self.schedule
            && running == id
        {
            self.suspect = false;
            self.wait(started, now);
        }
    }

    /// A live request could not be served: look again at once, and keep looking quickly until it is clear.
    pub fn report_failure(&mut self, now: Instant) {
        if self.health() != Health::Down {
            self.suspect = true;
            self.look_now(now);
        }
    }

    /// Something about the target changed: look again at once, whatever is known of it.
    pub fn look_now(&mut self, now: Instant) {
        if let Schedule::Waiting { due } = self.schedule {
            self.schedule = Schedule::Waiting { due: due.min(self.earliest(now)) };
        }
    }

    /// The latest change of health or weight, once.
    pub fn poll_event(&mut self) -> Option<Transition> {
        let transition = self.transition.take()?;
        self.told_weight = transition.weight_percent;
        Some(transition)
    }

    fn finish(&mut self, outcome: Outcome, started: Instant, now: Instant) {
        self.judge(outcome);
        self.wait(started, now);
    }

    /// For the probe after one that started then.
    fn wait(&mut self, started: Instant, now: Instant) {
        let due = if self.suspect {
            self.earliest(now)
        } else {
            self.random = hash::mix(self.random);
            let interval =
                if self.standing.is_turning() { self.timing.fast_interval } else { self.timing.interval };
            started + interval.mul_f64(0.9 + 0.2 * hash::unit(self.random))
        };
        self.schedule = Schedule::Waiting { due: due.max(self.earliest(now)) };
    }

    fn judge(&mut self, outcome: Outcome) {
        let is_failure = matches!(outcome, Outcome::Fail(_));
        let weight_before = self.standing.weight_percent();
        let before = self.standing.note(outcome, self.timing.rise, self.timing.fall);
        self.suspect &= is_failure && self.standing.is_turning();
        let weight_percent = self.standing.weight_percent();
        if before.is_none() && weight_percent == weight_before {
            return;
        }
        let before = before.unwrap_or(self.health());
        // Two changes that nobody polled in between are told as one, from where the listener last stood.
        let earlier = self.transition.take();
        let (from, to) = (earlier.as_ref().map_or(before, |earlier| earlier.from), self.health());
        let is_news = from != to || self.told_weight != weight_percent;
        self.transition =
            is_news.then(|| Transition { from, to, weight_percent, reason: self.reason().to_owned() });
    }

    fn earliest(&self, now: Instant) -> Instant {
        self.last_start.map_or(now, |start| now.max(start + PROBE_GAP_MIN))
    }
}

#[cfg(test)]
mod tests;
