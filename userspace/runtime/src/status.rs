//! The status socket: what a daemon says of itself, over HTTP/1.1 on a unix socket (or TCP, for Prometheus).
//!
//! ```text
//!  GET /status                         the newest status as JSON, its revision as etag
//!  GET /status?after=REV&timeout=MS    the same, but waits until the revision is another one, or MS have passed (304)
//!  GET /metrics                        Prometheus text
//!  GET /healthz                        200 "ok", or 503 "starting" or "draining"
//!  POST /…                             a question of the daemon's own ([`Site::ask_at`]); over unix sockets only
//! ```
//!
//! Long polling makes followers see a change within milliseconds without a protocol of its own.

mod client;
mod server;

pub use client::{FetchError, Seen, ask, fetch, follow, get};
pub use server::{
    Feed, Health, Publisher, Question, Site, UnixServer, publisher, questions, serve_tcp, serve_unix,
};

#[cfg(test)]
mod tests;
