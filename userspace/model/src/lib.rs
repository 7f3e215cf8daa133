//! The objects an operator writes, and the Snapshot they resolve to.
