//! The machine in company: a table of state and event, two machines on one virtual clock, and hostile bytes.
#![allow(clippy::disallowed_methods)] // A virtual clock needs one real instant to start from.

mod pair;
mod restart;
mod table;

use super::*;
use crate::fuzz::fuzz_stream;
use crate::rib_out::Route;
use crate::wire::{Reader, encode_announce, encode_keepalive};
use proptest::prelude::*;
use std::net::IpAddr;

pub(super) const OUT: ConnId = ConnId::Outgoing(0);
pub(super) const IN: ConnId = ConnId::Incoming(0);

pub(super) fn local() -> Config {
    Config::new(65001, Ipv4Addr::new(10, 0, 0, 2), 65000)
}

pub(super) fn peer_open() -> Open {
    Open {
        asn: 65000,
        hold_time_s: 90,
        bgp_id: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: Capabilities {
            families: Some(Families::BOTH),
            four_octet_as: true,
            route_refresh: true,
            ..Capabilities::default()
        },
    }
}

/// The types of the messages among the outputs, NOTIFICATION with its codes; and the closed connections.
pub(super) fn drain(session: &mut Session) -> Vec<String> {
    let mut out = Vec::new();
    while let Some(transmit) = session.poll_transmit() {
        out.push(match transmit {
            Transmit::Connect(_) => "connect".to_owned(),
            Transmit::Close(_) => "close".to_owned(),
            Transmit::Bytes(_, bytes) => {
                let mut reader = Reader::default();
                reader.push(&bytes);
                let frame = reader.next_frame().unwrap().unwrap();
                match frame.message_type {
                    MessageType::Open => "open".to_owned(),
                    MessageType::Update => "update".to_owned(),
                    MessageType::Keepalive => "keepalive".to_owned(),
                    MessageType::RouteRefresh => "refresh".to_owned(),
                    MessageType::Notification => {
                        let n = Notification::decode(&frame.body);
                        format!("{}/{}", n.code, n.subcode)
                    }
                }
            }
        });
    }
    out
}

pub(super) fn routes(n: u8) -> RouteSet {
    let v4 = Route::new("10.0.0.2".parse().unwrap());
    let v6 = Route::new("2001:db8:1::2".parse().unwrap());
    (0..n)
        .flat_map(|i| {
            [
                (format!("192.0.2.{i}/32").parse().unwrap(), v4.clone()),
                (format!("2001:db8::{i:x}/128").parse().unwrap(), v6.clone()),
            ]
        })
        .collect()
}

/// A passive session brought to Established by the literal messages.
pub(super) fn established(now: Instant) -> Session {
    let mut session = Session::new(Config { passive: true, ..local() });
    session.set_routes(routes(1));
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(IN), now);
    session.handle_input(Input::Bytes(IN, &peer_open().encode()), now);
    session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    assert_eq!(session.state(), StateName::Established);
    session
}

#[test]
fn a_session_comes_up_and_says_everything_once() {
    let now = Instant::now();
    let mut session = established(now);
    let said = drain(&mut session);
    assert_eq!(
        said,
        ["open", "keepalive", "update", "update", "update", "update"],
        "two routes and two End-of-RIB"
    );
    assert!(session.rib().is_settled());
    let events: Vec<Event> = std::iter::from_fn(|| session.poll_event()).collect();
    let states: Vec<StateName> = events
        .iter()
        .filter_map(|e| if let Event::State { to, .. } = e { Some(*to) } else { None })
        .collect();
    use StateName::*;
    assert_eq!(states, [Active, OpenSent, OpenConfirm, Established]);
}

#[test]
fn stop_withdraws_everything_then_ceases_then_closes() {
    let now = Instant::now();
    let mut session = established(now);
    drain(&mut session);
    session.handle_input(Input::Stop { text: "maintenance" }, now);
    assert_eq!(drain(&mut session), ["update", "update", "6/2", "close"]);
    assert_eq!(session.state(), StateName::Idle);
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn a_dead_path_ends_the_session_and_holds_it_until_the_path_is_back() {
    let now = Instant::now();
    let mut session = established(now);
    drain(&mut session);
    session.handle_input(Input::BfdDown, now);
    assert_eq!(drain(&mut session), ["6/10", "close"]);
    let later = now + Duration::from_secs(3600);
    session.handle_timeout(later);
    session.handle_input(Input::Start, later);
    session.handle_input(Input::Accepted(ConnId::Incoming(1)), later);
    assert_eq!((session.state(), drain(&mut session)), (StateName::Idle, vec!["close".to_owned()]));
    session.handle_input(Input::BfdUp, later);
    session.handle_input(Input::Accepted(ConnId::Incoming(2)), later);
    assert_eq!(session.state(), StateName::OpenSent);
    // Said again it changes nothing.
    session.handle_input(Input::BfdUp, later);
    assert_eq!(session.state(), StateName::OpenSent);
    session.handle_input(Input::BfdDown, later);
    assert_eq!(drain(&mut session), ["open", "6/10", "close"]);
}

#[test]
fn a_session_that_is_held_before_its_start_does_not_connect() {
    let now = Instant::now();
    let mut session = Session::new(local());
    session.handle_input(Input::BfdDown, now);
    session.handle_input(Input::Start, now);
    assert_eq!((session.state(), drain(&mut session)), (StateName::Idle, vec![]));
    session.handle_input(Input::BfdUp, now);
    assert_eq!(drain(&mut session), ["connect"]);
    // A stopped session is not begun by a path that is back.
    session.handle_input(Input::Stop { text: "" }, now);
    session.handle_input(Input::BfdDown, now);
    session.handle_input(Input::BfdUp, now);
    assert_eq!(drain(&mut session), ["close"]);
}

#[test]
fn stop_before_anything_was_sent_withdraws_nothing() {
    let now = Instant::now();
    let mut session = established(now);
    session.handle_input(Input::Stop { text: "" }, now);
    assert_eq!(
        drain(&mut session),
        ["open", "keepalive", "update", "update", "6/2", "close"],
        "End-of-RIB only"
    );
}

#[test]
fn silence_of_the_peer_ends_the_session_after_the_hold_time() {
    let start = Instant::now();
    let mut session = established(start);
    drain(&mut session);
    let mut keepalives = 0;
    loop {
        let now = session.poll_timeout().unwrap();
        assert!(now <= start + Duration::from_secs(90), "the hold timer never fired");
        session.handle_timeout(now);
        let said = drain(&mut session);
        if said == ["keepalive"] {
            keepalives += 1;
            continue;
        }
        assert_eq!(said, ["4/0", "close"]);
        assert_eq!(now, start + Duration::from_secs(90));
        break;
    }
    assert!((3..=4).contains(&keepalives), "{keepalives} keepalives of 22.5 to 30 s in 90 s");
}

#[test]
fn keepalives_and_updates_of_the_peer_keep_the_session() {
    let mut now = Instant::now();
    let mut session = established(now);
    let context = UpdateContext { local_asn: 65000, four_octet_as: true, ..UpdateContext::default() };
    let route = Route::new("10.0.0.1".parse::<IpAddr>().unwrap());
    let update = encode_announce(context, &route, &["203.0.113.0/24".parse().unwrap()]).unwrap();
    for message in [encode_keepalive(), update] {
        for _ in 0..5 {
            now += Duration::from_secs(89);
            session.handle_timeout(now - Duration::from_secs(1));
            session.handle_input(Input::Bytes(IN, &message), now);
            drain(&mut session);
            assert_eq!(session.state(), StateName::Established);
        }
    }
    assert_eq!((session.stats().updates_received, session.stats().prefixes_ignored), (5, 5));
}

#[test]
fn hold_time_zero_means_no_timers() {
    let now = Instant::now();
    let mut session = Session::new(Config { passive: true, hold_time_s: 0, ..local() });
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(IN), now);
    session.handle_input(Input::Bytes(IN, &peer_open().encode()), now);
    session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn an_open_that_never_comes_ends_the_attempt_after_four_minutes() {
    let start = Instant::now();
    let mut session = Session::new(Config { passive: true, ..local() });
    session.handle_input(Input::Start, start);
    session.handle_input(Input::Accepted(IN), start);
    assert_eq!(session.poll_timeout(), Some(start + Duration::from_secs(240)));
    session.handle_timeout(start + Duration::from_secs(240));
    assert_eq!(drain(&mut session), ["open", "4/0", "close"]);
}

#[test]
fn pauses_grow_with_failures_and_shrink_after_a_stable_session() {
    let mut now = Instant::now();
    let mut session = Session::new(local());
    session.handle_input(Input::Start, now);
    let mut pauses = Vec::new();
    for n in 0..7 {
        let conn = ConnId::Outgoing(n);
        drain(&mut session);
        session.handle_input(Input::Connected(conn), now);
        session.handle_input(Input::Bytes(conn, &Notification::new(6, 5, vec![]).encode()), now);
        let next = session.poll_timeout().unwrap();
        pauses.push((next - now).as_secs_f64());
        now = next;
        session.handle_timeout(now);
        // The incoming lane has its own timer at the same moment.
        assert_eq!(session.state(), StateName::Connect);
    }
    for (pause, base) in pauses.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]) {
        assert!((0.75 * base..=base).contains(pause), "{pauses:?}");
    }
    let conn = ConnId::Outgoing(7);
    session.handle_input(Input::Connected(conn), now);
    session.handle_input(Input::Bytes(conn, &peer_open().encode()), now);
    session.handle_input(Input::Bytes(conn, &encode_keepalive()), now);
    assert_eq!(session.state(), StateName::Established);
    now += Duration::from_secs(20);
    session.handle_input(Input::Closed(conn, "reset"), now);
    assert!(session.poll_timeout().unwrap() - now <= Duration::from_secs(1));
}

#[test]
fn the_peer_may_call_while_our_own_attempt_hangs() {
    let now = Instant::now();
    let mut session = Session::new(local());
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(IN), now);
    session.handle_input(Input::Bytes(IN, &peer_open().encode()), now);
    session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(
        drain(&mut session)[..4],
        ["connect", "open", "keepalive", "close"],
        "the attempt is given up"
    );
    session.handle_input(Input::Connected(OUT), now);
    assert_eq!(session.state(), StateName::Established, "a late success is nobody's");
}

#[test]
fn of_two_connections_the_one_of_the_higher_identifier_stays() {
    for (peer_id, closed, survivor) in [([10, 0, 0, 1], IN, OUT), ([10, 0, 0, 3], OUT, IN)] {
        // The OPEN comes first on the one or on the other: the outcome is the same.
        for first in [IN, OUT] {
            let now = Instant::now();
            let mut session = Session::new(local());
            session.handle_input(Input::Start, now);
            session.handle_input(Input::Accepted(IN), now);
            session.handle_input(Input::Connected(OUT), now);
            drain(&mut session);
            let open = Open { bgp_id: peer_id.into(), ..peer_open() }.encode();
            session.handle_input(Input::Bytes(first, &open), now);
            let mut said = Vec::new();
            while let Some(transmit) = session.poll_transmit() {
                said.push(transmit);
            }
            assert!(said.contains(&Transmit::Close(closed)), "{peer_id:?} {first:?} {said:?}");
            assert!(!said.contains(&Transmit::Close(survivor)), "{peer_id:?} {first:?} {said:?}");
            session.handle_input(Input::Bytes(survivor, &open), now);
            session.handle_input(Input::Bytes(survivor, &encode_keepalive()), now);
            if first == survivor {
                // It already had its OPEN; a second one is an error, as it should be.
                assert_eq!(session.state(), StateName::Idle);
            } else {
                assert_eq!(session.state(), StateName::Established);
            }
        }
    }
}

#[test]
fn a_second_connection_does_not_disturb_an_established_session() {
    let now = Instant::now();
    let mut session = established(now);
    drain(&mut session);
    session.handle_input(Input::Accepted(ConnId::Incoming(1)), now);
    assert_eq!(drain(&mut session), ["6/7", "close"]);
    assert_eq!(session.state(), StateName::Established);
    assert_eq!(session.negotiated().map(|n| n.hold_time), Some(Duration::from_secs(90)));
}

#[test]
fn a_route_refresh_sends_the_family_again() {
    let now = Instant::now();
    let mut session = established(now);
    drain(&mut session);
    let refresh = |body: &[u8]| crate::wire::frame(MessageType::RouteRefresh, body);
    session.handle_input(Input::Bytes(IN, &refresh(&[0, 2, 0, 1])), now);
    assert_eq!(drain(&mut session), ["update"]);
    session.handle_input(Input::Bytes(IN, &refresh(&[0, 25, 0, 70])), now);
    assert_eq!(drain(&mut session), Vec::<String>::new(), "a family we do not have");
    assert_eq!(session.state(), StateName::Established);
}

#[test]
fn a_refresh_is_marked_where_both_sides_can() {
    let now = Instant::now();
    let mut session = Session::new(Config { passive: true, ..local() });
    session.set_routes(routes(1));
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(IN), now);
    let mut open = peer_open();
    open.capabilities.enhanced_route_refresh = true;
    session.handle_input(Input::Bytes(IN, &open.encode()), now);
    session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    drain(&mut session);
    let refresh = crate::wire::frame(MessageType::RouteRefresh, &[0, 1, 0, 1]);
    session.handle_input(Input::Bytes(IN, &refresh), now);
    assert_eq!(drain(&mut session), ["refresh", "update", "refresh"]);
    assert_eq!(session.stats().refreshes, 1);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_after_the_send_hold_time_and_progress_begins_it_anew() {
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let mut session = established(start);
    drain(&mut session);
    session.handle_input(Input::SendBlocked(IN), at(1));
    session.handle_input(Input::SendBlocked(IN), at(60));
    // The peer sends all the while.
    let mut now = start;
    let mut alive_until = |session: &mut Session, until: Instant| {
        while now + Duration::from_secs(30) <= until {
            now += Duration::from_secs(30);
            session.handle_timeout(now);
            session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
            drain(session);
        }
    };
    alive_until(&mut session, at(480));
    session.handle_input(Input::SendProgress(IN), at(480));
    session.handle_input(Input::SendBlocked(IN), at(480));
    alive_until(&mut session, at(950));
    assert_eq!(session.state(), StateName::Established, "8 minutes since the last progress are not over");
    session.handle_timeout(at(960));
    let said = drain(&mut session);
    assert_eq!(said[said.len() - 2..], ["8/0", "close"]);
    assert_eq!(session.last_sent().map(|n| n.code), Some(8));
}

#[test]
fn twice_the_hold_time_is_waited_for_a_reader_when_that_is_longer() {
    let now = Instant::now();
    let mut session = Session::new(Config { passive: true, hold_time_s: 600, ..local() });
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(IN), now);
    session.handle_input(Input::Bytes(IN, &Open { hold_time_s: 600, ..peer_open() }.encode()), now);
    session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    session.handle_input(Input::SendBlocked(IN), now);
    let mut at = now;
    while at < now + Duration::from_secs(1190) {
        at += Duration::from_secs(10);
        session.handle_input(Input::Bytes(IN, &encode_keepalive()), at);
        session.handle_timeout(at);
        assert_eq!(session.state(), StateName::Established, "after {:?}", at - now);
    }
    session.handle_timeout(now + Duration::from_secs(1200));
    assert_eq!(session.state(), StateName::Idle);
}

fn update_of(prefixes: std::ops::Range<u32>) -> Bytes {
    let context = UpdateContext { local_asn: 65000, four_octet_as: true, ..UpdateContext::default() };
    let route = Route::new("10.0.0.1".parse::<IpAddr>().unwrap());
    let nets: Vec<ipnet::IpNet> =
        prefixes.map(|n| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)).into()).collect();
    encode_announce(context, &route, &nets).unwrap()
}

#[test]
fn a_peer_with_too_many_prefixes_is_told_so_and_left_alone_for_the_pause() {
    let now = Instant::now();
    let pause = Duration::from_secs(60);
    let config = Config { max_prefixes: Some(100), max_prefixes_pause: pause, ..local() };
    let mut session = Session::new(config);
    session.set_routes(routes(1));
    session.handle_input(Input::Start, now);
    session.handle_input(Input::Accepted(IN), now);
    session.handle_input(Input::Bytes(IN, &peer_open().encode()), now);
    session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    for _ in 0..3 {
        session.handle_input(Input::Bytes(IN, &update_of(0..100)), now);
    }
    assert_eq!((session.state(), session.received().prefixes()), (StateName::Established, Some(100)));
    drain(&mut session);
    session.handle_input(Input::Bytes(IN, &update_of(100..101)), now);
    assert_eq!(drain(&mut session), ["6/1", "close"]);
    assert_eq!(session.last_sent().map(|n| n.data.to_vec()), Some(vec![0, 1, 1, 0, 0, 0, 100]));
    session.handle_input(Input::Accepted(ConnId::Incoming(1)), now);
    assert_eq!(drain(&mut session), ["close"], "not before the pause is over");
    assert_eq!(session.poll_timeout(), Some(now + pause));
    session.handle_timeout(now + pause);
    assert_eq!(session.state(), StateName::Connect);
}

#[test]
fn a_family_made_unreadable_is_not_listened_to_until_the_next_session() {
    let now = Instant::now();
    let mut session = established(now);
    // A next hop of four octets for IPv6.
    let bad =
        crate::wire::frame(MessageType::Update, &[0, 0, 0, 12, 0x80, 14, 9, 0, 2, 1, 4, 10, 0, 0, 1, 0]);
    session.handle_input(Input::Bytes(IN, &bad), now);
    assert_eq!((session.state(), session.stats().updates_malformed), (StateName::Established, 1));
    session.handle_input(Input::Bytes(IN, &bad), now);
    assert_eq!(session.stats().updates_malformed, 1, "not looked at any more");
    session.handle_input(Input::Bytes(IN, &update_of(0..3)), now);
    assert_eq!(session.received().announcements(), 3, "the other family goes on");
}

#[test]
fn extended_messages_come_and_go_where_both_sides_can() {
    let now = Instant::now();
    for extended_message in [false, true] {
        let mut session = Session::new(Config { passive: true, ..local() });
        let many = routes(250);
        let sent_prefixes = many.len();
        session.set_routes(many);
        session.handle_input(Input::Start, now);
        session.handle_input(Input::Accepted(IN), now);
        let mut open = peer_open();
        open.capabilities.extended_message = extended_message;
        session.handle_input(Input::Bytes(IN, &open.encode()), now);
        session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
        let mut longest = 0;
        while let Some(transmit) = session.poll_transmit() {
            if let Transmit::Bytes(_, bytes) = transmit {
                longest = longest.max(bytes.len());
            }
        }
        // 250 IPv6 prefixes of 17 octets.
        assert_eq!(longest > 4096, extended_message, "{longest} octets");
        assert_eq!(session.rib().advertised().len(), sent_prefixes);
        let context = UpdateContext {
            local_asn: 65000,
            four_octet_as: true,
            extended_message: true,
            ..UpdateContext::default()
        };
        let nets: Vec<ipnet::IpNet> = routes(250).into_keys().filter(|net| net.addr().is_ipv6()).collect();
        let long = encode_announce(context, &Route::new("2001:db8::9".parse().unwrap()), &nets).unwrap();
        session.handle_input(Input::Bytes(IN, &long), now);
        let expected = if extended_message { StateName::Established } else { StateName::Idle };
        assert_eq!(session.state(), expected);
    }
}

#[test]
fn a_shell_that_cannot_write_collects_one_keepalive_only() {
    let mut now = Instant::now();
    let mut session = established(now);
    drain(&mut session);
    for _ in 0..3 {
        now += Duration::from_secs(30);
        session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
        session.handle_timeout(now);
    }
    assert_eq!(drain(&mut session), ["keepalive"]);
}

#[test]
fn events_nobody_takes_are_bounded() {
    let now = Instant::now();
    let mut session = established(now);
    let refresh = crate::wire::frame(MessageType::RouteRefresh, &[0, 1, 0, 1]);
    for _ in 0..1000 {
        session.handle_input(Input::Bytes(IN, &refresh), now);
    }
    let kept = std::iter::from_fn(|| session.poll_event()).count();
    assert_eq!(kept, EVENTS_MAX);
    assert!(session.stats().events_lost > 900);
}

/// A stream of plausible messages: right headers, damaged bodies. Plain noise dies at the marker.
fn damaged_stream() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        (any::<proptest::sample::Index>(), any::<u8>()).prop_map(|(at, value)| {
            let context = UpdateContext { local_asn: 65000, four_octet_as: true, ..UpdateContext::default() };
            let route = Route::new("2001:db8:1::1".parse().unwrap())
                .with_med(Some(1))
                .with_communities(vec![7])
                .unwrap();
            let message = encode_announce(context, &route, &["2001:db8::1/128".parse().unwrap()]).unwrap();
            let mut body = message[crate::HEADER_LEN..].to_vec();
            let at = at.index(body.len());
            body[at] = value;
            body
        }),
    ];
    let message = (1u8..=5, body).prop_map(|(message_type, body)| {
        let mut message = vec![0xff; 16];
        message.extend(((19 + body.len()) as u16).to_be_bytes());
        message.push(message_type);
        message.extend(body);
        message
    });
    (any::<u8>(), proptest::collection::vec(message, 0..12)).prop_map(|(first, messages)| {
        let mut data = vec![first];
        data.extend(messages.concat());
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decode_never_panics_on_damaged_messages(data in damaged_stream()) {
        fuzz_stream(&data, Instant::now());
    }

    #[test]
    fn decode_never_panics_on_noise(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_stream(&data, Instant::now());
    }

    #[test]
    fn no_open_panics_and_what_is_understood_survives_the_wire(data in proptest::collection::vec(any::<u8>(), 0..80)) {
        crate::fuzz_open(&data);
        // A plausible beginning, so that more than one in a million comes as far as the parameters.
        let mut open = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, data.len() as u8];
        open.extend(&data);
        crate::fuzz_open(&open);
        open[9] += 2;
        open.splice(10..10, [2, data.len() as u8]);
        crate::fuzz_open(&open);
    }

    #[test]
    fn no_update_panics_and_what_is_shown_is_what_is_counted(data in proptest::collection::vec(any::<u8>(), 0..120)) {
        crate::fuzz_update(&data);
        if let Some((first, rest)) = data.split_first() {
            let mut update = vec![*first, 0, 0, 0, rest.len() as u8];
            update.extend(rest);
            crate::fuzz_update(&update);
        }
    }
}
