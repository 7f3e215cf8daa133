//! How one row of a table goes from an owner to the next without a flow noticing, on balancers that are not in step.
//!
//! Pure: the age of everything is an argument. Which backend *shall* own a row is [`crate::maglev`]'s business, and the
//! same on every balancer; what a row still has to remember is its own, and decided here.
//!
//! ```text
//!   S0 (X, –)  ──prepare──►  S1 (X, Y)  ──flip──►  S2 (Y, X)  ──settle──►  S3 (Y, –)        (owner, second hop)
//!                              FLIP_DRAIN or FLIP_CALM          flow_hold
//! ```
//!
//! A SYN goes to the owner; everything else to the owner, and on to the second hop when the owner does not know the flow.
//! So a flow is served by a balancer when the host that has it is one of the row's two. What follows, for a change X → Y
//! and two balancers, each of which flows may reach:
//!
//! - **In neighbouring states** (S0 S1, S1 S2) every flow, whichever of the two opened it, is served by both. This is why
//!   a change has two phases. Neighbours S2 and S3 agree on every flow younger than `flow_hold`.
//! - **Two apart**: S0 and S2: flows opened through the one at S2 are at Y, of which S0 knows nothing; those opened before
//!   the change, and through S0, are served by both. S1 and S3: flows of X older than `flow_hold` are lost at S3.
//! - **More** (S0 and S3): both of that. A change that begins before the last one is over is a chain of such changes: a
//!   balancer that is a whole change behind serves the flows whose host is in both rows, and no others.
//!
//! Balancers are in neighbouring states while a change reaches them within [`FLIP_DRAIN`] of each other; where nobody
//! waits for the flip, because the owner may go on taking new flows, within [`FLIP_CALM`].
//!
//! An owner that is dead or no longer configured has no flows to keep: the row flips at once.
//!
//! **A host that is reached by IPIP** can be a second hop, but has none: the packet carries no more than one address. A row
//! of such an owner is settled at once, and a change away from it needs no preparation:
//!
//! ```text
//!   X by GUE, Y by IPIP:   (X, –) ──► (X, Y) ──► (Y, –)     X's flows end at the flip
//!   X by IPIP, Y by GUE:   (X, –) ──► (Y, X)                X's flows go on, new ones of balancers not in step may break
//!   both by IPIP:          (X, –) ──► (Y, –)                X's flows end
//! ```
//!
//! **A second change before the first has settled** finds three hosts with flows, X, Y and Z, and room for two:
//!
//! ```text
//!   Y young, X in service:  (Y, X) ──► (X, Z) ──► (Z, X)     the row goes back to X and from there its two phases
//!   Y young, X drained:     (Y, X) ──► (Z, X)                X shall get no new flows: in one step
//!   else:                   (Y, X) ──► (Y, Z) ──► (Z, Y)     X is forgotten
//! ```
//!
//! Y is young when it has had the row for less than a [`YOUNG`]th of `flow_hold`: X has more flows then. X's flows are
//! served in every state of the first two lines, Y's are lost. In the second line neighbours disagree on the flows opened
//! at Z while one of them is still at (Y, X). When X itself is the one that comes back, or is dead, there is no choice to
//! make and nothing is lost.

use std::time::Duration;

use weir_abi::service::Slot;

/// How long a second hop is in place before it becomes the owner, when the owner shall get no new flows. Drained means no
/// new flow after 100 ms: a change that just missed a step waits for the next one, hence twice this and time to apply.
pub const FLIP_DRAIN: Duration = Duration::from_millis(40);
/// The same when the owner stays in service. Longer than probes need to find a proxy up, so that
/// balancers which learn of a new proxy each by their own probes are in neighbouring states too.
pub const FLIP_CALM: Duration = Duration::from_secs(1);
/// An owner that had a row for less than `flow_hold` ÷ this is forgotten rather than the one before it. With flows that
/// live 1/e of `flow_hold` on average, and as many beginning as ending, the two have the same number at 1 ÷ 4.
pub const YOUNG: u32 = 4;

/// Bit of [`Row::held`]: the owner had the row before the second hop had it, and has it again.
pub(super) const RETURNED: u32 = 1 << 31;

/// The second in which a previous owner that gives up its row `now` begins to be held; never 0, never too early.
pub(super) fn second(now: Duration) -> u32 {
    u32::try_from(now.as_secs() + 1).unwrap_or(u32::MAX).min(RETURNED - 1)
}

/// What a row is decided by, besides itself.
pub(super) struct Rules<'a> {
    pub(super) now: Duration,
    /// When rows of the table last went a step.
    pub(super) stepped: Duration,
    /// Whether that is the start of the balancer, before which nothing is known.
    pub(super) started: bool,
    pub(super) flow_hold: Duration,
    /// By backend slot: may have flows. A dead one may not.
    pub(super) alive: &'a [bool],
    /// By backend slot: shall get new flows.
    pub(super) wanted: &'a [bool],
    /// By backend slot: is reached by a tunnel that carries no second hop.
    pub(super) single: &'a [bool],
}

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) slot: Slot,
    /// Since which second its second hop is a previous owner, at least 1; 0: it has none, or only a coming owner. With
    /// [`RETURNED`] where the owner is the elder.
    pub(super) held: u32,
    /// Whether it went a step.
    pub(super) stepped: bool,
    /// When it wants to be looked at again.
    pub(super) wake: Option<Duration>,
}

impl Rules<'_> {
    fn is_alive(&self, slot: u16) -> bool {
        slot != 0 && self.alive.get(slot as usize).copied().unwrap_or_default()
    }

    fn is_wanted(&self, slot: u16) -> bool {
        self.wanted.get(slot as usize).copied().unwrap_or_default()
    }

    fn is_single(&self, slot: u16) -> bool {
        self.single.get(slot as usize).copied().unwrap_or_default()
    }

    /// When a row that was prepared may take its owner, `owner`, from it.
    fn flip_at(&self, owner: u16) -> Duration {
        self.stepped + if self.is_wanted(owner) { FLIP_CALM } else { FLIP_DRAIN }
    }

    fn hold_ends(&self, held: u32) -> Duration {
        Duration::from_secs((held & !RETURNED).into()) + self.flow_hold
    }

    /// The row that was `before`, held since second `held`, and shall be owned by `target`.
    pub(super) fn next(&self, before: Slot, held: u32, target: u16) -> Row {
        let Slot { owner, previous } = before;
        let previous = if self.is_alive(previous) && previous != target { previous } else { 0 };
        let since = |held: u32| if held == 0 { second(self.now) } else { held };
        let row = |owner, previous, held, stepped| Row {
            slot: Slot { owner, previous },
            held,
            stepped,
            wake: if held == 0 { None } else { Some(self.hold_ends(held)) },
        };
        let keep = |previous, held, stepped| match previous {
            0 => row(target, 0, 0, stepped),
            _ if self.is_single(target) => row(target, 0, 0, stepped),
            _ => row(target, previous, since(held), stepped),
        };
        let wait = |until| {
            let previous = if before.previous == target { target } else { previous };
            let held = if previous == 0 { 0 } else { held };
            Row { slot: Slot { owner, previous }, held, stepped: false, wake: Some(until) }
        };
        if owner == target {
            let over = held != 0 && self.hold_ends(held) <= self.now;
            // A change taken back before its flip: the owner never left.
            let taken_back = held == 0 && !self.started;
            let held = if taken_back { second(self.now) | RETURNED } else { held };
            return if over { row(target, 0, 0, false) } else { keep(previous, held, false) };
        }
        if target == 0 || !self.is_alive(owner) {
            return keep(previous, held, true);
        }
        if self.is_single(owner) {
            // Nothing can be prepared behind it.
            return keep(owner, second(self.now), true);
        }
        if before.previous == target {
            let at = self.flip_at(owner);
            // Of two that swap, the elder stays the elder.
            let returned = if held == 0 { 0 } else { !held & RETURNED };
            return if at <= self.now { keep(owner, second(self.now) | returned, true) } else { wait(at) };
        }
        let at = self.stepped + FLIP_DRAIN;
        if self.now < at && !self.started {
            return wait(at);
        }
        // After a start a second hop is one that is held, as nearly all are.
        let held = if self.started { since(held) } else { held };
        let had_it = self.now.saturating_sub(Duration::from_secs(held.into()));
        let young = previous != 0 && held != 0 && held & RETURNED == 0 && had_it < self.flow_hold / YOUNG;
        if young && !self.is_wanted(previous) {
            return keep(previous, held, true);
        }
        let owner = if young { previous } else { owner };
        let flip_at = self.flip_at(owner) - self.stepped + self.now;
        Row { slot: Slot { owner, previous: target }, held: 0, stepped: true, wake: Some(flip_at) }
    }
}

#[cfg(test)]
mod tests;
