//! How the proxy hands its listening sockets to `weir-l4`, which steers VIP traffic to them.
//!
//! One SEQPACKET message per socket: a [`Registration`] as JSON with the descriptor beside it (SCM_RIGHTS), answered by
//! a [`Reply`]. There is no taking back: the kernel forgets a socket when the proxy closes it. `weir-l4` keeps no descriptor,
//! which would keep a dead proxy's listener alive: to look at the sockets once more it says [`Reply::Again`].

mod client;
mod listener;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weir_model::Service;

pub use client::{Client, Entry, Registered};
pub use listener::{Listener, Request};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "steer.sock";

/// Bytes of one message; a registration has about 100.
const MESSAGE_LEN_MAX: usize = 4_096;

/// Traffic for this address and service goes to the socket that comes along.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Registration {
    /// The VIP's address.
    pub address: IpAddr,
    /// Protocol and ports.
    pub service: Service,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The datapath has it.
    Ok,
    /// It does not, and why.
    Error(String),
    /// Unasked: everything is to be registered once more.
    Again,
}

#[cfg(test)]
mod tests;
