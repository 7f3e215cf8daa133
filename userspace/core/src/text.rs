//! Numbers and addresses as text, appended to what is written for every request: formatting as the standard library does it costs
//! more than the rest of a head.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
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

/// Appends a moment as RFC 3339 has it, in UTC and to the millisecond; before 1970 or after 9999 it is the end of that time.
pub fn write_moment(out: &mut Vec<u8>, moment: SystemTime) {
    const LAST_S: u64 = 253_402_300_799;
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LAST_S);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Of years that begin in March, so that the odd day is the last: four centuries, and those within. Howard Hinnant,
    // "chrono-compatible low-level date algorithms".
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let pair = |number: u64| PAIRS[(number % 100) as usize];
    let ([a, b], [c, d]) = (pair(year / 100), pair(year));
    let ([e, f], [g, h]) = (pair(month), pair(day));
    let ([i, j], [k, l], [m, n]) = (pair(second / 3_600), pair(second / 60 % 60), pair(second % 60));
    let millis = u64::from(since.subsec_millis());
    let ([_, o], [p, q]) = (pair(millis / 100), pair(millis));
    out.extend_from_slice(&[
        a, b, c, d, b'-', e, f, b'-', g, h, b'T', i, j, b':', k, l, b':', m, n, b'.', o, p, q, b'Z',
    ]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weir_model::Timestamp;

    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn a_moment_is_what_timestamps_are_written_as(ms in 0..253_402_300_800_000_u64) {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            prop_assert_eq!(written(|out| write_moment(out, moment)), Timestamp(moment).to_string());
        }

        #[test]
        fn it_is_what_the_standard_library_writes(number: u64, address: SocketAddr) {
            prop_assert_eq!(written(|out| write_number(out, number)), number.to_string());
            prop_assert_eq!(written(|out| write_ip(out, address.ip())), address.ip().to_string());
            prop_assert_eq!(written(|out| write_socket(out, address)), address.to_string());
        }
    }
}
