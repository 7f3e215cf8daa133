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
/// [`Backend::kind`]: IPv4 or IPv6 in IPv4 (RFC 2003, RFC 4213 §3) to an IPv4 `address`.
pub const KIND_IPIP4: u8 = KIND_GUE4 | IPIP;
/// [`Backend::kind`]: IPv4 or IPv6 in IPv6 (RFC 2473) to an IPv6 `address`.
pub const KIND_IPIP6: u8 = KIND_GUE6 | IPIP;

/// The bit by which the kinds of IPIP differ from those of GUE to the same family.
const IPIP: u8 = 0x10;

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

impl Backend {
    /// Whether its tunnel is plain IPIP, which has no room for a second hop.
    #[inline(always)]
    pub const fn is_ipip(&self) -> bool {
        self.kind & IPIP != 0
    }

    /// Whether its tunnel's outer header is IPv4.
    #[inline(always)]
    pub const fn is_over_v4(&self) -> bool {
        matches!(self.kind, KIND_GUE4 | KIND_IPIP4)
    }
}
