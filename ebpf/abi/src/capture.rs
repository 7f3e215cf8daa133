//! Capturing packets: what the datapath is told to show, and what stands in front of each packet it shows.

use crate::Address;

/// What is captured: the value of map `CAPTURE`. Zero throughout: nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// Until when, in nanoseconds of `bpf_ktime_get_ns`; 0 for never. Whoever captures moves it on, so that nothing stays on
    /// when he dies.
    pub until_ns: u64,
    /// Reasons wanted: one bit for the number of each.
    pub reasons: u64,
    /// VIP wanted; all zeroes for any.
    pub vip: Address,
    /// Clients wanted: those whose address is this where `client_mask` has ones.
    pub client: Address,
    /// See `client`.
    pub client_mask: Address,
    /// [`CAME`] and [`LEFT`].
    pub directions: u32,
    /// Bytes of each packet shown at most.
    pub snap_len_bytes: u32,
}
pod!(Capture, 72);

/// [`Capture::directions`], [`Captured::direction`]: packets as they came in.
pub const CAME: u32 = 1;
/// [`Capture::directions`], [`Captured::direction`]: packets as they left, were delivered, or stood when they were dropped.
pub const LEFT: u32 = 2;

/// In front of the bytes of a packet in `CAPTURE_EVENTS`.
///
/// A packet is shown as it came before it is known what becomes of it. The event of the same `turn` and CPU that says
/// [`LEFT`] follows if the packet is wanted, without bytes if only the other direction is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// When, as `bpf_ktime_get_ns` says.
    pub at_ns: u64,
    /// Numbers the packets of a CPU.
    pub turn: u32,
    /// [`CAME`] or [`LEFT`].
    pub direction: u32,
    /// Number of the reason the packet was counted under; of no meaning for [`CAME`].
    pub reason: u32,
    /// Length of the packet.
    pub len_bytes: u32,
    /// How many bytes of it follow.
    pub captured_bytes: u32,
    /// Interface it came in on.
    pub ingress: u32,
}
pod!(Captured, 32);
