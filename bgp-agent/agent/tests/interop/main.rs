//! The agent against real routers: on loopback addresses and high ports without root, and in namespaces where addresses, links
//! and kernel routes matter.
//!
//! Needs bird, FRR, GoBGP and OpenBGPD; without one of them, or without root, a test says SKIPPED and passes.

mod bench;
mod bfd;
mod bfd_fabric;
mod bfd_strangers;
mod bird;
mod bird_fabric;
mod fabric;
mod frr;
mod frr_fabric;
mod gobgp;
mod hostile;
mod openbgpd;
mod rehearsal;
