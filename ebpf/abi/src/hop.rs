//! Backends of the datapath: hosts a packet can be tunnelled to.

use crate::Address;

/// [`Backend::kind`]: no backend in this slot.
pub const KIND_NONE: u8 = 0;
/// [`Backend::kind`]: GUE over IPv4 to an IPv4 `address`.
pub const KIND_GUE4: u8 = 4;
/// [`Backend::kind`]: GUE over IPv6 to an IPv6 `address`.
pub const KIND_GUE6: u8 = 6;
/// [`Backend::kind`]: this very host; the packet is handed to the kernel as it is.
pub const KIND_LOCAL: u8 = 1;

/// Where to send: one entry of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Where the tunnel ends; for [`KIND_LOCAL`] the host's own tunnel address.
    pub address: Address,
    /// One of the `KIND_` constants.
    pub kind: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
pod!(Backend, 20);
