//! A loaded program beside its model: what did the kernel answer it, for the two to agree?
//!
//! The model does not know the sockets, routes, rates and UDP flows of a running host. So it is asked for each answer they may give
//! which could make it do what the program did. If none does, one of them is wrong.

use serde::{Deserialize, Serialize};
use weir_abi::{Address, counters::Reason, headers::ETHERTYPE_IPV4};

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

/// Finds the answers of the kernel, `boot_s` seconds after its boot, under which the model does what the program did.
pub fn fit(image: &Image, boot_s: u32, frame: &[u8], names: &Names, seen: &Seen) -> Fit {
    let mut first = None;
    let program = Told::from(Outcome {
        reason: seen.reason,
        action: seen.action,
        frame: seen.frame.clone(),
        counted: None,
        blocked_by: None,
        steps: Vec::new(),
    });
    for otherwise in [None, Some(Socket::Own), Some(Socket::Listener)] {
        for (may_tell, has_other_udp_flows) in [(true, false), (true, true), (false, false)] {
            let mut host = Host { may_tell, otherwise, has_other_udp_flows, boot_s, ..Host::default() };
            believe(&mut host, image, seen);
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

/// Lets the program's reason say what the host's routes, rates and cookies are, where only they can be the cause.
fn believe(host: &mut Host, image: &Image, seen: &Seen) {
    match seen.reason {
        Reason::DropNoRoute => {
            let ends = image.backends.values().map(|backend| backend.address);
            host.ways = ends.map(|end: Address| (end, Way::Forbidden)).collect();
        }
        Reason::DropSourceLimit => host.rates.other_sources = u64::MAX,
        Reason::DropSynRate => host.rates.other_services = [0, u64::MAX],
        Reason::SynCookie => {
            host.rates.other_services = [u64::MAX, 0];
            host.cookie = Some(sequence(&seen.frame));
        }
        _ => {}
    }
}

/// The sequence number of a TCP segment right behind its IP header and VLAN tags; of anything else, anything.
pub fn sequence(frame: &[u8]) -> u32 {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    at += 2 + if frame.get(at..at + 2) == Some(&ETHERTYPE_IPV4) { 20 } else { 40 };
    frame.get(at + 4..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
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
    use weir_abi::{
        guard::{GUARDED_RATES, Guard},
        service::{SERVICE_SOURCE_LIMIT, SERVICE_SYN_COOKIES, SERVICE_SYN_RATE},
    };

    use super::super::{
        run,
        tests::{ACK, SYN, image, tcp},
    };
    use super::*;

    #[test]
    fn a_program_that_knows_a_socket_fits_and_one_that_does_something_else_does_not() {
        let (image, frame) = (image(0), tcp(81, ACK, 0));
        let seen = |reason, action| Seen { reason, action, frame: frame.clone() };
        let delivered = fit(&image, 0, &frame, &Names::new(), &seen(Reason::DeliverLocal, Action::Pass));
        assert!(delivered.agrees && delivered.model.reason == "deliver_local", "{delivered:?}");
        let wrong = fit(&image, 0, &frame, &Names::new(), &seen(Reason::PassNotVip, Action::Pass));
        assert!(!wrong.agrees && wrong.model.reason == "encap_second_hop", "{wrong:?}");
        let changed = Seen { frame: vec![0; 60], ..seen(Reason::DeliverLocal, Action::Pass) };
        assert!(!fit(&image, 0, &frame, &Names::new(), &changed).agrees);
    }

    #[test]
    fn what_a_program_does_for_a_rate_or_a_cookie_fits_where_a_service_has_them_and_nowhere_else() {
        const FLAGS: u32 = SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE | SERVICE_SYN_COOKIES;
        let (plain, frame) = (image(0), tcp(81, SYN, 0));
        let mut guarded = plain.clone();
        guarded.config.guarded = GUARDED_RATES;
        guarded.guards.insert(1, Guard { scope: 1, source_burst: 1, mss4: 1_400, ..Guard::default() });
        guarded.services.get_mut(&1).expect("service").flags |= FLAGS;
        let mut host = Host { otherwise: Some(Socket::Listener), cookie: Some(7), ..Host::default() };
        host.rates.other_services = [u64::MAX, 0];
        let answer = run(&guarded, &mut host, &frame);
        assert_eq!((answer.reason, sequence(&answer.frame)), (Reason::SynCookie, 7));
        for (reason, action, frame_then) in [
            (Reason::DropSourceLimit, Action::Drop, frame.clone()),
            (Reason::DropSynRate, Action::Drop, frame.clone()),
            (Reason::SynCookie, Action::Transmit, answer.frame),
        ] {
            let seen = Seen { reason, action, frame: frame_then };
            let fits = |image: &Image| fit(image, 0, &frame, &Names::new(), &seen).agrees;
            assert_eq!((fits(&guarded), fits(&plain)), (true, false), "{reason:?}");
        }
    }
}
