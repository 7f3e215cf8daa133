//! The service of a port of a VIP: asked of the maps, and remembered until one of them changes.
//!
//! A hash map costs a call, a hash and a walk for every packet, and most packets are for few services. Each CPU keeps what it
//! found in a small table without collision handling.

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use weir_abi::{counters::Reason, service::VipKey};

use crate::maps;

/// Services remembered per CPU. 256 × 32 B = 8 KiB per CPU; two that share a place are looked up anew each time.
const KNOWN_LEN: usize = 1 << 8;

/// A service as it was found.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    key: VipKey,
    /// What [`GENERATION`] was before it was looked up.
    generation: u32,
    service: u32,
    _pad: u32,
}
const _: () = assert!(size_of::<Known>() == 8 * KNOWN_WORDS);
/// Words of a [`Known`].
const KNOWN_WORDS: usize = 4;

#[btf_map]
static KNOWN: PerCpuArray<[u64; KNOWN_WORDS], KNOWN_LEN> = PerCpuArray::new();
#[btf_map]
static GENERATION: Array<u32, 1> = Array::new();

/// The service index of a key with a port, or why there is none; changes the key.
#[inline(always)]
pub(crate) fn of(key: &mut VipKey) -> Result<u32, Reason> {
    // Read before the maps: what changes meanwhile makes what is found here old at once.
    let generation = *GENERATION.get(0).ok_or(Reason::DropInternal)?;
    let known = KNOWN.get_ptr_mut(place(key)).ok_or(Reason::DropInternal)?;
    // SAFETY: a `Known` is as large as the value and aligned like it, any bits are one, and XDP neither migrates nor nests on
    // a CPU.
    let known = unsafe { &mut *known.cast::<Known>() };
    // A place nobody wrote yet is of protocol 0, which no packet here is of.
    if known.generation == generation && known.key == *key {
        return Ok(known.service);
    }
    let asked = *key;
    let service = maps::service_of(key)?;
    (known.key, known.generation, known.service) = (asked, generation, service);
    Ok(service)
}

#[inline(always)]
fn place(key: &VipKey) -> u32 {
    let [a, b, c, d] = key.address.0;
    let mixed = a ^ b ^ c ^ d ^ u32::from(u16::from_ne_bytes(key.port)) << 8;
    (mixed ^ mixed >> 8 ^ mixed >> 16 ^ mixed >> 24) % KNOWN_LEN as u32
}
