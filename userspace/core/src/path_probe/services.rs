//! What the probes say of each service of a VIP, where [`PathProbes`] itself judges hosts: whether it answers at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use weir_model::{
    Name,
    status::{Health, ServiceStatus, service_name},
};

use super::{PathProbes, Whom};
use crate::health::{Outcome, Standing, Timing};

/// What is known of one service at one host.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Why it did not answer when it was last asked for.
    failure: Option<String>,
    /// The same with rise and fall.
    standing: Standing,
}

impl Seen {
    /// Why it did not answer the last time; `None` when it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Notes an answer; `what` names service and way, `way` the way. Returns whether its health changed.
    pub(super) fn note(&mut self, result: Result<(), String>, what: &str, way: &str, timing: Timing) -> bool {
        self.failure = result.as_ref().err().map(|why| format!("{what}: {why}"));
        let outcome = match result {
            Ok(()) => Outcome::Pass,
            Err(why) => Outcome::Fail(format!("by {way}: {why}")),
        };
        self.standing.note(outcome, timing.rise, timing.fall).is_some()
    }
}

impl PathProbes {
    /// What is known of the services of a VIP, by name, at the hosts that `get_flows`: one that answers suffices, and none of
    /// them may answer before a service is down. Says nothing while no host gets flows.
    pub fn services(&self, vip: &Name, get_flows: impl Fn(&Whom) -> bool) -> BTreeMap<String, ServiceStatus> {
        let hosts: Vec<_> =
            self.hosts.iter().filter(|(whom, _)| get_flows(whom)).map(|(_, host)| host).collect();
        let of_vip = |(at, of): (&SocketAddr, &Name)| (of == vip).then_some(*at);
        let services: BTreeSet<SocketAddr> =
            hosts.iter().flat_map(|host| host.path.services.iter().filter_map(of_vip)).collect();
        let status = |at: SocketAddr| {
            let asked = hosts.iter().filter(|host| host.path.services.contains_key(&at));
            let known = asked.map(|host| host.seen.get(&at).map(|seen| &seen.standing));
            let views = known.map(|standing| match standing {
                Some(standing) => {
                    ServiceStatus { health: standing.health(), reason: standing.reason().to_owned() }
                }
                None => ServiceStatus { health: Health::Unknown, reason: "not asked for yet".into() },
            });
            views.min_by_key(|view| match view.health {
                Health::Up | Health::Draining => 0,
                Health::Unknown => 1,
                Health::Down => 2,
            })
        };
        services.into_iter().filter_map(|at| Some((service_name(at), status(at)?))).collect()
    }

    /// Whether the health of some service changed since the last call.
    pub fn poll_services_changed(&mut self) -> bool {
        std::mem::take(&mut self.services_changed)
    }
}
