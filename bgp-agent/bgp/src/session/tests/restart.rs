//! Graceful restart as the side that restarts. RFC 4724 §4.1, RFC 8538 §3, §4.

use super::*;

fn offer(notification: bool) -> GracefulRestart {
    GracefulRestart {
        restarting: true,
        notification,
        restart_time_s: 120,
        families: Families::BOTH,
        forwarding_preserved: true,
    }
}

/// Established with graceful restart as both offer it.
fn session(ours: bool, theirs: Option<bool>, now: Instant) -> Session {
    let mut session = Session::new(Config { passive: true, graceful_restart: Some(offer(ours)), ..local() });
    session.set_routes(routes(1));
    session.handle_input(Input::Start, now);
    come_up(&mut session, IN, theirs, now);
    session
}

fn come_up(session: &mut Session, conn: ConnId, theirs: Option<bool>, now: Instant) {
    session.handle_input(Input::Accepted(conn), now);
    let mut open = peer_open();
    open.capabilities.graceful_restart = theirs.map(offer);
    session.handle_input(Input::Bytes(conn, &open.encode()), now);
    session.handle_input(Input::Bytes(conn, &encode_keepalive()), now);
    assert_eq!(session.state(), StateName::Established);
}

#[test]
fn a_restart_withdraws_nothing_and_says_as_much_as_the_peer_bears() {
    let now = Instant::now();
    // our N bit, the peer's offer, what a restart says
    let table: &[(bool, Option<bool>, &[&str])] = &[
        (true, None, &["update", "update", "6/2", "close"]),
        (true, Some(false), &["close"]),
        (false, Some(true), &["close"]),
        (true, Some(true), &["6/4", "close"]),
    ];
    for (ours, theirs, said) in table {
        let mut session = session(*ours, *theirs, now);
        drain(&mut session);
        session.handle_input(Input::Restart { text: "upgrade" }, now);
        assert_eq!(drain(&mut session), *said, "{ours} {theirs:?}");
        assert_eq!((session.state(), session.poll_timeout()), (StateName::Idle, None));
    }
}

#[test]
fn a_stop_withdraws_and_is_a_hard_reset_where_a_cease_would_keep_the_routes() {
    let now = Instant::now();
    for (theirs, last) in [(Some(true), "6/9"), (Some(false), "6/2"), (None, "6/2")] {
        let mut session = session(true, theirs, now);
        drain(&mut session);
        session.handle_input(Input::Stop { text: "gone" }, now);
        assert_eq!(drain(&mut session), ["update", "update", last, "close"]);
    }
}

#[test]
fn the_r_bit_is_sent_until_the_session_has_come_up_once() {
    let now = Instant::now();
    let said = |session: &mut Session| {
        let open = std::iter::from_fn(|| session.poll_transmit()).find_map(|transmit| match transmit {
            Transmit::Bytes(_, bytes) if bytes[18] == 1 => Open::decode(&bytes.slice(HEADER_LEN..)).ok(),
            _ => None,
        });
        open.and_then(|open| open.capabilities.graceful_restart)
    };
    let mut session = session(true, Some(true), now);
    let first = said(&mut session).expect("an offer");
    assert_eq!(first, offer(true));
    session.handle_input(Input::Closed(IN, "reset"), now);
    let later = session.poll_timeout().expect("a pause");
    session.handle_timeout(later);
    come_up(&mut session, ConnId::Incoming(1), Some(true), later);
    let second = said(&mut session).expect("an offer");
    assert_eq!(second, GracefulRestart { restarting: false, ..offer(true) });
}

#[test]
fn end_of_rib_is_kept_back_until_the_routes_are_known() {
    let now = Instant::now();
    let mut session = Session::new(Config { passive: true, graceful_restart: Some(offer(true)), ..local() });
    session.hold_end_of_rib(true);
    session.handle_input(Input::Start, now);
    come_up(&mut session, IN, Some(true), now);
    assert_eq!(drain(&mut session), ["open", "keepalive"], "the peer keeps what it has");
    session.set_routes(routes(1));
    assert_eq!(drain(&mut session), ["update", "update"]);
    session.hold_end_of_rib(false);
    assert_eq!(drain(&mut session), ["update", "update"], "now these were all");
}
