//! Heads as they came, and the requests they are.

use super::list::{Control, Name, Place, Span, is_token};
use crate::h1::{self, Bad, Field, FieldRoom, RequestHead};

/// The head of a message: all its fields, in two pieces of memory that are as large as they are.
#[derive(Clone, Debug)]
pub struct Head {
    pub(super) bytes: Box<[u8]>,
    pub(super) fields: Box<[Span]>,
    pub(super) control: Control,
    /// What is wrong with it already.
    pub(super) flaw: Option<Bad>,
    /// Whether no body follows.
    pub(super) ends: bool,
}

/// What an empty room is filled with, field by field as they are needed.
static NO_FIELDS: [Field<'static>; h1::FIELDS_MAX] = [httparse::EMPTY_HEADER; h1::FIELDS_MAX];

impl Head {
    /// The request it is, as HTTP/1 would have said it; or what is wrong with it (RFC 9113 §8.1.1).
    pub fn request<'h, 'b>(&'b self, room: &'h mut FieldRoom<'b>) -> Result<RequestHead<'h, 'b>, Bad> {
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        let len = self.fields.len().min(h1::FIELDS_MAX);
        let fields = room[..len].write_copy_of_slice(&NO_FIELDS[..len]);
        for (field, span) in fields.iter_mut().zip(&self.fields) {
            *field = Field { name: span.name.of(&self.bytes), value: span.value.of(&self.bytes) };
        }
        let said = |place: Option<Place>| {
            place.map(|place| std::str::from_utf8(place.of(&self.bytes)).map_err(|_| Bad::Syntax)).transpose()
        };
        let control = h1::Control {
            method: said(self.control.method)?.filter(|method| is_token(method)).ok_or(Bad::Syntax)?,
            scheme: said(self.control.scheme)?.unwrap_or_default(),
            path: said(self.control.path)?,
            authority: said(self.control.authority)?,
            protocol: said(self.control.protocol)?,
            ends: self.ends,
        };
        if control.protocol.is_some_and(|protocol| !is_token(protocol)) {
            return Err(Bad::Syntax);
        }
        h1::request_of_http_2(control, fields)
    }

    /// The method, for the log of what was wrong; empty where there is none.
    pub fn method(&self) -> &str {
        self.said(self.control.method)
    }

    /// The path and the query, likewise.
    pub fn target(&self) -> &str {
        self.said(self.control.path)
    }

    /// The authority, likewise.
    pub fn host(&self) -> &str {
        self.said(self.control.authority)
    }

    /// All field lines but the pseudo-header fields, as they came.
    pub fn fields(&self) -> Fields<'_> {
        Fields { bytes: &self.bytes, spans: self.fields.iter() }
    }

    /// How long the body must be: what Content-Length says, where it says one thing. Behind an extended CONNECT there is none.
    pub(super) fn body_len(&self) -> Option<u64> {
        let mut lines = self.fields().filter(|(name, _)| *name == "content-length").map(|(_, value)| value);
        let value = lines.next().filter(|_| lines.next().is_none() && self.control.protocol.is_none())?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// Whether it can stand behind a body. RFC 9113 §8.1: no pseudo-header fields do.
    pub(super) fn may_trail(&self) -> bool {
        let is_of_connections =
            |(name, value)| h1::is_of_connections(h1::known(name), &Field { name, value });
        self.flaw.is_none() && self.control == Control::default() && !self.fields().any(is_of_connections)
    }

    fn said(&self, place: Option<Place>) -> &str {
        place.and_then(|place| std::str::from_utf8(place.of(&self.bytes)).ok()).unwrap_or_default()
    }
}

/// Field lines: names, which are small letters all, and values.
#[derive(Clone, Debug)]
pub struct Fields<'b> {
    bytes: &'b [u8],
    spans: std::slice::Iter<'b, Span>,
}

impl<'b> Iterator for Fields<'b> {
    type Item = (&'b str, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.spans.next().map(|span| (span.name.of(self.bytes), span.value.of(self.bytes)))
    }
}

impl Place {
    /// What stands there; nothing, should there be no such place.
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.at as usize..(self.at + self.len) as usize).unwrap_or_default()
    }
}

impl Name {
    /// The name; empty where it is no text, which no name that is let in is.
    pub(super) fn of(self, bytes: &[u8]) -> &str {
        match self {
            Self::Known(name) => name,
            Self::At(place) => std::str::from_utf8(place.of(bytes)).unwrap_or_default(),
        }
    }
}
