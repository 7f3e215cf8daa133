use proptest::prelude::*;

use super::*;

fn written(packets: &[&[u8]]) -> Vec<u8> {
    let writer = Writer;
    let mut file = [writer.section(), writer.interface("eth0", 96)].concat();
    for (number, bytes) in packets.iter().enumerate() {
        file.extend(writer.packet(&Record {
            interface: 0,
            at_unix_ns: 1_700_000_000_000_000_000 + number as u64,
            len_bytes: 1_500,
            bytes,
            came_in: true,
            comment: "drop_ttl",
        }));
    }
    file.extend(writer.statistics(1_700_000_000_000_000_009, packets.len() as u64, 3));
    file
}

#[test]
fn what_was_written_is_read_again() {
    let file = written(&[b"first", b"", b"the third"]);
    assert_eq!(frame(&file, 1).as_deref(), Ok(&b"first"[..]));
    assert_eq!(frame(&file, 2).as_deref(), Ok(&b""[..]));
    assert_eq!(frame(&file, 3).as_deref(), Ok(&b"the third"[..]));
    assert_eq!(frame(&file, 4), Err(ReadError::TooFew(3)));
    assert!(file.windows(8).any(|window| window == b"drop_ttl"));
}

#[test]
fn the_bytes_of_a_file_never_change_silently() {
    let section = Writer.section();
    let expected = [
        &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..],
        &[0xff; 8],
        &[28, 0, 0, 0],
    ];
    assert_eq!(section, expected.concat());
    let interface = Writer.interface("e", 96);
    assert_eq!(interface[..16], [1, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 96, 0, 0, 0]);
    assert_eq!(interface[16..24], [2, 0, 1, 0, b'e', 0, 0, 0]);
}

/// A pcap file of either byte order.
fn classic(is_big: bool, link_type: u32, packet: &[u8]) -> Vec<u8> {
    let word = |word: u32| if is_big { word.to_be_bytes() } else { word.to_le_bytes() };
    let len = packet.len() as u32;
    let words = [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65_535, link_type, 0, 0, len, len];
    [&words.map(word).concat()[..], packet].concat()
}

#[test]
fn the_older_format_is_read_in_either_byte_order_and_raw_ip_is_framed() {
    for is_big in [false, true] {
        assert_eq!(frame(&classic(is_big, 1, b"frame"), 1).as_deref(), Ok(&b"frame"[..]));
        let raw = frame(&classic(is_big, 101, &[0x45, 1, 2]), 1).expect("framed");
        assert_eq!(raw, [&[0; 12][..], &[8, 0, 0x45, 1, 2]].concat());
        assert_eq!(frame(&classic(is_big, 105, b"wifi"), 1), Err(ReadError::LinkType(105)));
    }
    assert_eq!(frame(b"not a capture", 1), Err(ReadError::Unknown));
    assert_eq!(frame(&written(&[]), 0), Err(ReadError::TooFew(0)));
}

#[test]
fn a_file_cut_anywhere_is_read_or_refused() {
    let file = written(&[b"first", b"second"]);
    for len in 0..file.len() {
        let _ = frame(&file[..len], 2);
        let _ = frame(&classic(true, 1, b"frame")[..len.min(45)], 1);
    }
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(damage in proptest::collection::vec((0..400usize, any::<u8>()), 0..8), number in 0..4usize) {
        let mut files = [written(&[b"first", b"second"]), classic(false, 1, b"frame"), classic(true, 101, b"frame")];
        for file in &mut files {
            for (at, byte) in &damage {
                let at = at % file.len();
                file[at] = *byte;
            }
            let _ = frame(file, number);
        }
    }
}
