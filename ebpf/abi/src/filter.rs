//! The filter in front of all lookups: which destinations may be VIPs at all.
//!
//! A host that balances also has traffic of its own, and its packets should pay for one load, not for two failed hash lookups.
//! One bit per VIP, found by a hash of the address; a bit that is not set is proof, one that is set only a hint.

use crate::{Address, limits::FILTER_WORDS};

/// How many bits of a hash name a bit.
const FILTER_BITS_LOG2: u32 = (FILTER_WORDS * 64).ilog2();
const _: () = assert!(FILTER_WORDS.is_power_of_two());

/// The word of the filter that knows `address`, and its bit in it.
#[inline(always)]
pub const fn place(address: &Address) -> (u32, u64) {
    let [a, b, c, d] = address.0;
    // Fibonacci hashing: the high bits of the product depend on all bits below.
    let hash = (a ^ b ^ c ^ d).wrapping_mul(0x9e37_79b1);
    let place = hash >> (32 - FILTER_BITS_LOG2);
    (place >> 6, 1 << (place & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_addresses_use_the_whole_filter() {
        let mut filter = [0u64; FILTER_WORDS];
        for n in 0..16_384u32 {
            let (word, bit) = place(&Address::v4((0xc633_0000 + n).to_be_bytes()));
            filter[word as usize] |= bit;
        }
        let set: u32 = filter.iter().map(|word| word.count_ones()).sum();
        // 131,072 × (1 − e^(−1/8)) = 15,400 expected of random places.
        assert!(set > 14_500, "{set} bits");
    }
}
