//! Any bytes as the OPEN of a BGP peer; the door itself asserts what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weir_bgp::fuzz_open(data));
