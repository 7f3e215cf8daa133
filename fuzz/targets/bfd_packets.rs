//! Any bytes, at any moment, as what BFD peers send; the door itself asserts what must hold.
#![no_main]

use std::{sync::LazyLock, time::Instant};

use libfuzzer_sys::fuzz_target;

/// One moment for the whole run: the sessions see no other clock.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|data: &[u8]| weir_bfd::fuzz_packets(data, *NOW));
