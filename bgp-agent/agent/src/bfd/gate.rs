//! Whether BGP may run, as far as BFD is concerned. Pure. RFC 5882 §4.2.

use super::View;
use weir_bfd::State;

/// What BFD says to the BGP session of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The path died: end the session, whatever is true by now.
    pub(crate) end: bool,
    /// Begin no session.
    pub(crate) hold: bool,
}

/// What has to be remembered between two looks.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Strict: BFD has to come up before the first BGP session.
    waiting: bool,
    /// The path died and is not back.
    failed: bool,
    failures_seen: u64,
}

impl Gate {
    /// For a BGP session that begins now.
    pub(crate) fn new(strict: bool, view: Option<&View>) -> Self {
        Self {
            waiting: strict,
            failed: view.is_some_and(|view| view.failures > 0),
            failures_seen: view.map_or(0, |view| view.failures),
        }
    }

    /// Look at the session as it is. Failures are counted, so one that is over already is not missed.
    pub(crate) fn look(&mut self, view: Option<&View>) -> Verdict {
        let Some(view) = view else {
            // Nobody watches the path: nothing is known against it.
            *self = Self { waiting: false, failed: false, failures_seen: 0 };
            return Verdict { end: false, hold: false };
        };
        let end = view.failures > self.failures_seen;
        self.failures_seen = view.failures;
        self.failed |= end;
        // RFC 5882 §4.2: a router that switches BFD off does not say that the path is dead.
        if view.state == State::Up || view.remote_state == State::AdminDown {
            (self.waiting, self.failed) = (false, false);
        }
        Verdict { end, hold: self.waiting || self.failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Verdict = Verdict { end: false, hold: false };
    const HOLD: Verdict = Verdict { end: false, hold: true };

    fn view(state: State, remote_state: State, failures: u64) -> View {
        View { state, remote_state, failures, ..View::wanted() }
    }

    #[test]
    fn bgp_may_come_first_unless_strict() {
        let down = view(State::Down, State::Down, 0);
        assert_eq!(Gate::new(false, Some(&down)).look(Some(&down)), FREE);
        let mut strict = Gate::new(true, Some(&down));
        assert_eq!(strict.look(Some(&down)), HOLD);
        assert_eq!(strict.look(Some(&view(State::Up, State::Up, 0))), FREE);
        // Only the first session waits.
        assert_eq!(strict.look(Some(&down)), FREE);
    }

    #[test]
    fn a_failure_ends_and_holds_until_up() {
        let mut gate = Gate::new(false, None);
        assert_eq!(gate.look(Some(&view(State::Up, State::Up, 0))), FREE);
        assert_eq!(gate.look(Some(&view(State::Down, State::Down, 1))), Verdict { end: true, hold: true });
        assert_eq!(gate.look(Some(&view(State::Init, State::Down, 1))), HOLD);
        assert_eq!(gate.look(Some(&view(State::Up, State::Init, 1))), FREE);
    }

    #[test]
    fn a_failure_that_is_over_already_ends_the_session_too() {
        let mut gate = Gate::new(false, None);
        assert_eq!(gate.look(Some(&view(State::Up, State::Up, 2))), Verdict { end: true, hold: false });
    }

    #[test]
    fn a_router_that_switches_bfd_off_keeps_bgp_and_frees_one_that_is_held() {
        let mut gate = Gate::new(true, None);
        assert_eq!(gate.look(Some(&view(State::Down, State::AdminDown, 0))), FREE);
        assert_eq!(gate.look(Some(&view(State::Down, State::Down, 0))), FREE);
        assert!(gate.look(Some(&view(State::Down, State::Down, 1))).end);
        assert_eq!(gate.look(Some(&view(State::Down, State::AdminDown, 1))), FREE);
    }

    #[test]
    fn a_session_that_begins_over_a_dead_path_is_held() {
        let dead = view(State::Down, State::Down, 3);
        assert_eq!(Gate::new(false, Some(&dead)).look(Some(&dead)), HOLD);
        let back = view(State::Up, State::Up, 3);
        assert_eq!(Gate::new(false, Some(&back)).look(Some(&back)), FREE);
    }

    #[test]
    fn without_bfd_nothing_is_held() {
        let mut gate = Gate::new(true, None);
        assert_eq!(gate.look(None), FREE);
        let mut gate = Gate::new(false, Some(&view(State::Down, State::Down, 1)));
        assert_eq!(gate.look(None), FREE);
    }
}
