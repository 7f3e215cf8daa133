//! Backends of the datapath: hosts a packet can be tunnelled to.

use crate::pod;

/// [`Backend::kind`]: no backend in this slot.
pub const KIND_NONE: u8 = 0;
/// [`Backend::kind`]: GUE over IPv4 to `address[12..]`.
pub const KIND_GUE4: u8 = 4;
/// [`Backend::kind`]: GUE over IPv6 to `address`.
pub const KIND_GUE6: u8 = 6;
/// [`Backend::kind`]: this very host; the packet is handed to the kernel as it is.
pub const KIND_LOCAL: u8 = 1;

/// Where to send: one entry of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address in network order; IPv4 as `::ffff:a.b.c.d`. For [`KIND_LOCAL`] the host's own tunnel address.
    pub address: [u8; 16],
    /// One of the `KIND_` constants.
    pub kind: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
pod!(Backend, 20);

/// An IPv4 address in the 16-byte form of all keys: `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}
