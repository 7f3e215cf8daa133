//! Which VIPs this node announces, and why. Pure: configuration, what the daemons beside us say, and `now` go in.
//!
//! A VIP with `announce.mode = "gated"` is announced when this node's datapath has confirmed it *and* has a healthy proxy to
//! send to *and* enough of its services answer (`services`) *and* the local proxy does not say that no zone can answer; one that
//! points straight at a pool when the datapath has confirmed it, has a healthy server, and enough of its services answer. A good
//! verdict must last for `rise`, a bad one for `fall`, and so between better and worse. What an operator says (drain, `never`,
//! `always`, a VIP removed) takes effect at once.
//!
//! What must not happen, whatever the checks say: that everything looks dead at once and is believed, that the last announcer of a
//! VIP leaves (`others`), that most VIPs go within a minute (`budget`).
//!
//! Fail-static: when the datapath's daemon cannot be heard, or has just started and knows nothing yet, the last verdict
//! stands. Silence never withdraws, and never makes a first announcement.
//!
//! Not here: sessions and attributes; those are `weir-bgp` and [`crate::routes`].

mod budget;
mod others;
mod services;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;
use weir_model::status::{Health, L4Status, L4VipStatus, ProxyStatus, Tier, VipDelivery, WithdrawalStatus};
use weir_model::{Admin, AnnounceMode, LastAnnouncer, Name, RemoteAnnounce, Snapshot, UnservedAnnounce, Vip};

use budget::Budget;
pub(crate) use others::{Others, Stance};
use services::{Answering, answering};
use verdict::{Fault, Look};
pub(crate) use verdict::{Kept, Verdict};

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

/// Remembers the verdicts, for rise, fall and silence.
#[derive(Debug, Clone, Default)]
pub(crate) struct Announcer {
    verdicts: BTreeMap<Name, Verdict>,
    others: Others,
    budget: Budget,
    /// How often a withdrawal had to wait for the budget.
    deferred: u64,
    /// When a verdict that is turning will have turned.
    next: Option<Instant>,
}

impl Announcer {
    /// Look at every VIP of this node anew. Call whenever something changed and at [`Announcer::poll_timeout`]; a call without need
    /// changes nothing. Returns the VIPs that have turned or would have, had they not to be kept, and those that are none of this
    /// node's any more.
    pub(crate) fn handle(&mut self, view: View<'_>, now: Instant) -> Vec<Name> {
        self.others.forget(view.snapshot, now);
        self.budget.forget(now);
        let limit = Budget::limit(view.snapshot, view.node);
        self.next = None;
        let mut turned = Vec::new();
        let looks: Vec<_> =
            view.snapshot.vips_of(view.node).map(|(name, vip)| (name, vip, look(view, name, vip))).collect();
        let all_dead = all_look_dead(&looks);
        // Out of here for a while: each of them may ask for the others and for the budget.
        let mut verdicts = std::mem::take(&mut self.verdicts);
        if !looks.iter().map(|(name, ..)| *name).eq(verdicts.keys()) {
            let current: BTreeSet<&Name> = looks.iter().map(|(name, ..)| *name).collect();
            turned.extend(verdicts.keys().filter(|name| !current.contains(name)).cloned());
            verdicts.retain(|name, _| current.contains(name));
            for name in current {
                verdicts.entry(name.clone()).or_default();
            }
        }
        // Now both have the same names in the same order.
        let mut cases: Vec<_> = looks.into_iter().zip(verdicts.values_mut()).collect();
        // Of many that should go, those that have waited longest come first.
        cases.sort_by_key(|(_, verdict)| (verdict.turning_since.is_none(), verdict.turning_since));
        for ((name, vip, look), verdict) in cases {
            let (was_announced, was_kept) = (verdict.announced, verdict.kept);
            if let Some(confirmed) = confirmed(view, name, vip) {
                verdict.confirmed = confirmed;
            }
            let mut spec = vip.announce.clone();
            let is_asked = asks_others(view, vip);
            if is_asked {
                spec.fall = spec.fall.max(others::SETTLE);
            }
            let look = match look {
                Look::Bad(Fault::Beyond, reason) if all_dead && verdict.announced => Look::Hold(format!(
                    "all VIPs look dead at once, which is believed of none ({reason}): as before"
                )),
                look => look,
            };
            let due = match &look {
                Look::Bad(fault, reason) if verdict.announced && verdict.turns(now) + spec.fall <= now => {
                    match self.lets_go((view.node, name), *fault, is_asked, limit, verdict, now) {
                        Ok(()) => verdict.take(look, &spec, now),
                        Err((kept, until)) => {
                            let why = match kept {
                                Kept::Last => "nobody else is heard to announce it".to_owned(),
                                Kept::Budget => {
                                    format!(
                                        "no more than {limit} VIPs may be withdrawn within a minute because of health"
                                    )
                                }
                            };
                            verdict.keep(kept, spec.kept, format!("{reason}; kept, for {why}"));
                            until
                        }
                    }
                }
                _ => verdict.take(look, &spec, now),
            };
            self.next = [self.next, due].into_iter().flatten().min();
            if verdict.announced != was_announced || verdict.kept.is_some() && verdict.kept != was_kept {
                turned.push(name.clone());
            }
        }
        self.verdicts = verdicts;
        turned
    }

    /// Another node's word.
    pub(crate) fn hear(
        &mut self,
        snapshot: &Snapshot,
        node: &Name,
        vips: impl IntoIterator<Item = (Name, Stance)>,
        now: Instant,
    ) {
        self.others.hear(snapshot, node, vips, now);
    }

    /// What to tell the others.
    pub(crate) fn stances(&self) -> BTreeMap<Name, Stance> {
        let stance = |verdict: &Verdict| match (verdict.announced, verdict.turning_since) {
            (true, None) => Stance::Announced,
            (true, Some(_)) => Stance::Leaving,
            (false, _) => Stance::Withdrawn,
        };
        self.verdicts.iter().map(|(name, verdict)| (name.clone(), stance(verdict))).collect()
    }

    /// Whether a VIP that should be withdrawn is; else why not, and when to ask again.
    fn lets_go(
        &mut self,
        (node, name): (&Name, &Name),
        fault: Fault,
        is_asked: bool,
        limit: usize,
        verdict: &mut Verdict,
        now: Instant,
    ) -> Result<(), (Kept, Option<Instant>)> {
        let since = verdict.turns(now);
        if is_asked && self.others.who_stays(name, node, since).is_none() {
            // It goes once somebody else is there, who will be heard.
            return Err((Kept::Last, None));
        }
        // Once it is on its way it goes.
        if verdict.is_paid || fault == Fault::Own && self.others.who_means_to(name, since).is_some() {
            return Ok(());
        }
        match self.budget.spend(name, limit, now) {
            Ok(()) => {
                verdict.is_paid = true;
                Ok(())
            }
            Err(until) => {
                self.deferred += u64::from(verdict.kept != Some(Kept::Budget));
                Err((Kept::Budget, Some(until)))
            }
        }
    }

    /// The budget of withdrawals because of health.
    pub(crate) fn withdrawals(&self, snapshot: &Snapshot, node: &Name) -> WithdrawalStatus {
        let waiting = self.verdicts.values().filter(|verdict| verdict.kept == Some(Kept::Budget)).count();
        WithdrawalStatus {
            limit_per_minute: Budget::limit(snapshot, node) as u64,
            last_minute: self.budget.spent() as u64,
            waiting: waiting as u64,
            deferred: self.deferred,
        }
    }

    /// Takes leave of every VIP, as at an operator's word: `weir-bgp` is about to end. Returns when to call again; `None` when
    /// nothing is announced any more.
    pub(crate) fn leave(&mut self, snapshot: &Snapshot, reason: &str, now: Instant) -> Option<Instant> {
        let verdicts = self.verdicts.iter_mut();
        verdicts
            .filter_map(|(name, verdict)| {
                let spec = snapshot.vips.get(name).map(|vip| vip.announce.clone()).unwrap_or_default();
                verdict.take(Look::Say(false, reason.to_owned()), &spec, now)
            })
            .min()
    }

    /// When to look again, at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.next, self.others.poll_timeout()].into_iter().flatten().min()
    }

    /// Looks ahead: `now` lies in a future in which the others go on saying what they said last. Returns when something happens next.
    pub(crate) fn rehearse(&mut self, view: View<'_>, now: Instant) -> Option<Instant> {
        self.others.go_on(now);
        self.handle(view, now);
        self.next
    }

    /// The verdict on each VIP of this node.
    pub(crate) fn verdicts(&self) -> &BTreeMap<Name, Verdict> {
        &self.verdicts
    }

    /// The addresses to announce now, each with its VIP and how well.
    pub(crate) fn addresses<'a>(
        &'a self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (&'a Name, IpAddr, Tier)> {
        self.verdicts.iter().filter(|(_, verdict)| verdict.announced).flat_map(|(name, verdict)| {
            let configured = snapshot.vips.get(name).map(|vip| vip.addresses.as_slice()).unwrap_or_default();
            configured
                .iter()
                .filter(|address| verdict.confirmed.contains(address))
                .map(move |address| (name, *address, verdict.tier))
        })
    }
}

/// Whether others have a say in what becomes of the VIP.
fn asks_others(view: View<'_>, vip: &Vip) -> bool {
    let group = view.snapshot.groups.get(&vip.group);
    vip.announce.last == LastAnnouncer::Keep
        && group.is_some_and(|group| group.nodes.len() > 1 && group.announcers_port != 0)
}

/// Whether two VIPs or more, and not one less than all, look dead for reasons beyond this host: then the eye is more likely
/// blind than the world empty.
fn all_look_dead(looks: &[(&Name, &Vip, Look)]) -> bool {
    let judged = |look: &Look| matches!(look, Look::Good(..) | Look::Bad(..));
    let judged: Vec<_> = looks.iter().map(|(_, _, look)| look).filter(|look| judged(look)).collect();
    judged.len() > 1 && judged.iter().all(|look| matches!(look, Look::Bad(Fault::Beyond, _)))
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
        return Look::Bad(Fault::Own, "not in the datapath of this node".into());
    };
    if !vip.addresses.iter().any(|address| in_datapath.addresses.contains(address)) {
        return Look::Bad(Fault::Own, "the datapath of this node has none of its addresses".into());
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
        let fault = if vip.pool.is_none() { Fault::Own } else { Fault::Beyond };
        return Look::Bad(fault, format!("no healthy {one}"));
    }
    // No proxy sees the packets of a VIP that points straight at servers: what it says of its own does not matter.
    let delivery = delivery(view, name).filter(|_| vip.pool.is_none());
    let answering =
        answering(vip.announce.services, &in_datapath.services, delivery.map(|delivery| &delivery.services));
    if let Answering::TooFew(reason) = answering {
        // What the proxy alone finds may be its way of asking.
        let is_seen = in_datapath.services.values().any(|service| service.health == Health::Down);
        let fault = if vip.pool.is_none() && is_seen { Fault::Own } else { Fault::Beyond };
        return unserved(vip, fault, reason);
    }
    if let Some(reason) = delivery.and_then(undeliverable) {
        return unserved(vip, Fault::Beyond, reason);
    }
    let is_remote = delivery.is_some_and(|delivery| delivery.is_remote);
    if is_remote && vip.announce.remote == RemoteAnnounce::Withdraw {
        return Look::Bad(Fault::Beyond, "only servers of other zones can answer".into());
    }
    let but = match answering {
        Answering::Unknown(what) => return Look::Hold(format!("{what}: as before")),
        Answering::Enough(but) if !but.is_empty() => format!("; but {but}"),
        Answering::Enough(_) | Answering::TooFew(_) => String::new(),
    };
    let described = describe(vip, in_datapath);
    if is_remote && vip.announce.remote == RemoteAnnounce::Worse {
        return Look::Good(Tier::Worse, format!("{described}, its servers in other zones{but}"));
    }
    Look::Good(Tier::Normal, described + &but)
}

/// What a VIP that is not served from here is worth.
fn unserved(vip: &Vip, fault: Fault, reason: String) -> Look {
    match vip.announce.unserved {
        UnservedAnnounce::Withdraw => Look::Bad(fault, reason),
        UnservedAnnounce::Worse => Look::Good(Tier::Worse, reason),
    }
}

/// Why no zone can answer, if none can.
fn undeliverable(delivery: &VipDelivery) -> Option<String> {
    (!delivery.deliverable).then(|| match delivery.reason.as_str() {
        "" => "no zone can answer".into(),
        reason => format!("no zone can answer: {reason}"),
    })
}

/// What the proxy says of a VIP, where it knows. A silent or unknowing one is no reason: the datapath's own probes stand for it.
fn delivery<'a>(view: View<'a>, name: &Name) -> Option<&'a VipDelivery> {
    view.proxy.filter(|proxy| proxy.config.applied_at.is_some())?.vips.get(name)
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
