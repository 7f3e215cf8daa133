//! The first message of a TLS client: more bytes never change what was read, and a name is one that routes can be compared with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_core::client_hello::{HELLO_LEN_MAX, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    if let Ok(Some(hello)) = &whole {
        let longer = [bytes, b"\x17\x03\x03\0\x01x"].concat();
        assert_eq!(parse(&longer).as_ref(), Ok(&Some(hello.clone())));
        if let Some(name) = &hello.server_name {
            assert!(!name.is_empty() && name.len() <= 253);
            assert_eq!(*name, name.to_ascii_lowercase());
        }
    }
    if whole == Ok(None) {
        assert!(bytes.len() <= 2 * HELLO_LEN_MAX, "more is waited for than a hello can be");
    }
    // What was refused early is refused for good.
    for end in 0..bytes.len().min(64) {
        if let Err(bad) = parse(&bytes[..end]) {
            assert_eq!(parse(bytes), Err(bad));
        }
    }
});
