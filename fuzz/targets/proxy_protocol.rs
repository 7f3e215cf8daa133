//! PROXY protocol headers: read or refused, and what is read is said again alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_core::proxy_protocol::{HEADER_LEN_MAX, Version, parse, write};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Some(header)) => {
            assert!(header.len <= bytes.len().min(HEADER_LEN_MAX));
            let mut again = Vec::new();
            write(&mut again, Version::V2, header.addresses, &header.tlvs);
            let said = parse(&again).expect("what is written is right").expect("and whole");
            let plain = |a: weir_core::proxy_protocol::Addresses| {
                [a.source, a.destination].map(|a| (a.ip().to_canonical(), a.port()))
            };
            assert_eq!(said.addresses.map(plain), header.addresses.map(plain));
            assert_eq!(said.len, again.len());
        }
        Ok(None) => assert!(bytes.len() < HEADER_LEN_MAX, "more is waited for than a header can be"),
        Err(_) => {}
    }
});
