//! The L7 proxy: terminates TLS and HTTP, picks a backend, relays.

fn main() {}
