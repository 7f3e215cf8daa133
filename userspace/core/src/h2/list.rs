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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) method: Option<Place>,
    pub(super) scheme: Option<Place>,
    pub(super) path: Option<Place>,
    pub(super) authority: Option<Place>,
    pub(super) protocol: Option<Place>,
}

/// Fields as they are unpacked; the memory is used again for each head.
#[derive(Debug)]
pub(super) struct List {
    pub(super) bytes: Vec<u8>,
    fields: Vec<Span>,
    control: Control,
    /// Values of Cookie, which become one.
    crumbs: Vec<Place>,
    /// By RFC 9113 §6.5.2.
    size: usize,
    size_max: usize,
    flaw: Option<Bad>,
}

/// What a field counts for beside its bytes. RFC 9113 §6.5.2.
const FIELD_LEN: usize = 32;
/// Bytes that are kept between heads; most are smaller.
const BYTES_KEPT: usize = 4096;

impl List {
    /// For heads that are no larger.
    pub(super) fn new(size_max: u32) -> Self {
        Self {
            bytes: Vec::new(),
            fields: Vec::new(),
            control: Control::default(),
            crumbs: Vec::new(),
            size: 0,
            size_max: size_max as usize,
            flaw: None,
        }
    }

    /// Forgets all fields.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT);
        self.fields.clear();
        self.crumbs.clear();
        self.control = Control::default();
        (self.size, self.flaw) = (0, None);
    }

    /// Adds a field.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8], is_clean: bool) {
        if self.takes(name.len(), value.len()) {
            let begin = self.bytes.len();
            self.bytes.extend_from_slice(name);
            let middle = self.bytes.len();
            self.bytes.extend_from_slice(value);
            let name = Name::At(place(begin, middle));
            self.push(name, place(middle, self.bytes.len()), is_clean);
        }
    }

    /// Adds a field of a known name.
    pub(super) fn add_known(&mut self, name: &'static str, value: &[u8], is_clean: bool) {
        if self.takes(name.len(), value.len()) {
            let begin = self.bytes.len();
            self.bytes.extend_from_slice(value);
            self.push(Name::Known(name), place(begin, self.bytes.len()), is_clean);
        }
    }

    /// Adds a field whose name, unless it is a known one, and value have been appended to the bytes from `begin` and `middle` on.
    pub(super) fn added(&mut self, known: Option<&'static str>, begin: usize, middle: usize, is_clean: bool) {
        let end = self.bytes.len();
        if self.takes(known.map_or(middle - begin, str::len), end - middle) {
            let name = known.map_or(Name::At(place(begin, middle)), Name::Known);
            self.push(name, place(middle, end), is_clean);
        } else {
            self.bytes.truncate(begin);
        }
    }

    /// Counts a field, and whether there is room for it.
    fn takes(&mut self, name_len: usize, value_len: usize) -> bool {
        self.size = self.size.saturating_add(name_len + value_len + FIELD_LEN);
        let takes = self.size <= self.size_max && self.fields.len() < FIELDS_MAX;
        if !takes {
            self.flaw = Some(Bad::HeadLen);
        }
        takes
    }

    fn push(&mut self, name: Name, value: Place, is_clean: bool) {
        let text = name.of(&self.bytes);
        let is_first = self.fields.is_empty();
        let mut is_right = is_clean;
        if text.starts_with(':') {
            let control = &mut self.control;
            let said = match text {
                ":method" => Some(&mut control.method),
                ":scheme" => Some(&mut control.scheme),
                ":path" => Some(&mut control.path),
                ":authority" => Some(&mut control.authority),
                ":protocol" => Some(&mut control.protocol),
                _ => None,
            };
            // RFC 9113 §8.3: those that there are, once, in front of all others.
            is_right &= is_first && said.is_some_and(|said| said.replace(value).is_none());
        } else if text == "cookie" {
            if self.crumbs.is_empty() {
                self.fields.push(Span { name, value });
            }
            self.crumbs.push(value);
        } else {
            self.fields.push(Span { name, value });
        }
        if !is_right {
            self.flaw = self.flaw.or(Some(Bad::Syntax));
        }
    }

    /// The head they make.
    pub(super) fn head(&mut self, ends: bool) -> Head {
        self.join_crumbs();
        Head {
            bytes: self.bytes.as_slice().into(),
            fields: self.fields.as_slice().into(),
            control: self.control,
            flaw: self.flaw,
            ends,
        }
    }

    /// RFC 9113 §8.2.3: "If there are multiple Cookie header fields after decompression, these MUST be concatenated into a single
    /// octet string using the two-octet delimiter of 0x3b, 0x20 (the ASCII string "; ")".
    fn join_crumbs(&mut self) {
        if self.crumbs.len() < 2 {
            return;
        }
        let begin = self.bytes.len();
        for (index, crumb) in self.crumbs.iter().enumerate() {
            if index > 0 {
                self.bytes.extend_from_slice(b"; ");
            }
            self.bytes.extend_from_within(crumb.at as usize..(crumb.at + crumb.len) as usize);
        }
        let joined = place(begin, self.bytes.len());
        let first = self.fields.iter_mut().find(|span| span.name.of(&self.bytes) == "cookie");
        if let Some(first) = first {
            first.value = joined;
        }
    }
}

/// Heads are far smaller than 4 GiB: [`super::Terms::head_len_max`].
fn place(begin: usize, end: usize) -> Place {
    Place { at: begin as u32, len: (end - begin) as u32 }
}

/// What a byte may be part of.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        // RFC 9110 §5.6.2.
        let letter = byte as u8;
        let is_other = matches!(
            letter,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' | b'0'..=b'9'
        );
        if letter.is_ascii_alphabetic() || is_other {
            classes[byte] |= TOKEN;
        }
        if letter.is_ascii_lowercase() || is_other {
            classes[byte] |= NAME;
        }
        byte += 1;
    }
    classes
};

const TOKEN: u8 = 1;
const NAME: u8 = 2;

fn are(bytes: &[u8], class: u8) -> bool {
    !bytes.is_empty() && bytes.iter().fold(class, |all, byte| all & CLASSES[usize::from(*byte)]) == class
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    are(text.as_bytes(), TOKEN)
}

/// RFC 9113 §8.2.1: a token without capital letters; a colon only in front.
pub(super) fn is_clean_name(name: &[u8]) -> bool {
    are(name.strip_prefix(b":").unwrap_or(name), NAME)
}

/// RFC 9113 §8.2.1: neither NUL, CR nor LF, nor white space at either end; nor any other control, as in HTTP/1 here.
pub(super) fn is_clean_value(value: &[u8]) -> bool {
    let is_bad = |byte: u8| byte < b' ' && byte != b'\t' || byte == 0x7f;
    let is_blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    !value.iter().fold(false, |any, byte| any | is_bad(*byte))
        && !is_blank(value.first())
        && !is_blank(value.last())
}
