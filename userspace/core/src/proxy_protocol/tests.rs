use super::*;
use proptest::prelude::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: at(source), destination: at(destination) }
}

/// What a header says.
type Seen = Result<Option<Addresses>, BadHeader>;

/// A header of version 2 as its parts.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = (rest.len() as u16).to_be_bytes();
    [&SIGNATURE[..], &[command, family], &len, rest].concat()
}

#[test]
fn lines_of_version_1_are_read_as_the_table_says() {
    let v4 = Some(addresses("192.0.2.1:56324", "198.51.100.1:443"));
    let v6 = Some(addresses("[2001:db8::1]:1", "[2001:db8::2]:65535"));
    let cases: &[(&str, Seen)] = &[
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443", Ok(v4)),
        ("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535", Ok(v6)),
        ("PROXY UNKNOWN", Ok(None)),
        ("PROXY UNKNOWN ffff::1 whatever 1 2 3", Ok(None)),
        ("PROXY TCP4 2001:db8::1 2001:db8::2 1 2", Err(BadHeader::Malformed)),
        ("PROXY TCP6 192.0.2.1 198.51.100.1 1 2", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 1", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.1  198.51.100.1 1 2", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 1 65536", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 01 2", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 2", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.01 198.51.100.1 1 2", Err(BadHeader::Malformed)),
        ("PROXY TCP4 192.0.2.256 198.51.100.1 1 2", Err(BadHeader::Malformed)),
        ("PROXY UDP4 192.0.2.1 198.51.100.1 1 2", Err(BadHeader::Malformed)),
        ("PROXY ", Err(BadHeader::Malformed)),
        ("PROXYTCP4", Err(BadHeader::Absent)),
        ("GET / HTTP/1.1", Err(BadHeader::Absent)),
    ];
    for (line, expected) in cases {
        let bytes = format!("{line}\r\nrest");
        let read = parse(bytes.as_bytes()).map(|header| header.expect("the line is whole"));
        match (&read, expected) {
            (Ok(header), Ok(addresses)) => {
                assert_eq!((header.addresses, header.len), (*addresses, line.len() + 2), "{line}");
            }
            (read, expected) => assert_eq!(read.as_ref().err(), expected.as_ref().err(), "{line}"),
        }
    }
    let long = format!("PROXY UNKNOWN {}", "x".repeat(LINE_LEN_MAX));
    assert_eq!(parse(long.as_bytes()), Err(BadHeader::TooLong));
    assert_eq!(parse(&long.as_bytes()[..LINE_LEN_MAX - 1]), Ok(None));
}

#[test]
fn headers_of_version_2_are_read_as_the_table_says() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 187];
    let tcp4 = Some(addresses("192.0.2.1:56324", "198.51.100.1:443"));
    let with = |tlvs: &[u8]| v2(0x21, 0x11, &[&v4[..], tlvs].concat());
    let cases: &[(&str, Vec<u8>, Seen)] = &[
        ("TCP over IPv4", v2(0x21, 0x11, &v4), Ok(tcp4)),
        ("LOCAL", v2(0x20, 0x00, &[]), Ok(None)),
        ("LOCAL with addresses", v2(0x20, 0x11, &v4), Ok(None)),
        ("UNSPEC", v2(0x21, 0x00, &[4, 0, 1, 0]), Ok(None)),
        ("unix sockets", v2(0x21, 0x31, &[0; 216]), Ok(None)),
        ("unix sockets cut", v2(0x21, 0x31, &[0; 215]), Err(BadHeader::Malformed)),
        ("IPv4 cut", v2(0x21, 0x11, &v4[..11]), Err(BadHeader::Malformed)),
        ("IPv6 cut", v2(0x21, 0x21, &[0; 35]), Err(BadHeader::Malformed)),
        ("version 1 in binary", v2(0x11, 0x11, &v4), Err(BadHeader::Malformed)),
        ("another command", v2(0x22, 0x11, &v4), Err(BadHeader::Malformed)),
        ("another family", v2(0x21, 0x41, &v4), Err(BadHeader::Malformed)),
        ("too long", v2(0x21, 0x11, &[0; HEADER_LEN_MAX]), Err(BadHeader::TooLong)),
        ("an unknown TLV", with(&[0xee, 0, 2, 1, 2]), Ok(tcp4)),
        ("a TLV cut", with(&[0xee, 0, 2, 1]), Err(BadHeader::Malformed)),
        ("half a TLV's head", with(&[0xee, 0]), Err(BadHeader::Malformed)),
        ("an authority that is no text", with(&[2, 0, 1, 0xff]), Err(BadHeader::Malformed)),
        ("a checksum of three bytes", with(&[3, 0, 3, 1, 2, 3]), Err(BadHeader::Malformed)),
        ("another checksum", with(&[3, 0, 4, 1, 2, 3, 4]), Err(BadHeader::Checksum)),
        ("an id too long", with(&[&[5, 0, 129][..], &[1; 129]].concat()), Err(BadHeader::Malformed)),
        ("TLS without a word", with(&[0x20, 0, 0]), Err(BadHeader::Malformed)),
    ];
    for (what, bytes, expected) in cases {
        let read = parse(bytes).map(|header| header.expect(what));
        match (&read, expected) {
            (Ok(header), Ok(addresses)) => {
                assert_eq!((header.addresses, header.len), (*addresses, bytes.len()), "{what}");
            }
            (read, expected) => assert_eq!(read.as_ref().err(), expected.as_ref().err(), "{what}"),
        }
    }
    let said = parse(&with(b"\x01\0\x02h2\x02\0\x09a.example\x05\0\x02id\x20\0\x05\x01\0\0\0\x01"))
        .unwrap()
        .unwrap();
    let tlvs = Tlvs {
        alpn: Some(b"h2".to_vec()),
        authority: Some("a.example".into()),
        unique_id: Some(b"id".to_vec()),
        is_tls: true,
    };
    assert_eq!(said.tlvs, tlvs);
}

/// RFC 3720 appendix B.4.
#[test]
fn the_checksum_is_that_of_the_rfc() {
    assert_eq!(crc32c([0u8; 32].iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xffu8; 32].iter()), 0x62a8_ab43);
    assert_eq!(crc32c(b"123456789".iter()), 0xe306_9283);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<(u32, u16)>().prop_map(|(ip, port)| (Ipv4Addr::from(ip), port).into());
    let v6 = any::<(u128, u16)>().prop_map(|(ip, port)| (Ipv6Addr::from(ip), port).into());
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        source in any_address(),
        destination in any_address(),
        is_local: bool,
        version in prop_oneof![Just(Version::V1), Just(Version::V2)],
        alpn in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        authority in proptest::option::of("[a-z.]{0,60}"),
        unique_id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..128)),
        is_tls: bool,
    ) {
        let said = (!is_local).then_some(Addresses { source, destination });
        let tlvs = Tlvs { alpn, authority, unique_id, is_tls };
        let mut bytes = Vec::new();
        write(&mut bytes, version, said, &tlvs);
        for end in 0..bytes.len() {
            prop_assert_eq!(parse(&bytes[..end]), Ok(None));
        }
        let len = bytes.len();
        bytes.extend_from_slice(b"GET /");
        let header = parse(&bytes).unwrap().unwrap();
        prop_assert_eq!(header.len, len);
        prop_assert_eq!(header.tlvs, if version == Version::V2 { tlvs } else { Tlvs::default() });
        let plain = |a: Addresses| [a.source, a.destination].map(|a| (a.ip().to_canonical(), a.port()));
        prop_assert_eq!(header.addresses.map(plain), said.map(plain));
    }

    #[test]
    fn whatever_comes_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200, byte: u8) {
        let _either_way = parse(&bytes);
        let mut header = Vec::new();
        write(&mut header, Version::V2, Some(addresses("192.0.2.1:1", "[2001:db8::1]:2")), &Tlvs::default());
        let index = at % header.len();
        // All but the lengths, the family and the word that there is a checksum.
        if header[index] != byte && ![13, 14, 15, header.len() - 7].contains(&index) {
            header[index] = byte;
            // The checksum sees what nothing else does.
            prop_assert!(parse(&header).is_err());
        }
        let _either_way = parse(&[&v2(0x21, 0x11, &[1; 12])[..], &bytes].concat());
    }
}
