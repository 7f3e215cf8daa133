//! Every byte the kernel programs and user space must agree on: map keys and values, headers on the wire, the flow hash.
//!
//! Endianness: a value in network order is a byte array behind getters, or an [`Address`]; an integer is in host order. Every struct
//! is `#[repr(C)]` without implicit padding, `bool`, `Option` or enums with payload, and has its size asserted below it.
#![no_std]
#![deny(unsafe_code)]

/// Declares that a `#[repr(C)]` struct without padding may travel through maps, and pins its size.
macro_rules! pod {
    ($type:ty, $size:literal) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        #[cfg(feature = "user")]
        #[allow(unsafe_code)]
        // SAFETY: `repr(C)`, every field is an integer or an array of them, and the size assertion above shows that
        // there is no padding: any bit pattern is valid.
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use pod;

pub mod address;
pub mod bench;
pub mod capture;
pub mod checksum;
pub mod counters;
pub mod filter;
pub mod flow;
pub mod fragment;
pub mod guard;
pub mod gue;
pub mod headers;
pub mod hop;
pub mod limits;
pub mod path;
pub mod quic;
pub mod rate;
pub mod service;
pub mod tunnel;

/// Version of everything in this crate that ends up in pinned maps. A loader that finds another version does not adopt
/// the maps but replaces them.
pub const ABI_VERSION: u32 = 4;

/// Names of the maps, as the programs declare them and user space pins them.
pub mod maps {
    /// `Array<Config, 1>`: what this host is called on the wire.
    pub const CONFIG: &str = "CONFIG";
    /// `HashMap<VipKey, u32>`: single port of a VIP → service index.
    pub const VIPS: &str = "VIPS";
    /// `HashMap<VipKey, VipRanges>` with port 0: port ranges of a VIP → service indices.
    pub const VIP_RANGES: &str = "VIP_RANGES";
    /// `Array<u32, 1>`: counts the changes of the two above. Who changes them counts afterwards, or packets go on by what was
    /// there before.
    pub const GENERATION: &str = "GENERATION";
    /// `Array<Service>`: service index → table.
    pub const SERVICES: &str = "SERVICES";
    /// `Array<u64>`: bits of VIP addresses, see [`filter`](crate::filter).
    pub const FILTER: &str = "FILTER";
    /// `Array<u32>`: table index → which of its two places in `TABLES` is in use.
    pub const HALVES: &str = "HALVES";
    /// `ArrayOfMaps<Array<Table, 1>>`: two places per table index → Maglev table.
    pub const TABLES: &str = "TABLES";
    /// `Array<Backend>`: backend slot → where to send.
    pub const BACKENDS: &str = "BACKENDS";
    /// `HashMap<Address, u32>`: hosts whose tunnels are accepted.
    pub const PEERS: &str = "PEERS";
    /// `LpmTrie<Address, u32>`: prefixes of others whose tunnels are accepted → of which kinds.
    pub const TUNNEL_SOURCES: &str = "TUNNEL_SOURCES";
    /// `LpmTrie<Source, u32>`: service index + 1 and prefix of sources → index into `TABLES`.
    pub const SOURCE_TABLES: &str = "SOURCE_TABLES";
    /// `LpmTrie<Source, AccessRule>`: prefixes → who may come and who may not.
    pub const ACCESS: &str = "ACCESS";
    /// `PerCpuArray<u64>`: packets blocked, by access list.
    pub const ACCESS_HITS: &str = "ACCESS_HITS";
    /// `Array<Guard>`: service index → how it is protected.
    pub const GUARDS: &str = "GUARDS";
    /// `LruHashMap<Source, u64>`: sources → when their next connection is due, as [`rate`](super::rate) counts.
    pub const SOURCE_RATES: &str = "SOURCE_RATES";
    /// `PerCpuArray<[u64; 2]>`: service index → when the next SYN is due: without a cookie, and at all.
    pub const SYN_RATES: &str = "SYN_RATES";
    /// `SockMap`: service index → listening socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// `LruHashMap<FragmentKey, FirstFragment>`: first fragments of TCP segments → their ports.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `LruHashMap<Address, PathMtu>`: ends of tunnels → what the path to them carries, where a router said so.
    pub const PATH_MTUS: &str = "PATH_MTUS";
    /// `LruHashMap<u64, u64>`: hash of a UDP flow this host has → when it last sent, by the kernel's clock in ns.
    pub const UDP_FLOWS: &str = "UDP_FLOWS";
    /// `HashMap<u32, u32>`: number of a QUIC server → backend slot.
    pub const QUIC_SERVERS: &str = "QUIC_SERVERS";
    /// `PerCpuArray<u64>`: packets by reason.
    pub const REASONS: &str = "REASONS";
    /// `PerCpuArray<Traffic>`: packets and bytes by service index.
    pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
    /// `Array<Bench, 1>`: the case the benchmark runs.
    pub const BENCH: &str = "BENCH";
    /// `Array<Capture, 1>`: which packets are shown to whoever captures.
    pub const CAPTURE: &str = "CAPTURE";
    /// `PerfEventArray`: a `Captured` and the bytes of a packet.
    pub const CAPTURE_EVENTS: &str = "CAPTURE_EVENTS";
    /// `PerCpuArray<Traffic>`: packets and bytes by backend slot.
    pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
}

/// Names of the programs in the object.
pub mod programs {
    /// XDP: balances, decapsulates, chains.
    pub const BALANCER: &str = "balancer";
    /// sk_lookup: VIP and port → the listening socket registered for it.
    pub const STEER: &str = "steer";
    /// XDP: what the balancer would do with a packet; runs in no traffic. See [`PROBE_ACTION_MASK`].
    pub const PROBE: &str = "probe";
    /// What `probe` returns is the action in these bits and the number of the reason above them, see
    /// [`PROBE_REASON_SHIFT`].
    pub const PROBE_ACTION_MASK: u32 = 0xff;
    /// See [`PROBE_ACTION_MASK`].
    pub const PROBE_REASON_SHIFT: u32 = 8;
    /// XDP: the balancer as the benchmark runs it.
    pub const BENCH: &str = "bench";
    /// XDP: the reference of the benchmark.
    pub const BENCH_NULL: &str = "bench_null";
    /// XDP: passes everything; makes `XDP_TX` work from the other end of a veth pair.
    pub const PASS: &str = "pass";
}

pub use address::Address;

/// What this host is called on the wire; written once by the loader.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] of the loader that made the maps.
    pub abi_version: u32,
    /// Non-zero when `address4` is set.
    pub has_v4: u32,
    /// Non-zero when `address6` is set.
    pub has_v6: u32,
    /// Source of IPv4 tunnels and the address tunnels to this host end at.
    pub address4: [u8; 4],
    /// The same for IPv6.
    pub address6: Address,
    /// What the links tunnels leave by carry, from the outer IP header on, where the routing table does not say it of the
    /// way; 0 when it is not looked at.
    pub mtu: u32,
    /// Which tunnels are opened besides the peers' GUE: `TUNNELS_` bits of [`tunnel`].
    pub tunnels: u32,
    /// What is looked at before a packet is given to a proxy: `GUARDED_` bits of [`guard`].
    pub guarded: u32,
}
pod!(Config, 44);
