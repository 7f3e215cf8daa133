//! Heads for the other side: what was understood, written anew. RFC 9110 §7.6.

use std::{borrow::Cow, net::IpAddr};

use super::{
    Framing, RequestHead, ResponseHead, Version,
    fields::{Field, Known, known},
};
use crate::text::{write_ip, write_number};

/// What is said of a client to servers.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    address: IpAddr,
    proto: &'static str,
    /// Fields in place of the client's of these names; an empty value is no field at all.
    instead: &'a [(&'a str, &'a [u8])],
    /// Random bytes for a key of WebSocket, of which clients of HTTP/2 have none.
    nonce: [u8; 16],
}

impl<'a> Sender<'a> {
    /// A client at an address, over TLS or not.
    pub fn new(client: IpAddr, tls: bool) -> Self {
        let proto = if tls { "https" } else { "http" };
        Self { address: client.to_canonical(), proto, instead: &[], nonce: [0; 16] }
    }

    /// With random bytes for the key of a WebSocket somebody asks for by HTTP/2. RFC 6455 §4.1: a new nonce each time.
    pub fn with_nonce(self, nonce: [u8; 16]) -> Self {
        Self { nonce, ..self }
    }

    /// With fields in place of the client's of these names; an empty value is no field at all.
    pub fn with(self, instead: &'a [(&'a str, &'a [u8])]) -> Self {
        Self { instead, ..self }
    }

    fn replaces(self, name: &str) -> bool {
        self.instead.iter().any(|(replaced, _)| replaced.eq_ignore_ascii_case(name))
    }

    /// Its address, as in X-Forwarded-For.
    fn write_address(self, out: &mut Vec<u8>) {
        write_ip(out, self.address);
    }

    /// The `for` of Forwarded. RFC 7239 §6: an IPv6 address stands in brackets and quotes.
    fn write_by_whom(self, out: &mut Vec<u8>) {
        let [before, after]: [&[u8]; 2] = if self.address.is_ipv4() { [b"", b""] } else { [b"\"[", b"]\""] };
        out.extend_from_slice(before);
        self.write_address(out);
        out.extend_from_slice(after);
    }
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
}

const WEBSOCKET_KEY: &str = "sec-websocket-key";

/// RFC 4648 §4, of so many bytes as a key of WebSocket has.
fn base64(bytes: [u8; 16]) -> [u8; 24] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    let bits = u128::from_be_bytes(bytes);
    for (at, digit) in text.iter_mut().take(22).enumerate() {
        // Of the last digit only two bits are left.
        let sextet = if at == 21 { bits << 4 } else { bits >> (122 - 6 * at) };
        *digit = DIGITS[(sextet & 63) as usize];
    }
    text
}

/// Begins a list field with the elements that came, in their order; one more is to follow. One field, because some read only the
/// first.
fn begin_list(out: &mut Vec<u8>, name: &str, came: &RequestHead<'_, '_>, which: Known) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    if came.options.has(which) {
        write_elements(out, came.fields, which);
    }
}

fn write_elements(out: &mut Vec<u8>, fields: &[Field<'_>], which: Known) {
    for field in fields.iter().filter(|field| known(field.name) == which && !field.value.is_empty()) {
        out.extend_from_slice(field.value);
        out.extend_from_slice(b", ");
    }
}

/// Appends the head of a request as the server shall see it: in origin-form and HTTP/1.1, without what was meant for this
/// hop, and with who asked and how.
pub fn write_request(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, sender: &Sender<'_>) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, "host", head.host.as_bytes());
    for field in head.fields {
        match known(field.name) {
            Known::Other
                if !sender.replaces(field.name) && !head.options.nominates(head.fields, field.name) =>
            {
                write_field(out, field.name, field.value)
            }
            Known::Expect if head.expects_continue => write_field(out, "expect", b"100-continue"),
            _ => {}
        }
    }
    for (name, value) in sender.instead.iter().filter(|(_, value)| !value.is_empty()) {
        write_field(out, name, value);
    }
    write_framing(out, head.framing);
    // RFC 9110 §8.6: a method that expects a body says so when it has none.
    if head.framing == Framing::None && matches!(head.method, "POST" | "PUT" | "PATCH") {
        out.extend_from_slice(b"content-length: 0\r\n");
    }
    if let Some(protocol) = head.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
        write_field(out, "upgrade", protocol.as_bytes());
        // RFC 8441 §5: over HTTP/2 there is neither a key nor an answer to it; a server of HTTP/1.1 wants one.
        let has_key = || head.fields.iter().any(|field| field.name.eq_ignore_ascii_case(WEBSOCKET_KEY));
        if head.is_extended_connect && protocol.eq_ignore_ascii_case("websocket") && !has_key() {
            write_field(out, WEBSOCKET_KEY, &base64(sender.nonce));
        }
    }
    begin_list(out, "x-forwarded-for", head, Known::ForwardedFor);
    sender.write_address(out);
    out.extend_from_slice(b"\r\n");
    write_field(out, "x-forwarded-proto", sender.proto.as_bytes());
    write_field(out, "x-forwarded-host", head.host.as_bytes());
    begin_list(out, "forwarded", head, Known::Forwarded);
    out.extend_from_slice(b"for=");
    sender.write_by_whom(out);
    if !head.host.is_empty() {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(head.host.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(sender.proto.as_bytes());
    out.extend_from_slice(b"\r\n");
    begin_list(out, "via", head, Known::Via);
    out.extend_from_slice(via(head.version).as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

impl<'h> ResponseHead<'h, '_> {
    /// The fields a client is told of, in their order: without what was meant for this hop, [`Self::via`], what frames the body,
    /// and the field named `without`.
    pub fn passed_on(&self, without: &str) -> impl Iterator<Item = (&'h str, &'h [u8])> {
        let (fields, options) = (self.fields, self.options);
        let passes = move |field: &&'h Field<'_>| match known(field.name) {
            // Nobody behind us is told anything by these in a response; they are the server's words all the same.
            Known::Other
            | Known::Forwarded
            | Known::ForwardedFor
            | Known::ForwardedHost
            | Known::ForwardedProto => {
                !field.name.eq_ignore_ascii_case(without) && !options.nominates(fields, field.name)
            }
            _ => false,
        };
        fields.iter().filter(passes).map(|field| (field.name, field.value))
    }

    /// Who has passed it on, we at the end: one field, because some read only the first.
    pub fn via(&self) -> Cow<'static, [u8]> {
        let ours = via(self.version).as_bytes();
        if !self.options.has(Known::Via) {
            return ours.into();
        }
        let mut list = Vec::new();
        write_elements(&mut list, self.fields, Known::Via);
        list.extend_from_slice(ours);
        list.into()
    }

    /// The length a client is told of where the body goes on framed like this. RFC 9110 §8.6: also of a body that is not sent; 204
    /// and 1xx have none to speak of.
    pub fn told_length(&self, framing: Framing) -> Option<u64> {
        match framing {
            Framing::None if matches!(self.status, 100..=199 | 204) => None,
            Framing::None => self.content_length,
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }
}

/// Appends the head of a response: these fields, the framing of the body that follows, and `more` lines, each with its line end.
pub fn write_response<'f>(
    out: &mut Vec<u8>,
    (status, reason): (u16, &str),
    fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    framing: Framing,
    more: &[&[u8]],
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        write_field(out, name, value);
    }
    write_framing(out, framing);
    for line in more {
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\r\n");
}

fn via(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0 weir",
        Version::Http11 => "1.1 weir",
        Version::Http2 => "2.0 weir",
    }
}
