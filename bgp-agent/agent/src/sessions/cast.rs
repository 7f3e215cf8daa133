//! The sessions of a rehearsal: what there would be, and copies of what there is.

use std::net::Ipv6Addr;

use tokio::sync::oneshot;
use weir_bgp::Session;
use weir_model::{Name, Snapshot};

use super::{
    Sessions,
    terms::{Link, wishes},
};
use crate::peer::Plan;

/// One session in a rehearsal.
pub(crate) struct Actor {
    pub(crate) name: Name,
    /// Where the router is.
    pub(crate) address: String,
    pub(crate) cast: Cast,
    /// A copy of the session there is.
    pub(crate) now: Option<oneshot::Receiver<Session>>,
}

/// What becomes of a session.
pub(crate) enum Cast {
    /// There is one. `stays`: it is the one there was.
    Plays { object: Box<weir_model::Peer>, own: Option<Ipv6Addr>, plan: Box<Plan>, stays: bool },
    /// There is none, and why.
    Idle(String),
    /// There is none any more.
    Leaves,
}

impl Sessions {
    /// The sessions there would be with another configuration, each with a copy of what it is now. Nothing is changed.
    pub(crate) fn actors(&self, candidate: &Snapshot) -> Vec<Actor> {
        let of_node = || candidate.peers.iter().filter(|(_, peer)| peer.node == self.node);
        let mut secrets = self.secrets.clone();
        secrets.read(of_node().map(|(_, peer)| peer));
        let mut actors = Vec::new();
        let mut seen = Vec::new();
        if let Some(node) = candidate.nodes.get(&self.node) {
            for (name, object) in of_node() {
                let parts = secrets.of(object).and_then(|key| {
                    let link = Link::of(object)?;
                    let remotes = self.remotes(name, object, link.as_ref(), &self.running)?;
                    Ok((wishes(object, key), link, remotes))
                });
                let (wishes, link, remotes) = match parts {
                    Ok(parts) => parts,
                    Err(why) => {
                        let address = object.address.to_string();
                        actors.push(Actor { name: name.clone(), address, cast: Cast::Idle(why), now: None });
                        continue;
                    }
                };
                for (session, remote) in remotes {
                    let plan = self.plan(node, object, link.as_ref(), remote, wishes.clone());
                    let running = self.running.get(&session);
                    let stays = running.is_some_and(|running| running.plan.is_same_session(&plan));
                    seen.push(session.clone());
                    let own = link.as_ref().map(|link| link.own);
                    actors.push(Actor {
                        name: session,
                        address: remote.to_string(),
                        cast: Cast::Plays {
                            object: Box::new(object.clone()),
                            own,
                            plan: Box::new(plan),
                            stays,
                        },
                        now: running.map(|running| running.peer.copy()),
                    });
                }
            }
        }
        for (name, running) in self.running.iter().filter(|(name, _)| !seen.contains(name)) {
            let address = running.plan.remote.to_string();
            let now = Some(running.peer.copy());
            actors.push(Actor { name: name.clone(), address, cast: Cast::Leaves, now });
        }
        actors
    }
}
