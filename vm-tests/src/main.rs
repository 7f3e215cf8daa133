//! The packet tables and an end-to-end case in QEMU, on Debian kernels.

fn main() {}
