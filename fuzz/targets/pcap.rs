//! Files that call themselves captures: read or refused, and what is read is no longer than the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_core::{capture::Assembler, datapath::from_hex, pcap};

fuzz_target!(|file: &[u8]| {
    for number in [1, 2, 9] {
        if let Ok(frame) = pcap::frame(file, number) {
            assert!(frame.len() <= file.len() + 14);
        }
    }
    // What comes from the rings, and what people type.
    let mut assembler = Assembler::new(3);
    for event in file.chunks(48) {
        assert!(assembler.push(0, event).len() <= 2);
    }
    if let Ok(text) = std::str::from_utf8(file) {
        let _ = from_hex(text);
    }
});
