//! How connections to servers are made: from where, with which words before the first, and with which options of TCP.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::units;

/// A version of the PROXY protocol, which tells a server who its client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SendProxy {
    /// A line of text: addresses and ports.
    V1,
    /// Binary: also ALPN, server name and whether the client came by TLS, and a unique id where one came in.
    V2,
}

/// The address connections to servers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// The client's own: servers see it as if there were no proxy. Their answers must be routed back through this host, and it takes
    /// CAP_NET_ADMIN. Servers of another family than the client are connected to from an address of the host.
    Client,
    /// This one of the host's, for servers of its family.
    Address(IpAddr),
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "client" => Ok(Self::Client),
            _ => text
                .parse()
                .map(Self::Address)
                .map_err(|_| format!("{text:?} is neither \"client\" nor an IP address")),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Options of TCP on connections to servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialTcp {
    /// A connection on which nothing moves is probed after this time, and again at the same interval; it ends when nothing was
    /// answered for `user_timeout`. 1 s to 1 h.
    #[serde(with = "units::duration")]
    pub keep_alive: Duration,
    /// Bytes a server's host does not acknowledge for so long end the connection; twice `connect_timeout` when absent. 10 ms to 1 h.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub user_timeout: Option<Duration>,
    /// TCP Fast Open (RFC 7413): the first bytes leave with the first segment, to servers that have let us before. `connect_timeout`
    /// then says nothing about them, and a server that is gone is noticed when it is written to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fast_open: bool,
}

impl Default for DialTcp {
    fn default() -> Self {
        Self { keep_alive: Duration::from_secs(1), user_timeout: None, fast_open: false }
    }
}

impl DialTcp {
    /// Whether nobody changed anything.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
