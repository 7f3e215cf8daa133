//! One VIP's verdict through time: rise and fall, damping of flaps, the last while before a withdrawal. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use weir_model::status::Tier;
use weir_model::{Announce, KeptAnnounce};

/// A VIP that stays announced so long is forgiven one withdrawal.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// The verdict on one VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) announced: bool,
    /// How well, while it is.
    pub(crate) tier: Tier,
    /// Why; one line for people.
    pub(crate) reason: String,
    /// Since when `announced` is what it is; `None` when it has been so from the start.
    pub(crate) since: Option<Instant>,
    /// The addresses of the VIP the datapath has confirmed (all, when it is not asked).
    pub(super) confirmed: BTreeSet<IpAddr>,
    /// The opposite verdict stands since then and waits for rise or fall.
    pub(super) turning_since: Option<Instant>,
    /// It leaves since then, and says so to the routers.
    leaving_since: Option<Instant>,
    /// Since then another tier is due, and waits for rise or fall.
    shifting_since: Option<Instant>,
    /// When it was last announced, withdrawn, or announced otherwise.
    changed_at: Option<Instant>,
    /// Withdrawals, and changes for the worse, that are not forgiven yet.
    flaps: u32,
    /// Its withdrawal is in the budget.
    pub(super) is_paid: bool,
    /// Why it stays announced although it should turn.
    pub(crate) kept: Option<Kept>,
}

/// Why a VIP stays announced although it should be withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nobody else announces it.
    Last,
    /// Too many were withdrawn within a minute.
    Budget,
}

/// What one look at a VIP says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// An operator's word: at once.
    Say(bool, String),
    /// Can be delivered; after `rise`.
    Good(Tier, String),
    /// Cannot; after `fall`.
    Bad(Fault, String),
    /// Nobody knows, or safety forbids the change; as before.
    Hold(String),
}

/// Whose fault it is that a VIP cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// This host and its datapath, which it knows.
    Own,
    /// What lies beyond, seen from here: it may as well be the seeing.
    Beyond,
}

impl Verdict {
    /// Returns when to look again, if something is about to happen by itself.
    pub(super) fn take(&mut self, look: Look, spec: &Announce, now: Instant) -> Option<Instant> {
        let is_checked = matches!(look, Look::Bad(..));
        let is_said = matches!(look, Look::Say(..));
        self.kept = None;
        let (good, tier, reason, wait) = match look {
            Look::Hold(reason) => {
                (self.turning_since, self.shifting_since, self.is_paid) = (None, None, false);
                self.reason = reason;
                return None;
            }
            Look::Say(good, reason) => (good, Tier::Normal, reason, Duration::ZERO),
            Look::Good(tier, reason) => (true, tier, reason, self.rise(spec, now)),
            Look::Bad(_, reason) => (false, self.tier, reason, spec.fall),
        };
        if good == self.announced {
            (self.turning_since, self.leaving_since, self.is_paid) = (None, None, false);
            let wait = if tier > self.tier && !is_said { spec.fall } else { wait };
            return self.shift(tier, reason, wait, now);
        }
        self.shifting_since = None;
        let since = *self.turning_since.get_or_insert(now);
        let due = since + wait;
        if due > now {
            let word = if good { "announced" } else { "withdrawn" };
            self.reason = format!("{reason}; {word} if it stays so for {wait:?}");
            return Some(due);
        }
        if !good && !spec.graceful_shutdown.is_zero() {
            let due = *self.leaving_since.get_or_insert(now) + spec.graceful_shutdown;
            if due > now {
                self.tier = Tier::GracefulShutdown;
                self.reason = format!("{reason}; routers are asked to find another way first");
                return Some(due);
            }
        }
        // An operator who says so is no flap.
        if is_checked {
            self.flaps = self.unforgiven(now).saturating_add(1);
        }
        self.announced = good;
        (self.since, self.changed_at) = (Some(now), Some(now));
        (self.turning_since, self.leaving_since, self.is_paid) = (None, None, false);
        (self.tier, self.reason) = (tier, reason);
        None
    }

    /// Stays announced, or withdrawn, perhaps better or worse than before: after `wait`, as every change. One that was about to leave
    /// comes back at once.
    fn shift(&mut self, tier: Tier, reason: String, wait: Duration, now: Instant) -> Option<Instant> {
        self.reason = reason;
        if !self.announced || tier == self.tier || self.tier == Tier::GracefulShutdown {
            self.tier = tier;
            self.shifting_since = None;
            return None;
        }
        let due = *self.shifting_since.get_or_insert(now) + wait;
        if due > now {
            let word = if tier > self.tier { "worse" } else { "as good as any" };
            self.reason += &format!("; {word} if it stays so for {wait:?}");
            return Some(due);
        }
        if tier > self.tier {
            self.flaps = self.unforgiven(now).saturating_add(1);
        }
        self.tier = tier;
        (self.shifting_since, self.changed_at) = (None, Some(now));
        None
    }

    /// Since when it should be withdrawn and waits for `fall`.
    pub(super) fn turns(&mut self, now: Instant) -> Instant {
        self.shifting_since = None;
        *self.turning_since.get_or_insert(now)
    }

    /// Stays announced although it should turn, which it goes on waiting for.
    pub(super) fn keep(&mut self, kept: Kept, worth: KeptAnnounce, reason: String) {
        let was_leaving = self.leaving_since.take().is_some();
        match worth {
            KeptAnnounce::Worse => self.tier = Tier::Worse,
            KeptAnnounce::Same if was_leaving => self.tier = Tier::Normal,
            KeptAnnounce::Same => {}
        }
        self.kept = Some(kept);
        self.reason = reason;
    }

    /// Those not forgiven by now.
    fn unforgiven(&self, now: Instant) -> u32 {
        let stood = self.changed_at.filter(|_| self.announced).map_or(Duration::ZERO, |since| now - since);
        let forgiven = stood.as_secs() / FORGIVEN_AFTER.as_secs();
        self.flaps.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    /// The first withdrawal costs nothing: what comes once is no flapping.
    fn rise(&self, spec: &Announce, now: Instant) -> Duration {
        let doublings = self.unforgiven(now).saturating_sub(1).min(16);
        spec.rise.saturating_mul(1 << doublings).min(spec.rise_max.max(spec.rise))
    }
}
