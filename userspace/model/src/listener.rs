//! Listeners: where the proxy accepts connections, what they speak, and which pool a request goes to.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Name, units};

/// A place where the proxy accepts connections: a port of a VIP, or a plain address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// The VIP it serves (with `port`); exclusive with `bind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<Name>,
    /// The port of the VIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A plain socket address such as `127.0.0.1:8080`; needs neither privileges nor the other daemons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<SocketAddr>,
    /// Certificates; needed for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Rules, first match wins; HTTP only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Where everything else goes; a request without a pool is answered 404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Connections accepted at once; more wait in the kernel's queue. 1 to 1,000,000.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Whether requests have names, in the field `x-request-id` to servers and back to clients; HTTP only.
    #[serde(default, skip_serializing_if = "RequestId::is_off")]
    pub request_id: RequestId,
    /// What becomes of the trace a request says it belongs to (W3C Trace Context); HTTP only.
    #[serde(default, skip_serializing_if = "Trace::is_pass")]
    pub trace: Trace,
    /// Whose connections begin with a header of the PROXY protocol (1 or 2), which says who the client is. One of theirs without it
    /// is cut; everybody else is taken for who they are. At most 1,024 prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long nothing may move on a connection that is relayed: of `tcp`, of `tls-passthrough`, or one that was upgraded. 10 ms to
    /// 7 days.
    #[serde(with = "units::duration", default = "default_idle_timeout")]
    pub idle_timeout: Duration,
    /// The same once one side has said all it has to say; `idle_timeout` when absent.
    #[serde(with = "units::optional_duration", default, skip_serializing_if = "Option::is_none")]
    pub half_closed_timeout: Option<Duration>,
    /// How long the head of a request may take, from its first byte to its last: more bytes make it no longer. On a new connection
    /// the handshake of TLS, and then the time until that first byte, are each bounded by it, too. 10 ms to 1 h.
    #[serde(with = "units::duration", default = "default_header_timeout")]
    pub header_timeout: Duration,
    /// How long a connection may be idle from one request to the next; 10 ms to 24 h.
    #[serde(with = "units::duration", default = "one_minute")]
    pub keep_alive_timeout: Duration,
    /// How long a client may send nothing of a request's body, or take nothing of a response, that waits for it; 10 ms to 24 h.
    #[serde(with = "units::duration", default = "one_minute")]
    pub client_timeout: Duration,
    /// How fast a client must send or take a body, in bytes/s over all of the time that it was waited for; 0 to 1,000,000, where 0
    /// is any rate. Time in which the server was waited for does not count.
    #[serde(default = "default_body_rate_min")]
    pub body_rate_min: u32,
    /// So much of that time is not looked at; 10 ms to 1 h.
    #[serde(with = "units::duration", default = "default_body_rate_grace")]
    pub body_rate_grace: Duration,
}

impl Listener {
    /// The fields about the time of requests that say something other than their default.
    pub(crate) fn times_of_requests(&self) -> impl Iterator<Item = &'static str> {
        [
            ("header_timeout", self.header_timeout != default_header_timeout()),
            ("keep_alive_timeout", self.keep_alive_timeout != one_minute()),
            ("client_timeout", self.client_timeout != one_minute()),
            ("body_rate_min", self.body_rate_min != default_body_rate_min()),
            ("body_rate_grace", self.body_rate_grace != default_body_rate_grace()),
        ]
        .into_iter()
        .filter_map(|(field, is_set)| is_set.then_some(field))
    }
}

/// Who names requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestId {
    /// Nobody: the field is passed on like any other.
    #[default]
    Off,
    /// The client, whose name is taken over if it is a plain one of at most 128 characters; else the proxy.
    Keep,
    /// The proxy, whatever the client says: a UUID of version 7.
    Make,
}

impl RequestId {
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// What becomes of `traceparent` and `tracestate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trace {
    /// Passed on as they are, good or bad.
    #[default]
    Pass,
    /// Passed on when they are as they should be; a broken `traceparent` is replaced by the beginning of a trace, and its
    /// `tracestate` dropped.
    Repair,
    /// The same, and requests without one begin a trace.
    Make,
}

impl Trace {
    fn is_pass(&self) -> bool {
        *self == Self::Pass
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    Http,
    /// The same inside TLS, chosen by ALPN.
    Https,
    /// Bytes, relayed as they come.
    Tcp,
    /// TLS, relayed as it comes to the pool of the server name the client asks for; nothing is decrypted.
    TlsPassthrough,
}

impl ListenerProtocol {
    /// Whether there are requests to look at.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// Certificates of a listener, and what it demands of clients. Whoever names no known host is served the first of `certificates`,
/// else the first file of `directory`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chains with their keys; each is served for the names it contains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// A directory of more of them, relative to the configuration directory: `NAME.pem` with chain and key in one, or `NAME.crt`
    /// and `NAME.key`; `NAME.ocsp` beside either is stapled. Files that come, change or go are noticed within a second; one that
    /// cannot be read is reported, and what it was before stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Asks clients for certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificates>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Which certificates of clients are believed, and whether they must have one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// The authorities, as a PEM file relative to the configuration directory.
    pub ca: PathBuf,
    /// Whether a client without a certificate is turned away in the handshake; else only by the routes that demand one.
    #[serde(default = "yes")]
    pub required: bool,
}

/// A certificate chain and its key, as PEM files relative to the configuration directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// An OCSP response (DER) to staple, as whoever renews the certificate fetches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<PathBuf>,
}

/// One rule: requests for these hosts and this path go to that pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Hosts it applies to; empty means every host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Path prefix, on whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
    #[serde(default = "root_path")]
    pub path: String,
    /// Whether only clients with a certificate that `tls.client` believes are served; others are answered 403.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client_certificate: bool,
    /// Where matching requests go.
    pub pool: Name,
}

/// A host name, or `*.` and a domain for every name below it. Lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

impl HostPattern {
    /// Whether `host` (lower case, no port) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            // ".example.org" must be a proper suffix: "*.example.org" does not cover "example.org".
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => self.0 == host,
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rest = text.strip_prefix("*.").unwrap_or(&text);
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        if rest.len() <= 253 && rest.split('.').all(label) {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} is not a lower-case host name or \"*.domain\""))
        }
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn yes() -> bool {
    true
}

fn root_path() -> String {
    "/".into()
}

fn default_idle_timeout() -> Duration {
    Duration::from_secs(3_600)
}

fn default_max_connections() -> u32 {
    20_000
}

fn default_header_timeout() -> Duration {
    Duration::from_secs(10)
}

fn one_minute() -> Duration {
    Duration::from_secs(60)
}

/// What Apache's `mod_reqtimeout` has shipped for years: below the slowest links there are (a GPRS phone sends 1 kB/s), and with
/// [`default_body_rate_grace`] far above what a client can be meant to do.
fn default_body_rate_min() -> u32 {
    500
}

fn default_body_rate_grace() -> Duration {
    Duration::from_secs(20)
}
