//! How many VIPs may be withdrawn because of health within a minute: a limit for the day on which everything looks dead. Pure.
//!
//! Checks that err, err for many VIPs at once: a backbone that is gone, a certificate that ends, a bad release of the proxy. What
//! lies beyond the budget stays announced, and is withdrawn as the minute passes if it still looks as bad then. So what is really
//! dead goes in the end, and at once as long as it is not too much.
//!
//! What an operator says costs nothing. Nor does a fault of this host while another node is heard that stays: the traffic has
//! somewhere to go, and of all nodes one at least has to say that it stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use weir_model::{Name, Snapshot};

/// What the budget is for.
const WINDOW: Duration = Duration::from_secs(60);

/// So many may go in any minute, however few VIPs there are: of two nobody would call it most of the platform.
const FREE: usize = 2;

/// VIPs withdrawn within the last minute. Bounded by the VIPs there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// When each was last withdrawn: one that flaps is one, and damped elsewhere.
    spent: BTreeMap<Name, Instant>,
    /// The same in the order of time: who asks may be one of very many.
    order: BTreeSet<(Instant, Name)>,
}

impl Budget {
    /// VIPs a minute: what the node says, else half of its VIPs.
    pub(super) fn limit(snapshot: &Snapshot, node: &Name) -> usize {
        let configured = snapshot.nodes.get(node).and_then(|node| node.withdrawals_per_minute);
        match configured {
            Some(limit) => limit as usize,
            None => FREE.max(snapshot.vips_of(node).count() / 2),
        }
    }

    /// Takes the withdrawal of a VIP out of the budget, or says when it fits.
    pub(super) fn spend(&mut self, vip: &Name, limit: usize, now: Instant) -> Result<(), Instant> {
        let before = self.spent.get(vip).copied();
        let others = self.spent.len() - usize::from(before.is_some());
        // A limit that has become smaller counts those that were spent before.
        let over = others.checked_sub(limit);
        let mut others = self.order.iter().filter(|(_, name)| name != vip);
        if let Some((at, _)) = over.and_then(|over| others.nth(over)) {
            return Err(*at + WINDOW);
        }
        if let Some(before) = before {
            self.order.remove(&(before, vip.clone()));
        }
        self.spent.insert(vip.clone(), now);
        self.order.insert((now, vip.clone()));
        Ok(())
    }

    /// How many were spent in the last minute.
    pub(super) fn spent(&self) -> usize {
        self.spent.len()
    }

    /// Time passes.
    pub(super) fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.first()
            && *at + WINDOW <= now
            && let Some((_, vip)) = self.order.pop_first()
        {
            self.spent.remove(&vip);
        }
    }
}
