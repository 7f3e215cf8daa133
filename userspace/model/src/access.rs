//! Access lists: sources that may not come to a VIP, or alone may.

use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Name, Timestamp};

/// Prefixes of sources, and what becomes of their packets. The longest prefix that holds a source decides, in whichever list it
/// stands; of equals that of a list for the VIP itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessList {
    /// Whether sources of the entries are blocked or let in.
    pub action: AccessAction,
    /// The VIPs it holds for; all when it names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<Name>,
    /// What becomes, at these VIPs, of sources that no list names.
    #[serde(default, skip_serializing_if = "is_allow")]
    pub default: AccessAction,
    /// The prefixes.
    #[serde(default)]
    pub entries: Vec<AccessEntry>,
}

/// What becomes of a source's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessAction {
    /// They are let in.
    #[default]
    Allow,
    /// They are dropped.
    Block,
}

/// One prefix of an access list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessEntry {
    /// The sources.
    pub prefix: IpNet,
    /// When it ends by itself; without, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Why, for the colleague who finds it at night.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
}

impl AccessEntry {
    /// Whether it is in force at `now`.
    pub fn is_active(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now < until.0)
    }
}

fn is_allow(action: &AccessAction) -> bool {
    *action == AccessAction::Allow
}
