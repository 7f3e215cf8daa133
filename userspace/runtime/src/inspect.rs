//! Looking into a running datapath: `weir explain packet --live` and `weir capture` ask `weir-l4`, which alone opens BPF
//! objects.
//!
//! A stream socket. The client sends one line of JSON, an [`Ask`], and gets one line back, an [`Answer`]. After
//! [`Answer::Capturing`] the blocks of a pcapng file follow until the capture ends; a client that has enough hangs up.

mod client;
mod listener;

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use weir_core::datapath::Fit;

pub use client::{capture, run};
pub use listener::{Asked, Listener};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "inspect.sock";
/// Bytes of a line: a frame of 64 KiB in hex, and what the model says of it.
const LINE_LEN_MAX: usize = 512 << 10;
/// How long either side may take to send its line.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// What the loaded program does with a frame, in hex.
    Run(String),
    /// Packets, as they come.
    Capture(Filter),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What the program did, beside the model over what is in the kernel.
    Ran(Box<Fit>),
    /// Packets follow.
    Capturing,
    /// No, and why.
    Refused(String),
}

/// Which packets are captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// For this VIP only.
    pub vip: Option<IpAddr>,
    /// From clients whose addresses begin as this one does,
    pub client: Option<(IpAddr, u8)>,
    /// Counted under one of these; empty for any.
    pub reasons: Vec<String>,
    /// As they came in,
    pub came: bool,
    /// as they left.
    pub left: bool,
    /// Bytes of each at most.
    pub snap_len_bytes: u32,
    /// So many, and no more.
    pub count: Option<u64>,
    /// So long, in milliseconds.
    pub for_ms: Option<u64>,
}

#[cfg(test)]
mod tests;
