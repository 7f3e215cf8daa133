//! build-ebpf, lab, test, bench, tidy, ci.

fn main() {}
