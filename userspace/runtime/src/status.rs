//! The status socket: what a daemon says of itself, over HTTP/1.1 on a unix socket (or TCP, for Prometheus).
//!
//! ```text
//!  GET /status     the newest status as JSON; with `Upgrade: weir-status` a line for it and for each later one
//!  GET /metrics    Prometheus text
//!  GET /healthz    200 "ok", or 503 "starting" or "draining"
//!  POST /…         a question of the daemon's own ([`Site::ask_at`]); over unix sockets only
//! ```
//!
//! A follower gets lines and not messages of HTTP, because a verdict waits for each of them on its way to the routers.

mod client;
mod lines;
mod server;

pub use client::{FetchError, Seen, ask, fetch, follow, get};
pub use server::{
    Feed, Health, Publisher, Question, Site, UnixServer, publisher, questions, serve_tcp, serve_unix,
    serve_unix_next,
};

#[cfg(test)]
mod tests;
