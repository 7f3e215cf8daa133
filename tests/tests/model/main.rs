//! The loaded kernel program against `weir_core::datapath`, the model that says what it shall do: a million packets, made
//! to make sense, cut, damaged, and random, on nodes of several kinds. Bytes, action and counters must be equal.
//!
//! Every run takes the same packets: `WEIR_SEED` for others, `WEIR_PACKETS` for more.

mod guards;
mod packets;
mod special;
mod twins;
mod world;

use std::{collections::BTreeMap, time::Instant};

use weir_abi::counters::{REASONS, Reason};

use packets::Random;
use twins::Twins;
use world::{Kernel, NODES, Node};

/// Random packets, all nodes together.
const PACKETS: u64 = 1_000_000;
const SEED: u64 = 0x7765_6972;
/// Headers end before this: beyond, bytes are neither cut nor changed one by one.
const HEADERS_LEN: usize = 160;
/// The kernel takes no test packet shorter than an Ethernet header.
const LEN_MIN: usize = 14;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn the_loaded_program_does_what_the_model_says() {
    let kernel = Kernel::enter();
    let (seed, packets) = (setting("WEIR_SEED", SEED), setting("WEIR_PACKETS", PACKETS));
    let begun = Instant::now();
    let mut met: BTreeMap<Reason, u64> = BTreeMap::new();
    for node in &NODES {
        let mut twins = Twins::new(node, &kernel);
        let mut meet = |twins: &mut Twins, frame: &[u8], origin: &dyn std::fmt::Display| {
            *met.entry(twins.agree(frame, origin)).or_default() += 1;
        };
        let good = packets::good(node);
        for (number, frame) in good.iter().enumerate() {
            meet(&mut twins, frame, &format_args!("good {number}"));
            for len in LEN_MIN..frame.len().min(HEADERS_LEN) {
                meet(&mut twins, &frame[..len], &format_args!("good {number} cut to {len}"));
            }
        }
        let mut random = Random::new(seed ^ node.name.len() as u64);
        for number in 0..packets / NODES.len() as u64 {
            let frame = packets::any(&mut random, &good);
            meet(&mut twins, &frame, &format_args!("number {number} of WEIR_SEED={seed}"));
        }
        twins.audit();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let total: u64 = met.values().sum();
    println!("{total} packets in {seconds:.1} s");
    for (reason, name) in REASONS {
        println!("{:>8} {name}", met.get(&reason).copied().unwrap_or(0));
    }
    // What needs a lack of memory is not met here, and what cannot happen must not.
    for (reason, name) in REASONS {
        let is_met = met.contains_key(&reason);
        match reason {
            Reason::DropInternal | Reason::DropHeadroom => assert!(!is_met, "{name}"),
            _ => assert!(is_met, "no packet was counted under {name}: the packets are too tame"),
        }
    }
}

/// The edges of header fields: every byte of every kind of packet takes the values at which something changes.
#[test]
fn program_and_model_agree_at_the_edges_of_every_field() {
    const EDGES: [u8; 12] = [0, 1, 2, 4, 5, 6, 17, 0x2f, 0x7f, 0x80, 0xc0, 0xff];
    let kernel = Kernel::enter();
    let edges = |node: &Node| {
        let mut twins = Twins::new(node, &kernel);
        for (number, frame) in packets::good(node).iter().enumerate() {
            for at in 12..frame.len().min(HEADERS_LEN) {
                let mut changed = frame.clone();
                for value in EDGES.into_iter().filter(|value| *value != frame[at]) {
                    changed[at] = value;
                    twins.agree(&changed, &format_args!("good {number}, byte {at} made {value:#x}"));
                }
            }
        }
        twins.audit();
    };
    edges(&NODES[1]);
}
