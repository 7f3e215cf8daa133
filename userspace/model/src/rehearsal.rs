//! What `weir-bgp` would say to its routers if it took another configuration: asked by `weir bgp diff`, answered by `weir-bgp`.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Generation, Name, Problem, SourceFile,
    status::{RouteStatus, Tier},
    units,
};

/// The page of `bgp.sock` that takes a [`Candidate`] and answers with a [`Rehearsal`].
pub const REHEARSAL_PAGE: &str = "/rehearse";

/// The configuration that might be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Its files, in the order of their paths.
    pub files: Vec<SourceFile>,
}

/// What would follow. Times count from when the candidate is taken; nothing that health may bring meanwhile is in them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// The node.
    pub node: String,
    /// What is in force; absent where no `weir-bgp` runs, and all is as if it started.
    pub in_force: Option<Generation>,
    /// The candidate.
    pub candidate: Generation,
    /// Why the daemons would not take it, unless it is said to be meant.
    pub refused: Option<Problem>,
    /// What was taken for granted.
    pub assumed: Vec<String>,
    /// What becomes of VIPs, where anything does.
    pub vips: Vec<VipChange>,
    /// What each session would say.
    pub peers: BTreeMap<Name, PeerRehearsal>,
}

impl Rehearsal {
    /// Routers are told nothing new, and no session ends or begins.
    pub fn is_silent(&self) -> bool {
        self.peers.values().all(|peer| peer.session == "stays" && peer.says.is_empty())
    }
}

/// A VIP that is announced, withdrawn, or announced otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipChange {
    /// The VIP.
    pub vip: Name,
    /// When.
    #[serde(with = "units::duration")]
    pub after: Duration,
    /// Whether it is announced then.
    pub announced: bool,
    /// How well, if it is.
    pub tier: Tier,
    /// Why.
    pub reason: String,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRehearsal {
    /// Where the router is.
    pub address: String,
    /// What becomes of it: `stays`, or in words.
    pub session: String,
    /// The messages, in their order.
    pub says: Vec<SaidMessage>,
    /// Prefixes the router would not be told, and why.
    pub refused: BTreeMap<String, String>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaidMessage {
    /// When.
    #[serde(with = "units::duration")]
    pub after: Duration,
    /// What it is.
    pub kind: SaidKind,
    /// The routes it announces.
    pub announced: Vec<RouteStatus>,
    /// The prefixes it withdraws.
    pub withdrawn: Vec<String>,
    /// A family, or a text; empty for most.
    pub note: String,
    /// The whole message, in hex.
    pub bytes: String,
}

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SaidKind {
    /// An UPDATE that announces.
    Announce,
    /// An UPDATE that withdraws.
    Withdraw,
    /// An UPDATE that says that these were all. RFC 4724 §2.
    EndOfRib,
    /// A NOTIFICATION.
    Notification,
    /// A mark of a refresh. RFC 7313.
    Refresh,
}
