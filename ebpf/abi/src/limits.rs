//! Every bound of the datapath, with its arithmetic. User space refuses a configuration beyond them and keeps the last good one.

/// Slots of a Maglev table. A power of two, so that the low bits of the flow hash select a slot; permutations stay full
/// because skips are odd. 65,536 × 4 B = 256 KiB per table; 1,000 backends get 65 slots each, so shares are within ±2 %.
pub const TABLE_LEN: usize = 1 << 16;

/// Tables at once, one per distinct set of proxies. 512 × 2 × 256 KiB = 256 MiB at most, one half to exchange with the other;
/// only tables in use take memory.
pub const TABLES_MAX: u32 = 512;

/// Words of the filter of VIP addresses: 131,072 bits, 16 KiB. With 4,096 VIPs three foreign addresses in a hundred are looked
/// up in vain.
pub const FILTER_WORDS: usize = 1 << 11;

/// Services (VIP address × protocol × port or range) at once. 65,536 × (key 20 B + value 4 B + about 56 B of the kernel)
/// = 5 MiB; as arrays 0.8 MiB, traffic counters 1 MiB per CPU.
pub const SERVICES_MAX: u32 = 1 << 16;

/// VIP addresses × 2 protocols at once: 16,384 addresses. 32,768 × (key 20 B + value 72 B + about 56 B of the kernel)
/// = 4.6 MiB.
pub const VIP_RANGES_MAX: u32 = 1 << 15;

/// Port ranges of one address and protocol: searched in order for each packet that hits no single port.
pub const RANGES_PER_VIP_MAX: usize = 8;

/// Backend slots, 0 meaning none. 65,536 × 20 B = 1.3 MiB; traffic counters 1 MiB per CPU.
pub const BACKENDS_MAX: u32 = 1 << 16;

/// IPv6 extension headers looked behind; packets with more are dropped.
pub const EXTENSIONS_MAX: usize = 4;

/// Bytes of extension headers looked behind; packets with more are dropped. TCP then begins at most 246 bytes into a frame,
/// which fits the mask of 255 by which the verifier knows it.
pub const EXTENSIONS_LEN_BYTES_MAX: usize = 192;

/// First fragments of TCP segments remembered; beyond, the least recently used is forgotten and the rest of its segment
/// dropped. 16,384 × (36 B key + 8 B value + about 60 B of the kernel) = 1.7 MiB.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// UDP flows a host remembers to have; beyond, the least recently used is forgotten and goes, at a change of its slot, where
/// new flows go. 131,072 × (8 B key + 8 B value + about 56 B of the kernel) = 9 MiB.
pub const UDP_FLOWS_MAX: u32 = 1 << 17;
/// A UDP flow silent for so long is over: RFC 4787 §4.3 has address translators wait as long.
pub const UDP_FLOW_IDLE_NS: u64 = 120_000_000_000;
/// How exactly it is known since when a flow is silent.
pub const UDP_FLOW_STAMP_NS: u64 = 1_000_000_000;

/// QUIC servers at once, as many as there are numbers. 65,536 × (key 4 B + value 4 B + about 56 B of the kernel) = 4 MiB at most;
/// only those that are there take memory.
pub const QUIC_SERVERS_MAX: u32 = 1 << 16;

/// Clients told that a packet is too big, per CPU: one in this time,
pub const TOO_BIG_INTERVAL_NS: u64 = 1_000_000;
/// after so many at once. Beyond, such packets are only dropped and counted: a client sends again and is told then.
pub const TOO_BIG_BURST: u64 = 100;

/// Hosts whose tunnels are accepted.
pub const PEERS_MAX: u32 = 1 << 16;

/// Prefixes of others whose tunnels are accepted. 1,024 × (20 B key + 4 B value + about 64 B of the kernel), and as many inner
/// nodes at most: 180 KiB.
pub const TUNNEL_SOURCES_MAX: u32 = 1_024;

/// Ends of tunnels whose path carries less than the link; beyond, the least recently used is forgotten and learnt again.
/// 4,096 × (16 B key + 16 B value + about 60 B of the kernel) = 370 KiB.
pub const PATH_MTUS_MAX: u32 = 4_096;
/// How long a router is believed: ten minutes, as the kernel does.
pub const PATH_MTU_LIFETIME_NS: u64 = 600_000_000_000;
/// Less than this is believed of no path over IPv4 (the kernel's `min_pmtu`); over IPv6 RFC 8200 §5 says 1,280.
pub const PATH_MTU_MIN_V4: u32 = 552;

/// Entries of all access lists together, those of the moment included. 262,144 × (20 B key + 8 B value + about 64 B of the
/// kernel), and as many inner nodes at most: 40 MiB when full; empty it takes nothing.
pub const ACCESS_MAX: u32 = 1 << 18;

/// Access lists whose hits are counted apart, the two built-in ones included. 256 × 8 B = 2 KiB per CPU.
pub const ACCESS_LISTS_MAX: u32 = 256;

/// Prefixes of sources with a table of their own, once for each service they are for. 65,536 × (20 B key + 4 B value + about
/// 64 B of the kernel), and as many inner nodes at most: 11 MiB when full.
pub const SOURCE_TABLES_MAX: u32 = 1 << 16;

/// Ended entries that are looked behind when `weir-l4` is not there to remove them; what they hide beyond that is not found.
pub const ACCESS_ENDED_MAX: u32 = 4;

/// Sources whose new connections are counted. 65,536 × (20 B key + 8 B value + about 72 B of the kernel) = 6.3 MiB. Beyond,
/// the least recently seen is forgotten and begins anew with a full burst: a flood from everywhere hurts nobody else.
pub const SOURCE_RATES_MAX: u32 = 1 << 16;

/// SYNs may come this much ahead of their rate: a tenth of a second's worth at once.
pub const SYN_BURST_NS: u64 = 100_000_000;
