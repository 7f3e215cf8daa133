//! Whether enough services of a VIP answer, by what two daemons found. Pure.
//!
//! `weir-l4` asks by SYNs in the tunnels, at every host that gets flows of the VIP; `weir-proxy` asks its own listeners, as far as
//! a request. Whoever finds that a service does not answer is believed; one that answers to one of them answers. Both have
//! counted rise and fall. What neither asks for (UDP, ranges, ports without a listener) is not judged.

use std::collections::BTreeMap;

use weir_model::NeededServices;
use weir_model::status::{Health, ServiceStatus};

type Services = BTreeMap<String, ServiceStatus>;

/// Whether enough services answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answering {
    /// They do, or nothing is asked for. What does not answer although it need not, in words; empty when there is nothing.
    Enough(String),
    /// It is not known yet, and why.
    Unknown(String),
    /// They do not, and why.
    TooFew(String),
}

/// Puts together what both say, as the VIP needs it; a daemon that says nothing leaves it to the other.
pub(super) fn answering(needed: NeededServices, l4: &Services, proxy: Option<&Services>) -> Answering {
    let merged = merge(l4, proxy);
    let of = |wanted: Health| merged.iter().filter(move |(_, service)| service.health == wanted);
    let down = describe(of(Health::Down));
    let unknown = of(Health::Unknown).next().map(|(name, service)| format!("{name}: {}", service.reason));
    let answers = merged.values().any(|service| service.health == Health::Up);
    match (needed, down, unknown) {
        (NeededServices::All, Some(down), _) => Answering::TooFew(down),
        (NeededServices::Any, down, _) if answers => Answering::Enough(down.unwrap_or_default()),
        (_, _, Some(unknown)) => Answering::Unknown(unknown),
        (NeededServices::Any, Some(down), None) => Answering::TooFew(format!("no service answers: {down}")),
        (_, None, None) => Answering::Enough(String::new()),
    }
}

fn merge<'a>(l4: &'a Services, proxy: Option<&'a Services>) -> BTreeMap<&'a str, &'a ServiceStatus> {
    let mut merged: BTreeMap<&str, &ServiceStatus> = BTreeMap::new();
    let weight = |service: &ServiceStatus| match service.health {
        Health::Unknown => 0,
        Health::Up | Health::Draining => 1,
        Health::Down => 2,
    };
    // The proxy first: it has asked further, so that its reason is the better one.
    for (name, service) in proxy.into_iter().flatten().chain(l4) {
        let said = merged.entry(name).or_insert(service);
        if weight(service) > weight(said) {
            *said = service;
        }
    }
    merged
}

/// The first, and how many more.
fn describe<'a>(mut down: impl Iterator<Item = (&'a &'a str, &'a &'a ServiceStatus)>) -> Option<String> {
    let (name, service) = down.next()?;
    let more = match down.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(format!("{name} does not answer: {}{more}", service.reason))
}
