//! Bidirectional Forwarding Detection: is the path to a neighbour alive, answered within milliseconds.
//!
//! Sans-IO: no socket, clock or random source. A [`Speaker`] holds the sessions of a host. Packets with what the socket knows
//! of them and `now` go in by `handle_*`; packets to send and events come out by `poll_*`. What a dead path means is the
//! caller's: nothing here knows BGP.
//!
//! | RFC | what of it |
//! |---|---|
//! | 5880 | asynchronous mode: §4.1 packets, §6.5 Poll Sequences, §6.6 Demand mode of the peer, §6.7 authentication is refused, §6.8 the machine |
//! | 5881 | single hop: TTL 255 (§5), first packets told apart by their addresses (§3) |
//! | 5882 | a peer that is AdminDown is not a dead path (§3.2, §4.2): [`View::failures`] does not count it |
//! | 5883 | multihop: a least TTL per session in place of 255 |
//!
//! Not here: the Echo function (we say that we loop nothing back), Demand mode of our own, authentication, S-BFD, sockets.

mod fuzz;
mod packet;
mod session;
mod speaker;
mod timing;

pub use fuzz::fuzz_packets;
pub use packet::{Authentication, Diagnostic, Discard, PACKET_LEN, Packet, State};
pub use session::{Config, Stats, Transition, View};
pub use speaker::{
    AddError, Arrival, EVENTS_MAX, Endpoint, Event, Hops, SESSIONS_MAX, SessionId, Speaker, Transmit,
};
pub use timing::{SLOW_INTERVAL, detection_time, jittered, transmit_interval};

/// UDP port of single-hop control packets. RFC 5881 §4.
pub const SINGLE_HOP_PORT: u16 = 3784;

/// UDP port of multihop control packets. RFC 5883 §5.
pub const MULTIHOP_PORT: u16 = 4784;

/// RFC 5881 §4: "The source port MUST be in the range 49152 through 65535."
pub const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// The TTL of every packet sent, and of every single-hop packet that is taken. RFC 5881 §5.
pub const TTL: u8 = 255;
