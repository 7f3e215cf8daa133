//! What the peer sends us, counted: bounded memory for a peer that sends a full table.
//!
//! Without a bound on prefixes nothing is kept but numbers and, when asked for, the last few prefixes. With a bound the
//! prefixes themselves are kept up to it, so that a route announced again is not counted twice.

use ipnet::IpNet;
use std::collections::{HashSet, VecDeque};

/// The last prefixes kept when they are asked for; older ones are forgotten.
pub const SAMPLES_MAX: usize = 64;

/// What came over a session since it is up.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// Kept only below a bound.
    prefixes: HashSet<IpNet>,
    max: Option<u32>,
    keep: bool,
    announcements: u64,
    withdrawals: u64,
    exceeded: Option<IpNet>,
    samples: VecDeque<(IpNet, bool)>,
}

impl Received {
    /// Nothing yet; at most `max` prefixes are accepted, and samples are kept when `keep`.
    pub(super) fn new(max: Option<u32>, keep: bool) -> Self {
        Self { max, keep, ..Self::default() }
    }

    pub(super) fn note(&mut self, prefix: IpNet, announced: bool) {
        let count = if announced { &mut self.announcements } else { &mut self.withdrawals };
        *count += 1;
        if self.keep {
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back((prefix, announced));
        }
        let Some(max) = self.max else {
            return;
        };
        if !announced {
            self.prefixes.remove(&prefix);
        } else if self.prefixes.len() < max as usize {
            self.prefixes.insert(prefix);
        } else if !self.prefixes.contains(&prefix) {
            self.exceeded.get_or_insert(prefix);
        }
    }

    /// The bound, and the first prefix beyond it.
    pub(super) fn exceeded(&self) -> Option<(u32, IpNet)> {
        self.max.zip(self.exceeded)
    }

    /// Prefixes announced since the session is up, each announcement counted.
    pub fn announcements(&self) -> u64 {
        self.announcements
    }

    /// Prefixes withdrawn, each withdrawal counted.
    pub fn withdrawals(&self) -> u64 {
        self.withdrawals
    }

    /// The prefixes the peer has announced and not withdrawn, where there is a bound on them.
    pub fn prefixes(&self) -> Option<usize> {
        self.max.map(|_| self.prefixes.len())
    }

    /// The last prefixes, oldest first, with `true` for announced.
    pub fn samples(&self) -> impl Iterator<Item = (IpNet, bool)> + '_ {
        self.samples.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(n: u8) -> IpNet {
        format!("192.0.2.{n}/32").parse().unwrap()
    }

    #[test]
    fn a_prefix_counts_once_however_often_it_is_announced() {
        let mut received = Received::new(Some(2), false);
        for _ in 0..10 {
            received.note(net(1), true);
            received.note(net(2), true);
        }
        assert_eq!((received.prefixes(), received.exceeded()), (Some(2), None));
        received.note(net(1), false);
        received.note(net(3), true);
        assert_eq!(received.exceeded(), None);
        received.note(net(4), true);
        assert_eq!(received.exceeded(), Some((2, net(4))));
    }

    #[test]
    fn without_a_bound_nothing_is_kept_and_samples_are_few() {
        let mut received = Received::new(None, false);
        (0..=255).for_each(|n| received.note(net(n), true));
        assert_eq!((received.announcements(), received.prefixes()), (256, None));
        assert_eq!((received.prefixes.len(), received.samples().count()), (0, 0));
        let mut received = Received::new(None, true);
        (0..=255).for_each(|n| received.note(net(n), n % 2 == 0));
        assert_eq!(received.samples().count(), SAMPLES_MAX);
        assert_eq!(received.samples().last(), Some((net(255), false)));
    }
}
