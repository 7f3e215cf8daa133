//! Builds laboratories of network namespaces and runs missions in them.
//!
//! ```text
//!  cli ──► lab ──► fabric (namespaces, links, routes)   bird (routers)   daemon (weir-l4, weir-proxy, weir-bgp)
//!   │       │      backend (servers)   load, client (requests and their records)   config (what daemons read)
//!   │       └────► sweep (the claim on a name; what goes away in the end)
//!   └─► control ──► missions (break, expect, measure)   status (what it looks like)
//!
//!  netns, place, sys: what tests build their own networks of   figures: what benchmarks print
//! ```
//!
//! Everything is real: real routers, real packets, the daemons' own programs. Only backends and clients live in this
//! process, with their sockets in namespaces of their own. Needs root, and leaves nothing behind.

mod backend;
pub mod bird;
pub mod cli;
mod client;
mod config;
mod control;
mod daemon;
mod fabric;
pub mod figures;
mod lab;
mod load;
mod missions;
pub mod netns;
pub mod place;
mod status;
mod sweep;
pub mod sys;
mod topology;
