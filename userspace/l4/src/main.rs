//! The kernel shell: loads, attaches, pins, applies and reads back the XDP datapath.

fn main() {}
