//! The way to a tunnel's next hop: asked of the routing table, and remembered for a moment.
//!
//! A lookup in the routing and neighbour tables costs more than all the rest of an encapsulation. Each CPU keeps what it
//! was told in a small table without collision handling, for [`LIFETIME_JIFFIES`]: a route or a gateway's MAC that changes
//! is followed within a quarter of a second at most.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, bpf_fib_lookup as FibParameters,
    },
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_fib_lookup, bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_map,
    programs::XdpContext,
};
use weir_abi::{Address, Config, counters::Reason, hop::Backend};

use crate::{Verdict, maps};

/// Ways remembered per CPU. 1,024 × 56 B = 56 KiB per CPU; two hosts that share a place ask anew each time.
const WAYS_LEN: usize = 1 << 10;
/// 25 ms with 1,000 jiffies a second, 250 ms with 100.
const LIFETIME_JIFFIES: u64 = 25;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// [`Way::verdict`]: out of `egress` with these MAC addresses.
const FORWARD: u32 = 1;
/// [`Way::verdict`]: forwarding is off on this host, or the neighbour is not resolved at the moment. The router that sent
/// the packet knows the way to every host of the fabric: back to it.
const TURN_BACK: u32 = 2;
/// [`Way::verdict`]: the routing table forbids it.
pub(crate) const FORBIDDEN: u32 = 3;

/// What the routing table said of a host.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Way {
    asked_at: u64,
    address: Address,
    ingress: u32,
    /// Interface to send it out of.
    pub(crate) egress: u32,
    /// One of the constants; 0 when nothing was asked yet.
    pub(crate) verdict: u32,
    /// What the link, the route and the path beyond it carry from the outer IP header on. Kernels before 5.12 do not say, nor
    /// does a host that forwards nothing: then what [`Config::mtu`] says, and routers on the path.
    pub(crate) mtu: u32,
    /// Source MAC address.
    pub(crate) source: [u8; 6],
    /// Destination MAC address.
    pub(crate) destination: [u8; 6],
}
const _: () = assert!(size_of::<Way>() == 8 * WAY_WORDS);
/// Words of a [`Way`].
const WAY_WORDS: usize = 7;

impl Way {
    /// The way out, when the routing table knows one.
    #[inline(always)]
    pub(crate) fn forward(&self) -> Option<&Self> {
        if self.verdict == FORWARD { Some(self) } else { None }
    }
}

#[btf_map]
static WAYS: PerCpuArray<[u64; WAY_WORDS], WAYS_LEN> = PerCpuArray::new();

/// The way to `to`.
#[inline(always)]
pub(crate) fn find(ctx: &XdpContext, to: &Backend, config: &Config) -> Verdict<&'static Way> {
    let [a, b, c, d] = to.address.0;
    let mixed = a ^ b ^ c ^ d;
    let place = (mixed ^ mixed >> 8 ^ mixed >> 16 ^ mixed >> 24) % WAYS_LEN as u32;
    let way = WAYS.get_ptr_mut(place).ok_or(Reason::DropInternal)?;
    // SAFETY: a `Way` is as large as the value and aligned like it, any bits are one, and XDP neither migrates nor nests on
    // a CPU.
    let way = unsafe { &mut *way.cast::<Way>() };
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_jiffies64() };
    let ingress = ctx.ingress_ifindex() as u32;
    let fresh = now.wrapping_sub(way.asked_at) < LIFETIME_JIFFIES;
    if way.verdict == 0 || !fresh || way.ingress != ingress || way.address != to.address {
        (way.asked_at, way.address, way.ingress) = (now, to.address, ingress);
        ask(ctx, way, config);
    }
    Ok(way)
}

/// Asks the routing table. A program of its own for the stack's sake.
#[inline(never)]
fn ask(ctx: &XdpContext, way: &mut Way, config: &Config) {
    // SAFETY: integers and unions of them; all bits zero is a value.
    let mut fib: FibParameters = unsafe { core::mem::zeroed() };
    fib.ifindex = way.ingress;
    if way.address.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(config.address4);
        fib.__bindgen_anon_4.ipv4_dst = way.address.0[3];
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = config.address6.0;
        fib.__bindgen_anon_4.ipv6_dst = way.address.0;
    }
    // SAFETY: the parameters live on the stack with the size given.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &mut fib, size_of::<FibParameters>() as i32, 0) };
    way.verdict = match found as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => FORWARD,
        BPF_FIB_LKUP_RET_BLACKHOLE | BPF_FIB_LKUP_RET_UNREACHABLE | BPF_FIB_LKUP_RET_PROHIBIT => FORBIDDEN,
        _ => TURN_BACK,
    };
    (way.egress, way.source, way.destination) = (fib.ifindex, fib.smac, fib.dmac);
    // SAFETY: every member is an integer of the same size: zero as it went in, or what the kernel says.
    let carries = u32::from(unsafe { fib.__bindgen_anon_1.mtu_result });
    way.mtu = if way.verdict == FORWARD && carries != 0 { carries } else { config.mtu };
    if let Some(path) = maps::path(&way.address) {
        // SAFETY: a plain helper call.
        if path.until_ns > unsafe { bpf_ktime_get_ns() } {
            way.mtu = way.mtu.min(path.mtu);
        }
    }
}
