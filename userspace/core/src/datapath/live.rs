//! A loaded program beside its model: what did the kernel answer it, for the two to agree?
//!
//! The model does not know the sockets, routes and buckets of a running host. So it is asked for each answer they may give
//! which could make it do what the program did. If none does, one of them is wrong.

use serde::{Deserialize, Serialize};
use weir_abi::{Address, counters::Reason};

use super::{Action, Host, Names, Outcome, Socket, Told, Way, explain};
use crate::image::Image;

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The reason it gave.
    pub reason: Reason,
    /// What it had done with the frame.
    pub action: Action,
    /// The frame then.
    pub frame: Vec<u8>,
}

/// The model that comes closest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fit {
    /// What the program did.
    pub program: Told,
    /// What the model does.
    pub model: Told,
    /// Whether that is the same, but for where the routing table sends it.
    pub agrees: bool,
}

/// Finds the answers of the kernel under which the model does what the program did.
pub fn fit(image: &Image, frame: &[u8], names: &Names, seen: &Seen) -> Fit {
    let mut first = None;
    let program = Told::from(Outcome {
        reason: seen.reason,
        action: seen.action,
        frame: seen.frame.clone(),
        counted: None,
        blocked_by: None,
        steps: Vec::new(),
    });
    for socket in [None, Some(Socket::Own)] {
        for may_tell in [true, false] {
            let mut host = Host { may_tell, otherwise: socket, ..Host::default() };
            if seen.reason == Reason::DropNoRoute {
                let ends = image.backends.values().map(|backend| backend.address);
                host.ways = ends.map(|end: Address| (end, Way::Forbidden)).collect();
            }
            let model = explain(image, &mut host, frame, names);
            if agrees(&model, seen) {
                return Fit { program, model: model.into(), agrees: true };
            }
            first.get_or_insert(model);
        }
    }
    let model = first.map_or_else(|| program.clone(), Told::from);
    Fit { program, model, agrees: false }
}

/// Whether they are the same, but for the Ethernet addresses and interface of a tunnel's next hop.
fn agrees(model: &Outcome, seen: &Seen) -> bool {
    let leaves = |action| matches!(action, Action::Transmit | Action::Redirect(_));
    let same_action = model.action == seen.action || leaves(model.action) && leaves(seen.action);
    let skipped = if leaves(seen.action) { 12 } else { 0 };
    model.reason == seen.reason
        && same_action
        && (seen.action == Action::Drop || model.frame.get(skipped..) == seen.frame.get(skipped..))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ACK, image, tcp};
    use super::*;

    #[test]
    fn a_program_that_knows_a_socket_fits_and_one_that_does_something_else_does_not() {
        let (image, frame) = (image(0), tcp(81, ACK, 0));
        let seen = |reason, action| Seen { reason, action, frame: frame.clone() };
        let delivered = fit(&image, &frame, &Names::new(), &seen(Reason::DeliverLocal, Action::Pass));
        assert!(delivered.agrees && delivered.model.reason == "deliver_local", "{delivered:?}");
        let wrong = fit(&image, &frame, &Names::new(), &seen(Reason::PassNotVip, Action::Pass));
        assert!(!wrong.agrees && wrong.model.reason == "encap_second_hop", "{wrong:?}");
        let changed = Seen { frame: vec![0; 60], ..seen(Reason::DeliverLocal, Action::Pass) };
        assert!(!fit(&image, &frame, &Names::new(), &changed).agrees);
    }
}
