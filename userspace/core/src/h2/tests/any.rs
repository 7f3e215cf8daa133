//! Anything at all: nothing panics, nothing grows, and nothing depends on how bytes are cut.

use proptest::prelude::*;

use super::*;

/// Frames of all kinds on few streams, mostly of the right shape.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let id = || 0u32..14;
    let heads = prop_oneof![
        6 => Just(block(GET)),
        2 => Just(block(POST)),
        1 => Just(b"\x82\x87\x84\x41\x01a\x40\x01x\x01y".to_vec()),
        1 => Just(b"\x82\x87\x84\xbe".to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
    ];
    prop_oneof![
        6 => (id(), any::<u8>(), heads).prop_map(|(id, flags, block)| frame(kind::HEADERS, flags & 0x25 | 4, id | 1, &block)),
        4 => (id(), any::<bool>(), 0usize..3000)
            .prop_map(|(id, ends, len)| data(id | 1, u8::from(ends), &vec![b'd'; len])),
        1 => (id(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(id, flags, bytes)| frame(kind::DATA, flags, id, &bytes)),
        2 => (id(), 1u32..100_000).prop_map(|(id, increment)| window_update(id & !1 | u32::from(id > 3), increment)),
        1 => id().prop_map(|id| reset(id | 1)),
        1 => (0u32..80_000).prop_map(|window| settings(&[(4, window)])),
        1 => Just(frame(kind::PING, 0, 0, &[5; 8])),
        1 => (any::<u8>(), any::<u8>(), id(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, id, bytes)| frame(kind % 12, flags, id, &bytes)),
    ]
}

/// Data of one stream, one piece behind the other, is as one.
fn joined(seen: Vec<Seen>) -> Vec<Seen> {
    let mut all: Vec<Seen> = Vec::new();
    for event in seen {
        match (all.last_mut(), event) {
            (Some(Seen::Data(last, bytes, ends @ false)), Seen::Data(id, more, now)) if *last == id => {
                bytes.extend(more);
                *ends = now;
            }
            (_, event) => all.push(event),
        }
    }
    all
}

proptest! {
    #[test]
    fn frames_are_the_same_however_they_are_cut(
        frames in proptest::collection::vec(any_frame(), 0..40),
        cuts in proptest::collection::vec(1usize..60, 1..40),
    ) {
        let bytes = frames.concat();
        let mut whole = Connection::new(TERMS);
        let seen = joined(whole.hears(&bytes));
        let mut cut = Connection::new(TERMS);
        let (mut parts, mut rest) = (Vec::new(), &bytes[..]);
        for len in cuts.iter().cycle() {
            let (part, more) = rest.split_at((*len).min(rest.len()));
            parts.extend(cut.hears(part));
            prop_assert!(cut.came.len() <= FRAME_HEADER_LEN + FRAME_LEN_MAX || cut.server.is_over());
            rest = more;
            if rest.is_empty() { break }
        }
        prop_assert_eq!(joined(parts), seen);
        prop_assert_eq!(whole.writes(), cut.writes());
        prop_assert_eq!(whole.server.open_streams(), cut.server.open_streams());
    }

    #[test]
    fn nothing_panics_and_nothing_grows(
        frames in proptest::collection::vec((any_frame(), 0u8..8, 0u32..14, 0usize..100_000), 0..120),
        takes in any::<bool>(),
    ) {
        let mut connection = Connection::new(TERMS);
        let mut is_over = false;
        for (frame, does, id, len) in frames {
            let seen = connection.hears(&frame);
            prop_assert!(!is_over || seen.is_empty(), "a word behind the last");
            is_over |= seen.iter().any(|seen| matches!(seen, Seen::Fatal(_)));
            let server = &mut connection.server;
            match does {
                0 => _ = server.respond(id | 1, 200, [("x", &b"y"[..])].into_iter(), len % 2 == 0),
                1 | 2 => _ = server.send(id | 1, &vec![0; len], len % 2 == 0),
                3 => _ = server.end(id | 1),
                4 => server.consumed(id | 1, len),
                5 => server.reset(id | 1, Reason::CANCEL),
                6 => _ = server.trailers(id | 1, [("x", &b"y"[..])].into_iter()),
                _ if len < 2_000 => server.go_away(),
                _ => server.ping(),
            }
            prop_assert!(server.open_streams() <= TERMS.streams_max as usize);
            prop_assert!(server.turns.len() <= server.open_streams());
            prop_assert!(server.block.len() <= TERMS.head_len_max as usize);
            prop_assert!(server.output.len() < 400 << 10);
            if takes { connection.writes(); }
        }
        prop_assert_eq!(is_over, connection.server.is_over() && is_over);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut connection = Connection::new(TERMS);
        connection.hears(&bytes);
        Connection { server: Server::new(TERMS), came: Vec::new(), now: Duration::ZERO }.hears(&bytes);
    }
}
