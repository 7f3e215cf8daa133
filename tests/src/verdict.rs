//! What a loaded program costs, as the kernel tells: instructions the verifier went through, size, and stack.
//!
//! The verifier's log, which knows the stack, is lost when a load succeeds. So the stack is computed from the program as
//! the kernel holds it, by the kernel's own rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{SkLookup, Xdp},
};

/// What one program costs.
#[derive(Debug)]
pub struct Cost {
    /// Instructions the verifier went through; `None` before Linux 5.16.
    pub instructions: Option<u32>,
    /// Size in the kernel's own instructions, before the JIT, in bytes.
    pub size_bytes: u32,
    /// Stack of the deepest chain of calls, in bytes.
    pub stack_bytes: u32,
}

/// Loads a program of the object if it is not loaded yet, and says what it costs.
pub fn cost(ebpf: &mut Ebpf, name: &str) -> Result<Cost> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    let info = if let Ok(xdp) = <&mut Xdp>::try_from(&mut *program) {
        if xdp.fd().is_err() {
            xdp.load()?;
        }
        xdp.info()?
    } else {
        let steer: &mut SkLookup = program.try_into()?;
        if steer.fd().is_err() {
            steer.load()?;
        }
        steer.info()?
    };
    let program = info.fd()?;
    let size_bytes = info.size_translated().context("the kernel does not tell the size")?;
    let instructions = translated(program.as_fd(), size_bytes)?;
    Ok(Cost {
        instructions: info.verified_instruction_count(),
        size_bytes,
        stack_bytes: stack(&instructions),
    })
}

/// One BPF instruction.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

/// The instructions of a program as the kernel holds them: BPF_OBJ_GET_INFO_BY_FD.
fn translated(program: BorrowedFd<'_>, size_bytes: u32) -> Result<Vec<Instruction>> {
    const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
    /// The beginning of `struct bpf_prog_info`.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind_id_tag: [u32; 4],
        jited_len: u32,
        translated_len: u32,
        jited: u64,
        translated: u64,
    }
    /// `union bpf_attr` of this command.
    #[repr(C)]
    struct Attributes {
        fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut bytes = vec![0_u8; size_bytes as usize];
    let mut info =
        Info { translated_len: size_bytes, translated: bytes.as_mut_ptr() as u64, ..Info::default() };
    let mut attributes = Attributes {
        fd: program.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes no more than the lengths given, into memory that lives until the call returns.
    let done = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    ensure!(done == 0, "read the program: {}", std::io::Error::last_os_error());
    ensure!(
        info.translated != 0,
        "the kernel does not show programs: kernel.kptr_restrict or net.core.bpf_jit_harden"
    );
    let instruction = |bytes: &[u8]| Instruction {
        code: bytes[0],
        destination: bytes[1] & 0x0f,
        source: bytes[1] >> 4,
        offset: i16::from_ne_bytes([bytes[2], bytes[3]]),
        immediate: i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    Ok(bytes.chunks_exact(8).map(instruction).collect())
}

/// The frame pointer.
const R10: u8 = 10;
const CALL: u8 = 0x85;
/// [`Instruction::source`] of a call of another function of the program.
const PSEUDO_CALL: u8 = 1;
/// What the kernel rounds each function's stack up to (`check_max_stack_depth`, until 6.8 and without a JIT).
const STACK_UNIT: u32 = 32;

/// Stack of the deepest chain of calls.
fn stack(program: &[Instruction]) -> u32 {
    let calls: Vec<(usize, usize)> = program
        .iter()
        .enumerate()
        .filter(|(_, instruction)| instruction.code == CALL && instruction.source == PSEUDO_CALL)
        // Of a program translated by the JIT, the offset says where to, and the immediate value which function it is.
        .map(|(at, call)| (at, at.wrapping_add_signed(isize::from(call.offset) + 1)))
        .collect();
    let mut starts: BTreeSet<usize> = calls.iter().map(|(_, to)| *to).collect();
    starts.insert(0);
    let function_of = |at: usize| starts.range(..=at).next_back().copied().unwrap_or(0);
    let mut own: BTreeMap<usize, u32> = starts.iter().map(|start| (*start, 0)).collect();
    let mut copies = [false; 16];
    for (at, instruction) in program.iter().enumerate() {
        if starts.contains(&at) {
            copies = [false; 16];
        }
        let depth = match instruction.code {
            // A copy of the frame pointer, and what is added to it.
            0xbf if instruction.source == R10 => {
                copies[usize::from(instruction.destination)] = true;
                continue;
            }
            0x07 if copies[usize::from(instruction.destination)] => {
                copies[usize::from(instruction.destination)] = false;
                -instruction.immediate
            }
            // Loads and stores at the frame pointer itself.
            code if code & 7 == 1 && instruction.source == R10 => -i32::from(instruction.offset),
            code if matches!(code & 7, 2 | 3) && instruction.destination == R10 => {
                -i32::from(instruction.offset)
            }
            _ => continue,
        };
        let depth = u32::try_from(depth).unwrap_or(0);
        let deepest = own.entry(function_of(at)).or_default();
        *deepest = depth.max(*deepest);
    }
    deepest(0, &own, &calls.iter().map(|(at, to)| (function_of(*at), *to)).collect())
}

/// The kernel refuses recursion: this ends.
fn deepest(function: usize, own: &BTreeMap<usize, u32>, calls: &BTreeSet<(usize, usize)>) -> u32 {
    let below =
        calls.range((function, 0)..=(function, usize::MAX)).map(|(_, to)| deepest(*to, own, calls)).max();
    own.get(&function).copied().unwrap_or(0).max(1).next_multiple_of(STACK_UNIT) + below.unwrap_or(0)
}
