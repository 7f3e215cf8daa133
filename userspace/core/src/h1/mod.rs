//! HTTP/1.1 on the wire, as an intermediary has to read and write it. RFC 9112, and of RFC 9110 what concerns messages.
//!
//! ```text
//!  bytes ─► head ─► framing ─► (chunked) ─► bytes      one message, never more of it in memory than one buffer
//!             └──► rewrite: the head for the other side
//! ```
//!
//! Nothing here is lenient. A message on whose end two readers could disagree is how requests are smuggled past an
//! intermediary (RFC 9112 §11.2), so what is not plainly one message is refused; what is sent on is written anew from what
//! was understood, and none of the framing is copied.

mod chunked;
mod fields;
mod framing;
mod head;
mod rewrite;
#[cfg(test)]
mod tests;

pub use chunked::{
    Chunked, Progress, TrailerRoom, trailer_room, write_chunk_end, write_chunk_head, write_last_chunk,
};
pub use fields::Field;
pub(crate) use fields::known;
pub use framing::Framing;
pub(crate) use head::{Control, is_of_connections, request_of_http_2};
pub use head::{FieldRoom, RequestHead, ResponseHead, Version, field_room, parse_request, parse_response};
pub use rewrite::{Sender, write_request, write_response};

/// Bytes of a head, first line and fields; a longer one is refused.
pub const HEAD_LEN_MAX: usize = 64 << 10;
/// Fields of a head.
pub const FIELDS_MAX: usize = 128;
/// Bytes of a request target.
pub const TARGET_LEN_MAX: usize = 32 << 10;
/// Fields a sender may name as meant for the next hop only.
pub const NOMINATED_MAX: usize = 16;
/// Bytes of the line in front of a chunk: its size, and extensions nobody understands.
pub const CHUNK_LINE_LEN_MAX: usize = 1 << 10;
/// Bytes of trailer fields.
pub const TRAILERS_LEN_MAX: usize = 16 << 10;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It is not HTTP at all, or breaks the rules of what a field may hold. RFC 9112 §2, RFC 9113 §8.2.
    #[error("not an HTTP message")]
    Syntax,
    /// A line ends without CR. RFC 9112 §2.2 lets a recipient take it; those behind may see it otherwise.
    #[error("a line ends in a bare LF")]
    BareLineFeed,
    /// A field line begins with white space. RFC 9112 §5.2.
    #[error("a folded field line")]
    Folded,
    /// A method nobody may tunnel through here.
    #[error("CONNECT")]
    Connect,
    /// HTTP/1 with another minor version. RFC 9110 §15.6.6.
    #[error("a version that is neither 1.0 nor 1.1")]
    Version,
    /// Of no form a request to a server has. RFC 9112 §3.2.
    #[error("a target of no known form")]
    Target,
    /// Longer than [`TARGET_LEN_MAX`].
    #[error("a target that is too long")]
    TargetLen,
    /// None, several, or none that can be one. RFC 9112 §3.2.
    #[error("not exactly one valid host")]
    Host,
    /// More than [`HEAD_LEN_MAX`] bytes or [`FIELDS_MAX`] fields.
    #[error("a head that is too large")]
    HeadLen,
    /// Not one plain number. RFC 9112 §6.3.
    #[error("a Content-Length that is not one number")]
    ContentLength,
    /// A Transfer-Encoding beside a Content-Length, in HTTP/1.0, or said twice. RFC 9112 §6.1.
    #[error("two ways to say where the message ends")]
    TwoLengths,
    /// A Transfer-Encoding other than chunked. RFC 9112 §6.1.
    #[error("an unknown transfer coding")]
    Coding,
    /// More than [`NOMINATED_MAX`] fields for the next hop only, or such as a message cannot do without.
    #[error("a Connection field that makes no sense")]
    Connection,
    /// A chunk that is none. RFC 9112 §7.1.
    #[error("a broken chunk")]
    Chunk,
}

impl Bad {
    /// The status code for a client whose request it is; a server whose response it is has made a 502 in any case.
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetLen => 414,
            Self::HeadLen => 431,
            Self::Coding | Self::Connect => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// A word for logs and metrics.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Syntax => "bad-syntax",
            Self::BareLineFeed => "bare-lf",
            Self::Folded => "folded-field",
            Self::Connect => "connect-method",
            Self::Version => "bad-version",
            Self::Target => "bad-target",
            Self::TargetLen => "target-too-long",
            Self::Host => "bad-host",
            Self::HeadLen => "head-too-large",
            Self::ContentLength => "bad-content-length",
            Self::TwoLengths => "two-lengths",
            Self::Coding => "unknown-coding",
            Self::Connection => "bad-connection",
            Self::Chunk => "bad-chunk",
        }
    }
}
