//! Paths to where tunnels end, when they carry less than the link they begin with.

/// What a router on the way said: a value of `PATH_MTUS`, by the tunnel's end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathMtu {
    /// What the path carries, from the outer IP header on.
    pub mtu: u32,
    /// Zero.
    pub _pad: u32,
    /// Until when it is believed, in nanoseconds of the kernel's monotonic clock.
    pub until_ns: u64,
}
pod!(PathMtu, 16);
