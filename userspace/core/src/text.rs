//! Numbers and addresses as text, appended to what is written for every request: formatting as the standard library does it costs
//! more than the rest of a head.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

/// The numbers below 100, two digits each.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + number as u8 / 10, b'0' + number as u8 % 10];
        number += 1;
    }
    pairs
};

/// Appends a number in decimal.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    while rest >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest > 0 || number == 0 {
        at -= 1;
        digits[at] = b'0' + rest as u8;
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends an address.
pub fn write_ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                write_number(out, octet.into());
            }
        }
        // Writing to memory does not fail.
        IpAddr::V6(v6) => _ = write!(out, "{v6}"),
    }
}

/// Appends an address and a port.
pub fn write_socket(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            write_ip(out, (*v4.ip()).into());
            out.push(b':');
            write_number(out, v4.port().into());
        }
        SocketAddr::V6(v6) => _ = write!(out, "{v6}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn it_is_what_the_standard_library_writes(number: u64, address: SocketAddr) {
            prop_assert_eq!(written(|out| write_number(out, number)), number.to_string());
            prop_assert_eq!(written(|out| write_ip(out, address.ip())), address.ip().to_string());
            prop_assert_eq!(written(|out| write_socket(out, address)), address.to_string());
        }
    }
}
