//! Each message and connection event in each state: the state after it and what was said. RFC 4271 §8.2.2.

use super::*;

/// A session whose incoming lane is in `state`.
fn in_state(state: StateName, now: Instant) -> Session {
    let mut session = Session::new(Config { passive: true, ..local() });
    if state == StateName::Idle {
        return session;
    }
    session.handle_input(Input::Start, now);
    if state >= StateName::OpenSent {
        session.handle_input(Input::Accepted(IN), now);
    }
    if state >= StateName::OpenConfirm {
        session.handle_input(Input::Bytes(IN, &peer_open().encode()), now);
    }
    if state >= StateName::Established {
        session.handle_input(Input::Bytes(IN, &encode_keepalive()), now);
    }
    assert_eq!(session.state(), state);
    drain(&mut session);
    session
}

#[test]
fn each_event_in_each_state() {
    use StateName::*;
    let now = Instant::now();
    let message = |message_type: u8, body: &[u8]| {
        let mut bytes = vec![0xff; 16];
        bytes.extend(((19 + body.len()) as u16).to_be_bytes());
        bytes.push(message_type);
        bytes.extend(body);
        bytes
    };
    let open = peer_open().encode().to_vec();
    let wrong_as = Open { asn: 1, ..peer_open() }.encode().to_vec();
    let keepalive = message(4, &[]);
    let end_of_rib = message(2, &[0, 0, 0, 0]);
    let bad_update = message(2, &[0, 9, 0, 0]);
    let refresh = message(5, &[0, 1, 0, 1]);
    let cease = message(3, &[6, 4]);
    let bad_type = message(9, &[]);
    let reset_route = message(2, &[0, 0, 0, 0, 33, 1, 2, 3, 4, 5]);
    let begin_of_refresh = message(5, &[0, 1, 1, 1]);
    let bad_refresh = message(5, &[0, 1, 1, 1, 0]);
    let strange_refresh = message(5, &[0, 1, 9, 1]);
    let restart = || Input::Restart { text: "" };
    let bad_marker = vec![0; 19];
    let bytes = |b: &Vec<u8>| Input::Bytes(IN, Vec::leak(b.clone()));

    // state, event, state after, said
    type Row<'a> = (StateName, &'a str, Input<'a>, StateName, &'a [&'a str]);
    let table: Vec<Row<'_>> = vec![
        (Idle, "start", Input::Start, Active, &[]),
        (Idle, "stop", Input::Stop { text: "" }, Idle, &[]),
        (Idle, "accepted", Input::Accepted(IN), Idle, &["close"]),
        (Idle, "closed", Input::Closed(IN, ""), Idle, &[]),
        (Idle, "bytes", bytes(&open), Idle, &[]),
        (Idle, "restart", restart(), Idle, &[]),
        (Idle, "blocked", Input::SendBlocked(IN), Idle, &[]),
        (Active, "restart", restart(), Idle, &[]),
        (Active, "blocked", Input::SendBlocked(IN), Active, &[]),
        (Active, "start", Input::Start, Active, &[]),
        (Active, "stop", Input::Stop { text: "" }, Idle, &[]),
        (Active, "accepted", Input::Accepted(IN), OpenSent, &["open"]),
        (Active, "closed", Input::Closed(IN, ""), Active, &[]),
        (Active, "bytes", bytes(&open), Active, &[]),
        (OpenSent, "start", Input::Start, OpenSent, &[]),
        (OpenSent, "stop", Input::Stop { text: "" }, Idle, &["6/2", "close"]),
        (OpenSent, "accepted", Input::Accepted(ConnId::Incoming(1)), OpenSent, &["6/7", "close", "open"]),
        (OpenSent, "closed", Input::Closed(IN, ""), Active, &[]),
        (OpenSent, "closed other", Input::Closed(OUT, ""), OpenSent, &[]),
        (OpenSent, "open", bytes(&open), OpenConfirm, &["keepalive"]),
        (OpenSent, "wrong as", bytes(&wrong_as), Idle, &["2/2", "close"]),
        (OpenSent, "keepalive", bytes(&keepalive), Idle, &["5/1", "close"]),
        (OpenSent, "update", bytes(&end_of_rib), Idle, &["5/1", "close"]),
        (OpenSent, "refresh", bytes(&refresh), Idle, &["5/1", "close"]),
        (OpenSent, "notification", bytes(&cease), Idle, &["close"]),
        (OpenSent, "bad type", bytes(&bad_type), Idle, &["1/3", "close"]),
        (OpenSent, "bad marker", bytes(&bad_marker), Idle, &["1/1", "close"]),
        (OpenSent, "restart", restart(), Idle, &["6/2", "close"]),
        (OpenSent, "blocked", Input::SendBlocked(IN), OpenSent, &[]),
        (OpenSent, "progress", Input::SendProgress(IN), OpenSent, &[]),
        (OpenSent, "bad update", bytes(&bad_update), Idle, &["5/1", "close"]),
        (OpenSent, "bad refresh", bytes(&bad_refresh), Idle, &["5/1", "close"]),
        (OpenConfirm, "restart", restart(), Idle, &["6/2", "close"]),
        (OpenConfirm, "blocked", Input::SendBlocked(IN), OpenConfirm, &[]),
        (OpenConfirm, "progress", Input::SendProgress(IN), OpenConfirm, &[]),
        (OpenConfirm, "bad refresh", bytes(&bad_refresh), Idle, &["5/2", "close"]),
        (OpenConfirm, "bad marker", bytes(&bad_marker), Idle, &["1/1", "close"]),
        (OpenConfirm, "start", Input::Start, OpenConfirm, &[]),
        (OpenConfirm, "stop", Input::Stop { text: "" }, Idle, &["6/2", "close"]),
        (OpenConfirm, "accepted", Input::Accepted(ConnId::Incoming(1)), OpenSent, &["6/7", "close", "open"]),
        (OpenConfirm, "closed", Input::Closed(IN, ""), Idle, &[]),
        (OpenConfirm, "open", bytes(&open), Idle, &["5/2", "close"]),
        (OpenConfirm, "keepalive", bytes(&keepalive), Established, &["update", "update"]),
        (OpenConfirm, "update", bytes(&end_of_rib), Idle, &["5/2", "close"]),
        (OpenConfirm, "bad update", bytes(&bad_update), Idle, &["5/2", "close"]),
        (OpenConfirm, "refresh", bytes(&refresh), Idle, &["5/2", "close"]),
        (OpenConfirm, "notification", bytes(&cease), Idle, &["close"]),
        (OpenConfirm, "bad type", bytes(&bad_type), Idle, &["1/3", "close"]),
        // Without graceful restart a restart is a stop.
        (Established, "restart", restart(), Idle, &["6/2", "close"]),
        (Established, "blocked", Input::SendBlocked(IN), Established, &[]),
        (Established, "progress", Input::SendProgress(IN), Established, &[]),
        (Established, "prefix of 33 bits", bytes(&reset_route), Idle, &["3/10", "close"]),
        (Established, "begin of refresh", bytes(&begin_of_refresh), Established, &[]),
        (Established, "strange refresh", bytes(&strange_refresh), Established, &[]),
        (Established, "bad refresh", bytes(&bad_refresh), Idle, &["7/1", "close"]),
        (Established, "bad type", bytes(&bad_type), Idle, &["1/3", "close"]),
        (Established, "start", Input::Start, Established, &[]),
        (Established, "stop", Input::Stop { text: "" }, Idle, &["6/2", "close"]),
        (Established, "accepted", Input::Accepted(ConnId::Incoming(1)), Established, &["6/7", "close"]),
        (Established, "closed", Input::Closed(IN, ""), Idle, &[]),
        (Established, "open", bytes(&open), Idle, &["5/3", "close"]),
        (Established, "keepalive", bytes(&keepalive), Established, &[]),
        (Established, "update", bytes(&end_of_rib), Established, &[]),
        (Established, "bad update", bytes(&bad_update), Idle, &["3/1", "close"]),
        (Established, "refresh", bytes(&refresh), Established, &[]),
        (Established, "notification", bytes(&cease), Idle, &["close"]),
        (Established, "bad marker", bytes(&bad_marker), Idle, &["1/1", "close"]),
    ];
    for (state, name, input, after, said) in table {
        let mut session = in_state(state, now);
        session.handle_input(input, now);
        assert_eq!(session.state(), after, "{state} and {name}");
        assert_eq!(drain(&mut session), said, "{state} and {name}");
    }
}

#[test]
fn each_connection_event_of_our_own_attempt() {
    use StateName::*;
    let now = Instant::now();
    let mut session = Session::new(local());
    session.handle_input(Input::Start, now);
    assert_eq!((session.state(), drain(&mut session)), (Connect, vec!["connect".to_owned()]));
    session.handle_input(Input::ConnectFailed(OUT, "refused"), now);
    assert_eq!((session.state(), drain(&mut session)), (Active, vec![]));
    let now = session.poll_timeout().unwrap();
    session.handle_timeout(now);
    assert_eq!((session.state(), drain(&mut session)), (Connect, vec!["connect".to_owned()]));
    // An attempt without an answer is given up for another.
    let now = session.poll_timeout().unwrap();
    session.handle_timeout(now);
    assert_eq!(
        (session.state(), drain(&mut session)),
        (Connect, vec!["close".to_owned(), "connect".to_owned()])
    );
    session.handle_input(Input::Connected(ConnId::Outgoing(1)), now);
    assert_eq!(session.state(), Connect, "the connection of an attempt that was given up");
    session.handle_input(Input::Connected(ConnId::Outgoing(2)), now);
    assert_eq!((session.state(), drain(&mut session)), (OpenSent, vec!["open".to_owned()]));
    session.handle_input(Input::Closed(ConnId::Outgoing(2), "eof"), now);
    assert_eq!(session.state(), Active);
}

#[test]
fn a_spurious_timeout_does_nothing() {
    use StateName::*;
    let now = Instant::now();
    for state in [Idle, Active, OpenSent, OpenConfirm, Established] {
        let mut session = in_state(state, now);
        let due = session.poll_timeout();
        session.handle_timeout(now);
        assert_eq!((session.state(), session.poll_timeout()), (state, due));
        assert_eq!(drain(&mut session), Vec::<String>::new());
    }
}

#[test]
fn each_timer_in_each_state() {
    use StateName::*;
    let now = Instant::now();
    // state, what makes the timer run, how long, state after, said
    type Row<'a> = (StateName, &'a str, bool, u64, StateName, &'a [&'a str]);
    let table: &[Row<'_>] = &[
        (OpenSent, "hold", false, 240, Idle, &["4/0", "close"]),
        (OpenConfirm, "hold", false, 90, Idle, &["4/0", "close"]),
        (Established, "hold", false, 90, Idle, &["4/0", "close"]),
        // Shortened to 30 s below, so that the hold timer does not come first.
        (OpenSent, "send hold", true, 30, Idle, &["8/0", "close"]),
        (OpenConfirm, "send hold", true, 30, Idle, &["8/0", "close"]),
        (Established, "send hold", true, 30, Idle, &["8/0", "close"]),
    ];
    for (state, name, blocked, after_s, then, said) in table {
        let mut session = in_state(*state, now);
        session.set_soft(&Config { send_hold: Some(Duration::from_secs(30)), ..session.config().clone() });
        if *blocked {
            session.handle_input(Input::SendBlocked(IN), now);
        }
        let at = now + Duration::from_secs(*after_s);
        session.handle_timeout(at - Duration::from_millis(1));
        assert_eq!(session.state(), *state, "{state} and {name}, too early");
        drain(&mut session);
        session.handle_timeout(at);
        assert_eq!(session.state(), *then, "{state} and {name}");
        assert_eq!(drain(&mut session), *said, "{state} and {name}");
    }
}
