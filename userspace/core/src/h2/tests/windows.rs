//! How much may be sent, either way. RFC 9113 §5.2, §6.9.

use proptest::prelude::*;

use super::*;

const WINDOW: usize = WINDOW_MIN as usize;

/// Bytes of data that were written for a stream.
fn sent(written: &[Written], id: StreamId) -> usize {
    let data = written.iter().filter(|written| written.kind == kind::DATA && written.stream == id);
    data.map(|written| written.payload.len()).sum()
}

/// What was granted on a stream, or on all together.
fn granted(written: &[Written], id: StreamId) -> u32 {
    let updates =
        written.iter().filter(|written| written.kind == kind::WINDOW_UPDATE && written.stream == id);
    updates.map(|written| u32::from_be_bytes(written.payload[..].try_into().unwrap())).sum()
}

/// A connection with requests that are being answered.
fn answering(ids: &[StreamId]) -> Connection {
    let mut connection = Connection::new(TERMS);
    for id in ids {
        connection.hears(&get(*id));
        connection.answers(*id, false).unwrap();
    }
    connection
}

#[test]
fn data_goes_as_far_as_the_window_of_a_stream() {
    let mut connection = answering(&[1]);
    connection.hears(&window_update(0, 1 << 20));
    assert_eq!(connection.server.send(1, &vec![0; 100_000], true), Ok(WINDOW));
    assert_eq!(connection.server.send(1, &[0; 10], true), Ok(0));
    assert_eq!(connection.hears(&window_update(0, 1)), []);
    assert_eq!(connection.hears(&window_update(1, 6)), [Seen::Room(1)]);
    assert_eq!(connection.hears(&[]), [], "it is said once");
    assert_eq!(connection.server.send(1, &[0; 10], true), Ok(6));
    assert_eq!(connection.hears(&window_update(1, 4)), [Seen::Room(1)]);
    assert_eq!(connection.server.send(1, &[0; 4], true), Ok(4));
    assert_eq!(connection.hears(&window_update(1, 4)), [], "it has ended");
    let told = connection.writes();
    assert_eq!(sent(&told, 1), WINDOW + 10);
    assert_eq!(told.last().unwrap().flags, flag::END_STREAM);
    assert_eq!(connection.server.open_streams(), 0);
}

#[test]
fn streams_share_the_window_of_the_connection_in_turns() {
    let mut connection = answering(&[1, 3, 5]);
    assert_eq!(connection.server.send(1, &vec![0; WINDOW], false), Ok(WINDOW));
    for id in [3, 5, 1] {
        assert_eq!(connection.server.send(id, b"more", false), Ok(0));
    }
    // 1 has no window of its own left.
    assert_eq!(connection.hears(&window_update(1, 100)), []);
    assert_eq!(connection.hears(&window_update(0, 4)), [Seen::Room(3), Seen::Room(5), Seen::Room(1)]);
    assert_eq!(connection.server.send(3, b"more", false), Ok(4));
    assert_eq!(connection.server.send(5, b"more", false), Ok(0));
    assert_eq!(connection.server.send(1, b"more", false), Ok(0));
    assert_eq!(connection.server.send(3, b"and", false), Ok(0));
    connection.hears(&reset(5));
    assert_eq!(connection.hears(&window_update(0, 100)), [Seen::Room(1), Seen::Room(3)]);
}

#[test]
fn streams_that_are_given_up_while_they_wait_leave_nothing() {
    let mut connection = answering(&[1]);
    assert_eq!(connection.server.send(1, &vec![0; WINDOW], false), Ok(WINDOW));
    for n in 1..1000 {
        let id = 2 * n + 1;
        connection.hears(&get(id));
        connection.answers(id, false).unwrap();
        assert_eq!(connection.server.send(id, b"x", true), Ok(0));
        connection.hears(&reset(id));
    }
    assert!(connection.server.turns.is_empty());
}

#[test]
fn a_smaller_window_can_be_less_than_none() {
    let mut connection = answering(&[1]);
    connection.hears(&window_update(0, 1 << 20));
    assert_eq!(connection.server.send(1, &vec![0; 60_000], false), Ok(60_000));
    // RFC 9113 §6.9.2.
    connection.hears(&settings(&[(4, 100)]));
    assert_eq!(connection.server.send(1, b"x", false), Ok(0));
    assert_eq!(connection.hears(&window_update(1, 59_900)), [], "none at all");
    assert_eq!(connection.server.send(1, b"x", false), Ok(0));
    assert_eq!(connection.hears(&window_update(1, 1)), [Seen::Room(1)]);
    assert_eq!(connection.server.send(1, b"xy", false), Ok(1));
    assert_eq!(connection.hears(&settings(&[(4, 0), (4, 101)])), [Seen::Room(1)], "the last word counts");
    assert_eq!(connection.server.send(1, b"yz", false), Ok(1));
    connection.hears(&get(3));
    connection.answers(3, false).unwrap();
    assert_eq!(connection.server.send(3, &[0; 200], false), Ok(101));
}

#[test]
fn a_stream_whose_window_shrinks_while_it_waits_for_its_turn_is_not_forgotten() {
    let mut connection = answering(&[1, 3]);
    assert_eq!(connection.server.send(1, &vec![0; WINDOW], false), Ok(WINDOW));
    assert_eq!(connection.server.send(3, b"more", false), Ok(0));
    assert_eq!(connection.hears(&[settings(&[(4, 0)]), window_update(0, 10)].concat()), []);
    assert_eq!(connection.hears(&settings(&[(4, 5)])), [Seen::Room(3)]);
}

#[test]
fn who_sends_more_than_was_granted_is_cut() {
    let piece = |id| data(id, 0, &[0; 16_000]);
    let mut connection = Connection::new(Terms { connection_window: 1 << 20, ..TERMS });
    connection.hears(&[post(1), post(3)].concat());
    for _ in 0..4 {
        assert_eq!(connection.hears(&piece(1)).len(), 1);
    }
    assert_eq!(connection.hears(&piece(1)), [Seen::Reset(1, Reason::FLOW_CONTROL_ERROR)]);
    assert_eq!(connection.hears(&piece(3)).len(), 1, "others go on");
    let mut connection = Connection::new(TERMS);
    connection.hears(&[post(1), post(3)].concat());
    for _ in 0..2 {
        assert_eq!(connection.hears(&[piece(1), piece(3)].concat()).len(), 2);
    }
    assert_eq!(connection.hears(&piece(1)), [Seen::Fatal(Fatal::FlowControl)]);
}

#[test]
fn what_was_read_is_granted_again_by_halves() {
    let mut connection = Connection::new(TERMS);
    connection.hears(&[post(1), data(1, 0, &[0; 16_384]), data(1, 0, &[0; 16_384])].concat());
    connection.server.consumed(1, 32_766);
    assert_eq!(connection.writes(), []);
    connection.server.consumed(1, 1);
    let told = connection.writes();
    assert_eq!((granted(&told, 0), granted(&told, 1)), (32_767, 32_767));
    connection.server.consumed(1, 99);
    assert_eq!(connection.writes(), [], "there was one left");
    // Behind the end, nothing more is granted on the stream.
    connection.hears(&[data(1, 0, &[0; 16_384]), data(1, flag::END_STREAM, &[0; 16_384])].concat());
    connection.server.consumed(1, 32_768);
    let told = connection.writes();
    assert_eq!((granted(&told, 0), granted(&told, 1)), (32_769, 0));
}

#[test]
fn what_nobody_will_read_is_granted_again_at_once() {
    let mut connection = Connection::new(TERMS);
    // Padding, of which a frame has up to 256 bytes.
    connection.hears(&post(1));
    for _ in 0..128 {
        connection.hears(&frame(kind::DATA, flag::PADDED, 1, &[&[255][..], &[0; 255]].concat()));
    }
    let told = connection.writes();
    assert_eq!((granted(&told, 0), granted(&told, 1)), (32_768, 32_768));
    // A stream that is gone.
    connection.hears(&[data(1, 0, &[0; 16_384]), data(1, 0, &[0; 16_384])].concat());
    assert_eq!(granted(&connection.writes(), 0), 0);
    connection.server.reset(1, Reason::CANCEL);
    assert_eq!(granted(&connection.writes(), 0), 32_768);
    // And what comes for it afterwards, in a whole frame or in pieces.
    let late = [data(1, 0, &[0; 16_384]), data(1, 0, &[0; 16_384])].concat();
    for piece in late.chunks(1000) {
        assert_eq!(connection.hears(piece), []);
    }
    assert_eq!(granted(&connection.writes(), 0), 32_768);
    // And the rest of a frame in the middle of which it went.
    let half = frame(kind::DATA, flag::PADDED, 3, &[&[100][..], &[0; 1000]].concat());
    connection.hears(&[post(3), half[..500].to_vec()].concat());
    connection.server.reset(3, Reason::CANCEL);
    connection.hears(&half[500..]);
    let (left, to_grant) = connection.server.granted.amounts();
    assert_eq!(left + to_grant, WINDOW_MIN);
    assert_eq!(granted(&connection.writes(), 0), 0, "too little for a frame");
    // And what is wrong.
    connection.hears(
        &[headers(5, 0, &[GET, &[("content-length", "1")]].concat()), data(5, 0, &[0; 16_384])].concat(),
    );
    connection.hears(
        &[headers(7, 0, &[GET, &[("content-length", "1")]].concat()), data(7, 0, &[0; 16_384])].concat(),
    );
    assert_eq!(granted(&connection.writes(), 0), 1_001 + 32_768);
}

#[test]
fn a_client_that_opens_windows_for_each_piece_it_reads_is_not_cut() {
    let mut connection = answering(&[1]);
    // 16 KiB at a time, at a gigabyte a second.
    for piece in 0..200_000u32 {
        connection.now = Duration::from_micros(16) * piece;
        assert_eq!(connection.server.send(1, &[0; 16_384], false), Ok(16_384));
        connection.writes();
        assert_eq!(connection.hears(&[window_update(1, 16_384), window_update(0, 16_384)].concat()), []);
    }
    // By a byte at a time nothing is taken.
    let cut = (0..40_000).find(|_| connection.hears(&window_update(0, 1)) == [Seen::Fatal(Fatal::Flood)]);
    assert_eq!(cut, Some(16 * BURST));
}

/// What a client and we do.
#[derive(Clone, Debug)]
enum Act {
    Send(u8, usize, u8),
    Read(u8, usize),
    Reset(u8, bool),
    Open,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0u8..8, 0usize..16_000, 0u8..40).prop_map(|(on, len, padding)| Act::Send(on, len, padding)),
        4 => (0u8..8, 0usize..40_000).prop_map(|(on, len)| Act::Read(on, len)),
        1 => (0u8..8, any::<bool>()).prop_map(|(on, by_us)| Act::Reset(on, by_us)),
        2 => Just(Act::Open),
    ]
}

proptest! {
    /// A client that keeps its own account is never told that it sent too much, never has more than was granted, and never waits
    /// for ever.
    #[test]
    fn who_keeps_to_the_windows_is_never_cut(acts in proptest::collection::vec(act(), 1..150)) {
        let most = i64::from(WINDOW_MIN);
        let mut connection = Connection::new(TERMS);
        // Of each stream: what the client may send, what we have not read.
        let mut streams: Vec<(StreamId, i64, usize)> = Vec::new();
        let (mut window, mut next) = (most, 1);
        for act in acts {
            match act {
                Act::Open if streams.len() < 8 => {
                    connection.hears(&post(next));
                    streams.push((next, most, 0));
                    next += 2;
                }
                Act::Send(on, len, padding) if !streams.is_empty() => {
                    let on = usize::from(on) % streams.len();
                    let (id, own, unread) = &mut streams[on];
                    let room = (*own).min(window) - i64::from(padding) - 1;
                    if room < 0 { continue }
                    let len = len.min(room as usize);
                    let payload = [&[padding][..], &vec![1; len], &vec![0; padding.into()]].concat();
                    let seen = connection.hears(&frame(kind::DATA, flag::PADDED, *id, &payload));
                    prop_assert!(!seen.iter().any(|seen| matches!(seen, Seen::Fatal(_) | Seen::Reset(..))), "{:?}", seen);
                    *own -= payload.len() as i64;
                    window -= payload.len() as i64;
                    *unread += len;
                }
                Act::Read(on, len) if !streams.is_empty() => {
                    let on = usize::from(on) % streams.len();
                    let (id, _, unread) = &mut streams[on];
                    connection.server.consumed(*id, len);
                    *unread -= len.min(*unread);
                }
                Act::Reset(on, by_us) if !streams.is_empty() => {
                    let (id, ..) = streams.remove(usize::from(on) % streams.len());
                    if by_us { connection.server.reset(id, Reason::CANCEL) } else { connection.hears(&reset(id)); }
                }
                _ => {}
            }
            let told = connection.writes();
            window += i64::from(granted(&told, 0));
            for (id, own, unread) in &mut streams {
                *own += i64::from(granted(&told, *id));
                prop_assert!(*own + *unread as i64 <= most, "more than was granted");
                let (left, to_grant) = connection.server.streams.get(*id).unwrap().granted.amounts();
                prop_assert_eq!(i64::from(left), *own);
                prop_assert_eq!(i64::from(left + to_grant) + *unread as i64, most, "none is lost");
            }
            let unread: usize = streams.iter().map(|(_, _, unread)| unread).sum();
            let (left, to_grant) = connection.server.granted.amounts();
            prop_assert_eq!(i64::from(left), window);
            prop_assert_eq!(i64::from(left + to_grant) + unread as i64, most, "none is lost");
        }
    }

    /// Whatever windows a client opens and however it takes what is written, no more is sent than it allowed, and all in the end.
    #[test]
    fn all_is_sent_and_never_more_than_windows_allow(
        bodies in proptest::collection::vec(0usize..300_000, 1..8),
        grants in proptest::collection::vec((0usize..9, 1u32..60_000, any::<bool>()), 0..200),
        initial in 0u32..100_000,
    ) {
        let mut connection = Connection::new(TERMS);
        connection.hears(&settings(&[(4, initial)]));
        let ids: Vec<StreamId> = (0..bodies.len() as u32).map(|n| 2 * n + 1).collect();
        let mut left: Vec<usize> = bodies.clone();
        let mut windows = vec![i64::from(initial); ids.len()];
        let mut window = i64::from(WINDOW_MIN);
        let mut ended = 0;
        let mut seen = Vec::new();
        for id in &ids {
            connection.hears(&get(*id));
            connection.answers(*id, false).unwrap();
            seen.push(Seen::Room(*id));
        }
        // Whoever has room goes on.
        let go_on = |connection: &mut Connection, seen: &mut Vec<Seen>, left: &mut [usize]| {
            while !seen.is_empty() {
                for event in std::mem::take(seen) {
                    let Seen::Room(id) = event else { panic!("{event:?}") };
                    let on = (id / 2) as usize;
                    left[on] -= connection.server.send(id, &vec![0; left[on]], true).unwrap();
                }
                *seen = connection.hears(&[]);
            }
        };
        let last = (0..ids.len()).map(|on| (on + 1, 300_000, true)).chain([(0, 3_000_000, true)]);
        for (on, increment, takes) in grants.into_iter().chain(last).chain((0..50).map(|_| (9, 0, true))) {
            go_on(&mut connection, &mut seen, &mut left);
            if takes {
                let told = connection.writes();
                for (on, id) in ids.iter().enumerate() {
                    let len = sent(&told, *id) as i64;
                    windows[on] -= len;
                    window -= len;
                    prop_assert!(len == 0 || windows[on] >= 0 && window >= 0, "more than was allowed");
                }
                ended += told.iter().filter(|told| told.kind == kind::DATA && told.flags == flag::END_STREAM).count();
            }
            match on {
                0 => window += i64::from(increment),
                on if on <= ids.len() => windows[on - 1] += i64::from(increment),
                _ => {}
            }
            let stream = if on == 0 { Some(0) } else { ids.get(on - 1).copied() };
            let came = stream.map_or_else(Vec::new, |id| window_update(id, increment));
            seen = connection.hears(&came);
        }
        // A body of nothing ends with its head.
        let empty = bodies.iter().filter(|len| **len == 0).count();
        prop_assert_eq!(left, vec![0; ids.len()]);
        prop_assert!(ended + empty >= ids.len() && connection.server.open_streams() == 0);
    }
}
