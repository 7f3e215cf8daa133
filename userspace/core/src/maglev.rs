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
/// `len` must be a power of two up to 65,536: skips are odd, hence every permutation visits all slots. With `len` ≥ 100 × n
/// the share of a backend is within about ±1 % of the table of its weight's (paper, §5.3).
pub fn build(backends: &[Weighted<'_>], len: usize) -> Vec<u16> {
    assert!(len.is_power_of_two() && len <= 1 << 16, "maglev table of {len} slots");
    let mut turns: Vec<Turn> = backends
        .iter()
        .enumerate()
        .filter(|(_, backend)| backend.weight > 0)
        .map(|(index, backend)| Turn::new(index as u16, backend))
        .collect();
    // Turns go in the order of a hash: in the order of names the first in the alphabet would always win ties.
    turns.sort_unstable_by_key(|turn| (turn.order, backends[turn.owner as usize].id));
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else { return Vec::new() };
    let mut table = vec![0; len];
    let mut free = Free::new(len);
    loop {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            table[free.take(turn)] = turn.owner;
            if free.count == 0 {
                return table;
            }
        }
    }
}

/// A backend's walk through the table. Its places are slots modulo the table's length, of which only `next` and `skip`
/// modulo that length matter.
struct Turn {
    owner: u16,
    next: u16,
    skip: u16,
    weight: u32,
    credit: u32,
    order: u64,
}

impl Turn {
    fn new(owner: u16, backend: &Weighted<'_>) -> Self {
        let seed = hash::bytes(backend.id.as_bytes());
        let (a, b) =
            (hash::mix(seed ^ 0x6d61_676c_6576), hash::mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        Self {
            owner,
            next: a as u16,
            skip: b as u16 | 1,
            weight: backend.weight,
            credit: 0,
            order: hash::mix(a ^ b),
        }
    }
}

/// Slots without an owner.
///
/// Walking to the next one takes `len` ÷ `count` steps, which for the last slots is most of the work of a table. When few
/// are left it is quicker to ask each of them how many steps away it is: (slot − next) ÷ skip, modulo `len`.
struct Free {
    count: usize,
    len: usize,
    /// A bit per slot: small enough for the innermost cache, which the table is not.
    bits: [u64; 1 << 10],
    /// The last of them, in any order; empty while there are many.
    last: Vec<u16>,
    /// Where in `last` a slot is.
    place: Vec<u16>,
}

impl Free {
    /// From here on slots are asked: about where it takes as long as to walk.
    const LAST: usize = 1_024;

    fn new(len: usize) -> Self {
        let mut bits = [0; 1 << 10];
        bits[..len / 64].fill(u64::MAX);
        if len < 64 {
            bits[0] = (1 << len) - 1;
        }
        Self { count: len, len, bits, last: Vec::new(), place: Vec::new() }
    }

    /// The first free slot on a backend's way; free no longer.
    fn take(&mut self, turn: &mut Turn) -> usize {
        let slot = if self.count > Self::LAST { self.walk(turn) } else { self.ask(turn) };
        self.count -= 1;
        slot
    }

    fn walk(&mut self, turn: &mut Turn) -> usize {
        let mask = (self.len - 1) as u16;
        loop {
            // Four at a time: where the walk ends is nothing a processor can foresee.
            let mut found = 0;
            for step in 0..4u16 {
                let slot = turn.next.wrapping_add(turn.skip.wrapping_mul(step)) & mask;
                found |= (self.bits[usize::from(slot >> 6)] >> (slot & 63) & 1) << step;
            }
            if found == 0 {
                turn.next = turn.next.wrapping_add(turn.skip.wrapping_mul(4));
                continue;
            }
            let steps = found.trailing_zeros() as u16;
            let slot = turn.next.wrapping_add(turn.skip.wrapping_mul(steps)) & mask;
            turn.next = turn.next.wrapping_add(turn.skip.wrapping_mul(steps + 1));
            self.bits[usize::from(slot >> 6)] &= !(1 << (slot & 63));
            return slot.into();
        }
    }

    fn ask(&mut self, turn: &Turn) -> usize {
        if self.last.is_empty() {
            self.list();
        }
        let inverse = inverse(turn.skip);
        // Only the lower bits count; put in front and made signed, they compare as they should, and quickly.
        let shift = 16 - self.len.trailing_zeros();
        let steps = |slot: u16| slot.wrapping_sub(turn.next).wrapping_mul(inverse).unbounded_shl(shift);
        let nearest = self.last.iter().map(|slot| (steps(*slot) ^ 0x8000) as i16).min().unwrap_or_default();
        let nearest = nearest as u16 ^ 0x8000;
        let mask = self.len - 1;
        let slot =
            turn.next.wrapping_add(turn.skip.wrapping_mul(nearest.unbounded_shr(shift))) as usize & mask;
        let found = self.place[slot];
        self.last.swap_remove(found.into());
        if let Some(moved) = self.last.get(usize::from(found)) {
            self.place[*moved as usize & mask] = found;
        }
        slot
    }

    fn list(&mut self) {
        self.place = vec![0; self.len];
        for (word, bits) in self.bits.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let slot = word << 6 | bits.trailing_zeros() as usize;
                bits &= bits - 1;
                self.place[slot] = self.last.len() as u16;
                self.last.push(slot as u16);
            }
        }
    }
}

/// The number that undoes a multiplication by an odd number modulo 2^16, by Newton's method: each round doubles the bits.
fn inverse(odd: u16) -> u16 {
    let mut inverse = odd;
    for _ in 0..3 {
        inverse = inverse.wrapping_mul(2u16.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    inverse
}

#[cfg(test)]
mod tests;
