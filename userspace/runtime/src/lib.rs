//! What two or more daemons share, and nothing else: the object source, status sockets, metrics, telemetry,
//! shutdown, probes, and the hand-over of listening sockets.
//!
//! ```text
//!  directory ──► source ──candidate──► daemon ──accept / refuse──► ConfigStatus
//!  daemon ──publish──► status (unix socket: /status /metrics /healthz) ──► status::follow in another daemon
//!  proxy ──steer (SEQPACKET, one fd per message)──► l4
//!  operator's command ──inspect (one packet, or packets as they come)──► l4
//!  proxy ──access (a prefix, for a while)──► l4
//! ```
//!
//! A shell: it calls the operating system and decides nothing about traffic; that is `weir-core`.

pub mod access;
pub mod descriptors;
mod inbox;
pub mod inspect;
pub mod metrics;
pub mod probe;
pub mod reactor;
pub mod shutdown;
pub mod source;
pub mod status;
pub mod steer;
pub mod telemetry;
