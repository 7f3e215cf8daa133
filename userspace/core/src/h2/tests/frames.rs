//! Frames that may come and frames that may not, by section of RFC 9113.

use super::*;
use crate::h1;

/// What becomes of it.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Nobody minds.
    Fine,
    /// The stream is reset.
    Wrong(StreamId, Reason),
    /// The connection ends.
    End(Fatal),
}

use Outcome::{End, Fine, Wrong};

const PROTOCOL: Reason = Reason::PROTOCOL_ERROR;

fn table() -> Vec<(&'static str, Vec<Vec<u8>>, Outcome)> {
    let huge = |kind| {
        let mut out = Vec::new();
        frame::put_header(&mut out, FRAME_LEN_MAX + 1, kind, 0, 1);
        out
    };
    let bare = |kind, stream, len| frame(kind, 0, stream, &vec![0; len]);
    let padded = |padding: u8, rest: &[u8]| frame(kind::DATA, flag::PADDED, 1, &[&[padding], rest].concat());
    let end = flag::END_STREAM;
    let split = |stream, flags| frame(kind::HEADERS, flags, stream, &block(GET)[..5]);
    let rest = |stream| frame(kind::CONTINUATION, flag::END_HEADERS, stream, &block(GET)[5..]);
    let prioritised = |stream: u32, on: u32| {
        let block = [&on.to_be_bytes()[..], &[7], &block(GET)].concat();
        frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY | flag::END_STREAM, stream, &block)
    };
    let priority =
        |stream, on: u32| frame(kind::PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[7]].concat());
    let sum = |len| {
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", "a"),
            ("content-length", len),
        ]
    };
    let sized = |len| headers(1, 0, &sum(len));
    vec![
        // §4.2.
        ("data that is too long", vec![post(1), huge(kind::DATA)], End(Fatal::FrameSize)),
        ("a head that is too long", vec![huge(kind::HEADERS)], End(Fatal::FrameSize)),
        ("an unknown frame that is too long", vec![huge(0x42)], End(Fatal::FrameSize)),
        // §5.1.
        ("data on an idle stream", vec![data(1, 0, b"x")], End(Fatal::Misplaced)),
        ("data on an even stream", vec![get(3), data(2, 0, b"x")], End(Fatal::Misplaced)),
        ("data on no stream", vec![post(1), data(0, 0, b"x")], End(Fatal::Misplaced)),
        ("a reset of an idle stream", vec![reset(1)], End(Fatal::Misplaced)),
        ("a window of an idle stream", vec![window_update(1, 1)], End(Fatal::Misplaced)),
        ("priority of an idle stream", vec![priority(1, 0), get(1)], Fine),
        ("data behind the end", vec![get(1), data(1, 0, b"x")], Wrong(1, Reason::STREAM_CLOSED)),
        ("a head behind the end", vec![get(1), get(1)], Wrong(1, Reason::STREAM_CLOSED)),
        ("a window behind the end", vec![get(1), window_update(1, 1)], Fine),
        ("data behind a reset", vec![post(1), reset(1), data(1, 0, b"x")], End(Fatal::StreamClosed)),
        ("a head behind a reset", vec![post(1), reset(1), get(1)], End(Fatal::StreamClosed)),
        ("a window behind a reset", vec![post(1), reset(1), window_update(1, 1)], Fine),
        ("a second reset", vec![post(1), reset(1), reset(1)], Fine),
        (
            "a second end",
            vec![post(1), data(1, end, &[]), data(1, end, &[])],
            Wrong(1, Reason::STREAM_CLOSED),
        ),
        // §5.1.1.
        ("streams with gaps", vec![get(1), get(7), get(9)], Fine),
        ("an even stream", vec![get(2)], End(Fatal::Misplaced)),
        ("stream 0", vec![get(0)], End(Fatal::Misplaced)),
        ("an earlier stream", vec![get(5), get(3)], End(Fatal::Misplaced)),
        ("data on a skipped stream", vec![get(5), data(3, 0, b"x")], End(Fatal::Misplaced)),
        ("the last stream there can be", vec![get(0x7fff_ffff)], Fine),
        // §5.1.2.
        ("one stream too many", (0..9).map(|n| get(2 * n + 1)).collect(), Wrong(17, Reason::REFUSED_STREAM)),
        // §5.5.
        ("an unknown frame", vec![bare(0x42, 3, 5), get(1)], Fine),
        ("an unknown frame on no stream", vec![bare(0xff, 0, 0), get(1)], Fine),
        ("an unknown flag", vec![frame(kind::HEADERS, 0xc2 | flag::END_HEADERS, 1, &block(GET))], Fine),
        // §6.1.
        ("data", vec![post(1), data(1, 0, b"x"), data(1, end, b"y")], Fine),
        ("padding", vec![post(1), padded(2, b"x\0\0")], Fine),
        ("padding alone", vec![post(1), padded(2, b"\0\0")], Fine),
        ("no padding", vec![post(1), padded(0, b"x")], Fine),
        ("all of it padding", vec![post(1), padded(4, b"x\0\0")], End(Fatal::Padding)),
        (
            "no room for padding",
            vec![post(1), frame(kind::DATA, flag::PADDED, 1, &[])],
            End(Fatal::FrameSize),
        ),
        // §6.2.
        (
            "a padded head",
            vec![frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::PADDED,
                1,
                &[&[2], &block(GET)[..], &[0; 2]].concat(),
            )],
            Fine,
        ),
        (
            "a head that is padding",
            vec![frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 1, &[9, 0])],
            End(Fatal::Padding),
        ),
        (
            "a head without its priority",
            vec![frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 1, &[0; 4])],
            End(Fatal::FrameSize),
        ),
        ("a head with priority", vec![prioritised(1, 0)], Fine),
        ("a head that depends on itself", vec![prioritised(1, 1)], Wrong(1, PROTOCOL)),
        ("a head that depends on itself alone", vec![prioritised(1, 0x8000_0001)], Wrong(1, PROTOCOL)),
        ("an empty head", vec![frame(kind::HEADERS, flag::END_HEADERS | end, 1, &[])], Fine),
        // §6.3.
        ("priority of no stream", vec![priority(0, 1)], End(Fatal::Misplaced)),
        ("short priority", vec![get(1), bare(kind::PRIORITY, 1, 4)], End(Fatal::FrameSize)),
        ("long priority", vec![get(1), bare(kind::PRIORITY, 1, 6)], End(Fatal::FrameSize)),
        ("priority over itself", vec![get(1), priority(1, 1)], Wrong(1, PROTOCOL)),
        ("priority over itself, of an idle stream", vec![priority(1, 1)], End(Fatal::Misplaced)),
        // §6.4.
        ("a reset of no stream", vec![reset(0)], End(Fatal::Misplaced)),
        ("a short reset", vec![get(1), bare(kind::RST_STREAM, 1, 3)], End(Fatal::FrameSize)),
        ("a long reset", vec![get(1), bare(kind::RST_STREAM, 1, 5)], End(Fatal::FrameSize)),
        // §6.5.
        ("settings of a stream", vec![bare(kind::SETTINGS, 1, 0)], End(Fatal::Misplaced)),
        ("half a setting", vec![bare(kind::SETTINGS, 0, 5)], End(Fatal::FrameSize)),
        (
            "an answer with settings",
            vec![frame(kind::SETTINGS, flag::ACK, 0, &[0; 6])],
            End(Fatal::FrameSize),
        ),
        ("an answer to settings", vec![frame(kind::SETTINGS, flag::ACK, 0, &[])], Fine),
        ("unknown settings", vec![settings(&[(0x99, 5), (0, 0)])], Fine),
        ("push", vec![settings(&[(2, 1)]), settings(&[(2, 0)])], Fine),
        ("push of 2", vec![settings(&[(2, 2)])], End(Fatal::Setting)),
        ("CONNECT of 2", vec![settings(&[(8, 2)])], End(Fatal::Setting)),
        ("the largest window", vec![get(1), settings(&[(4, WINDOW_MAX)])], Fine),
        ("a window too large", vec![settings(&[(4, WINDOW_MAX + 1)])], End(Fatal::Window)),
        (
            "a window too large for a stream",
            vec![get(1), window_update(1, 1), settings(&[(4, WINDOW_MAX)])],
            End(Fatal::Window),
        ),
        (
            "a window too large for one that has ended",
            vec![post(1), window_update(1, 1), reset(1), settings(&[(4, WINDOW_MAX)])],
            Fine,
        ),
        ("frames too small", vec![settings(&[(5, 16_383)])], End(Fatal::Setting)),
        ("frames too large", vec![settings(&[(5, 1 << 24)])], End(Fatal::Setting)),
        ("frames as they may be", vec![settings(&[(5, 16_384), (5, (1 << 24) - 1)])], Fine),
        // §6.6, §8.4.
        ("a promise", vec![bare(kind::PUSH_PROMISE, 1, 4)], End(Fatal::Misplaced)),
        // §6.7.
        ("PING", vec![bare(kind::PING, 0, 8)], Fine),
        ("an answer nobody asked for", vec![frame(kind::PING, flag::ACK, 0, &[0; 8])], Fine),
        ("PING of a stream", vec![get(1), bare(kind::PING, 1, 8)], End(Fatal::Misplaced)),
        ("a short PING", vec![bare(kind::PING, 0, 7)], End(Fatal::FrameSize)),
        // §6.8.
        ("GOAWAY", vec![get(1), bare(kind::GOAWAY, 0, 8)], Fine),
        ("GOAWAY with words", vec![get(1), bare(kind::GOAWAY, 0, 20)], Fine),
        ("GOAWAY of a stream", vec![get(1), bare(kind::GOAWAY, 1, 8)], End(Fatal::Misplaced)),
        ("a short GOAWAY", vec![bare(kind::GOAWAY, 0, 7)], End(Fatal::FrameSize)),
        // §6.9.
        ("windows", vec![get(1), window_update(0, 5), window_update(1, 5)], Fine),
        ("a window by nothing", vec![window_update(0, 0)], End(Fatal::NoIncrement)),
        ("a stream's window by nothing", vec![get(1), window_update(1, 0)], Wrong(1, PROTOCOL)),
        ("a short window", vec![bare(kind::WINDOW_UPDATE, 0, 3)], End(Fatal::FrameSize)),
        ("a window as far as it goes", vec![window_update(0, WINDOW_MAX - WINDOW_MIN)], Fine),
        ("a window too far", vec![window_update(0, WINDOW_MAX - WINDOW_MIN + 1)], End(Fatal::Window)),
        (
            "a stream's window too far",
            vec![get(1), window_update(1, WINDOW_MAX - WINDOW_MIN + 1)],
            Wrong(1, Reason::FLOW_CONTROL_ERROR),
        ),
        // §6.10.
        ("a head in two", vec![split(1, end), rest(1), get(3)], Fine),
        ("a head in three", vec![split(1, 0), frame(kind::CONTINUATION, 0, 1, &[]), rest(1)], Fine),
        ("a head in two, of two streams", vec![split(1, 0), rest(3)], End(Fatal::Headless)),
        ("PING within a head", vec![split(1, 0), bare(kind::PING, 0, 8)], End(Fatal::Headless)),
        ("data within a head", vec![post(1), split(3, 0), data(1, 0, b"x")], End(Fatal::Headless)),
        ("a head within a head", vec![split(1, 0), get(1)], End(Fatal::Headless)),
        ("an unknown frame within a head", vec![split(1, 0), bare(0x42, 1, 0)], End(Fatal::Headless)),
        ("the rest of no head", vec![rest(1)], End(Fatal::Headless)),
        ("the rest of a head that was whole", vec![get(1), rest(1)], End(Fatal::Headless)),
        // §4.3.
        (
            "a head that cannot be unpacked",
            vec![frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 7])],
            End(Fatal::Compression),
        ),
        (
            "one on a stream we reset",
            vec![get(1), get(1), frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80])],
            End(Fatal::Compression),
        ),
        // §8.1.
        ("trailers", vec![post(1), data(1, 0, b"x"), headers(1, end, &[("sum", "1")])], Fine),
        ("trailers without an end", vec![post(1), headers(1, 0, &[("sum", "1")])], Wrong(1, PROTOCOL)),
        ("trailers with a method", vec![post(1), headers(1, end, &[(":method", "GET")])], Wrong(1, PROTOCOL)),
        ("trailers in capitals", vec![post(1), headers(1, end, &[("Sum", "1")])], Wrong(1, PROTOCOL)),
        (
            "trailers about connections",
            vec![post(1), headers(1, end, &[("connection", "x")])],
            Wrong(1, PROTOCOL),
        ),
        (
            "trailers behind the end",
            vec![get(1), headers(1, end, &[("sum", "1")])],
            Wrong(1, Reason::STREAM_CLOSED),
        ),
        // §8.1.1.
        ("as much as was said", vec![sized("3"), data(1, 0, b"ab"), data(1, end, b"c")], Fine),
        ("as much, and the end behind it", vec![sized("3"), data(1, 0, b"abc"), data(1, end, b"")], Fine),
        (
            "as much, and trailers",
            vec![sized("3"), data(1, 0, b"abc"), headers(1, end, &[("sum", "1")])],
            Fine,
        ),
        ("more than was said", vec![sized("3"), data(1, 0, b"abcd")], Wrong(1, PROTOCOL)),
        ("more than nothing", vec![sized("0"), data(1, 0, b"a")], Wrong(1, PROTOCOL)),
        ("less than was said", vec![sized("3"), data(1, end, b"ab")], Wrong(1, PROTOCOL)),
        (
            "less, and the end behind it",
            vec![sized("3"), data(1, 0, b"ab"), data(1, end, b"")],
            Wrong(1, PROTOCOL),
        ),
        (
            "less, and trailers",
            vec![sized("3"), data(1, 0, b"ab"), headers(1, end, &[("sum", "1")])],
            Wrong(1, PROTOCOL),
        ),
        (
            "padding is not of the body",
            vec![sized("1"), frame(kind::DATA, flag::PADDED | end, 1, b"\x02x\0\0")],
            Fine,
        ),
    ]
}

/// What became of it, as the client sees it; the caller must have heard the same.
fn outcome(connection: &mut Connection, came: &[Vec<u8>]) -> Outcome {
    let seen: Vec<Seen> = came.iter().flat_map(|frame| connection.hears(frame)).collect();
    let told = connection.writes();
    let go_away = told.iter().find(|written| written.kind == kind::GOAWAY);
    if let Some(Seen::Fatal(fatal)) = seen.last() {
        assert_eq!(go_away.unwrap().payload[4..8], fatal.reason().0.to_be_bytes());
        assert!(connection.server.is_over());
        assert_eq!(connection.server.open_streams(), 0);
        return End(*fatal);
    }
    assert_eq!(go_away, None);
    let resets: Vec<_> = told.iter().filter(|written| written.kind == kind::RST_STREAM).collect();
    let Some(reset) = resets.first() else {
        assert!(!seen.iter().any(|seen| matches!(seen, Seen::Reset(_, reason) if *reason != Reason::CANCEL)));
        return Fine;
    };
    assert_eq!(resets.len(), 1);
    let reason = Reason(u32::from_be_bytes(reset.payload[..].try_into().unwrap()));
    let was_heard_of = seen.iter().any(|seen| matches!(seen, Seen::Request(id, ..) if *id == reset.stream));
    assert_eq!(seen.contains(&Seen::Reset(reset.stream, reason)), was_heard_of);
    Wrong(reset.stream, reason)
}

#[test]
fn frames_are_taken_or_refused_as_the_table_says() {
    for (name, came, wanted) in table() {
        assert_eq!(outcome(&mut Connection::new(TERMS), &came), wanted, "{name}");
    }
}

#[test]
fn settings_come_before_all_else() {
    for (came, wanted) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], vec![Seen::Fatal(Fatal::Preface)]),
        (b"PRI * HTTP/2.1", vec![Seen::Fatal(Fatal::Preface)]),
        (b"PRI * HT", vec![]),
        (&[PREFACE, &get(1)].concat(), vec![Seen::Fatal(Fatal::Misplaced)]),
        (&[PREFACE, &data(1, 0, b"x")].concat(), vec![Seen::Fatal(Fatal::Misplaced)]),
        (&[PREFACE, &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat(), vec![Seen::Fatal(Fatal::Misplaced)]),
        (&[PREFACE, &settings(&[(3, 1)])].concat(), vec![]),
    ] {
        let mut connection = Connection { server: Server::new(TERMS), came: Vec::new(), now: Duration::ZERO };
        assert_eq!(connection.hears(came), wanted, "{}", came.escape_ascii());
    }
}

#[test]
fn our_settings_are_the_first_word() {
    let terms = Terms { stream_window: 1 << 20, connection_window: 2 << 20, ..TERMS };
    let told = written(Server::new(terms).output());
    assert_eq!((told[0].kind, told[0].stream), (kind::SETTINGS, 0));
    let (settings, []) = told[0].payload.as_chunks::<6>() else { panic!() };
    let wanted = [[0, 3, 0, 0, 0, 8], [0, 6, 0, 0, 64, 0], [0, 8, 0, 0, 0, 1], [0, 4, 0, 16, 0, 0]];
    assert_eq!(settings, wanted, "no more streams, no larger heads; CONNECT; the window");
    assert_eq!((told[1].kind, told[1].stream), (kind::WINDOW_UPDATE, 0));
    assert_eq!(told[1].payload, ((2 << 20) - WINDOW_MIN).to_be_bytes());
    let told = written(Server::new(Terms { stream_window: 0, connection_window: 0, ..TERMS }).output());
    assert_eq!(told.len(), 1, "less than everybody has cannot be granted");
}

#[test]
fn what_was_on_its_way_to_a_stream_we_reset_is_passed_over() {
    let mut connection = Connection::new(TERMS);
    connection.hears(&[post(1), post(3)].concat());
    connection.server.reset(1, Reason::CANCEL);
    assert_eq!(connection.server.open_streams(), 1);
    let came = [
        data(1, 0, b"late"),
        headers(1, flag::END_STREAM, &[("sum", "1")]),
        reset(1),
        data(3, flag::END_STREAM, b"x"),
    ];
    assert_eq!(connection.hears(&came.concat()), [Seen::Data(3, b"x".to_vec(), true)]);
    // Also in the middle of a frame, and long after.
    let mut connection = Connection::new(TERMS);
    let came = [post(1), data(1, 0, b"abcdef")].concat();
    let seen = connection.hears(&came[..came.len() - 3]);
    assert_eq!(seen.last(), Some(&Seen::Data(1, b"abc".to_vec(), false)));
    connection.server.reset(1, Reason::CANCEL);
    assert_eq!(connection.hears(&came[came.len() - 3..]), []);
    for n in 1..100 {
        connection.hears(&get(2 * n + 1));
        connection.answers(2 * n + 1, true).unwrap();
    }
    let seen = connection.hears(&[data(1, 0, b"late"), get(201)].concat());
    assert_eq!(seen, [Seen::Request(201, "GET /".to_owned(), true)]);
}

#[test]
fn a_stream_ends_when_both_have_said_all() {
    for ends_first in [true, false] {
        let mut connection = Connection::new(TERMS);
        connection.hears(&post(1));
        if ends_first {
            connection.answers(1, true).unwrap();
            assert_eq!(connection.server.open_streams(), 1);
            assert_eq!(
                connection.hears(&data(1, flag::END_STREAM, b"x")),
                [Seen::Data(1, b"x".to_vec(), true)]
            );
        } else {
            connection.hears(&data(1, flag::END_STREAM, b"x"));
            assert_eq!(connection.server.open_streams(), 1);
            connection.answers(1, true).unwrap();
        }
        assert_eq!(connection.server.open_streams(), 0);
        assert_eq!(connection.answers(1, true), Err(Gone));
        assert_eq!(connection.hears(&data(1, 0, b"x")), [Seen::Fatal(Fatal::StreamClosed)]);
    }
}

#[test]
fn a_connection_is_left_in_two_steps_and_no_request_is_lost() {
    let mut connection = Connection::new(TERMS);
    connection.hears(&get(1));
    connection.server.go_away();
    assert_eq!(connection.writes()[0].payload, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(connection.hears(&get(3)), [Seen::Request(3, "GET /".to_owned(), true)], "it was on its way");
    connection.server.go_away();
    assert_eq!(connection.writes()[0].payload, [0, 0, 0, 3, 0, 0, 0, 0]);
    assert_eq!(connection.hears(&get(5)), []);
    let told = connection.writes();
    assert_eq!(
        (told[0].kind, told[0].stream, &told[0].payload[..]),
        (kind::RST_STREAM, 5, &[0, 0, 0, 7][..])
    );
    connection.answers(1, true).unwrap();
    assert!(!connection.server.is_over());
    connection.answers(3, true).unwrap();
    assert!(connection.server.is_over());
    connection.server.go_away();
    assert_eq!(connection.writes().iter().filter(|told| told.kind == kind::GOAWAY).count(), 0, "all is said");
}

#[test]
fn a_client_that_leaves_is_served_to_its_last_request() {
    let mut connection = Connection::new(TERMS);
    connection.hears(&[get(1), frame(kind::GOAWAY, 0, 0, &[0; 8])].concat());
    assert!(!connection.server.is_over());
    connection.answers(1, true).unwrap();
    assert!(connection.server.is_over());
}

#[test]
fn ping_is_answered_and_asked() {
    let mut connection = Connection::new(TERMS);
    connection.hears(&frame(kind::PING, 0, 0, b"12345678"));
    let told = connection.writes();
    assert_eq!(
        (told[0].kind, told[0].flags, &told[0].payload[..]),
        (kind::PING, flag::ACK, &b"12345678"[..])
    );
    connection.server.ping();
    let asked = connection.writes();
    assert_eq!((asked[0].kind, asked[0].flags), (kind::PING, 0));
    assert_eq!(connection.hears(&frame(kind::PING, flag::ACK, 0, b"12345678")), []);
    let answer = frame(kind::PING, flag::ACK, 0, &asked[0].payload);
    assert_eq!(connection.hears(&answer), [Seen::PingAnswered]);
    assert_eq!(connection.hears(&answer), [], "once");
}

#[test]
fn who_wants_work_for_nothing_is_cut() {
    type Flood = fn(StreamId) -> Vec<u8>;
    let provoked: Flood = |id| [post(id), window_update(id, 0)].concat();
    let floods: [(&str, Flood); 7] = [
        ("heads that are too large", |id| {
            let many = [GET, &[("x", "y"); h1::FIELDS_MAX + 1]].concat();
            [headers(id, flag::END_STREAM, &many)].concat()
        }),
        ("rapid reset", |id| [get(id), reset(id)].concat()),
        ("made you reset", provoked),
        ("made you reset, by a body", |id| [get(id), data(id, 0, b"x")].concat()),
        ("PING", |_| frame(kind::PING, 0, 0, &[0; 8])),
        ("SETTINGS", |_| settings(&[])),
        ("empty data", |id| if id == 1 { post(1) } else { data(1, 0, &[]) }),
    ];
    for (name, flood) in floods {
        let mut connection = Connection::new(TERMS);
        let cut = (0..2 * BURST).find(|n| {
            let seen = connection.hears(&flood(2 * n + 1));
            let _answered_where_it_can_be = connection.answers(2 * n + 1, true);
            connection.writes();
            seen.contains(&Seen::Fatal(Fatal::Flood))
        });
        // What provokes a reset may cost a little, too.
        let least = BURST - BURST / 16 - 9;
        assert!(cut.is_some_and(|n| (least..=BURST + 1).contains(&n)), "{name}: {cut:?}");
    }
}

#[test]
fn what_comes_late_for_ever_is_cut() {
    for (name, late, most) in [("heads", get(1), BURST), ("data", data(1, 0, b"x"), 16 * BURST)] {
        let mut connection = Connection::new(TERMS);
        connection.hears(&post(1));
        connection.server.reset(1, Reason::CANCEL);
        let cut = (0..20 * BURST).find(|_| {
            let seen = connection.hears(&late);
            connection.writes();
            seen == [Seen::Fatal(Fatal::Flood)]
        });
        assert!(cut.is_some_and(|n| (most - 16..=most).contains(&n)), "{name}: {cut:?}");
    }
}

#[test]
fn streams_beyond_the_terms_are_refused_and_cost_something() {
    let mut connection = Connection::new(TERMS);
    let cut = (0..2 * BURST).find(|n| connection.hears(&get(2 * n + 1)).contains(&Seen::Fatal(Fatal::Flood)));
    assert_eq!(cut, Some(8 + BURST - 1), "settings were one frame");
}

#[test]
fn what_a_client_asks_for_and_does_not_take_is_bounded() {
    let mut connection = Connection::new(TERMS);
    connection.hears(&get(1));
    connection.answers(1, false).unwrap();
    connection.hears(&[settings(&[(4, WINDOW_MAX)]), window_update(0, 1 << 30)].concat());
    let sent = connection.server.send(1, &vec![0; 1 << 20], false).unwrap();
    assert!((OUTPUT_MAX - 100..=OUTPUT_MAX).contains(&sent), "{sent}");
    assert_eq!(connection.server.send(1, b"more", false), Ok(0));
    let ping = frame(kind::PING, 0, 0, &[0; 8]);
    for second in 0..1_000_000 {
        connection.now = Duration::from_secs(second);
        connection.hears(&ping.repeat(100));
        if connection.came.len() > 1000 {
            break;
        }
    }
    let held = connection.server.output().len();
    assert!(held < OUTPUT_MAX + (70 << 10), "{held}");
    assert!(!connection.came.is_empty(), "the rest is left with the caller");
    // All goes on once it is taken.
    connection.writes();
    let seen = connection.hears(&[]);
    assert_eq!(seen, [Seen::Room(1)]);
    assert!(connection.came.is_empty());
}
