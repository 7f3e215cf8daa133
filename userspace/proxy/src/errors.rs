//! Why a request was not answered by a server: whose fault it was, and whether another server may be asked.

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use weir_core::{h1::Bad, pace::TooSlow};

use crate::{
    body::RequestBody,
    limits::{SILENT_SUSPECT_FOR, SUSPECT_FOR},
};

/// The response header that names the cause.
pub(crate) const CAUSE_HEADER: &str = "weir-cause";

/// An answer of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// A word for logs, metrics and the response header.
    pub(crate) cause: &'static str,
}

impl Refusal {
    pub(crate) const BAD_HOST: Self = Self { status: StatusCode::BAD_REQUEST, cause: "bad-host" };
    pub(crate) const BAD_TARGET: Self = Self { status: StatusCode::BAD_REQUEST, cause: "bad-target" };
    pub(crate) const BAD_FIELD: Self = Self { status: StatusCode::BAD_REQUEST, cause: "bad-field" };
    pub(crate) const NO_CERTIFICATE: Self =
        Self { status: StatusCode::FORBIDDEN, cause: "client-certificate" };
    pub(crate) const BAD_HELLO: Self = Self { status: StatusCode::BAD_REQUEST, cause: "bad-client-hello" };
    pub(crate) const NO_ROUTE: Self = Self { status: StatusCode::NOT_FOUND, cause: "no-route" };
    pub(crate) const NO_SERVER: Self = Self { status: StatusCode::SERVICE_UNAVAILABLE, cause: "no-server" };
    pub(crate) const CIRCUIT_OPEN: Self =
        Self { status: StatusCode::SERVICE_UNAVAILABLE, cause: "circuit-open" };
    pub(crate) const QUEUE_FULL: Self = Self { status: StatusCode::SERVICE_UNAVAILABLE, cause: "queue-full" };
    pub(crate) const QUEUE_TIMEOUT: Self =
        Self { status: StatusCode::SERVICE_UNAVAILABLE, cause: "queue-timeout" };

    pub(crate) fn body(&self) -> Bytes {
        format!("{} ({})\n", self.status, self.cause).into()
    }
}

/// One attempt at one server failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection: the request was not sent.
    Connect(std::io::Error),
    /// No connection within the pool's `connect_timeout`.
    ConnectTimeout,
    /// A connection, and no agreement on TLS: the request was not sent.
    Tls(std::io::Error),
    /// The server said that it has not looked at the request. RFC 9113 §8.7.
    Unprocessed(hyper::Error),
    /// A kept connection was closed before the request went out on it; here it is back.
    NotSent(Box<Request<RequestBody>>),
    /// The connection broke after the request was (perhaps partly) sent and before a response came.
    Broken(hyper::Error),
    /// The same, as the kernel tells it.
    Lost(std::io::Error),
    /// No response within the pool's `response_timeout`.
    ResponseTimeout,
    /// What came is no response.
    BadResponse(Bad),
    /// The body of the request is none: nobody else would take it either.
    BadRequest,
    /// The client sends the body of its request too slowly.
    SlowClient(TooSlow),
    /// The client went away.
    Client,
}

impl Failure {
    /// Why no response came to a request that was sent, at least in part.
    pub(crate) fn of(error: hyper::Error) -> Self {
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
        // RFC 9113 §8.7: a stream refused, or above the last one of a GOAWAY, was not processed. Streams below it go on.
        let is_unprocessed = source.is_some_and(|error| {
            error.is_remote()
                && (error.is_go_away()
                    || error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
        });
        if is_unprocessed { Self::Unprocessed(error) } else { Self::Broken(error) }
    }

    /// How long the server should be avoided: not at all when only this one exchange failed.
    pub(crate) fn avoid_for(&self) -> Duration {
        match self {
            Self::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => SUSPECT_FOR,
            Self::Connect(error) if is_ours(error) => Duration::ZERO,
            Self::Tls(_) => SUSPECT_FOR,
            Self::Connect(_) | Self::ConnectTimeout => SILENT_SUSPECT_FOR,
            // ETIMEDOUT: its host acknowledges nothing any more.
            Self::Lost(error) if error.kind() == ErrorKind::TimedOut => SILENT_SUSPECT_FOR,
            Self::Broken(error) if is_timed_out(error) => SILENT_SUSPECT_FOR,
            Self::NotSent(_)
            | Self::Unprocessed(_)
            | Self::Broken(_)
            | Self::Lost(_)
            | Self::ResponseTimeout => Duration::ZERO,
            Self::BadResponse(_) | Self::BadRequest | Self::SlowClient(_) | Self::Client => Duration::ZERO,
        }
    }

    /// Whether nothing at all was heard of the server's host: likely its whole zone is in trouble, and asking a neighbour
    /// would cost another timeout.
    pub(crate) fn is_silence(&self) -> bool {
        self.avoid_for() > SUSPECT_FOR
    }

    /// Whether it says something about the server, and not about a client or a connection that was kept for too long.
    pub(crate) fn is_servers(&self) -> bool {
        let is_ours = match self {
            Self::NotSent(_) => true,
            Self::Connect(error) => is_ours(error),
            _ => false,
        };
        !is_ours && self.refusal().status.is_server_error()
    }

    /// What the client is told when nobody else can be asked.
    pub(crate) fn refusal(&self) -> Refusal {
        let (status, cause) = match self {
            Self::Connect(_) => (StatusCode::BAD_GATEWAY, "connect-failed"),
            Self::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "connect-timeout"),
            Self::Tls(_) => (StatusCode::BAD_GATEWAY, "tls-failed"),
            Self::NotSent(_) => (StatusCode::BAD_GATEWAY, "connection-closed"),
            Self::Unprocessed(_) => (StatusCode::BAD_GATEWAY, "request-refused"),
            Self::Broken(error) if error.is_user() || error.is_body_write_aborted() => {
                (StatusCode::BAD_REQUEST, "request-body")
            }
            Self::Broken(error) if error.is_parse() => (StatusCode::BAD_GATEWAY, "bad-response"),
            Self::Broken(_) | Self::Lost(_) => (StatusCode::BAD_GATEWAY, "connection-broken"),
            Self::BadResponse(_) => (StatusCode::BAD_GATEWAY, "bad-response"),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "request-body"),
            Self::SlowClient(why) => (StatusCode::REQUEST_TIMEOUT, slow_cause(*why)),
            Self::Client => (StatusCode::BAD_REQUEST, "client-gone"),
            Self::ResponseTimeout => (StatusCode::GATEWAY_TIMEOUT, "response-timeout"),
        };
        Refusal { status, cause }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::ConnectTimeout => f.write_str("connect: timed out"),
            Self::Tls(error) => write!(f, "tls handshake: {error}"),
            Self::Unprocessed(error) => write!(f, "not processed: {error}"),
            Self::NotSent(_) => f.write_str("kept connection was closed"),
            Self::Broken(error) => write!(f, "before a response: {error}"),
            Self::Lost(error) => write!(f, "before a response: {error}"),
            Self::ResponseTimeout => f.write_str("no response in time"),
            Self::BadResponse(bad) => write!(f, "the response: {bad}"),
            Self::BadRequest => f.write_str("the body of the request is broken"),
            Self::SlowClient(_) => f.write_str("the client sends its request too slowly"),
            Self::Client => f.write_str("the client went away"),
        }
    }
}

/// A word for a client that sends or takes a body too slowly.
pub(crate) fn slow_cause(why: TooSlow) -> &'static str {
    match why {
        TooSlow::Silent => "client-timeout",
        TooSlow::Slow => "body-too-slow",
    }
}

/// Whether this host had nothing left to connect with: descriptors, memory, ports. No server is to blame for that.
fn is_ours(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    let ours = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.contains(&Errno::from_raw(code)))
}

fn is_timed_out(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == ErrorKind::TimedOut)
}
