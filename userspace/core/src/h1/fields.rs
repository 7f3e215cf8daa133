//! The fields an intermediary has to know. RFC 9110 §7.6.1, RFC 7239.

use super::{Bad, NOMINATED_MAX};

/// One field line: its name, and its value without the white space around it.
pub type Field<'b> = httparse::Header<'b>;

/// Fields that are not simply passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
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
pub(super) fn known(name: &str) -> Known {
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

/// What the Connection fields of a message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Options<'b> {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    nominated: [&'b str; NOMINATED_MAX],
    count: usize,
}

impl<'b> Options<'b> {
    /// Takes one field line. RFC 9110 §7.6.1: what is named is for this hop only.
    pub(super) fn add(&mut self, value: &'b [u8]) -> Result<(), Bad> {
        let value = std::str::from_utf8(value).map_err(|_| Bad::Connection)?;
        for option in value.split(',').map(|option| option.trim_matches([' ', '\t'])) {
            match option {
                "" => {}
                _ if option.eq_ignore_ascii_case("close") => self.close = true,
                _ if option.eq_ignore_ascii_case("keep-alive") => self.keep_alive = true,
                _ if option.eq_ignore_ascii_case("upgrade") => self.upgrade = true,
                _ => self.nominate(option)?,
            }
        }
        Ok(())
    }

    fn nominate(&mut self, name: &'b str) -> Result<(), Bad> {
        match known(name) {
            // A sender has no right to remove what the message cannot do without, nor what is said of it on the way.
            Known::Host | Known::ContentLength | Known::TransferEncoding => return Ok(()),
            Known::Forwarded
            | Known::ForwardedFor
            | Known::ForwardedHost
            | Known::ForwardedProto
            | Known::Via => {
                return Ok(());
            }
            // Goes in any case.
            Known::Connection | Known::Hop | Known::Upgrade | Known::Expect => return Ok(()),
            Known::Other if name.eq_ignore_ascii_case("content-type") => return Ok(()),
            Known::Other => {}
        }
        *self.nominated.get_mut(self.count).ok_or(Bad::Connection)? = name;
        self.count += 1;
        Ok(())
    }

    /// Whether a field goes no further than here.
    pub(super) fn nominates(&self, name: &str) -> bool {
        self.nominated[..self.count].iter().any(|nominated| nominated.eq_ignore_ascii_case(name))
    }
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
