//! BGP peers: what a session needs, what its socket can, and what it may announce.

use std::time::Duration;

use super::Checker;
use crate::{Community, Name, Peer, PeerAddress, peer::RANGE_NAME_LEN_MAX, units::duration::print};

/// `TCP_MD5SIG_MAXKEYLEN` of the kernel.
const PASSWORD_LEN_MAX: usize = 80;

/// The longest name of an interface: `IFNAMSIZ` less its end.
const INTERFACE_LEN_MAX: usize = 15;

/// Communities of each kind on a route: what `weir-bgp` keeps room for, less one for GRACEFUL_SHUTDOWN.
const COMMUNITIES_MAX: usize = 63;

impl Checker<'_> {
    pub(super) fn peers(&mut self) {
        for (name, peer) in &self.objects.peer {
            self.known(("peer", name, "node"), "node", &self.objects.node, &peer.node);
            self.within(("peer", name, "asn"), peer.asn, 1, u32::MAX - 1);
            self.within(("peer", name, "local_asn"), peer.local_asn, 1, u32::MAX - 1);
            self.peer_place(name, peer);
            self.peer_socket(name, peer);
            self.peer_timers(name, peer);
            self.peer_session(name, peer);
            self.peer_routes(name, peer);
        }
    }

    fn peer_place(&mut self, name: &Name, peer: &Peer) {
        let mut problem =
            |field: &str, what: String, hint: &str| self.problem("peer", name, field, what, hint);
        match &peer.address {
            PeerAddress::Host(address) if address.is_unspecified() || address.is_multicast() => {
                problem("address", format!("{address} is not the address of a router"), "");
            }
            PeerAddress::Host(_) => {}
            PeerAddress::Range(range) => {
                if range.trunc() != *range {
                    let hint = format!("write {}", range.trunc());
                    problem("address", format!("{range} has bits beyond its length"), &hint);
                }
                if name.as_str().len() > RANGE_NAME_LEN_MAX {
                    let what = "the name of a peer with a range is longer than 20 bytes".to_owned();
                    problem("", what, "each session is named after the peer and its address");
                }
            }
            PeerAddress::Unnumbered if peer.interface.is_none() => {
                problem("", "has no address".into(), "give address, or interface for a link-local session");
            }
            PeerAddress::Unnumbered => {}
        }
        match &peer.interface {
            Some(_) if !peer.is_link_local() => {
                let what = "only a link-local session is bound to an interface".to_owned();
                problem("interface", what, "remove it, or give a link-local address or none");
            }
            Some(interface)
                if interface.is_empty()
                    || interface.len() > INTERFACE_LEN_MAX
                    || interface.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) =>
            {
                problem("interface", format!("{interface:?} is not the name of an interface"), "");
            }
            None if peer.is_link_local() && !matches!(peer.address, PeerAddress::Unnumbered) => {
                problem("interface", "a link-local address needs an interface".into(), "as in \"eth0\"");
            }
            Some(_) | None => {}
        }
        if peer.port == 0 && !peer.is_passive() {
            problem("port", "0 cannot be connected to".into(), "or set passive = true");
        }
        if peer.is_passive() && peer.local_port == 0 {
            problem("local_port", "a passive peer needs a port to listen on".into(), "");
        }
        if peer.local_address.is_some_and(|local| local.is_ipv4() != peer.address.is_ipv4()) {
            problem("local_address", "is not of the family of address".into(), "");
        }
        if peer.is_link_local() && peer.local_address.is_some() {
            let what = "a link-local session speaks from the address of its interface".to_owned();
            problem("local_address", what, "remove it");
        }
        self.within(("peer", name, "sessions_max"), peer.sessions_max, 1, 1024);
    }

    fn peer_socket(&mut self, name: &Name, peer: &Peer) {
        self.within(("peer", name, "ttl_security"), peer.ttl_security.0, 0, 254);
        if let Some(multihop) = peer.multihop {
            self.within(("peer", name, "multihop"), multihop, 1, 255);
            if peer.ttl_security.0 > 0 {
                let what = "does not go together with ttl_security".to_owned();
                self.problem("peer", name, "multihop", what, "ttl_security = N checks N hops");
            }
        }
        if let Some(password) = &peer.password {
            self.within(("peer", name, "password"), password.reveal().len(), 1, PASSWORD_LEN_MAX);
            if peer.password_file.is_some() {
                let what = "there is password as well".to_owned();
                self.problem("peer", name, "password_file", what, "keep one of the two");
            }
        }
    }

    fn peer_timers(&mut self, name: &Name, peer: &Peer) {
        let hold = peer.hold_time;
        let whole = |duration: Duration| duration.subsec_nanos() == 0;
        if !(whole(hold) && (hold.is_zero() || (3..=65_535).contains(&hold.as_secs()))) {
            let what = format!("{} is not a hold time", print(hold));
            self.problem("peer", name, "hold_time", what, "0s, or whole seconds from 3s to 65535s");
        }
        if let Some(send_hold) = peer.send_hold_time {
            // RFC 9687 §3.3: "SendHoldTime … MUST be greater than the HoldTime".
            if send_hold <= hold || send_hold < Duration::from_secs(1) {
                let what = format!("{} is not longer than the hold time", print(send_hold));
                self.problem("peer", name, "send_hold_time", what, "the usual one is 8m");
            }
        }
        let hour = Duration::from_secs(3600);
        let ms = Duration::from_millis(1);
        self.duration_within(("peer", name, "connect_retry"), peer.connect_retry, 100 * ms, hour);
        self.duration_within(
            ("peer", name, "max_prefixes_pause"),
            peer.max_prefixes_pause,
            1000 * ms,
            24 * hour,
        );
        if let Some(restart) = &peer.graceful_restart
            && !(whole(restart.time) && (1..=4095).contains(&restart.time.as_secs()))
        {
            let what = format!("{} is not a restart time", print(restart.time));
            self.problem("peer", name, "graceful_restart.time", what, "whole seconds from 1s to 4095s");
        }
    }

    fn peer_session(&mut self, name: &Name, peer: &Peer) {
        if peer.families.is_empty() {
            self.problem("peer", name, "families", "announces nothing".into(), "[\"ipv4\", \"ipv6\"]");
        }
        if peer.role.is_some() && peer.asn == peer.local_asn {
            self.problem("peer", name, "role", "there are no roles inside an AS".into(), "remove it");
        }
        if peer.role_strict && peer.role.is_none() {
            self.problem("peer", name, "role_strict", "there is no role".into(), "as in role = \"customer\"");
        }
    }

    fn peer_routes(&mut self, name: &Name, peer: &Peer) {
        self.within(("peer", name, "prepend"), peer.prepend, 0, 10);
        if let Some(max) = peer.max_routes {
            self.within(("peer", name, "max_routes"), max, 1, u32::MAX);
        }
        if let Some(max) = peer.max_prefixes_received {
            self.within(("peer", name, "max_prefixes_received"), max, 1, 1_000_000);
        }
        let (mut standard, mut large) = (0, 0);
        for (index, text) in peer.communities.iter().enumerate() {
            match text.parse() {
                Ok(Community::Standard(_)) => standard += 1,
                Ok(Community::Large(..)) => large += 1,
                Err(error) => {
                    let hint = "as in \"65000:100\", \"65000:1:2\" or \"no-export\"";
                    self.problem("peer", name, &format!("communities.{index}"), error.to_string(), hint);
                }
            }
        }
        if standard.max(large) > COMMUNITIES_MAX {
            let what = format!("more than {COMMUNITIES_MAX} communities of one kind");
            self.problem("peer", name, "communities", what, "");
        }
    }
}
