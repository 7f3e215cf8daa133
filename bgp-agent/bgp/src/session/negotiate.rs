//! Our OPEN against the peer's: refuse it, or agree on terms. RFC 4271 §4.2, §6.2, §10; RFC 4760 §8; RFC 6793 §4.1;
//! RFC 8538 §2; RFC 8654 §3; RFC 8950 §4; RFC 9234 §4.2.

use super::Config;
use crate::wire::{
    Families, GracefulRestart, Notification, Open, PeeringRole, ReceiveContext, UpdateContext,
};
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
    /// What every UPDATE of the peer is judged by.
    pub receive_context: ReceiveContext,
    /// ROUTE-REFRESH of the peer is understood.
    pub route_refresh: bool,
    /// A refresh is sent between marks. RFC 7313.
    pub enhanced_route_refresh: bool,
    /// What the peer offered of graceful restart, so that it may keep our routes over a reset.
    pub peer_graceful_restart: Option<GracefulRestart>,
    /// Both sides offered graceful restart.
    pub graceful_restart: bool,
    /// Both sides take graceful restart for NOTIFICATIONs too, so that ending without it takes a Hard Reset. RFC 8538.
    pub hard_reset: bool,
    /// What the peer says it is to us.
    pub peer_role: Option<PeeringRole>,
}

impl Negotiated {
    /// The names of what both sides can, for people.
    pub fn capabilities(&self) -> Vec<&'static str> {
        let all = [
            (self.update_context.four_octet_as, "4-octet AS"),
            (self.route_refresh, "route refresh"),
            (self.enhanced_route_refresh, "enhanced route refresh"),
            (self.update_context.extended_message, "extended messages"),
            (self.update_context.extended_next_hop, "extended next hop"),
            (self.graceful_restart, "graceful restart"),
            (self.hard_reset, "graceful restart for notifications"),
            (self.peer_role.is_some(), "role"),
        ];
        all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
    }

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
    check_roles(config, ibgp, open.capabilities.role)?;
    let capabilities = &open.capabilities;
    let families = config.families.intersection(capabilities.families.unwrap_or(Families::IPV4));
    let extended_next_hop = config.extended_next_hop && capabilities.extended_next_hop && families.ipv4;
    let graceful_restart = config.graceful_restart.zip(capabilities.graceful_restart);
    Ok(Negotiated {
        peer_bgp_id: open.bgp_id,
        families,
        hold_time: Duration::from_secs(u64::from(config.hold_time_s.min(open.hold_time_s))),
        update_context: UpdateContext {
            local_asn: config.local_asn,
            ibgp,
            four_octet_as: capabilities.four_octet_as,
            // Offered by us always.
            extended_message: capabilities.extended_message,
            extended_next_hop,
            only_to_customer: !ibgp && config.role.is_some_and(PeeringRole::marks_only_to_customer),
        },
        receive_context: ReceiveContext {
            ibgp,
            four_octet_as: capabilities.four_octet_as,
            families,
            extended_next_hop,
        },
        route_refresh: capabilities.route_refresh,
        enhanced_route_refresh: capabilities.enhanced_route_refresh,
        peer_graceful_restart: capabilities.graceful_restart,
        graceful_restart: graceful_restart.is_some(),
        hard_reset: graceful_restart.is_some_and(|(ours, theirs)| ours.notification && theirs.notification),
        peer_role: capabilities.role.filter(|_| !ibgp),
    })
}

/// RFC 9234 §4.2: two roles that do not fit end the attempt; one alone does so in strict mode only. Inside an AS there are none.
fn check_roles(config: &Config, ibgp: bool, theirs: Option<PeeringRole>) -> Result<(), Notification> {
    let Some(ours) = config.role.filter(|_| !ibgp) else {
        return Ok(());
    };
    match theirs {
        Some(theirs) if ours.fits(theirs) => Ok(()),
        None if !config.role_strict => Ok(()),
        Some(_) | None => Err(Notification::role_mismatch()),
    }
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

    #[test]
    fn roles_must_fit_and_be_there_when_strict() {
        let with = |role| Open { capabilities: Capabilities { role, ..open().capabilities }, ..open() };
        let terms = |config: &Config, role| {
            negotiate(config, &with(role))
                .map(|terms| terms.update_context.only_to_customer)
                .map_err(|n| (n.code, n.subcode))
        };
        let customer = Config { role: Some(PeeringRole::Customer), ..config() };
        let provider = Config { role: Some(PeeringRole::Provider), ..config() };
        let strict = Config { role_strict: true, ..customer.clone() };
        assert_eq!(terms(&customer, Some(PeeringRole::Provider)), Ok(false));
        assert_eq!(terms(&provider, Some(PeeringRole::Customer)), Ok(true));
        assert_eq!(terms(&customer, Some(PeeringRole::Peer)), Err((2, 11)));
        assert_eq!(terms(&customer, None), Ok(false));
        assert_eq!(terms(&strict, None), Err((2, 11)));
        assert_eq!(terms(&config(), Some(PeeringRole::Peer)), Ok(false), "we have none");
        let inside = Config { remote_asn: 65001, role_strict: true, ..customer };
        let open = Open { asn: 65001, ..with(None) };
        assert!(negotiate(&inside, &open).is_ok(), "none inside an AS");
    }

    #[test]
    fn a_hard_reset_takes_the_n_bit_of_both() {
        let restart = |notification| GracefulRestart {
            restarting: false,
            notification,
            restart_time_s: 120,
            families: Families::BOTH,
            forwarding_preserved: true,
        };
        for (ours, theirs, graceful, hard) in [
            (None, Some(true), false, false),
            (Some(true), None, false, false),
            (Some(true), Some(false), true, false),
            (Some(true), Some(true), true, true),
        ] {
            let config = Config { graceful_restart: ours.map(restart), ..config() };
            let capabilities = Capabilities { graceful_restart: theirs.map(restart), ..open().capabilities };
            let terms = negotiate(&config, &Open { capabilities, ..open() }).unwrap();
            assert_eq!((terms.graceful_restart, terms.hard_reset), (graceful, hard));
        }
    }
}
