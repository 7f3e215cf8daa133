//! How the servers of a pool are spoken to: the version of HTTP, and TLS.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of HTTP servers are asked by, whichever their clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolProtocol {
    /// HTTP/1.1; one request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2 over TLS, which the handshake must agree on (ALPN); many requests at once on a connection.
    H2,
    /// HTTP/2 without TLS, by prior knowledge. RFC 9113 §3.3.
    H2c,
}

impl PoolProtocol {
    /// Whether many requests share a connection.
    pub fn is_h2(self) -> bool {
        self != Self::Http1
    }
}

/// TLS to the servers of a pool. Paths are relative to the configuration directory; files that change are noticed within a second.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTls {
    /// A PEM file with the authorities one of which must have signed the server's certificate: a file of your own, or the
    /// system's (`/etc/ssl/certs/ca-certificates.crt` on Debian). Not needed only where `verify` is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The name that is asked for (SNI) and must be in the certificate; the server's address when absent. The host of a request is
    /// never taken for it: connections are shared by requests for any host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the certificate is looked at. Without it anybody on the way can pass for the server.
    #[serde(default = "yes")]
    pub verify: bool,
    /// A chain of certificates shown to servers that ask for one; with `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

fn yes() -> bool {
    true
}
