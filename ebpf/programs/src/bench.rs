//! The data path as `cargo xtask bench l4` runs it: each run puts the packet back as it was, so that `repeat` of
//! `BPF_PROG_TEST_RUN` measures the same work every time. Never attached anywhere, loaded by the benchmark only.
//!
//! `bench_null` is the reference: the same loop around an encapsulation that writes nothing.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use weir_abi::{
    bench::{Bench, TEMPLATE_WORDS},
    counters::Reason,
};

use crate::{Verdict, datapath, packet};

#[btf_map]
static BENCH: Array<Bench, 1> = Array::new();
/// Packets so far: numbers the flows.
#[btf_map]
static BENCH_TURN: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The data path, and the packet put back.
#[xdp]
pub(crate) fn bench(ctx: XdpContext) -> u32 {
    let Some(bench) = BENCH.get(0) else { return xdp_action::XDP_ABORTED };
    if next_flow(&ctx, bench).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    let action = datapath(&ctx);
    if restore(&ctx, bench).is_err() { xdp_action::XDP_ABORTED } else { action }
}

/// The same around an encapsulation that writes nothing.
#[xdp]
pub(crate) fn bench_null(ctx: XdpContext) -> u32 {
    let Some(bench) = BENCH.get(0) else { return xdp_action::XDP_ABORTED };
    if next_flow(&ctx, bench).is_err() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: a plain helper call; every packet pointer is taken anew afterwards.
    let grown = unsafe { bpf_xdp_adjust_head(ctx.ctx, -40) };
    if grown != 0 || restore(&ctx, bench).is_err() { xdp_action::XDP_ABORTED } else { xdp_action::XDP_TX }
}

/// Gives the packet the source of the next flow in turn.
#[inline(always)]
fn next_flow(ctx: &XdpContext, bench: &Bench) -> Verdict<()> {
    let turn = BENCH_TURN.get_ptr_mut(0).ok_or(Reason::DropInternal)?;
    // SAFETY: per-CPU value, and XDP does not migrate or nest on a CPU.
    let flow = unsafe {
        *turn += 1;
        (*turn as u32 & bench.flows_mask) ^ bench.first_source
    };
    // Even, and within the first 128 bytes: what the verifier must know of an offset from a map.
    packet::write(ctx, (bench.source_at & 0x7e) as usize, [(flow >> 16) as u16, flow as u16])
}

/// Length and first bytes as they were.
#[inline(always)]
fn restore(ctx: &XdpContext, bench: &Bench) -> Verdict<()> {
    // Through memory, so that the compiler does not subtract pointers in 32 bits, which the verifier forbids.
    // SAFETY: a local that was just written.
    let len = unsafe { core::ptr::read_volatile(&packet::len(ctx)) };
    let grown = len as i32 - bench.len_bytes as i32;
    // SAFETY: a plain helper call; every packet pointer is taken anew afterwards.
    let failed = unsafe {
        match (grown, bench.is_answered) {
            (0, _) => 0,
            (_, 0) => bpf_xdp_adjust_head(ctx.ctx, grown),
            _ => bpf_xdp_adjust_tail(ctx.ctx, -grown),
        }
    };
    if failed != 0 {
        return Err(Reason::DropHeadroom);
    }
    let start = packet::pointer::<[u64; TEMPLATE_WORDS]>(ctx, 0)?;
    // SAFETY: `pointer` checked the length. The kernel begins test packets at a multiple of eight, and this is where this
    // one began.
    unsafe { *start = bench.template };
    Ok(())
}
