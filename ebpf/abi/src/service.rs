//! VIPs and their services: which packets are ours, and the table that spreads them.

use crate::{
    Address,
    limits::{RANGES_PER_VIP_MAX, TABLE_LEN},
};

/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTO_UDP: u8 = 17;

/// A VIP address with protocol and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey {
    /// The address.
    pub address: Address,
    /// Port in network order; 0 in `VIP_RANGES`.
    pub port: [u8; 2],
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub protocol: u8,
    /// Zero.
    pub _pad: u8,
}
pod!(VipKey, 20);

/// Port ranges of a VIP address and protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipRanges {
    /// How many of `ranges` count.
    pub count: u32,
    /// One more than the index of the service all UDP fragments for the address are given to, which have no ports; 0 when
    /// there is none.
    pub fragments: u32,
    /// The ranges; they do not overlap.
    pub ranges: [VipRange; RANGES_PER_VIP_MAX],
}
pod!(VipRanges, 72);

/// One inclusive range of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipRange {
    /// First port, host order.
    pub first: u16,
    /// Last port, host order.
    pub last: u16,
    /// Index into `SERVICES`.
    pub service: u32,
}
pod!(VipRange, 8);

/// [`Service::flags`]: the entry is in use.
pub const SERVICE_IN_USE: u32 = 1 << 0;
/// [`Service::flags`]: its packets go straight to servers; no proxy of this host takes any.
pub const SERVICE_DIRECT: u32 = 1 << 4;

/// What is done with the packets of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Index into `TABLES`.
    pub table: u32,
    /// The `SERVICE_` bits that hold for it.
    pub flags: u32,
}
pod!(Service, 8);

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes of the packets as they came in, Ethernet header included.
    pub bytes: u64,
}
pod!(Traffic, 16);

/// A Maglev table: two backend slots for every bucket of the flow hash, see [`Slot`].
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Table(pub [u32; TABLE_LEN]);
pod!(Table, 262144);

/// One bucket: its owner and, while the previous owner may still have flows, that one too. 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Backend slot of the owner.
    pub owner: u16,
    /// Backend slot of the previous owner.
    pub previous: u16,
}

impl Slot {
    /// From the word stored in a [`Table`].
    #[inline(always)]
    pub const fn unpack(word: u32) -> Self {
        Self { owner: word as u16, previous: (word >> 16) as u16 }
    }

    /// To the word stored in a [`Table`].
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        self.owner as u32 | (self.previous as u32) << 16
    }
}
