//! BFD sessions: timers that can be kept, and addresses that tell them apart.

use std::{collections::BTreeMap, time::Duration};

use super::Checker;
use crate::{Bfd, Name};

/// Timers and wake-ups of a busy host are late by a few milliseconds: below this a session dies of them.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A slower session notices nothing that the hold time of BGP would not.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The least silence that may mean death.
const DETECTION_MIN: Duration = Duration::from_millis(30);

impl Checker<'_> {
    pub(super) fn bfd(&mut self) {
        let mut seen: BTreeMap<_, &Name> = BTreeMap::new();
        for (name, peer) in &self.objects.peer {
            let Some(bfd) = &peer.bfd else { continue };
            self.bfd_timers(name, bfd);
            if bfd.minimum_ttl.is_some() && !bfd.multihop {
                self.problem(
                    "peer",
                    name,
                    "bfd.minimum_ttl",
                    "a router on the link is always heard with 255".into(),
                    "only with multihop = true",
                );
            }
            if bfd.minimum_ttl == Some(0) {
                self.problem("peer", name, "bfd.minimum_ttl", "0 is out of range".into(), "from 1 to 255");
            }
            if bfd.multihop && peer.is_link_local() {
                let what = "a link-local router is on the link".to_owned();
                self.problem("peer", name, "bfd.multihop", what, "leave it out");
            }
            let place = (&peer.node, peer.address.to_string(), &peer.interface, bfd.multihop);
            // Without a discriminator only addresses tell sessions apart. RFC 5881 §3.
            if let Some(other) = seen.insert(place, name) {
                let what = format!("peer {other:?} has a BFD session with this address already");
                self.problem("peer", name, "bfd", what, "give one of them bfd");
            }
        }
    }

    fn bfd_timers(&mut self, name: &Name, bfd: &Bfd) {
        self.duration_within(("peer", name, "bfd.interval"), bfd.interval, INTERVAL_MIN, INTERVAL_MAX);
        if let Some(interval) = bfd.receive_interval {
            self.duration_within(
                ("peer", name, "bfd.receive_interval"),
                interval,
                INTERVAL_MIN,
                INTERVAL_MAX,
            );
        }
        self.within(("peer", name, "bfd.multiplier"), bfd.multiplier, 1, u8::MAX);
        let silence = bfd.interval.saturating_mul(bfd.multiplier.into());
        if bfd.multiplier > 0 && bfd.interval >= INTERVAL_MIN && silence < DETECTION_MIN {
            let what = format!("{} of silence are no sign of death", crate::units::duration::print(silence));
            self.problem(
                "peer",
                name,
                "bfd.multiplier",
                what,
                "interval times multiplier must be at least 30ms",
            );
        }
    }
}
