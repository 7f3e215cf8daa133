//! Network-namespace integration tests (root).
