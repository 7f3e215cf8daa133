//! Any bytes as what a BGP peer sends; the door itself asserts what must hold.
#![no_main]

use std::{sync::LazyLock, time::Instant};

use libfuzzer_sys::fuzz_target;

/// One moment for the whole run: the session sees no other clock.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|data: &[u8]| weir_bgp::fuzz_stream(data, *NOW));
