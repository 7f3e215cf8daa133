//! The only pointer arithmetic on packets: every access checks its bound first.

use aya_ebpf::programs::XdpContext;
use weir_abi::{Address, counters::Reason};

use crate::Verdict;

/// The `T` that stands `at` bytes into the packet.
#[inline(always)]
pub(crate) fn read<T: Copy>(ctx: &XdpContext, at: usize) -> Verdict<T> {
    pointer::<T>(ctx, at).map(|pointer| {
        // SAFETY: `pointer` checked that the whole `T` lies in the packet; `T` is made of bytes and aligned to two, as
        // packets and the headers in them are.
        unsafe { *pointer }
    })
}

/// Copies the IPv6 address that stands `at` bytes into the packet. In halves of words: behind a header of variable length
/// the compiler no longer knows that it is aligned to two, and would take each byte by itself.
#[inline(always)]
pub(crate) fn copy_v6(ctx: &XdpContext, at: usize, to: &mut Address) -> Verdict<()> {
    let halves: [u16; 8] = read(ctx, at)?;
    // SAFETY: an `Address` is 16 bytes as they lie in memory, and aligned to four.
    unsafe { *core::ptr::from_mut(to).cast::<[u16; 8]>() = halves };
    Ok(())
}

/// Writes `value` `at` bytes into the packet.
#[inline(always)]
pub(crate) fn write<T: Copy>(ctx: &XdpContext, at: usize, value: T) -> Verdict<()> {
    let pointer = pointer::<T>(ctx, at)?;
    // SAFETY: as in `read`.
    unsafe { *pointer = value };
    Ok(())
}

/// Where a `T` stands `at` bytes into the packet, for helpers that take pointers.
#[inline(always)]
pub(crate) fn pointer<T>(ctx: &XdpContext, at: usize) -> Verdict<*mut T> {
    let start = ctx.data() + at;
    if start + size_of::<T>() > ctx.data_end() {
        return Err(Reason::DropMalformed);
    }
    Ok(start as *mut T)
}

/// Length of the packet in bytes.
#[inline(always)]
pub(crate) fn len(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}
