//! The operator's command: status, lint, zone, explain, lab.

fn main() {}
