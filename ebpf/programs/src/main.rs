//! The kernel programs: balancer and decap (XDP), steer (sk_lookup).

fn main() {}
