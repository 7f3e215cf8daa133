//! The agent against real routers, on loopback addresses and high ports: no root, no namespace.
//!
//! Needs bird and FRR's bgpd; without them a test says SKIPPED and passes.

mod bench;
mod bird;
mod frr;
