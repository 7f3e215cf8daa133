//! What a listening socket is for, and the name it is held under.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where connections come in, of clients and of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// A listener's, at an address of this host.
    Bind(SocketAddr),
    /// A listener's, at a VIP: steered to a socket on the loopback address.
    Vip(SocketAddr),
    /// `/metrics` and its like.
    Metrics(SocketAddr),
    /// The node's `/healthz`.
    Probe(SocketAddr),
}

const KINDS: [&str; 4] = ["bind", "vip", "metrics", "probe"];

impl Door {
    /// The name: of a kind that no unit of systemd has, and without a colon.
    pub(crate) fn name(self) -> String {
        let (kind, address) = match self {
            Self::Bind(address) => (KINDS[0], address),
            Self::Vip(address) => (KINDS[1], address),
            Self::Metrics(address) => (KINDS[2], address),
            Self::Probe(address) => (KINDS[3], address),
        };
        format!("weir-{kind}-{}-{}", address.ip(), address.port()).replace(':', "_")
    }

    /// Whether a socket bound there is one for this door, whatever it is called.
    pub(crate) fn fits(self, local: SocketAddr) -> bool {
        match self {
            Self::Bind(address) | Self::Metrics(address) | Self::Probe(address) => {
                local.ip() == address.ip() && (address.port() == 0 || local.port() == address.port())
            }
            Self::Vip(SocketAddr::V4(_)) => local.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Vip(SocketAddr::V6(_)) => local.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    /// Whether it may be found by its address alone.
    pub(crate) fn is_at(self, local: SocketAddr) -> bool {
        match self {
            Self::Bind(address) | Self::Metrics(address) | Self::Probe(address) => local == address,
            Self::Vip(_) => false,
        }
    }
}

/// Whether a name is one of [`Door::name`].
pub(crate) fn is_ours(name: &str) -> bool {
    let kind = name.strip_prefix("weir-").and_then(|rest| rest.split('-').next());
    kind.is_some_and(|kind| KINDS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use weir_core::keeper::notice;

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_door_has_a_name_of_its_own_that_may_be_one() {
        let addresses = ["192.0.2.1:80", "192.0.2.1:8", "[2001:db8::1]:80", "[2001:db8::1:80]:80"];
        let kinds = [Door::Bind, Door::Vip, Door::Metrics, Door::Probe];
        let names: std::collections::BTreeSet<String> =
            kinds.iter().flat_map(|kind| addresses.map(|address| kind(at(address)).name())).collect();
        assert_eq!(names.len(), 16, "{names:?}");
        assert!(names.iter().all(|name| notice::is_name(name) && is_ours(name)), "{names:?}");
        assert!(["", "web.socket", "weir-proxy.socket", "weir-"].iter().all(|name| !is_ours(name)));
    }

    #[test]
    fn a_socket_is_believed_by_where_it_is_bound() {
        let bind = Door::Bind(at("192.0.2.1:80"));
        assert!(bind.fits(at("192.0.2.1:80")) && bind.is_at(at("192.0.2.1:80")));
        assert!(!bind.fits(at("192.0.2.1:81")) && !bind.fits(at("192.0.2.2:80")));
        // Any port will do where any was asked for, if the name says so.
        let any = Door::Bind(at("127.0.0.1:0"));
        assert!(any.fits(at("127.0.0.1:4711")) && !any.is_at(at("127.0.0.1:4711")));
        let vip = Door::Vip(at("[2001:db8::1]:80"));
        assert!(vip.fits(at("[::1]:4711")) && !vip.fits(at("127.0.0.1:4711")) && !vip.is_at(at("[::1]:80")));
    }
}
