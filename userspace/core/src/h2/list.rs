//! The fields of a message while they are gathered. RFC 9113 §8.2, §8.3.

use super::head::Head;
use crate::h1::{Bad, FIELDS_MAX};

/// Where something stands among the bytes of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u32,
    pub(super) len: u32,
}

/// The name of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// One everybody knows.
    Known(&'static str),
    At(Place),
}

/// A field line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) name: Name,
    pub(super) value: Place,
}

/// Pseudo-header fields. RFC 9113 §8.3.1, RFC 8441 §4.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Control {
    pub(super) method: Option<Place>,
    pub(super) scheme: Option<Place>,
    pub(super) path: Option<Place>,
    pub(super) authority: Option<Place>,
    pub(super) protocol: Option<Place>,
}

/// Fields as they are unpacked; the memory is used again and again.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) bytes: Vec<u8>,
    fields: Vec<Span>,
    control: Control,
    /// By RFC 9113 §6.5.2.
    size: usize,
    flaw: Option<Bad>,
    cookies: usize,
}

impl List {
    /// Forgets all fields.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.control = Control::default();
        (self.size, self.flaw, self.cookies) = (0, None, 0);
    }

    /// Takes a field whose value, and name if it is not a known one, stand at the end of the bytes.
    pub(super) fn add(&mut self, name: Name, value: Place, size_max: usize) {
        let len = match name {
            Name::Known(name) => name.len(),
            Name::At(place) => place.len as usize,
        };
        self.size += len + value.len as usize + 32;
        if self.size > size_max || self.fields.len() == FIELDS_MAX {
            self.flaw = Some(Bad::HeadLen);
            return;
        }
        self.fields.push(Span { name, value });
    }

    /// The head they make.
    pub(super) fn head(&mut self, ends: bool) -> Head {
        Head {
            bytes: self.bytes.as_slice().into(),
            fields: self.fields.as_slice().into(),
            control: self.control,
            flaw: self.flaw,
            ends,
        }
    }
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
