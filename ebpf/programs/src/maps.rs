//! The maps: key → value, and who writes. User space writes all but the counters; names and types are `weir-abi`'s.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, SockMap, lpm_trie::Key},
    macros::btf_map,
};
use weir_abi::{
    Address, Config,
    counters::{REASON_COUNT, Reason},
    filter,
    flow::Flow,
    fragment::{FirstFragment, FragmentKey},
    guard::{AccessRule, Guard, Source, SourcePrefix},
    hop::Backend,
    limits::{
        ACCESS_LISTS_MAX, ACCESS_MAX, BACKENDS_MAX, FILTER_WORDS, FRAGMENTS_MAX, PATH_MTUS_MAX, PEERS_MAX,
        QUIC_SERVERS_MAX, SERVICES_MAX, SOURCE_RATES_MAX, SOURCE_TABLES_MAX, TABLE_LEN, TABLES_MAX,
        TUNNEL_SOURCES_MAX, UDP_FLOWS_MAX, VIP_RANGES_MAX,
    },
    path::PathMtu,
    service::{PROTO_TCP, Service, Slot, Traffic, VipKey, VipRanges},
};

use crate::{Verdict, work::Work};

const BPF_F_NO_PREALLOC: usize = 1;

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
static VIPS: HashMap<VipKey, u32, { SERVICES_MAX as usize }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static VIP_RANGES: HashMap<VipKey, VipRanges, { VIP_RANGES_MAX as usize }, BPF_F_NO_PREALLOC> =
    HashMap::new();
#[btf_map]
static SERVICES: Array<Service, { SERVICES_MAX as usize }> = Array::new();
#[btf_map]
static FILTER: Array<u64, FILTER_WORDS> = Array::new();
#[btf_map]
static HALVES: Array<u32, { TABLES_MAX as usize }> = Array::new();
/// Values are [`weir_abi::service::Table`]s, written as the array they are: kernels 5.15 to 6.1 tell inner maps whose
/// value is a struct in BTF from those made without BTF, as user space makes them, and refuse the latter with EINVAL.
#[btf_map]
static TABLES: ArrayOfMaps<Array<[u32; TABLE_LEN], 1>, { 2 * TABLES_MAX as usize }> = ArrayOfMaps::new();
#[btf_map]
static BACKENDS: Array<Backend, { BACKENDS_MAX as usize }> = Array::new();
#[btf_map]
static PEERS: HashMap<Address, u32, { PEERS_MAX as usize }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static SOURCE_TABLES: LpmTrie<Source, u32, { SOURCE_TABLES_MAX as usize }> = LpmTrie::new();
#[btf_map]
static ACCESS: LpmTrie<Source, AccessRule, { ACCESS_MAX as usize }> = LpmTrie::new();
#[btf_map]
static ACCESS_HITS: PerCpuArray<u64, { ACCESS_LISTS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
static GUARDS: Array<Guard, { SERVICES_MAX as usize }> = Array::new();
#[btf_map]
static SOURCE_RATES: LruHashMap<Source, u64, { SOURCE_RATES_MAX as usize }> = LruHashMap::new();
#[btf_map]
static SYN_RATES: PerCpuArray<[u64; 2], { SERVICES_MAX as usize }> = PerCpuArray::new();
#[btf_map]
static TUNNEL_SOURCES: LpmTrie<Address, u32, { TUNNEL_SOURCES_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static SOCKETS: SockMap<{ SERVICES_MAX as usize }> = SockMap::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FirstFragment, { FRAGMENTS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static PATH_MTUS: LruHashMap<Address, PathMtu, { PATH_MTUS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static UDP_FLOWS: LruHashMap<u64, u64, { UDP_FLOWS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static QUIC_SERVERS: HashMap<u32, u32, { QUIC_SERVERS_MAX as usize }, BPF_F_NO_PREALLOC> = HashMap::new();
#[btf_map]
static REASONS: PerCpuArray<u64, { REASON_COUNT as usize }> = PerCpuArray::new();
#[btf_map]
static SERVICE_TRAFFIC: PerCpuArray<Traffic, { SERVICES_MAX as usize }> = PerCpuArray::new();
#[btf_map]
static BACKEND_TRAFFIC: PerCpuArray<Traffic, { BACKENDS_MAX as usize }> = PerCpuArray::new();

/// One [`Work`].
#[btf_map]
static WORK: PerCpuArray<[u64; WORK_LEN], 1> = PerCpuArray::new();
/// Words of a [`Work`].
const WORK_LEN: usize = size_of::<Work>().div_ceil(8);

/// One [`Bucket`].
#[btf_map]
static TOO_BIG: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// A token bucket.
pub(crate) struct Bucket {
    /// Tokens left.
    pub(crate) tokens: u64,
    /// When tokens last came in.
    pub(crate) filled_ns: u64,
}

/// This CPU's bucket of messages to clients whose packets are too big.
#[inline(always)]
pub(crate) fn too_big_bucket() -> Option<&'static mut Bucket> {
    // SAFETY: two words, as a `Bucket` is; XDP neither migrates nor nests on a CPU.
    TOO_BIG.get_ptr_mut(0).map(|room| unsafe { &mut *room.cast::<Bucket>() })
}

/// What is known of the packet at hand on this CPU: nothing, at first.
#[inline(always)]
pub(crate) fn work() -> Verdict<&'static mut Work> {
    let room = WORK.get_ptr_mut(0).ok_or(Reason::DropInternal)?;
    // SAFETY: as large as a `Work` and aligned for words, and zeroes or an earlier packet's `Work`, both of them values;
    // XDP neither migrates nor nests on a CPU.
    Ok(unsafe { &mut *room.cast::<Work>() })
}

/// What this host is called.
#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether `address` may be a VIP.
#[inline(always)]
pub(crate) fn may_be_vip(address: &Address) -> bool {
    let (word, bit) = filter::place(address);
    FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

/// The service index of a port of a VIP, or why there is none.
#[inline(always)]
pub(crate) fn service_index(address: &Address, port: [u8; 2], protocol: u8) -> Result<u32, Reason> {
    service_of(&mut VipKey { address: *address, port, protocol, _pad: 0 })
}

/// The same for a key, which is changed.
#[inline(always)]
pub(crate) fn service_of(key: &mut VipKey) -> Result<u32, Reason> {
    let port = key.port;
    // SAFETY: the value is read at once; user space replaces elements whole.
    if let Some(&index) = unsafe { VIPS.get(&*key) } {
        return Ok(index);
    }
    // Every VIP address has an entry here, if only an empty one: it tells "no such service" from "not a VIP".
    key.port = [0, 0];
    // SAFETY: as above.
    let Some(ranges) = (unsafe { VIP_RANGES.get(&*key) }) else {
        return Err(Reason::PassNotVip);
    };
    let port = u16::from_be_bytes(port);
    for (index, range) in ranges.ranges.iter().enumerate() {
        if (index as u32) < ranges.count && range.first <= port && port <= range.last {
            return Ok(range.service);
        }
    }
    Err(Reason::PassNoService)
}

/// Whether the key's address is one of a VIP; changes the rest of the key.
#[inline(always)]
pub(crate) fn is_vip(key: &mut VipKey) -> bool {
    // Every VIP address has an entry for either protocol here, if only an empty one.
    (key.port, key.protocol) = ([0, 0], PROTO_TCP);
    // SAFETY: only its presence is looked at.
    unsafe { VIP_RANGES.get(&*key) }.is_some()
}

/// The service of the key's address that fragments without ports are given to.
#[inline(always)]
pub(crate) fn fragment_service(key: &VipKey) -> Verdict<u32> {
    // SAFETY: the value is read at once; user space replaces elements whole.
    let ranges = unsafe { VIP_RANGES.get(key) }.ok_or(Reason::PassNotVip)?;
    if ranges.fragments == 0 { Err(Reason::PassNoService) } else { Ok(ranges.fragments - 1) }
}

/// Remembers what the first fragment of a TCP segment said.
#[inline(always)]
pub(crate) fn remember_fragment(key: &FragmentKey, first: &FirstFragment) {
    // Without room the others are dropped and counted when they come.
    let _ = FRAGMENTS.insert(key, first, 0);
}

/// What the first fragment said.
#[inline(always)]
pub(crate) fn first_fragment(key: &FragmentKey) -> Option<FirstFragment> {
    // SAFETY: the value is read at once. Another CPU may replace it meanwhile by that of a packet with the same
    // identification, which the receiver cannot tell apart either.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Remembers what a router said of the path to a tunnel's end.
#[inline(always)]
pub(crate) fn remember_path(end: &Address, path: &PathMtu) {
    // Without room it is said again by the next packet that is too big.
    let _ = PATH_MTUS.insert(end, path, 0);
}

/// What a router said of the path to a tunnel's end, lately or not.
#[inline(always)]
pub(crate) fn path(end: &Address) -> Option<PathMtu> {
    // SAFETY: the value is read at once; what another CPU may write meanwhile was said of the same path.
    unsafe { PATH_MTUS.get(end) }.copied()
}

/// What is done with the packets of a service.
#[inline(always)]
pub(crate) fn service(index: u32) -> Result<&'static Service, Reason> {
    SERVICES.get(index).ok_or(Reason::DropInternal)
}

/// The `SERVICE_` bits of a service.
#[inline(always)]
pub(crate) fn service_flags(index: u32) -> u32 {
    SERVICES.get(index).map_or(0, |service| service.flags)
}

/// When a UDP flow this host has last sent.
#[inline(always)]
pub(crate) fn udp_flow(hash: u64) -> Option<*mut u64> {
    UDP_FLOWS.get_ptr_mut(&hash)
}

/// Remembers that this host has a UDP flow.
#[inline(always)]
pub(crate) fn remember_udp_flow(hash: u64, now_ns: u64) {
    // Without room it goes, at a change of its slot, where new flows go.
    let _ = UDP_FLOWS.insert(&hash, &now_ns, 0);
}

/// The backend slot of a QUIC server; 0 for none.
#[inline(always)]
pub(crate) fn quic_server(id: u16) -> u16 {
    // SAFETY: the value is read at once; user space replaces elements whole.
    unsafe { QUIC_SERVERS.get(u32::from(id)) }.map_or(0, |slot| *slot as u16)
}

/// The hops of a flow in a table.
#[inline(always)]
pub(crate) fn slot(table: u32, flow: &Flow) -> Result<(Slot, u32), Reason> {
    let hash = flow.hash();
    let half = *HALVES.get(table).ok_or(Reason::DropInternal)? & 1;
    let table = TABLES.get_value(table << 1 | half, &0).ok_or(Reason::DropNoBackend)?;
    Ok((Slot::unpack(table[(hash & 0xffff) as usize]), hash))
}

/// The backend of a slot number.
#[inline(always)]
pub(crate) fn backend(slot: u16) -> Result<&'static Backend, Reason> {
    BACKENDS.get(u32::from(slot)).ok_or(Reason::DropInternal)
}

/// Whether tunnels from `address` are accepted.
#[inline(always)]
pub(crate) fn is_peer(address: &Address) -> bool {
    // SAFETY: only its presence is looked at.
    unsafe { PEERS.get(address) }.is_some()
}

/// The kinds of tunnels that are accepted from `address`, which is no peer's: `ACCEPT_` bits.
#[inline(always)]
pub(crate) fn accepted_from(address: &Address) -> u32 {
    TUNNEL_SOURCES.get(&Key::new(128, *address)).copied().unwrap_or_default()
}

/// The table of the longest prefix of sources that holds this one, of those with a table of their own at a service.
#[inline(always)]
pub(crate) fn source_table(source: &SourcePrefix) -> Option<u32> {
    // SAFETY: as in `access`.
    SOURCE_TABLES.get(unsafe { &*core::ptr::from_ref(source).cast::<Key<Source>>() }).copied()
}

/// What the longest prefix says that begins like `source`, of those not longer.
#[inline(always)]
pub(crate) fn access(source: &SourcePrefix) -> Option<&'static AccessRule> {
    // SAFETY: the ABI gives it the layout of a key: a length, then what it is the length of. By reference, since a packed key
    // made here would be put together byte by byte.
    ACCESS.get(unsafe { &*core::ptr::from_ref(source).cast::<Key<Source>>() })
}

/// Counts a packet blocked by a list.
#[inline(always)]
pub(crate) fn count_access_hit(list: u16) {
    if let Some(count) = ACCESS_HITS.get_ptr_mut(u32::from(list)) {
        // SAFETY: per-CPU value, and XDP does not migrate or nest on a CPU.
        unsafe { *count += 1 };
    }
}

/// How a service is protected.
#[inline(always)]
pub(crate) fn guard(service: u32) -> Verdict<&'static Guard> {
    GUARDS.get(service).ok_or(Reason::DropInternal)
}

/// When the next connection of a source is due, once it has opened one.
#[inline(always)]
pub(crate) fn source_rate(source: &Source) -> Option<&'static mut u64> {
    // SAFETY: a word, which other CPUs may write too: the latest wins.
    SOURCE_RATES.get_ptr_mut(source).map(|due| unsafe { &mut *due })
}

/// Remembers a source.
#[inline(always)]
pub(crate) fn new_source(source: &Source, due_ns: u64) {
    // Without room it is not limited.
    let _ = SOURCE_RATES.insert(source, due_ns, 0);
}

/// When the next SYN for a service is due on this CPU: without a cookie, and at all.
#[inline(always)]
pub(crate) fn syn_rates(service: u32) -> Verdict<&'static mut [u64; 2]> {
    let rates = SYN_RATES.get_ptr_mut(service).ok_or(Reason::DropInternal)?;
    // SAFETY: per-CPU value, and XDP does not migrate or nest on a CPU.
    Ok(unsafe { &mut *rates })
}

/// Counts a packet under its reason.
#[inline(always)]
pub(crate) fn count_reason(reason: Reason) {
    if let Some(count) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: per-CPU value, and XDP does not migrate or nest on a CPU.
        unsafe { *count += 1 };
    }
}

/// Counts a packet of a service sent to a backend.
#[inline(always)]
pub(crate) fn count_traffic(service: u32, backend: u16, bytes: usize) {
    for traffic in [SERVICE_TRAFFIC.get_ptr_mut(service), BACKEND_TRAFFIC.get_ptr_mut(u32::from(backend))] {
        if let Some(traffic) = traffic {
            // SAFETY: as in `count_reason`.
            unsafe {
                (*traffic).packets += 1;
                (*traffic).bytes += bytes as u64;
            }
        }
    }
}
