//! The fields an intermediary has to know. RFC 9110 §7.6.1, RFC 7239.

use super::{Bad, NOMINATED_MAX};

/// One field line: its name, and its value without the white space around it.
pub type Field<'b> = httparse::Header<'b>;

/// Fields that are not simply passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Connection,
    ContentLength,
    Expect,
    Forwarded,
    Host,
    /// Keep-Alive, Proxy-Connection, Proxy-Authenticate, Proxy-Authorization, TE, Trailer: for one hop only.
    Hop,
    TransferEncoding,
    Upgrade,
    Via,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Other,
}

/// Most names are told apart by their length.
pub(crate) fn known(name: &str) -> Known {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is("te") => Known::Hop,
        3 if is("via") => Known::Via,
        4 if is("host") => Known::Host,
        6 if is("expect") => Known::Expect,
        7 if is("upgrade") => Known::Upgrade,
        7 if is("trailer") => Known::Hop,
        9 if is("forwarded") => Known::Forwarded,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::Hop,
        14 if is("content-length") => Known::ContentLength,
        15 if is("x-forwarded-for") => Known::ForwardedFor,
        16 if is("x-forwarded-host") => Known::ForwardedHost,
        16 if is("proxy-connection") => Known::Hop,
        17 if is("transfer-encoding") => Known::TransferEncoding,
        17 if is("x-forwarded-proto") => Known::ForwardedProto,
        18 if is("proxy-authenticate") => Known::Hop,
        19 if is("proxy-authorization") => Known::Hop,
        _ => Known::Other,
    }
}

/// What the fields of a message say about this hop, and which of those that are known there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Fields that are nominated.
    count: u8,
    /// One bit for each [`Known`].
    seen: u16,
}

impl Options {
    /// Takes note of a field line.
    pub(super) fn saw(&mut self, which: Known) {
        self.seen |= 1 << which as u16;
    }

    /// Whether there is such a field line.
    pub(super) fn has(self, which: Known) -> bool {
        self.seen & 1 << which as u16 != 0
    }

    /// Takes one Connection field line. RFC 9110 §7.6.1: what is named is for this hop only.
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), Bad> {
        for option in options(std::str::from_utf8(value).map_err(|_| Bad::Connection)?) {
            match option {
                "" => {}
                _ if option.eq_ignore_ascii_case("close") => self.close = true,
                _ if option.eq_ignore_ascii_case("keep-alive") => self.keep_alive = true,
                _ if option.eq_ignore_ascii_case("upgrade") => self.upgrade = true,
                _ if !may_be_nominated(option) => {}
                _ if usize::from(self.count) == NOMINATED_MAX => return Err(Bad::Connection),
                _ => self.count += 1,
            }
        }
        Ok(())
    }

    /// Whether a field goes no further than here. `fields`: all of the message.
    pub(super) fn nominates(self, fields: &[Field<'_>], name: &str) -> bool {
        if self.count == 0 || !may_be_nominated(name) {
            return false;
        }
        let lines = fields.iter().filter(|field| known(field.name) == Known::Connection);
        let mut nominated =
            lines.flat_map(|field| options(std::str::from_utf8(field.value).unwrap_or_default()));
        nominated.any(|option| option.eq_ignore_ascii_case(name))
    }
}

fn options(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|option| option.trim_matches([' ', '\t']))
}

/// A sender has no right to remove what the message cannot do without, nor what is said of it on the way; the rest goes in any
/// case.
fn may_be_nominated(name: &str) -> bool {
    known(name) == Known::Other && !name.eq_ignore_ascii_case("content-type")
}

/// Whether this can be the host of a request: a name, an address or one in brackets, perhaps with a port. RFC 9110 §7.2,
/// RFC 3986 §3.2.2, but of percent-encoded names nothing.
pub(super) fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else { return false };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => ("v6", port),
                None => return port.is_empty(),
            }
        }
        None => host.split_once(':').unwrap_or((host, "")),
    };
    // A comma would be allowed (RFC 3986 §3.2.2); it is how two Host fields look once somebody has joined them.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte);
    name.bytes().all(is_name)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok())
}
