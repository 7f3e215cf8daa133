//! Changes that would take most of the platform off the network: refused unless somebody says that they are meant.
//!
//! Dormant files that come alive, a reordered policy, a directory mounted empty: the outages of others began with a
//! configuration that made sense by itself. So the question is not put to the new one alone, but to the step. All nodes take the
//! same step and come to the same answer. A node that starts has no step to judge.

use std::collections::BTreeSet;

use crate::{AnnounceMode, Name, Problem, Snapshot, Timestamp};

/// So many VIPs may go in one step, however few there are.
const FREE: usize = 2;

impl Snapshot {
    /// Why the step from `self` to `new` is not taken at `now`; `None` when it is. More than half of the VIPs, and more than two, may lose
    /// their last announcer only while their group's `withdraw_freely_until` lies ahead. A drained node counts as one that
    /// announces: who drains, says what he does.
    pub fn refuses(&self, new: &Self, now: Timestamp) -> Option<Problem> {
        let (before, after) = (self.announced(), new.announced());
        let is_free = |vip: &Name| {
            let group = self.vips.get(vip).and_then(|vip| new.groups.get(&vip.group));
            group.and_then(|group| group.withdraw_freely_until).is_some_and(|until| until > now)
        };
        let lost: Vec<&Name> = before.difference(&after).filter(|vip| !is_free(vip)).copied().collect();
        if lost.len() <= FREE.max(before.len() / 2) {
            return None;
        }
        let named: Vec<&str> = lost.iter().take(5).map(|vip| vip.as_str()).collect();
        let more = if lost.len() > named.len() { ", …" } else { "" };
        Some(Problem {
            file: String::new(),
            line: 0,
            path: String::new(),
            what: format!(
                "would take {} of {} VIPs off the network: {}{more}",
                lost.len(),
                before.len(),
                named.join(", ")
            ),
            hint: "if that is meant: weir config accept --force, or withdraw_freely_until in their groups; the last good configuration stays".into(),
        })
    }

    /// VIPs that some node with a router is to announce.
    fn announced(&self) -> BTreeSet<&Name> {
        let with_routers: BTreeSet<&Name> = self.peers.values().map(|peer| &peer.node).collect();
        let is_announced = |name: &Name| {
            let nodes = self.groups.get(name).map(|group| group.nodes.as_slice()).unwrap_or_default();
            nodes.iter().any(|node| with_routers.contains(node))
        };
        let vips = self.vips.iter().filter(|(_, vip)| vip.announce.mode != AnnounceMode::Never);
        vips.filter(|(_, vip)| is_announced(&vip.group)).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::SourceFile;

    fn platform(vips: usize, change: impl Fn(String) -> String) -> Snapshot {
        let mut text = String::from(
            "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\n[node.n2]\nzone = \"z1\"\naddress = \"10.0.1.3\"\n\
             [peer.p1]\nnode = \"n1\"\naddress = \"10.0.1.1\"\nasn = 65000\nlocal_asn = 65001\n\
             [peer.p2]\nnode = \"n2\"\naddress = \"10.0.1.1\"\nasn = 65000\nlocal_asn = 65001\n\
             [group.g]\nnodes = [\"n1\", \"n2\"]\n",
        );
        for vip in 0..vips {
            text += &format!(
                "[vip.v{vip}]\naddresses = [\"192.0.2.{vip}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n"
            );
        }
        Snapshot::read(&[SourceFile { path: "a.toml".into(), text: change(text) }])
            .unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn now() -> Timestamp {
        Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }

    #[test]
    fn a_step_that_takes_most_vips_off_the_network_is_not_taken_unless_it_is_meant() {
        let ten = platform(10, |text| text);
        for (what, new, is_taken) in [
            ("half of them", platform(5, |text| text), true),
            ("one more", platform(4, |text| text), false),
            ("an empty directory", Snapshot::default(), false),
            (
                "a policy for all",
                platform(10, |text| text.replace("services", "announce = { mode = \"never\" }\nservices")),
                false,
            ),
            (
                "no router any more",
                platform(10, |text| {
                    let (head, tail) = text.split_once("[peer.p1]").expect("a peer");
                    let (_, tail) = tail.split_once("[group.g]").expect("a group");
                    format!("{head}[group.g]{tail}")
                }),
                false,
            ),
            (
                "one node less",
                platform(10, |text| text.replace("nodes = [\"n1\", \"n2\"]", "nodes = [\"n2\"]")),
                true,
            ),
            ("a drain", platform(10, |text| text.replace("[node.n1]", "[node.n1]\nadmin = \"drain\"")), true),
            (
                "said to be meant",
                platform(0, |text| text + "withdraw_freely_until = \"2027-01-15T08:01:00Z\"\n"),
                true,
            ),
            (
                "said so too long ago",
                platform(0, |text| text + "withdraw_freely_until = \"2027-01-15T08:00:00Z\"\n"),
                false,
            ),
        ] {
            let refusal = ten.refuses(&new, now());
            assert_eq!(refusal.is_none(), is_taken, "{what}: {refusal:?}");
        }
        let refusal = ten.refuses(&platform(4, |text| text), now()).expect("refused");
        assert_eq!(refusal.what, "would take 6 of 10 VIPs off the network: v4, v5, v6, v7, v8, …");
        // Of two nobody would call it most of the platform.
        assert_eq!(platform(2, |text| text).refuses(&platform(0, |text| text), now()), None);
        assert_eq!(Snapshot::default().refuses(&ten, now()), None);
    }
}
