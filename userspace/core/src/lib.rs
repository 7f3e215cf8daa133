//! Every decision of weir, as pure functions and sans-IO machines.
//!
//! ```text
//!  check results ──► health::HealthMachine ──► health::HealthView ─┐
//!  Snapshot ────────────────────────────────────────────────────┴─► routing::assess ──► PoolAssessment ──► pick_zone
//!  request ──► l7::RouteTable ──► pool;  routing::home ──► home zone;  balance::Balancer ──► server
//!
//!  Snapshot + proxies that answer ──► image (with maglev tables) ──► plan ──► the datapath's maps
//!
//!  a frame ──► datapath (what the kernel programs do, as a pure function) ──► a frame, and why
//!
//!  explain and preview: the same decisions, in words and in numbers for an operator
//! ```
//!
//! No clock, randomness, network or file here: time, random numbers and bytes are arguments, effects are return
//! values. Equal arguments give equal answers on every host.
#![forbid(unsafe_code)]

pub mod balance;
pub mod capture;
pub mod client_hello;
pub mod cookie;
pub mod datapath;
pub mod explain;
pub mod h1;
pub mod h2;
pub mod hash;
pub mod health;
pub mod image;
pub mod keeper;
pub mod l7;
pub mod log_line;
pub mod maglev;
pub mod pace;
pub mod path_probe;
pub mod pcap;
pub mod plan;
pub mod preview;
pub mod proxy_protocol;
pub mod request_id;
pub mod retry_budget;
pub mod routing;
pub mod sticky;
pub mod text;

pub use hash::ClientKey;
