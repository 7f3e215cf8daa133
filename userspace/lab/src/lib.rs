//! Builds laboratories of network namespaces and runs missions in them.
