//! Maglev lookup tables: weighted backends in, one owner per hash bucket out.
//!
//! Pure: no clock, no randomness; the input order does not matter, so that every balancer with the same backends builds
//! the same table. Choosing *which* backends take part, and remembering previous owners, is [`crate::image::lower`].
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4. Weights as there in
//! §3.4 "…by altering the relative frequency of the backends' turns".

use crate::hash;

/// A backend with its share. `id` must be unique: it seeds the permutation, so that slot numbers never matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted<'a> {
    /// Who it is, the same text on every balancer.
    pub id: &'a str,
    /// Its share relative to the others; 0 takes no slots.
    pub weight: u32,
}

/// `n` backends → `len` owners, as indices into `backends`. Empty when no backend has weight.
///
/// `len` must be a power of two: skips are odd, hence every permutation visits all slots. With `len` ≥ 100 × n the share of
/// a backend is within about ±1 % of the table of its weight's (paper, §5.3).
pub fn build(backends: &[Weighted<'_>], len: usize) -> Vec<u16> {
    assert!(len.is_power_of_two(), "maglev table of {len} slots");
    let mut turns: Vec<Turn> = backends
        .iter()
        .enumerate()
        .filter(|(_, backend)| backend.weight > 0)
        .map(|(index, backend)| Turn::new(index as u16, backend, len))
        .collect();
    // Turns go in the order of a hash: in the order of names the first in the alphabet would always win ties.
    turns.sort_by_key(|turn| (turn.order, backends[turn.owner as usize].id));
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else { return Vec::new() };
    const EMPTY: u16 = u16::MAX;
    let mut table = vec![EMPTY; len];
    let mut filled = 0;
    loop {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            let slot = loop {
                let slot = turn.next & (len - 1);
                turn.next = turn.next.wrapping_add(turn.skip);
                if table[slot] == EMPTY {
                    break slot;
                }
            };
            table[slot] = turn.owner;
            filled += 1;
            if filled == len {
                return table;
            }
        }
    }
}

/// A backend's walk through the table.
struct Turn {
    owner: u16,
    weight: u32,
    credit: u32,
    next: usize,
    skip: usize,
    order: u64,
}

impl Turn {
    fn new(owner: u16, backend: &Weighted<'_>, len: usize) -> Self {
        let seed = hash::bytes(backend.id.as_bytes());
        let (a, b) =
            (hash::mix(seed ^ 0x6d61_676c_6576), hash::mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        Self {
            owner,
            weight: backend.weight,
            credit: 0,
            next: a as usize & (len - 1),
            skip: (b as usize & (len - 1)) | 1,
            order: hash::mix(a ^ b),
        }
    }
}

#[cfg(test)]
mod tests;
