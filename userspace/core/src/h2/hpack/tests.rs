//! The examples of RFC 7541 Appendix C, what is broken, and anything at all.

use proptest::prelude::*;

use super::*;
use crate::{
    h1::Bad,
    h2::{head::Head, list::List},
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn unpack(decoder: &mut Decoder, block: &[u8]) -> Result<Head, Broken> {
    let mut list = List::new(1 << 16);
    decoder.decode(block, &mut list).map(|()| list.head(true))
}

fn fields(head: &Head) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    head.fields().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Of each connection: blocks, one after the other; path, authority and other fields; the size of the table afterwards.
type Block = (&'static str, (&'static str, &'static str), &'static [(&'static str, &'static str)], usize);

const DATE: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const PLACE: (&str, &str) = ("location", "https://www.example.com");
const HOST: &str = "www.example.com";

const EXAMPLES: &[(&str, &[Block])] = &[
    (
        "C.2.1",
        &[(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            ("", ""),
            &[("custom-key", "custom-header")],
            55,
        )],
    ),
    ("C.2.2", &[("040c 2f73 616d 706c 652f 7061 7468", ("/sample/path", ""), &[], 0)]),
    ("C.2.3", &[("1008 7061 7373 776f 7264 0673 6563 7265 74", ("", ""), &[("password", "secret")], 0)]),
    (
        "C.3",
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", ("/", HOST), &[], 57),
            ("8286 84be 5808 6e6f 2d63 6163 6865", ("/", HOST), &[("cache-control", "no-cache")], 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                ("/index.html", HOST),
                &[("custom-key", "custom-value")],
                164,
            ),
        ],
    ),
    (
        "C.4",
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", ("/", HOST), &[], 57),
            ("8286 84be 5886 a8eb 1064 9cbf", ("/", HOST), &[("cache-control", "no-cache")], 110),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                ("/index.html", HOST),
                &[("custom-key", "custom-value")],
                164,
            ),
        ],
    ),
    // Responses, behind an update of the size to 256; their status is no business of ours.
    (
        "C.5",
        &[
            (
                "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
          546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                ("", ""),
                &[("cache-control", "private"), DATE, PLACE],
                222,
            ),
            ("4803 3330 37c1 c0bf", ("", ""), &[("cache-control", "private"), DATE, PLACE], 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d \
          4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 \
          7369 6f6e 3d31",
                ("", ""),
                LAST,
                215,
            ),
        ],
    ),
    (
        "C.6",
        &[
            (
                "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
          8f0b 97c8 e9ae 82ae 43d3",
                ("", ""),
                &[("cache-control", "private"), DATE, PLACE],
                222,
            ),
            ("4883 640e ffc1 c0bf", ("", ""), &[("cache-control", "private"), DATE, PLACE], 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf \
          cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                ("", ""),
                LAST,
                215,
            ),
        ],
    ),
];

const LAST: &[(&str, &str)] = &[
    ("cache-control", "private"),
    ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
    PLACE,
    ("content-encoding", "gzip"),
    ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
];

#[test]
fn the_examples_of_rfc_7541_are_unpacked() {
    for (name, blocks) in EXAMPLES {
        let mut decoder = Decoder::default();
        for (block, (path, host), wanted, size) in *blocks {
            let head = unpack(&mut decoder, &hex(block)).unwrap();
            assert_eq!((head.target(), head.host()), (*path, *host), "{name}");
            assert_eq!(fields(&head), pairs(wanted), "{name}");
            assert_eq!(decoder.sizes().0, *size, "{name}");
        }
    }
}

#[test]
fn integers_are_those_of_rfc_7541() {
    for (prefix, value, bytes) in [
        (5, 10, &[10][..]),
        (5, 1337, &[31, 154, 10]),
        (8, 42, &[42]),
        (7, 126, &[126]),
        (7, 127, &[127, 0]),
        (7, 127 + 128, &[127, 128, 1]),
    ] {
        let mut rest = bytes;
        assert_eq!(take_integer(&mut rest, prefix), Ok(value));
        assert!(rest.is_empty());
        let mut out = Vec::new();
        put_integer(&mut out, 0, prefix, value);
        assert_eq!(out, bytes);
    }
    for bytes in [&[][..], &[31], &[31, 128], &[31, 255, 255, 255, 255, 1], &[31, 128, 128, 128, 128, 0]] {
        assert_eq!(take_integer(&mut &bytes[..], 5), Err(Broken), "{bytes:?}");
    }
}

#[test]
fn broken_blocks_are_told() {
    for (what, block) in [
        ("index 0", "80"),
        ("an index beyond the table", "be"),
        ("a name beyond the table", "7f00 0161"),
        ("an integer without end", "ff ffff ffff ff"),
        ("a text beyond the block", "0004 6162"),
        ("no text at all", "00"),
        ("no value", "0001 61"),
        ("an update above what was granted", "3fe2 1f"),
        ("an update behind a field", "82 20"),
        ("padding of a whole byte", "0001 61 82 1fff"),
        ("padding that is not all ones", "0001 61 81 18"),
        ("END in a text", "0001 61 84 ffff ffff"),
    ] {
        assert_eq!(unpack(&mut Decoder::default(), &hex(block)).map(|_| ()), Err(Broken), "{what}");
    }
    for (what, block) in [
        ("nothing", ""),
        ("updates in front", "20 3fe1 1f 82"),
        ("an empty text", "0001 61 00"),
        ("an empty packed text", "0001 61 80"),
        ("seven ones of padding", "0001 61 83 02ab 7f"),
    ] {
        assert_eq!(unpack(&mut Decoder::default(), &hex(block)).map(|_| ()), Ok(()), "{what}");
    }
}

#[test]
fn every_byte_survives_packing() {
    for byte in 0..=255u8 {
        for len in 0..9 {
            let text = vec![byte; len];
            let (mut packed, mut out) = (Vec::new(), Vec::new());
            huffman::encode(&text, &mut packed);
            huffman::decode(&packed, &mut out).unwrap();
            assert_eq!(out, text);
        }
    }
    let mut packed = Vec::new();
    huffman::encode(b"www.example.com", &mut packed);
    assert_eq!(packed, hex("f1e3 c2e5 f23a 6ba0 ab90 f4ff"), "RFC 7541 C.4.1");
}

#[test]
fn every_known_name_is_found_in_letters_of_any_size() {
    for (index, (name, _)) in fixed::FIXED.iter().enumerate().filter(|(_, (name, _))| !name.starts_with(':'))
    {
        assert_eq!(fixed::index_of(name), Some(index + 1));
        assert_eq!(fixed::index_of(&name.to_uppercase()), Some(index + 1));
        assert_eq!(fixed::index_of(&format!("{name}x")), None);
    }
    for name in ["", "x", ":path", ":status", "x-served-by"] {
        assert_eq!(fixed::index_of(name), None);
    }
}

#[test]
fn a_list_that_is_too_large_is_not_kept_and_the_table_is() {
    let mut list = List::new(100);
    let mut decoder = Decoder::default();
    // One field that fits, one that does not and is remembered, and what leans on it.
    let block = [&b"\x40\x01a\x01b\x40\x01c\x50"[..], &[b'd'; 80], b"\xbe"].concat();
    decoder.decode(&block, &mut list).unwrap();
    let head = list.head(true);
    assert_eq!(head.flaw, Some(Bad::HeadLen));
    assert_eq!(fields(&head), pairs(&[("a", "b")]));
    assert_eq!(decoder.sizes().0, 2 * 32 + 2 + 81);
    // A bomb: each byte stands for 4 KiB.
    let mut list = List::new(16 << 10);
    let mut decoder = Decoder::default();
    let mut block = b"\x40\x01a\x7f\xd0\x1e".to_vec();
    block.resize(block.len() + 0x7f + (0x1e << 7 | 0x50), b'x');
    block.resize(block.len() + 10_000, 0xbe);
    decoder.decode(&block, &mut list).unwrap();
    assert_eq!(list.head(true).flaw, Some(Bad::HeadLen));
    assert!(list.bytes.len() <= 16 << 10, "{}", list.bytes.len());
}

#[test]
fn the_table_stays_right_however_much_goes_through_it() {
    let mut decoder = Decoder::default();
    for n in 0..2000 {
        let mut block = vec![0x40];
        put_text(&mut block, format!("x-{n}").as_bytes(), false);
        put_text(&mut block, format!("{n:0>40}").as_bytes(), true);
        unpack(&mut decoder, &block).unwrap();
        // Some fifty fit, of which this one was sent five ago.
        if n >= 5 {
            let head = unpack(&mut decoder, &[0x80 | (62 + 5)]).unwrap();
            assert_eq!(fields(&head), [(format!("x-{}", n - 5), format!("{:0>40}", n - 5))]);
        }
        assert!(decoder.sizes().0 <= TABLE_LEN && decoder.sizes().1 <= 2 * TABLE_LEN);
    }
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    unpack(&mut decoder, b"\x40\x01a\x01b").unwrap();
    assert_eq!(decoder.sizes().0, 34);
    let mut block = b"\x40\x01a\x7f\x81\x1f".to_vec();
    block.resize(block.len() + 0x7f + (0x1f << 7 | 1), b'x');
    unpack(&mut decoder, &block).unwrap();
    assert_eq!(decoder.sizes().0, 0);
}

/// A field as somebody may send it: how, name, value, whether packed.
fn field() -> impl Strategy<Value = (u8, Vec<u8>, Vec<u8>, bool)> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    let name = prop_oneof!["[a-z-]{1,12}".prop_map(String::into_bytes), bytes()];
    let value = prop_oneof!["[ -~]{0,40}".prop_map(String::into_bytes), bytes()];
    (0u8..4, name, value, any::<bool>())
}

fn put_text(out: &mut Vec<u8>, text: &[u8], is_packed: bool) {
    let mut packed = Vec::new();
    if is_packed {
        huffman::encode(text, &mut packed);
    } else {
        packed.extend_from_slice(text);
    }
    put_integer(out, if is_packed { 0x80 } else { 0 }, 7, packed.len());
    out.extend_from_slice(&packed);
}

proptest! {
    /// A second, plain table beside the real one: the same fields, the same size, and no more memory than bounds allow.
    #[test]
    fn a_table_is_what_a_plain_one_is(
        sent in proptest::collection::vec((field(), any::<proptest::sample::Index>()), 0..120),
        sizes in proptest::collection::vec(proptest::option::weighted(0.1, 0usize..=TABLE_LEN), 120),
    ) {
        let mut decoder = Decoder::default();
        let mut plain: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut size_max = TABLE_LEN;
        let len = |plain: &[(Vec<u8>, Vec<u8>)]| plain.iter().map(|(n, v)| n.len() + v.len() + 32).sum::<usize>();
        for (((how, name, value, is_packed), index), resize) in sent.into_iter().zip(sizes) {
            let mut block = Vec::new();
            if let Some(size) = resize {
                put_integer(&mut block, 0x20, 5, size);
                size_max = size;
                while len(&plain) > size_max { plain.pop(); }
            }
            let mut wanted = (name, value);
            match how {
                0 if !plain.is_empty() => {
                    let at = index.index(plain.len());
                    put_integer(&mut block, 0x80, 7, 62 + at);
                    wanted = plain[at].clone();
                }
                1 if !plain.is_empty() => {
                    let at = index.index(plain.len());
                    put_integer(&mut block, 0x40, 6, 62 + at);
                    put_text(&mut block, &wanted.1, is_packed);
                    wanted.0 = plain[at].0.clone();
                    plain.insert(0, wanted.clone());
                }
                2 => {
                    block.push(0x40);
                    put_text(&mut block, &wanted.0, is_packed);
                    put_text(&mut block, &wanted.1, is_packed);
                    plain.insert(0, wanted.clone());
                }
                _ => {
                    block.push(0);
                    put_text(&mut block, &wanted.0, is_packed);
                    put_text(&mut block, &wanted.1, is_packed);
                }
            }
            while len(&plain) > size_max { plain.pop(); }
            let head = unpack(&mut decoder, &block).unwrap();
            if head.flaw.is_none() && !wanted.0.starts_with(b":") {
                let seen: Vec<_> = head.fields().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect();
                prop_assert_eq!(seen, vec![wanted]);
            }
            let (size, kept) = decoder.sizes();
            prop_assert_eq!(size, len(&plain));
            prop_assert!(kept <= 2 * TABLE_LEN, "{} bytes are kept", kept);
        }
    }

    #[test]
    fn what_is_packed_here_is_unpacked_alike(
        sent in proptest::collection::vec(("[a-z][a-z-]{0,12}", "[!-~]([ -~]{0,200}[!-~])?"), 0..20),
    ) {
        let mut block = Vec::new();
        Encoder::default().begin(&mut block);
        for (name, value) in sent.iter().filter(|(name, _)| name != "cookie") {
            put_field(&mut block, &name.to_uppercase(), value.as_bytes());
        }
        let head = unpack(&mut Decoder::default(), &block).unwrap();
        prop_assert_eq!(head.flaw, None);
        let wanted: Vec<_> = sent.into_iter().filter(|(name, _)| name != "cookie").collect();
        prop_assert_eq!(fields(&head), wanted);
    }

    #[test]
    fn no_bytes_make_it_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            if unpack(&mut decoder, &block).is_err() { break; }
            prop_assert!(decoder.sizes().0 <= TABLE_LEN);
        }
    }
}
