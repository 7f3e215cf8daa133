//! Where a message ends. RFC 9112 §6.

use super::{Bad, Version};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks, the last of which is empty.
    Chunked,
    /// The end of the connection; responses only.
    UntilClose,
}

/// The fields that say so, gathered from a head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    content_length: Option<u64>,
    chunked: bool,
}

impl Lengths {
    /// RFC 9110 §8.6: one number. Two equal ones could be taken for one; nobody needs that.
    pub(super) fn add_content_length(&mut self, value: &[u8]) -> Result<(), Bad> {
        let is_number = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        if !is_number || self.content_length.is_some() {
            return Err(Bad::ContentLength);
        }
        self.content_length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    /// RFC 9112 §6.1: no coding but chunked is understood, and that once.
    pub(super) fn add_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Bad> {
        if self.chunked {
            return Err(Bad::TwoLengths);
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
            return Ok(());
        }
        let text = std::str::from_utf8(value).map_err(|_| Bad::TwoLengths)?;
        let mut codings = text.split(',').map(|coding| coding.trim_matches([' ', '\t']));
        let known = |coding: &str| {
            ["gzip", "x-gzip", "deflate", "compress", "x-compress", "chunked"].contains(&coding)
        };
        // Codings that exist and are not spoken here, with chunked last and once. Anything else hides something.
        let last = codings.next_back().unwrap_or_default().to_ascii_lowercase();
        let others_are_known =
            codings.all(|coding| coding != "chunked" && known(&coding.to_ascii_lowercase()));
        Err(if others_are_known && last == "chunked" { Bad::Coding } else { Bad::TwoLengths })
    }

    pub(super) fn of_request(self, version: Version) -> Result<Framing, Bad> {
        match (self.chunked, self.content_length) {
            (true, Some(_)) => Err(Bad::TwoLengths),
            (true, None) if version == Version::Http10 => Err(Bad::TwoLengths),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(0) | None) => Ok(Framing::None),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }

    pub(super) fn of_response(self, version: Version, status: u16, to_head: bool) -> Result<Framing, Bad> {
        if self.chunked && (self.content_length.is_some() || version == Version::Http10) {
            return Err(Bad::TwoLengths);
        }
        // RFC 9112 §6.3 rule 1: whatever the fields say. RFC 9112 §6.1: a coding in these is an error of the server's.
        if to_head || matches!(status, 100..=199 | 204 | 304) {
            let is_said_wrongly = self.chunked && !to_head && status != 304;
            return if is_said_wrongly { Err(Bad::TwoLengths) } else { Ok(Framing::None) };
        }
        Ok(match (self.chunked, self.content_length) {
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        })
    }

    /// What Content-Length said, for responses that have no body and say how long it would be.
    pub(super) fn content_length(self) -> Option<u64> {
        self.content_length
    }
}

/// Whether a field may stand behind a body. RFC 9110 §6.5.1: nothing that says where the message ends, who it is for or how it
/// is to be treated.
pub(super) fn may_trail(name: &str) -> bool {
    const NEVER: [&str; 12] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "max-forwards",
        "pragma",
        "proxy-status",
        "range",
        "set-cookie",
    ];
    super::fields::known(name) == super::fields::Known::Other
        && !NEVER.iter().any(|never| never.eq_ignore_ascii_case(name))
}
