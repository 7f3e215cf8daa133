use super::*;
use proptest::prelude::*;

/// What BIRD sends once it is up, field by field.
const UP: [u8; 24] = [
    0x20, 0xc0, 3, 24, // version 1, no diagnostic; Up; × 3; length
    0x5c, 0x3a, 0x11, 0x07, // my discriminator
    0x00, 0x00, 0xbe, 0xef, // your discriminator
    0x00, 0x00, 0xc3, 0x50, // 50,000 µs
    0x00, 0x00, 0x27, 0x10, // 10,000 µs
    0x00, 0x00, 0x00, 0x00, // no echo
];

fn up() -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Up,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        authentication: None,
        demand: false,
        detect_mult: NonZeroU8::new(3).unwrap(),
        my_discriminator: NonZeroU32::new(0x5c3a_1107).unwrap(),
        your_discriminator: 0xbeef,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 10_000,
        required_min_echo_rx_us: 0,
    }
}

/// `UP` with one octet changed.
fn with(at: usize, value: u8) -> [u8; 24] {
    let mut bytes = UP;
    bytes[at] = value;
    bytes
}

#[test]
fn a_packet_has_these_bytes() {
    assert_eq!(up().encode(), UP);
    assert_eq!(Packet::decode(&UP), Ok(up()));
    let down = Packet {
        diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
        state: State::Down,
        your_discriminator: 0,
        ..up()
    };
    assert_eq!(down.encode()[..4], [0x21, 0x40, 3, 24]);
}

#[test]
fn every_bit_of_the_flags_has_its_place() {
    for (flags, change) in [
        (0x00, Packet { state: State::AdminDown, ..up() }),
        (0x40, Packet { state: State::Down, ..up() }),
        (0x80, Packet { state: State::Init, ..up() }),
        (0xe0, Packet { poll: true, ..up() }),
        (0xd0, Packet { is_final: true, ..up() }),
        (0xc8, Packet { control_plane_independent: true, ..up() }),
        (0xc2, Packet { demand: true, ..up() }),
    ] {
        assert_eq!(Packet::decode(&with(1, flags)), Ok(change), "{flags:#x}");
        assert_eq!(change.encode(), with(1, flags), "{flags:#x}");
    }
}

#[test]
fn each_check_that_needs_no_session_names_what_is_wrong() {
    let mut no_discriminator = UP;
    no_discriminator[4..8].fill(0);
    let cases: [(&[u8], Discard, &str); 12] = [
        (&[], Discard::Truncated(0), "truncated"),
        (&UP[..3], Discard::Truncated(3), "truncated"),
        (&with(0, 0x00), Discard::Version(0), "version"),
        (&with(0, 0x40), Discard::Version(2), "version"),
        (&with(3, 23), Discard::LengthShort(23), "length-short"),
        (&with(3, 0), Discard::LengthShort(0), "length-short"),
        // With A set, 24 and 25 are too short as well.
        (&[&[0x20, 0xc4, 3, 25], &UP[4..], &[1, 2]].concat(), Discard::LengthShort(25), "length-short"),
        (&with(3, 25), Discard::LengthBeyondPayload(25, 24), "length-beyond-payload"),
        (&UP[..23], Discard::LengthBeyondPayload(24, 23), "length-beyond-payload"),
        (&with(2, 0), Discard::DetectMultZero, "detect-mult-zero"),
        (&with(1, 0xc1), Discard::Multipoint, "multipoint"),
        (&no_discriminator, Discard::MyDiscriminatorZero, "my-discriminator-zero"),
    ];
    for (bytes, discard, label) in cases {
        assert_eq!(Packet::decode(bytes), Err(discard));
        assert_eq!(discard.label(), label);
    }
}

#[test]
fn the_checks_come_in_the_order_of_the_rfc() {
    // All wrong at once, and mended one after the other.
    let mut bytes = [0u8; 24];
    bytes[1] = 0x01;
    let mut next = |at: usize, value: u8, expected: Discard| {
        assert_eq!(Packet::decode(&bytes), Err(expected));
        bytes[at] = value;
    };
    next(0, 0x20, Discard::Version(0));
    next(3, 99, Discard::LengthShort(0));
    next(3, 24, Discard::LengthBeyondPayload(99, 24));
    next(2, 1, Discard::DetectMultZero);
    next(1, 0x00, Discard::Multipoint);
    next(7, 1, Discard::MyDiscriminatorZero);
    assert!(Packet::decode(&bytes).is_ok());
}

#[test]
fn the_head_of_an_authentication_section_is_read() {
    // Keyed SHA1, 28 octets.
    let mut bytes = with(1, 0xc4).to_vec();
    bytes[3] = 52;
    bytes.extend([4, 28]);
    bytes.resize(52, 0xaa);
    let packet = Packet::decode(&bytes).unwrap();
    assert_eq!(packet.authentication, Some(Authentication { auth_type: 4, len: 28 }));
    // Octets behind the length are no authentication when the A bit is clear.
    bytes[1] = 0xc0;
    assert_eq!(Packet::decode(&bytes).unwrap().authentication, None);
}

#[test]
fn octets_behind_the_length_are_ignored() {
    let mut longer = UP.to_vec();
    longer.extend([1, 2, 3]);
    assert_eq!(Packet::decode(&longer), Ok(up()));
}

#[test]
fn labels_are_all_different() {
    let mut labels = Discard::LABELS.to_vec();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Discard::LABELS.len());
}

proptest! {
    #[test]
    fn what_is_read_is_written_the_same(bytes in prop::array::uniform24(any::<u8>())) {
        let mut bytes = bytes;
        (bytes[0], bytes[3]) = (0x20 | bytes[0] & 0x1f, 24);
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(packet.encode(), bytes);
        }
    }
}
