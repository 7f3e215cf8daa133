//! Harness of the integration tests: packets, and the kernel programs run on them.
#![allow(unsafe_code)]

pub mod drops;
pub mod packet;
pub mod prog_run;
pub mod programs;
pub mod rebuilt;
pub mod rig;
pub mod verdict;
pub mod vips;
