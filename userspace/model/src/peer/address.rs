//! Where a router is: at an address, somewhere in a prefix, or at the other end of an interface.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The router's side of a peer object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PeerAddress {
    /// One router.
    Host(IpAddr),
    /// Every router that calls from this prefix.
    Range(IpNet),
    /// Whoever is at the other end of the peer's interface; its link-local address is learnt.
    #[default]
    Unnumbered,
}

const UNNUMBERED: &str = "unnumbered";

impl PeerAddress {
    /// The address of the one router, when it is written.
    pub fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Host(address) => Some(*address),
            Self::Range(_) | Self::Unnumbered => None,
        }
    }

    /// The family of the session's transport.
    pub fn is_ipv4(&self) -> bool {
        match self {
            Self::Host(address) => address.is_ipv4(),
            Self::Range(range) => range.addr().is_ipv4(),
            Self::Unnumbered => false,
        }
    }

    pub(crate) fn is_unnumbered(&self) -> bool {
        matches!(self, Self::Unnumbered)
    }
}

impl From<IpAddr> for PeerAddress {
    fn from(address: IpAddr) -> Self {
        Self::Host(address)
    }
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an address or a prefix, as in \"10.0.0.1\" or \"10.0.0.0/24\"");
        match text {
            UNNUMBERED => Ok(Self::Unnumbered),
            _ if text.contains('/') => text.parse().map(Self::Range).map_err(|_| bad()),
            _ => text.parse().map(Self::Host).map_err(|_| bad()),
        }
    }
}

impl TryFrom<String> for PeerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PeerAddress> for String {
    fn from(address: PeerAddress) -> Self {
        address.to_string()
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(address) => address.fmt(f),
            Self::Range(range) => range.fmt(f),
            Self::Unnumbered => f.write_str(UNNUMBERED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["10.0.0.1", "2001:db8::1", "10.0.0.0/24", "fe80::/10", "unnumbered"] {
            assert_eq!(text.parse::<PeerAddress>().map(String::from), Ok(text.to_owned()));
        }
        for text in ["", "tor1", "10.0.0.0/33", "fe80::1%eth0"] {
            assert!(text.parse::<PeerAddress>().is_err(), "{text}");
        }
    }
}
