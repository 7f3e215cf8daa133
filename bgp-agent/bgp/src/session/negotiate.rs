//! Our OPEN against the peer's: refuse it, or agree on terms. RFC 4271 §4.2, §6.2, §10; RFC 4760 §8; RFC 6793 §4.1.

use super::Config;
use crate::wire::{Families, Notification, Open, UpdateContext};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The terms of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The BGP identifier of the peer.
    pub peer_bgp_id: Ipv4Addr,
    /// The families both sides have.
    pub families: Families,
    /// The smaller hold time; zero means that neither side watches the other.
    pub hold_time: Duration,
    /// What every UPDATE depends on.
    pub update_context: UpdateContext,
    /// The peer offered graceful restart, so it may keep our routes over a reset.
    pub peer_restarts_gracefully: bool,
}

impl Negotiated {
    /// RFC 4271 §10: a third of the hold time.
    pub fn keepalive_interval(&self) -> Option<Duration> {
        (!self.hold_time.is_zero()).then(|| self.hold_time / 3)
    }
}

/// Judge the OPEN of a peer.
pub(super) fn negotiate(config: &Config, open: &Open) -> Result<Negotiated, Notification> {
    if open.asn != config.remote_asn {
        return Err(Notification::bad_peer_as());
    }
    let ibgp = config.local_asn == open.asn;
    // RFC 6286 §2.2: "if the BGP Identifier of the local BGP speaker is the same as the one received and the two speakers are
    // in the same AS, the Error Subcode is set to Bad BGP Identifier".
    if ibgp && open.bgp_id == config.bgp_id {
        return Err(Notification::bad_bgp_identifier());
    }
    let peer_families = open.capabilities.families.unwrap_or(Families::IPV4);
    Ok(Negotiated {
        peer_bgp_id: open.bgp_id,
        families: config.families.intersection(peer_families),
        hold_time: Duration::from_secs(u64::from(config.hold_time_s.min(open.hold_time_s))),
        update_context: UpdateContext {
            local_asn: config.local_asn,
            ibgp,
            four_octet_as: open.capabilities.four_octet_as,
        },
        peer_restarts_gracefully: open.capabilities.graceful_restart.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Capabilities;

    fn config() -> Config {
        Config::new(65001, Ipv4Addr::new(10, 0, 0, 2), 65000)
    }

    fn open() -> Open {
        Open {
            asn: 65000,
            hold_time_s: 9,
            bgp_id: Ipv4Addr::new(10, 0, 0, 1),
            capabilities: Capabilities { families: Some(Families::BOTH), ..Capabilities::default() },
        }
    }

    #[test]
    fn the_smaller_hold_time_wins_and_keepalives_are_a_third_of_it() {
        let terms = negotiate(&config(), &open()).unwrap();
        assert_eq!(terms.hold_time, Duration::from_secs(9));
        assert_eq!(terms.keepalive_interval(), Some(Duration::from_secs(3)));
        let terms = negotiate(&config(), &Open { hold_time_s: 0, ..open() }).unwrap();
        assert_eq!(terms.keepalive_interval(), None);
    }

    #[test]
    fn a_peer_without_multiprotocol_gets_ipv4_only() {
        let terms = negotiate(&config(), &Open { capabilities: Capabilities::default(), ..open() }).unwrap();
        assert_eq!(terms.families, Families::IPV4);
    }

    #[test]
    fn the_wrong_peer_is_refused() {
        let refused = |config: &Config, open: &Open| negotiate(config, open).map_err(|n| (n.code, n.subcode));
        assert_eq!(refused(&config(), &Open { asn: 65009, ..open() }), Err((2, 2)));
        let ibgp = Config { remote_asn: 65001, ..config() };
        let same = Open { asn: 65001, bgp_id: config().bgp_id, ..open() };
        assert_eq!(refused(&ibgp, &same), Err((2, 3)));
        assert!(
            refused(&config(), &Open { bgp_id: config().bgp_id, ..open() }).is_ok(),
            "unique within an AS only"
        );
    }
}
