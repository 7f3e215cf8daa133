//! The objects an operator writes, and the [`Snapshot`] they resolve to.
//!
//! ```text
//!  TOML files ──► Objects ──► Snapshot::build ──► Snapshot      (or every Problem at once)
//!
//!                              ┌─────────────────────────┐
//!                              │                         ▼
//!  Zone ◄── Node ◄── Group ◄── Vip ◄── Listener ──────► Pool ◄── Server ──► Zone
//!             ▲                                          ▲
//!            Peer                                Failover ┴──► Zone       (AccessList ──► Vip)
//! ```
//!
//! Pure: text in, values out. Who reads the files, watches them and keeps the last good snapshot is `weir-runtime`;
//! what follows from a snapshot is decided in `weir-core`. The same serde structs serve as TOML and JSON.
#![forbid(unsafe_code)]

mod access;
mod bfd;
mod body_pattern;
mod caution;
mod check;
mod dial;
mod directory;
mod failover;
mod hash_on;
mod listener;
mod mss;
mod name;
mod peer;
mod place;
mod pool;
mod problem;
pub mod rehearsal;
mod resilience;
mod snapshot;
pub mod status;
mod towards;
pub mod units;
mod validate;
mod vip;

pub use access::{AccessAction, AccessEntry, AccessList};
pub use bfd::Bfd;
pub use body_pattern::BodyPattern;
pub use check::{Check, CheckKind, CheckTls, CheckVersion, StatusRanges};
pub use dial::{DialTcp, SendProxy, Source};
pub use directory::{FILE_LEN_MAX, Objects, SourceFile};
pub use failover::{Failover, FailoverScope};
pub use hash_on::HashOn;
pub use listener::{
    CertificateFiles, ClientCertificates, HostPattern, Listener, ListenerProtocol, RequestId, Route, Tls,
    TlsVersion, Trace,
};
pub use mss::MssClamp;
pub use name::{NAME_LEN_MAX, Name, NameError};
pub use peer::{
    AddressFamily, Community, GracefulRestart, Peer, PeerAddress, PeerRole, RANGE_NAME_LEN_MAX, Secret,
    TtlSecurity,
};
pub use place::{AcceptTunnels, Admin, Group, GroupMode, Node, ProbeVia, Tunnel, Zone};
pub use pool::{Balance, Pool, Server, Sticky};
pub use problem::{Problem, Problems};
pub use resilience::{Breaker, Ejection, RetryBudget};
pub use snapshot::{Generation, Snapshot};
pub use towards::{PoolProtocol, PoolTls};
pub use units::{Percent, Rate, Timestamp};
pub use vip::{
    Announce, AnnounceMode, KeptAnnounce, LastAnnouncer, NeededServices, PortRange, Protocol, RemoteAnnounce,
    Service, SourceLimit, SourceRoute, Spread, SynProtection, UnservedAnnounce, Vip,
};
