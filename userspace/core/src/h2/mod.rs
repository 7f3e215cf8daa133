//! A server's end of a connection of HTTP/2, without the connection. RFC 9113; HPACK, RFC 7541; RFC 8441 of CONNECT.
//!
//! ```text
//!  bytes ─► receive ─► frames ─► Guard (work for nothing?) ─► Event: a request, data, …
//!                        ├──► hpack ─► Head ─► h1::RequestHead      the same request HTTP/1 gives
//!                        └──► windows, states of streams
//!  respond, send, end, trailers, reset ─► output ─► bytes
//! ```
//!
//! Who drives it owns the socket and the clock. Nothing here is lenient, for what is read becomes a request of HTTP/1 (RFC 9113
//! §10.3), and all that is held has a bound: [`Terms`] say how much. A wrong message ends its stream, a wrong connection is told
//! why in GOAWAY and ends ([`Fatal`]).

mod about;
mod frame;
mod guard;
mod head;
mod hpack;
mod incoming;
mod list;
mod outgoing;
mod server;
mod settings;
mod streams;
#[cfg(test)]
mod tests;

pub use guard::{BURST, RATE_PER_S};
pub use head::{Fields, Head};
pub use server::{Event, Server};

/// The number of a stream; clients have the odd ones, ever larger. RFC 9113 §5.1.1.
pub type StreamId = u32;

/// The longest payload of a frame here, either way: what everybody takes. RFC 9113 §4.2.
pub const FRAME_LEN_MAX: usize = 16_384;
/// Bytes in front of each payload. RFC 9113 §4.1.
pub const FRAME_HEADER_LEN: usize = 9;
/// Bytes of output beyond which no data is taken until some are written.
pub const OUTPUT_MAX: usize = 256 << 10;
/// The window of streams and connections nobody has said anything of; less cannot be granted. RFC 9113 §6.9.2.
pub const WINDOW_MIN: u32 = 65_535;
/// The largest window. RFC 9113 §6.9.1.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;

/// What a client is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Requests at once.
    pub streams_max: u32,
    /// Bytes of a head: names, values and 32 for each field (RFC 9113 §6.5.2); packed, as many.
    pub head_len_max: u32,
    /// Bytes of a request nobody has read yet; at least [`WINDOW_MIN`], at most [`WINDOW_MAX`].
    pub stream_window: u32,
    /// The same of all requests together, within the same bounds.
    pub connection_window: u32,
}

/// Why a stream or a connection ends. RFC 9113 §7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(0x0);
    /// Something forbidden, for which there is no better word.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// Something of ours failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// More data than was granted, or more granted than can be.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// A frame for a stream that had ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame of a length it cannot have.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// A request nothing was done for: it may be sent again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// Nobody waits for it any more.
    pub const CANCEL: Self = Self(0x8);
    /// Fields that cannot be unpacked, so that nothing after them could be.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The connection of a CONNECT broke.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// Too much work for nothing.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    /// To be asked by HTTP/1.1 instead.
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);
}

/// The stream has ended, by whoever: there is nothing more to say on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Gone;

/// What ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Other first bytes than all clients send. RFC 9113 §3.4.
    #[error("not the preface of HTTP/2")]
    Preface,
    /// A frame that is too long, or has another length than those of its type. RFC 9113 §4.2.
    #[error("a frame of a wrong length")]
    FrameSize,
    /// A frame on a stream of a kind it does not belong to, or on one that was never opened. RFC 9113 §5.1.
    #[error("a frame where it does not belong")]
    Misplaced,
    /// A frame other than CONTINUATION within a head, or that without one. RFC 9113 §6.10.
    #[error("a head that is not whole")]
    Headless,
    /// A frame for a stream the client had ended. RFC 9113 §5.1.
    #[error("a frame for a stream that had ended")]
    StreamClosed,
    /// As much padding as the frame is long. RFC 9113 §6.1.
    #[error("more padding than frame")]
    Padding,
    /// A setting of a value it cannot have. RFC 9113 §6.5.2.
    #[error("a setting of a value it cannot have")]
    Setting,
    /// Fields that cannot be unpacked. RFC 9113 §4.3.
    #[error("fields that cannot be unpacked")]
    Compression,
    /// A window opened by nothing. RFC 9113 §6.9.
    #[error("a window opened by nothing")]
    NoIncrement,
    /// A window beyond [`WINDOW_MAX`]. RFC 9113 §6.9.1.
    #[error("a window opened too far")]
    Window,
    /// More data than was granted. RFC 9113 §6.9.
    #[error("more data than was granted")]
    FlowControl,
    /// A packed head larger than [`Terms::head_len_max`].
    #[error("a head that is too large to unpack")]
    HeadLen,
    /// Too much work for nothing.
    #[error("a flood of frames without work")]
    Flood,
}

impl Fatal {
    /// What the client is told.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Preface | Self::Misplaced | Self::Headless | Self::Padding => Reason::PROTOCOL_ERROR,
            Self::Setting | Self::NoIncrement => Reason::PROTOCOL_ERROR,
            Self::FrameSize => Reason::FRAME_SIZE_ERROR,
            Self::StreamClosed => Reason::STREAM_CLOSED,
            Self::Compression => Reason::COMPRESSION_ERROR,
            Self::Window | Self::FlowControl => Reason::FLOW_CONTROL_ERROR,
            Self::HeadLen | Self::Flood => Reason::ENHANCE_YOUR_CALM,
        }
    }

    /// A word for logs and metrics.
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Preface => "bad-preface",
            Self::FrameSize => "bad-frame-size",
            Self::Misplaced => "misplaced-frame",
            Self::Headless => "broken-head",
            Self::StreamClosed => "stream-closed",
            Self::Padding => "bad-padding",
            Self::Setting => "bad-setting",
            Self::Compression => "bad-compression",
            Self::NoIncrement => "no-increment",
            Self::Window => "bad-window",
            Self::FlowControl => "flow-control",
            Self::HeadLen => "head-too-large",
            Self::Flood => "flood",
        }
    }
}
