//! What the verifier thinks of the balancer.

use weir_tests::vips::balancer;

/// Far below the kernel's million: a program near it loads on one kernel and not on the next.
const INSTRUCTIONS_MAX: u32 = 60_000;

#[test]
fn the_verifier_is_done_quickly() {
    let Some(count) = balancer().verified_instructions(weir_abi::programs::BALANCER).expect("info") else {
        return;
    };
    println!("{count} instructions verified");
    assert!(count <= INSTRUCTIONS_MAX, "{count} instructions");
}
