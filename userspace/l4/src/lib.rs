//! The part of `weir-l4` that its proof uses too: the datapath's maps behind typed operations.

pub mod maps;
