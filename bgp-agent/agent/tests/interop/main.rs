//! The agent against real routers. BGP on loopback addresses and high ports needs no root and no namespace; BFD, whose ports are
//! fixed, has a fabric of namespaces and needs root.
//!
//! Needs bird and FRR's daemons; without them a test says SKIPPED and passes.

mod bench;
mod bfd;
mod bird;
mod fabric;
mod frr;
