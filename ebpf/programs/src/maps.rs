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
    hop::Backend,
    limits::{
        BACKENDS_MAX, FILTER_WORDS, FRAGMENTS_MAX, PATH_MTUS_MAX, PEERS_MAX, SERVICES_MAX, TABLE_LEN,
        TABLES_MAX, TUNNEL_SOURCES_MAX, VIP_RANGES_MAX,
    },
    path::PathMtu,
    service::{PROTO_TCP, SERVICE_DIRECT, Service, Slot, Traffic, VipKey, VipRanges},
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
static TUNNEL_SOURCES: LpmTrie<Address, u32, { TUNNEL_SOURCES_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static SOCKETS: SockMap<{ SERVICES_MAX as usize }> = SockMap::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FirstFragment, { FRAGMENTS_MAX as usize }> = LruHashMap::new();
#[btf_map]
static PATH_MTUS: LruHashMap<Address, PathMtu, { PATH_MTUS_MAX as usize }> = LruHashMap::new();
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

/// The hops of a flow of a service.
#[inline(always)]
pub(crate) fn slot(service: u32, flow: &Flow) -> Result<(Slot, u32), Reason> {
    let service = SERVICES.get(service).ok_or(Reason::DropInternal)?;
    let hash = flow.hash();
    let half = *HALVES.get(service.table).ok_or(Reason::DropInternal)? & 1;
    let table = TABLES.get_value(service.table << 1 | half, &0).ok_or(Reason::DropNoBackend)?;
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

/// Whether a service's packets go straight to servers.
#[inline(always)]
pub(crate) fn is_direct(service: u32) -> bool {
    SERVICES.get(service).is_some_and(|service| service.flags & SERVICE_DIRECT != 0)
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
