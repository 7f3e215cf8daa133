//! Flows, and the hash that sends all packets of one to the same slot on every balancer.

use crate::Address;

/// The 5-tuple of a packet from a client to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Client address.
    pub source: Address,
    /// VIP address.
    pub destination: Address,
    /// Client port, network order.
    pub source_port: [u8; 2],
    /// VIP port, network order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
}

impl Flow {
    /// 32 well-mixed bits. The low 16 bits (see [`TABLE_LEN`](crate::limits::TABLE_LEN)) select the slot, the high ones the outer source port.
    ///
    /// Five multiplications that do not wait for each other, then the finaliser of MurmurHash3: no table, no loop, the same in
    /// the kernel and on the host.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        let ports = u64::from(u16::from_be_bytes(self.source_port)) << 32
            | u64::from(u16::from_be_bytes(self.destination_port)) << 16
            | u64::from(self.protocol);
        // Odd constants, rotated apart: no part of a flow can undo what another did.
        let h = wide(&self.source, 0).wrapping_mul(0xa076_1d64_78bd_642f)
            ^ wide(&self.source, 2).wrapping_mul(0xe703_7ed1_a0b4_28db).rotate_left(32)
            ^ wide(&self.destination, 0).wrapping_mul(0x8ebc_6af0_9c88_c6e3).rotate_left(16)
            ^ wide(&self.destination, 2).wrapping_mul(0x5899_65cc_7537_4cc3).rotate_left(48)
            ^ ports.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(24);
        let h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let h = (h ^ h >> 29).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (h ^ h >> 32) as u32
    }
}

/// Two words of an address as one.
#[inline(always)]
const fn wide(address: &Address, at: usize) -> u64 {
    (address.0[at] as u64) << 32 | address.0[at + 1] as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(n: u32) -> Flow {
        Flow {
            source: Address::v4((0x0a00_0000 + n / 5_000).to_be_bytes()),
            destination: Address::v4([198, 51, 100, 10]),
            source_port: ((1024 + n % 5_000) as u16).to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
        }
    }

    #[test]
    fn flows_spread_evenly_over_slots() {
        let mut buckets = [0u32; 64];
        for n in 0..64_000 {
            buckets[(flow(n).hash() & 63) as usize] += 1;
        }
        // 1,000 expected, standard deviation 31: five of them.
        assert!(buckets.iter().all(|&count| (840..1_160).contains(&count)), "{buckets:?}");
    }

    #[test]
    fn every_slot_gets_as_many_flows_as_chance_gives_it() {
        // 16 expected per slot: the sum of squares of the differences ÷ 16 is 65,535 ± 362 for a random hash; five of these.
        const FLOWS: u32 = 16 << 16;
        for shift in [0, 16] {
            let mut counts = [0i32; 1 << 16];
            for n in 0..FLOWS {
                counts[(flow(n).hash() >> shift & 0xffff) as usize] += 1;
            }
            let chi: i64 = counts.iter().map(|count| i64::from((count - 16).pow(2))).sum::<i64>() / 16;
            assert!((63_700..67_400).contains(&chi), "{chi} in bits from {shift}");
        }
    }

    #[test]
    fn the_hash_never_changes_silently() {
        // Balancers of different versions stand side by side: a new hash moves every flow.
        assert_eq!([flow(0).hash(), flow(1).hash(), flow(12_345).hash()], [GOLDEN.0, GOLDEN.1, GOLDEN.2]);
    }

    const GOLDEN: (u32, u32, u32) = (2_423_543_887, 2_822_829_462, 860_462_022);
}
