//! Another build of the kernel programs: other instructions that mean the same.

use anyhow::{Context, Result, ensure};

/// Executable, of [`SECTION_OF_PROGRAM`].
const FLAG_EXECUTABLE: u64 = 4;
/// A section with contents.
const SECTION_OF_PROGRAM: u32 = 1;
/// `if rA == rB`, `if rA != rB`, of 64 and of 32 bits (RFC 9669 §4.3).
const COMPARISONS: [u8; 4] = [0x1d, 0x5d, 0x1e, 0x5e];

/// An object in which the two sides of every comparison for equality of registers are exchanged: what a compiler of another
/// day might have made of the same source.
pub fn rebuilt(object: &[u8]) -> Result<Vec<u8>> {
    let mut object = object.to_vec();
    ensure!(object.starts_with(b"\x7fELF\x02\x01"), "not an object of 64 bits, low byte first");
    let number = |at: usize, len: usize| -> Result<u64> {
        let bytes = object.get(at..at + len).context("the object is cut")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // ELF-64: e_shoff, e_shentsize, e_shnum; of a section sh_type, sh_flags, sh_offset, sh_size.
    let (table, entry, count) =
        (number(0x28, 8)? as usize, number(0x3a, 2)? as usize, number(0x3c, 2)? as usize);
    let mut programs = Vec::new();
    for at in (0..count).map(|index| table + index * entry) {
        if number(at + 4, 4)? as u32 == SECTION_OF_PROGRAM && number(at + 8, 8)? & FLAG_EXECUTABLE != 0 {
            let (from, len) = (number(at + 0x18, 8)? as usize, number(at + 0x20, 8)? as usize);
            programs.push(from..from + len);
        }
    }
    let mut exchanged = 0;
    for program in programs {
        let code = object.get_mut(program).context("the object is cut")?;
        // The second half of an instruction of 16 bytes begins with 0, which is no comparison.
        for instruction in code.chunks_exact_mut(8).filter(|bytes| COMPARISONS.contains(&bytes[0])) {
            instruction[1] = instruction[1].rotate_left(4);
            exchanged += 1;
        }
    }
    ensure!(exchanged > 0, "no program compares registers");
    Ok(object)
}
