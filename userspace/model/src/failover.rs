//! Failovers: an operator's wish, with a reason and an end, that traffic leaves a zone.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{Name, Percent, Timestamp};

/// Traffic leaves a zone until `expires`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    /// The zone traffic leaves.
    pub zone: Name,
    /// What leaves it.
    #[serde(default)]
    pub scope: FailoverScope,
    /// How much of what the zone would carry leaves it.
    #[serde(default = "full")]
    pub percent: Percent,
    /// When it was created.
    pub created: Timestamp,
    /// When it ends by itself.
    pub expires: Timestamp,
    /// Why, for the colleague who finds it at night.
    #[serde(default)]
    pub reason: String,
    /// Who created it.
    #[serde(default)]
    pub author: String,
}

impl Failover {
    /// Whether it is in force at `now`.
    pub fn is_active(&self, now: SystemTime) -> bool {
        now < self.expires.0
    }
}

/// What a failover moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverScope {
    /// Every pool.
    #[default]
    Everything,
    /// One pool.
    Pool(Name),
}

fn full() -> Percent {
    Percent::FULL
}
