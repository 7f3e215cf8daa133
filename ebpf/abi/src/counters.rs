//! One name for everything that can happen to a packet. Each packet is counted under exactly one reason.

/// Why a packet was forwarded, passed to the kernel or dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Not for a VIP: the kernel's business.
    PassNotVip = 0,
    /// For a VIP, but neither TCP nor UDP nor about such a flow: the kernel's business (neighbour discovery).
    PassVipOther,
    /// For a VIP's address, but none of its services: the kernel refuses it.
    PassNoService,
    /// An ICMP error about a tunnel of this host; what it says of the path is noted.
    PassTunnelError,
    /// The chosen proxy is this host, and the packet was delivered to it as it came.
    DeliverLocal,
    /// Tunnelled to the slot's owner.
    Encap,
    /// The owner is this host, the flow is not known here: tunnelled to the previous owner.
    EncapSecondHop,
    /// Decapsulated and delivered.
    DecapDeliver,
    /// Decapsulated, not known here: sent on to the second hop.
    DecapSecondHop,
    /// An ICMP error tunnelled to the owner of the flow it is about.
    EncapIcmp,
    /// A fragment tunnelled to the owner of its slot.
    EncapFragment,
    /// An echo request to a VIP, answered.
    IcmpEcho,
    /// Too big for the tunnel: the client was told what fits.
    IcmpTooBig,
    /// A SYN answered with a cookie instead of being delivered: nothing is remembered of it.
    SynCookie,
    /// A tunnel was too big for its path: the client was told what fits, and will be from now on.
    IcmpTunnelTooBig,
    /// Too short for the headers it announces.
    DropMalformed,
    /// A TCP fragment for a VIP, whose first fragment has not come here, or not lately.
    DropFragment,
    /// IPv6 extension headers for a VIP.
    DropExtension,
    /// TTL or hop limit used up.
    DropTtl,
    /// Too big for the tunnel, and nobody was told: it may be fragmented, is an error or a fragment, or too many were told
    /// already.
    DropTooBig,
    /// From a source an access list blocks.
    DropBlocked,
    /// One new connection more than its source may open.
    DropSourceLimit,
    /// One SYN more than the service takes.
    DropSynRate,
    /// No backend in the slot.
    DropNoBackend,
    /// A tunnel with a header that is not ours.
    DropGueMalformed,
    /// A tunnel from a host that is no peer.
    DropGueUntrusted,
    /// A tunnel whose inner packet is for none of our services.
    DropGueNotVip,
    /// The routing table forbids the way to the backend.
    DropNoRoute,
    /// The kernel refused to make room for the outer header.
    DropHeadroom,
    /// A map entry that must be there is not.
    DropInternal,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Handed to the kernel.
    Passed,
    /// On its way in the fabric, out of whichever interface leads there.
    Sent,
    /// Back to the router it came from.
    Returned,
    /// Nowhere.
    Dropped,
}

impl Reason {
    /// What becomes of a packet that is counted under this reason.
    #[inline(always)]
    pub const fn fate(self) -> Fate {
        match self {
            Self::PassNotVip
            | Self::PassVipOther
            | Self::PassNoService
            | Self::PassTunnelError
            | Self::DeliverLocal
            | Self::DecapDeliver => Fate::Passed,
            Self::Encap
            | Self::EncapIcmp
            | Self::EncapFragment
            | Self::EncapSecondHop
            | Self::DecapSecondHop
            | Self::SynCookie => Fate::Sent,
            Self::IcmpEcho | Self::IcmpTooBig | Self::IcmpTunnelTooBig => Fate::Returned,
            Self::DropMalformed
            | Self::DropBlocked
            | Self::DropSourceLimit
            | Self::DropSynRate
            | Self::DropFragment
            | Self::DropExtension
            | Self::DropTtl
            | Self::DropTooBig
            | Self::DropNoBackend
            | Self::DropGueMalformed
            | Self::DropGueUntrusted
            | Self::DropGueNotVip
            | Self::DropNoRoute
            | Self::DropHeadroom
            | Self::DropInternal => Fate::Dropped,
        }
    }
}

/// How many reasons there are.
pub const REASON_COUNT: u32 = Reason::DropInternal as u32 + 1;

/// All reasons with their names in metrics and status, in the order of their numbers.
pub const REASONS: [(Reason, &str); REASON_COUNT as usize] = [
    (Reason::PassNotVip, "pass_not_vip"),
    (Reason::PassVipOther, "pass_vip_other"),
    (Reason::PassNoService, "pass_no_service"),
    (Reason::PassTunnelError, "pass_tunnel_error"),
    (Reason::DeliverLocal, "deliver_local"),
    (Reason::Encap, "encap"),
    (Reason::EncapSecondHop, "encap_second_hop"),
    (Reason::DecapDeliver, "decap_deliver"),
    (Reason::DecapSecondHop, "decap_second_hop"),
    (Reason::EncapIcmp, "encap_icmp"),
    (Reason::EncapFragment, "encap_fragment"),
    (Reason::IcmpEcho, "icmp_echo"),
    (Reason::IcmpTooBig, "icmp_too_big"),
    (Reason::SynCookie, "syn_cookie"),
    (Reason::IcmpTunnelTooBig, "icmp_tunnel_too_big"),
    (Reason::DropMalformed, "drop_malformed"),
    (Reason::DropFragment, "drop_fragment"),
    (Reason::DropExtension, "drop_extension"),
    (Reason::DropTtl, "drop_ttl"),
    (Reason::DropTooBig, "drop_too_big"),
    (Reason::DropBlocked, "drop_blocked"),
    (Reason::DropSourceLimit, "drop_source_limit"),
    (Reason::DropSynRate, "drop_syn_rate"),
    (Reason::DropNoBackend, "drop_no_backend"),
    (Reason::DropGueMalformed, "drop_gue_malformed"),
    (Reason::DropGueUntrusted, "drop_gue_untrusted"),
    (Reason::DropGueNotVip, "drop_gue_not_vip"),
    (Reason::DropNoRoute, "drop_no_route"),
    (Reason::DropHeadroom, "drop_headroom"),
    (Reason::DropInternal, "drop_internal"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_number_and_name() {
        for (number, (reason, name)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, number, "{name}");
            assert!(REASONS[..number].iter().all(|(_, other)| other != name), "{name} twice");
        }
    }
}
