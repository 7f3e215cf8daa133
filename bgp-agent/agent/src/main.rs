//! The health-aware BGP announcer: sockets and timers around weir-bgp.

fn main() {}
