//! Every byte the kernel programs and user space must agree on.
