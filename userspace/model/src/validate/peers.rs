//! BGP peers: what a session needs, and what it may announce.

use std::time::Duration;

use super::Checker;

impl Checker<'_> {
    pub(super) fn peers(&mut self) {
        for (name, peer) in &self.objects.peer {
            self.known(("peer", name, "node"), "node", &self.objects.node, &peer.node);
            self.within(("peer", name, "asn"), peer.asn, 1, u32::MAX - 1);
            self.within(("peer", name, "local_asn"), peer.local_asn, 1, u32::MAX - 1);
            self.within(("peer", name, "prepend"), peer.prepend, 0, 10);
            let hold = peer.hold_time;
            let hold_valid =
                hold.subsec_nanos() == 0 && (hold.is_zero() || (3..=65_535).contains(&hold.as_secs()));
            if !hold_valid {
                let what = format!("{} is not a hold time", crate::units::duration::print(hold));
                self.problem("peer", name, "hold_time", what, "0s, or whole seconds from 3s to 65535s");
            }
            self.duration_within(
                ("peer", name, "connect_retry"),
                peer.connect_retry,
                Duration::from_millis(100),
                Duration::from_secs(3600),
            );
            if peer.port == 0 && !peer.passive {
                self.problem(
                    "peer",
                    name,
                    "port",
                    "0 cannot be connected to".into(),
                    "or set passive = true",
                );
            }
            if peer.passive && peer.local_port == 0 {
                self.problem(
                    "peer",
                    name,
                    "local_port",
                    "a passive peer needs a port to listen on".into(),
                    "",
                );
            }
            if peer.families.is_empty() {
                self.problem("peer", name, "families", "announces nothing".into(), "[\"ipv4\", \"ipv6\"]");
            }
            if peer.local_address.is_some_and(|local| local.is_ipv4() != peer.address.is_ipv4()) {
                self.problem("peer", name, "local_address", "is not of the family of address".into(), "");
            }
            for (index, community) in peer.communities.iter().enumerate() {
                let valid = community
                    .split_once(':')
                    .is_some_and(|(asn, value)| asn.parse::<u16>().is_ok() && value.parse::<u16>().is_ok());
                if !valid {
                    let what = format!("{community:?} is not a community");
                    self.problem("peer", name, &format!("communities.{index}"), what, "as in \"65000:100\"");
                }
            }
        }
    }
}
