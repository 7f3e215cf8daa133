//! BGP-4 messages as bytes: framing, OPEN, UPDATE, ROUTE-REFRESH, NOTIFICATION. RFC 4271 §4.
//!
//! Each decoder returns a [`Notification`] as its error: what the peer did wrong is exactly what it is told.

mod announce;
mod attribute;
mod notification;
mod open;
mod reader;
mod refresh;
mod update;

pub(crate) use announce::{ATTRIBUTES_ROOM, prefix_len_bytes};
pub use announce::{EncodeError, UpdateContext, encode_announce, encode_end_of_rib, encode_withdraw};
pub use attribute::{Action, Finding};
pub use notification::Notification;
pub(crate) use notification::fsm_subcode;
pub use open::{Capabilities, GracefulRestart, Open, PeeringRole};
pub use reader::{Frame, Reader};
pub use refresh::{Refresh, encode_refresh};
pub use update::{ReceiveContext, UpdateReport, decode_update};

use bytes::{BufMut, Bytes, BytesMut};
use std::net::IpAddr;

/// Marker, length and type. RFC 4271 §4.1.
pub const HEADER_LEN: usize = 19;

/// The longest message, header included, without the agreement of RFC 8654. RFC 4271 §4.1.
pub const MESSAGE_MAX: usize = 4096;

/// The longest message, header included, when both sides offer extended messages. OPEN and KEEPALIVE stay at
/// [`MESSAGE_MAX`]. RFC 8654 §3.
pub const EXTENDED_MESSAGE_MAX: usize = 65_535;

/// The number that stands for an AS above 65535 where only two octets fit. RFC 6793 §9.
pub(crate) const AS_TRANS: u16 = 23456;

/// RFC 4271 §4.1, and RFC 2918 §3 for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// OPEN.
    Open = 1,
    /// UPDATE.
    Update = 2,
    /// NOTIFICATION.
    Notification = 3,
    /// KEEPALIVE.
    Keepalive = 4,
    /// ROUTE-REFRESH.
    RouteRefresh = 5,
}

/// An address family with SAFI unicast; others do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both, in the order in which they are sent.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The AFI on the wire.
    pub(crate) fn afi(self) -> u16 {
        match self {
            Self::Ipv4 => 1,
            Self::Ipv6 => 2,
        }
    }

    /// The unicast family of an AFI and SAFI, when it is one of ours.
    pub(crate) fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|family| (family.afi(), 1) == (afi, safi))
    }

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families {
    /// IPv4 unicast is in the set.
    pub ipv4: bool,
    /// IPv6 unicast is in the set.
    pub ipv6: bool,
}

impl Families {
    /// IPv4 and IPv6.
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };
    /// What a session without the multiprotocol capability carries.
    pub const IPV4: Self = Self { ipv4: true, ipv6: false };

    /// Whether `family` is in the set.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }

    /// The set with or without `family`.
    pub fn set(&mut self, family: Family, member: bool) {
        match family {
            Family::Ipv4 => self.ipv4 = member,
            Family::Ipv6 => self.ipv6 = member,
        }
    }

    /// What both sets have.
    pub fn intersection(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 && other.ipv4, ipv6: self.ipv6 && other.ipv6 }
    }

    /// The members in order.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.has(*family))
    }
}

/// A whole KEEPALIVE message.
pub fn encode_keepalive() -> Bytes {
    frame(MessageType::Keepalive, &[])
}

/// Put the header before a body. The caller keeps the message within the bound that was agreed.
pub(crate) fn frame(message_type: MessageType, body: &[u8]) -> Bytes {
    let len = HEADER_LEN + body.len();
    assert!(len <= EXTENDED_MESSAGE_MAX, "own message of {len} bytes has no length on the wire");
    let mut message = BytesMut::with_capacity(len);
    message.put_bytes(0xff, 16);
    message.put_u16(len as u16);
    message.put_u8(message_type as u8);
    message.put_slice(body);
    message.freeze()
}
