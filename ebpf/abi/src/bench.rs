//! What the benchmark tells its program.

/// Words of a packet that are put back after each run: more than the outermost headers the data path touches.
pub const TEMPLATE_WORDS: usize = 12;

/// One case of the benchmark: the value of map `BENCH`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bench {
    /// Length of the packet as it comes in.
    pub len_bytes: u32,
    /// Where the four bytes of the source address stand that number the flow; even.
    pub source_at: u32,
    /// Flows in turn, less one; a power of two less one.
    pub flows_mask: u32,
    /// Exclusive-ored with the flow's number.
    pub first_source: u32,
    /// Non-zero when the packet is answered, which changes its length at its end.
    pub is_answered: u32,
    /// Zero.
    pub _pad: u32,
    /// The first bytes of the packet.
    pub template: [u64; TEMPLATE_WORDS],
}
pod!(Bench, 120);
