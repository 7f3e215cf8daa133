//! What the other nodes of a group announce, as they tell us, and whether a VIP may be withdrawn here: not by its last
//! announcer. Pure.
//!
//! A node that wants to withdraw says so, waits for [`SETTLE`], and withdraws only when somebody else stays: one whose verdict is
//! good, or, where all want to, the first of them by name, and that it has said so since (whoever hears of a wish answers). Two that come to want it at once have heard each other by then, as
//! long as the network takes less than half of that. Who cannot be heard is taken for gone: a partition errs towards announcing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use weir_model::{Name, Snapshot};

/// A node that has been silent for so long announces nothing as far as we know: three of its messages.
const SILENT_AFTER: Duration = Duration::from_millis(3_500);

/// From the wish to withdraw to the withdrawal, at least.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// What a node does about a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stance {
    /// Announces it, and means to.
    Announced,
    /// Announces it, and would withdraw it.
    Leaving,
    /// Does not.
    Withdrawn,
}

/// What others said, and when. Bounded by the VIPs and nodes of the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Others {
    heard: BTreeMap<Name, BTreeMap<Name, (Stance, Instant)>>,
}

impl Others {
    /// Another node's word on some VIPs; what the configuration does not know is not remembered.
    pub(crate) fn hear(
        &mut self,
        snapshot: &Snapshot,
        node: &Name,
        vips: impl IntoIterator<Item = (Name, Stance)>,
        now: Instant,
    ) {
        for (vip, stance) in vips {
            let group = snapshot.vips.get(&vip).and_then(|vip| snapshot.groups.get(&vip.group));
            if group.is_some_and(|group| group.nodes.contains(node)) {
                self.heard.entry(vip).or_default().insert(node.clone(), (stance, now));
            }
        }
    }

    /// Forgets VIPs and nodes that are no longer configured, and who has been silent.
    pub(super) fn forget(&mut self, snapshot: &Snapshot, now: Instant) {
        self.heard.retain(|vip, nodes| {
            let group = snapshot.vips.get(vip).and_then(|vip| snapshot.groups.get(&vip.group));
            nodes.retain(|node, (_, at)| {
                *at + SILENT_AFTER > now && group.is_some_and(|group| group.nodes.contains(node))
            });
            !nodes.is_empty()
        });
    }

    /// Who stays when `node` withdraws the VIP, as it has wanted to since then; `None` when nobody has said so after that.
    pub(super) fn who_stays(&self, vip: &Name, node: &Name, since: Instant) -> Option<&Name> {
        let leaving = || self.fresh(vip, Stance::Leaving, since);
        self.who_means_to(vip, since).or_else(|| leaving().find(|other| *other < node))
    }

    /// Who announces the VIP and means to, as said after then.
    pub(super) fn who_means_to(&self, vip: &Name, since: Instant) -> Option<&Name> {
        self.fresh(vip, Stance::Announced, since).next()
    }

    fn fresh(&self, vip: &Name, wanted: Stance, since: Instant) -> impl Iterator<Item = &Name> {
        let nodes = self.heard.get(vip).into_iter().flatten();
        nodes.filter(move |(_, (stance, at))| *stance == wanted && *at > since).map(|(name, _)| name)
    }

    /// As if everybody had just said again what they said last.
    pub(super) fn go_on(&mut self, now: Instant) {
        self.heard.values_mut().flat_map(BTreeMap::values_mut).for_each(|(_, at)| *at = now);
    }

    /// When somebody becomes silent.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.heard.values().flat_map(BTreeMap::values).map(|(_, at)| *at + SILENT_AFTER).min()
    }
}
