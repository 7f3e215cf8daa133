//! What balancers are told who ask whether the proxy is ready.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use weir_model::Name;
use weir_runtime::status::Health;

/// What `/healthz` says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Healthz {
    pub(crate) state: Arc<AtomicU8>,
    /// Groups all of whose VIPs are served here.
    pub(crate) groups: Arc<ArcSwap<BTreeSet<Name>>>,
}

impl Healthz {
    pub(crate) const STARTING: u8 = 0;
    pub(crate) const OK: u8 = 1;
    pub(crate) const DRAINING: u8 = 2;

    pub(crate) fn now(&self) -> Health {
        match self.state.load(Relaxed) {
            Self::STARTING => Health::Starting,
            Self::OK => Health::Ok,
            _ => Health::Draining,
        }
    }

    /// The answer to a balancer that asks for groups, as in `group=edge&group=internal`.
    pub(crate) fn of_groups(&self, query: &str) -> Health {
        let groups = self.groups.load();
        let serves = |pair: &str| pair.strip_prefix("group=").is_none_or(|group| groups.contains(group));
        match self.now() {
            Health::Ok if !query.split('&').all(serves) => Health::Starting,
            health => health,
        }
    }
}
