//! HTTP/1.1 with clients and servers: both sides of a connection in one task, and of an idle one nothing but the task. Requests of
//! [HTTP/2](crate::h2) go the same way from the head on.
//!
//! ```text
//!  client ─► Buffer ─► head (weir_core::h1) ─► relay: route → pool → home → zone → server
//!                └► Pump ─────────────────────────────────────────────────────────► server
//!  client ◄───────────────────────────────────────── Pump ◄─ head ◄─ Buffer ◄─────── server
//! ```

mod answer;
mod asked;
mod bridge;
mod buffer;
mod client;
mod deadline;
mod hedge;
mod patience;
mod pump;
mod relay;
mod server;
mod text;
mod transfer;

pub(crate) use buffer::{Buffer, Scratch};
pub(crate) use client::{After, Client, Ended, Http1, linger};
pub(crate) use deadline::Deadline;
pub(crate) use relay::relay;
pub(crate) use server::Kept;
