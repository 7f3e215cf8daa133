//! BGP-4 for a speaker that announces and never learns: wire format, session machine and RIB-out.
//!
//! Sans-IO: no socket, clock or random source. A [`Session`] is one peer. Bytes, transport events and
//! `now` go in by `handle_*`; bytes to send, connections to open or close, and events come out by `poll_*`.
//! It knows nothing of load balancing and never imports a route: UPDATEs of the peer are checked, counted and dropped.
//!
//! | RFC | what of it |
//! |---|---|
//! | 4271 | messages, §6 error handling, §6.8 collision, §8 machine without DelayOpen, §9.2 nothing (no import) |
//! | 4760 | IPv4 and IPv6 unicast on one session |
//! | 5492, 9072 | capabilities, extended optional parameters |
//! | 6793 | 4-octet AS numbers, AS_TRANS and AS4_PATH towards 2-octet peers |
//! | 1997, 8092, 8326 | communities, large communities, GRACEFUL_SHUTDOWN |
//! | 2918, 7313 | ROUTE-REFRESH of the peer re-sends our routes, between marks where that was agreed |
//! | 4486, 6608, 9003 | subcodes of Cease (maximum prefixes among them) and of the FSM error, text with a shutdown |
//! | 4724, 8538 | the restarting side: R and F bits, End-of-RIB kept back until the routes are known, N bit and Hard Reset. \
//! |      | No helper side: nothing of the peer is kept that could be stale |
//! | 5882, 9384 | a path that BFD calls dead ends the session; who watches it is the shell's |
//! | 6286 | BGP identifiers are unique within an AS only |
//! | 6396 | BGP4MP_ET records of messages |
//! | 7606 | a table of attributes and errors: treat-as-withdraw, attribute discard, AFI/SAFI disable, session reset |
//! | 8654 | extended messages |
//! | 8950 | IPv4 prefixes with IPv6 next hops |
//! | 9234 | roles; the OTC attribute towards customers and peers |
//! | 9687 | send hold timer |
//!
//! Not here: MD5, GTSM and TTL (socket options of the shell), ADD-PATH, TCP-AO.

mod fuzz;
pub mod mrt;
mod rib_out;
mod session;
mod wire;

pub use fuzz::{fuzz_open, fuzz_stream, fuzz_update};
pub use rib_out::{
    COMMUNITIES_MAX, LARGE_COMMUNITIES_MAX, PREPEND_MAX, Refused, RibOut, Route, RouteError, RouteSet,
};
pub use session::{
    Config, ConnId, EVENTS_MAX, Event, Input, Negotiated, Received, Role, SAMPLES_MAX, Session, StateName,
    Stats, Transmit,
};
pub use wire::{
    Action, Capabilities, EXTENDED_MESSAGE_MAX, EncodeError, Families, Family, Finding, Frame,
    GracefulRestart, HEADER_LEN, MESSAGE_MAX, MessageType, Notification, Open, PeeringRole, Reader,
    ReceiveContext, Refresh, UpdateContext, UpdateReport, decode_update, encode_announce, encode_end_of_rib,
    encode_keepalive, encode_refresh, encode_withdraw,
};
