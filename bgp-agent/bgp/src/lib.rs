//! BGP-4 for a speaker that announces and never learns: wire format, session machine and RIB-out.
//!
//! Sans-IO: no socket, clock or random source. A [`Session`] is one peer. Bytes, transport events and
//! `now` go in by `handle_*`; bytes to send, connections to open or close, and events come out by `poll_*`.
//! It knows nothing of load balancing and never imports a route: UPDATEs of the peer are checked, counted and dropped.
//!
//! The message codec is `bgpkit-parser`; framing, validation, error codes, timers and all policy are here.
//!
//! | RFC | what of it |
//! |---|---|
//! | 4271 | messages, §6 error handling, §6.8 collision, §8 machine without DelayOpen, §9.2 nothing (no import) |
//! | 4760 | IPv4 and IPv6 unicast on one session |
//! | 5492, 9072 | capabilities, extended optional parameters |
//! | 6793 | 4-octet AS numbers, AS_TRANS and AS4_PATH towards 2-octet peers |
//! | 2918 | ROUTE-REFRESH of the peer re-sends our routes |
//! | 4724 | End-of-RIB; the capability is sent only when asked for; no restarting or helper procedures |
//! | 5882, 9384 | a path that BFD calls dead ends the session; who watches it is the shell's |
//! | 6286 | BGP identifiers are unique within an AS only |
//! | 6608 | subcodes of the FSM error |
//! | 7606 | an UPDATE with bad attributes is treated as withdraw, the session stays |
//! | 9003 | text with an administrative shutdown |
//!
//! Not here: MD5, GTSM and TTL (socket options of the shell), extended messages (RFC 8654), ADD-PATH, RFC 8950.

mod fuzz;
mod rib_out;
mod session;
mod wire;

pub use fuzz::fuzz_stream;
pub use rib_out::{COMMUNITIES_MAX, PREPEND_MAX, RibOut, Route, RouteError, RouteSet};
pub use session::{
    Config, ConnId, EVENTS_MAX, Event, Input, Negotiated, Role, Session, StateName, Stats, Transmit,
};
pub use wire::{
    Capabilities, EncodeError, Families, Family, Frame, GracefulRestart, HEADER_LEN, MESSAGE_MAX,
    MessageType, Notification, Open, Reader, UpdateContext, UpdateReport, decode_update, encode_announce,
    encode_end_of_rib, encode_keepalive, encode_withdraw,
};
