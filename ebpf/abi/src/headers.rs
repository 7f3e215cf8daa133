//! Headers on the wire as byte arrays behind getters, network order inside.
//!
//! They are aligned to two bytes, as every header behind an Ethernet header is: the kernel programs then move 16 bits at
//! a time, where BPF would otherwise take each byte by itself.

/// EtherType of IPv4, network order.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6, network order.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// IP protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;
/// IP protocol number of IPv4 in IP.
pub const PROTO_IPIP: u8 = 4;
/// IP protocol number of IPv6 in IP.
pub const PROTO_IPV6: u8 = 41;

/// Ethernet header.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Eth {
    /// Destination.
    pub destination: [u8; 6],
    /// Source.
    pub source: [u8; 6],
    /// EtherType.
    pub ethertype: [u8; 2],
}
pod!(Eth, 14);

/// IPv4 header without options (RFC 791 §3.1).
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload.
    pub total_len: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
    /// Source.
    pub source: [u8; 4],
    /// Destination.
    pub destination: [u8; 4],
}
pod!(Ipv4, 20);

impl Ipv4 {
    /// Header length in bytes as the packet says, 0 to 60.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Whether it must not be fragmented.
    #[inline(always)]
    pub const fn is_unfragmentable(&self) -> bool {
        self.fragment[0] & 0x40 != 0
    }

    /// Whether it is a fragment other than the first.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x1fff != 0
    }

    /// Whether it is a fragment: more follow, or it is not the first.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }
}

/// IPv6 header (RFC 8200 §3).
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: [u8; 4],
    /// Length of the payload.
    pub payload_len: [u8; 2],
    /// Type of the next header.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub source: [u8; 16],
    /// Destination.
    pub destination: [u8; 16],
}
pod!(Ipv6, 40);

impl Ipv6 {
    /// DSCP and ECN: the traffic class.
    #[inline(always)]
    pub const fn tos(&self) -> u8 {
        self.version_class_label[0] << 4 | self.version_class_label[1] >> 4
    }
}

/// What every ICMP and ICMPv6 message begins with (RFC 792, RFC 4443 §2.1).
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum.
    pub checksum: [u8; 2],
    /// Depends on the type; an error message goes on with the packet it is about.
    pub rest: [u8; 4],
}
pod!(Icmp, 8);

impl Icmp {
    /// [`kind`](Self::kind) of an ICMP echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMP destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// [`code`](Self::code) of it: fragmentation needed, and forbidden.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// ICMP echo request.
    pub const ECHO: u8 = 8;
    /// ICMP time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// ICMP parameter problem.
    pub const PARAMETER: u8 = 12;
    /// ICMPv6 destination unreachable.
    pub const V6_UNREACHABLE: u8 = 1;
    /// ICMPv6 packet too big.
    pub const V6_TOO_BIG: u8 = 2;
    /// ICMPv6 time exceeded.
    pub const V6_TIME_EXCEEDED: u8 = 3;
    /// ICMPv6 parameter problem.
    pub const V6_PARAMETER: u8 = 4;
    /// ICMPv6 echo request.
    pub const V6_ECHO: u8 = 128;
    /// ICMPv6 echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
}

/// UDP header.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Length of header and payload.
    pub len: [u8; 2],
    /// Checksum; zero for none.
    pub checksum: [u8; 2],
}
pod!(Udp, 8);

/// TCP header without options.
#[repr(C, align(2))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source: [u8; 2],
    /// Destination port.
    pub destination: [u8; 2],
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Header length in words, in the high half.
    pub data_offset: u8,
    /// CWR to FIN.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum.
    pub checksum: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}
pod!(Tcp, 20);

impl Tcp {
    /// Whether it opens a connection: SYN without ACK.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.flags & 0x12 == 0x02
    }
}
