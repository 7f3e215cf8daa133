//! Which VIPs this node announces, and why. Pure: configuration, what the daemons beside us say, and `now` go in.
//!
//! A VIP with `announce.mode = "gated"` is announced when this node's datapath has confirmed it *and* has a healthy proxy to
//! send to *and* the local proxy does not say that no zone can answer; one that points straight at a pool when the datapath has
//! confirmed it and has a healthy server. A good verdict must last for `rise`, a bad one for
//! `fall`. What an operator says (drain, `never`, `always`, a VIP removed) takes effect at once.
//!
//! Fail-static: when the datapath's daemon cannot be heard, or has just started and knows nothing yet, the last verdict
//! stands. Silence never withdraws, and never makes a first announcement.
//!
//! Not here: sessions and attributes; those are `weir-bgp` and [`crate::routes`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use weir_model::status::{Health, L4Status, L4VipStatus, ProxyStatus};
use weir_model::{Admin, AnnounceMode, Name, Snapshot, Vip};

/// What a daemon beside us last said, if it can be heard now; `None` while it cannot.
pub(crate) type Heard<'a, T> = Option<&'a T>;

/// Everything a verdict depends on.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) node: &'a Name,
    pub(crate) l4: Heard<'a, L4Status>,
    pub(crate) proxy: Heard<'a, ProxyStatus>,
}

/// The verdict on one VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) announced: bool,
    /// Why; one line for people.
    pub(crate) reason: String,
    /// Since when `announced` is what it is; `None` when it has been so from the start.
    pub(crate) since: Option<Instant>,
    /// The addresses of the VIP the datapath has confirmed (all, when it is not asked).
    confirmed: BTreeSet<IpAddr>,
    /// The opposite verdict stands since then and waits for rise or fall.
    turning_since: Option<Instant>,
}

/// What one look at a VIP says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    /// An operator's word: at once.
    Say(bool, String),
    /// Can be delivered; after `rise`.
    Good(String),
    /// Cannot; after `fall`.
    Bad(String),
    /// Nobody knows; as before.
    Hold(String),
}

/// Remembers the verdicts, for rise, fall and silence.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    verdicts: BTreeMap<Name, Verdict>,
    next: Option<Instant>,
}

impl Announcer {
    /// Look at every VIP of this node anew. Call whenever something changed and at [`Announcer::poll_timeout`]; a call without need
    /// changes nothing.
    pub(crate) fn handle(&mut self, view: View<'_>, now: Instant) {
        let mut before = std::mem::take(&mut self.verdicts);
        self.next = None;
        for (name, vip) in view.snapshot.vips_of(view.node) {
            let mut verdict = before.remove(name).unwrap_or_else(Verdict::new);
            let look = look(view, name, vip);
            if let Some(confirmed) = confirmed(view, name, vip) {
                verdict.confirmed = confirmed;
            }
            let due = verdict.take(look, vip.announce.rise, vip.announce.fall, now);
            self.next = [self.next, due].into_iter().flatten().min();
            self.verdicts.insert(name.clone(), verdict);
        }
    }

    /// When a verdict that is turning will have turned.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The verdict on each VIP of this node.
    pub(crate) fn verdicts(&self) -> &BTreeMap<Name, Verdict> {
        &self.verdicts
    }

    /// The addresses to announce now.
    pub(crate) fn addresses<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a Name, IpAddr)> {
        self.verdicts.iter().filter(|(_, verdict)| verdict.announced).flat_map(|(name, verdict)| {
            let configured = snapshot.vips.get(name).map(|vip| vip.addresses.as_slice()).unwrap_or_default();
            configured
                .iter()
                .filter(|address| verdict.confirmed.contains(address))
                .map(move |address| (name, *address))
        })
    }
}

impl Verdict {
    fn new() -> Self {
        Self {
            announced: false,
            reason: String::new(),
            since: None,
            confirmed: BTreeSet::new(),
            turning_since: None,
        }
    }

    /// Returns when to look again, if the verdict is about to turn.
    fn take(&mut self, look: Look, rise: Duration, fall: Duration, now: Instant) -> Option<Instant> {
        let (good, reason, wait) = match look {
            Look::Hold(reason) => {
                self.turning_since = None;
                self.reason = reason;
                return None;
            }
            Look::Say(good, reason) => (good, reason, Duration::ZERO),
            Look::Good(reason) => (true, reason, rise),
            Look::Bad(reason) => (false, reason, fall),
        };
        if good == self.announced {
            self.turning_since = None;
            self.reason = reason;
            return None;
        }
        let since = *self.turning_since.get_or_insert(now);
        let due = since + wait;
        if due > now {
            let word = if good { "announced" } else { "withdrawn" };
            self.reason = format!("{reason}; {word} if it stays so for {wait:?}");
            return Some(due);
        }
        self.announced = good;
        self.since = Some(now);
        self.turning_since = None;
        self.reason = reason;
        None
    }
}

fn look(view: View<'_>, name: &Name, vip: &Vip) -> Look {
    match view.snapshot.nodes.get(view.node).map(|node| node.admin) {
        Some(Admin::Active) => {}
        Some(Admin::Drain) => return Look::Say(false, "node is draining".into()),
        Some(Admin::Disabled) => return Look::Say(false, "node is disabled".into()),
        None => return Look::Say(false, "node is not in the configuration".into()),
    }
    match vip.announce.mode {
        AnnounceMode::Always => Look::Say(true, "announce.mode is always".into()),
        AnnounceMode::Never => Look::Say(false, "announce.mode is never".into()),
        AnnounceMode::Gated => gated(view, name, vip),
    }
}

fn gated(view: View<'_>, name: &Name, vip: &Vip) -> Look {
    let Some(l4) = view.l4 else {
        return Look::Hold("weir-l4 cannot be heard: as before".into());
    };
    if l4.config.applied_at.is_none() {
        return Look::Hold("weir-l4 has not applied a configuration yet: as before".into());
    }
    let Some(in_datapath) = l4.vips.get(name) else {
        return Look::Bad("not in the datapath of this node".into());
    };
    if !vip.addresses.iter().any(|address| in_datapath.addresses.contains(address)) {
        return Look::Bad("the datapath of this node has none of its addresses".into());
    }
    if in_datapath.healthy_proxies == 0 {
        // A restarted weir-l4 begins with proxies it has not probed.
        let (of, one, many) = match &vip.pool {
            None => (Some(&l4.proxies), "proxy", "proxies"),
            Some(pool) => (l4.servers.get(pool), "server", "servers"),
        };
        if of.is_some_and(|of| of.values().any(|health| *health == Health::Unknown)) {
            return Look::Hold(format!("{many} are not probed yet: as before"));
        }
        return Look::Bad(format!("no healthy {one}"));
    }
    // No proxy sees the packets of a VIP that points straight at servers: what it says of its own does not matter.
    match undeliverable(view, name).filter(|_| vip.pool.is_none()) {
        Some(reason) => Look::Bad(reason),
        None => Look::Good(describe(vip, in_datapath)),
    }
}

/// A silent or unknowing proxy is no reason: the datapath's own probes stand for it.
fn undeliverable(view: View<'_>, name: &Name) -> Option<String> {
    let delivery = view.proxy.filter(|proxy| proxy.config.applied_at.is_some())?.vips.get(name)?;
    (!delivery.deliverable).then(|| match delivery.reason.as_str() {
        "" => "no zone can answer".into(),
        reason => format!("no zone can answer: {reason}"),
    })
}

fn describe(vip: &Vip, in_datapath: &L4VipStatus) -> String {
    let healthy = in_datapath.healthy_proxies;
    let what = match (&vip.pool, healthy) {
        (None, 1) => "proxy",
        (None, _) => "proxies",
        (Some(_), 1) => "server",
        (Some(_), _) => "servers",
    };
    format!("in the datapath ({}), {healthy} healthy {what}", in_datapath.generation)
}

/// The addresses that may be announced, where it can be known; `None` leaves what was known before.
fn confirmed(view: View<'_>, name: &Name, vip: &Vip) -> Option<BTreeSet<IpAddr>> {
    if vip.announce.mode == AnnounceMode::Always {
        return Some(vip.addresses.iter().copied().collect());
    }
    let l4 = view.l4.filter(|l4| l4.config.applied_at.is_some())?;
    // While the VIP is missing the last set stays, for the time of `fall`.
    Some(l4.vips.get(name)?.addresses.iter().copied().collect())
}

#[cfg(test)]
mod tests;
