//! Any text as the zone cookie a browser sends: without the key nobody makes one that is valid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_core::sticky;

const KEY: &[u8] = b"a key the fuzzer does not find";

fuzz_target!(|text: &str| {
    assert_eq!(sticky::decode(text, 0, KEY), None);
    // A zone's own cookie comes back as that zone.
    if let Ok(zone) = text.parse() {
        let value = sticky::encode(&zone, 1, KEY);
        assert!(value.len() <= sticky::VALUE_LEN_MAX);
        assert_eq!(sticky::decode(&value, 0, KEY), Some(zone));
        assert_eq!(sticky::decode(&value, 1, KEY), None);
    }
});
