//! The machine alone: the table of states, timers at their edges, Poll Sequences, Demand mode of the peer.
#![allow(clippy::disallowed_methods)] // A virtual clock needs one real instant to start from.

use super::*;

const PEER: NonZeroU32 = NonZeroU32::new(0x7001).unwrap();
const US: NonZeroU32 = NonZeroU32::new(0x42).unwrap();
const MS: Duration = Duration::from_millis(1);

fn mult(n: u8) -> NonZeroU8 {
    NonZeroU8::new(n).unwrap()
}

fn fast() -> Config {
    Config::new(10 * MS, mult(3))
}

fn session(config: Config, now: Instant) -> Session {
    Session::new(config, US, 7, now)
}

/// A packet of a peer that wants 10 ms × 3, and has heard us.
fn from_peer(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        authentication: None,
        demand: false,
        detect_mult: mult(3),
        my_discriminator: PEER,
        your_discriminator: US.get(),
        desired_min_tx_us: 10_000,
        required_min_rx_us: 10_000,
        required_min_echo_rx_us: 0,
    }
}

fn drain(session: &mut Session) -> Vec<Packet> {
    std::iter::from_fn(|| session.poll_transmit()).map(|bytes| Packet::decode(&bytes).unwrap()).collect()
}

fn answer() -> Packet {
    Packet { is_final: true, ..from_peer(State::Up) }
}

/// Up, with the first Poll Sequence over and settled, and nothing to send.
fn up(config: Config, now: Instant) -> Session {
    let mut session = session(config, now);
    session.handle_packet(&from_peer(State::Down), now);
    session.handle_packet(&from_peer(State::Up), now);
    session.handle_packet(&answer(), now);
    session.handle_packet(&from_peer(State::Up), now);
    assert_eq!((session.state, session.poll), (State::Up, Poll::Idle));
    drain(&mut session);
    session.take_transition();
    session
}

/// A session brought into a state.
fn in_state(state: State, now: Instant) -> Session {
    let mut session = session(fast(), now);
    match state {
        State::Down => {}
        State::Init => session.handle_packet(&from_peer(State::Down), now),
        State::Up => session = up(fast(), now),
        State::AdminDown => session.admin_down(now),
    }
    session.take_transition();
    assert_eq!(session.state, state);
    session
}

#[test]
fn every_state_takes_every_received_state_as_the_rfc_says() {
    use State::*;
    let now = Instant::now();
    // RFC 5880 §6.8.6: our state, and what it becomes when the peer says AdminDown, Down, Init, Up.
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (before, after) in table {
        for (received, expected) in State::ALL.into_iter().zip(after) {
            let mut session = in_state(before, now);
            session.handle_packet(&from_peer(received), now);
            assert_eq!(session.state, expected, "{before} and {received} received");
            let changed = session.take_transition();
            assert_eq!(changed.map(|t| (t.from, t.to)), (before != expected).then_some((before, expected)));
            if let Some(transition) = changed {
                let diagnostic = match expected {
                    Down => Diagnostic::NEIGHBOR_SIGNALED_DOWN,
                    _ => Diagnostic::NONE,
                };
                assert_eq!(transition.diagnostic, diagnostic, "{before} and {received} received");
                let failure = before == Up && received == Down;
                assert_eq!(transition.is_failure(), failure, "{before} and {received} received");
            }
            // What the peer last said is kept in every state.
            assert_eq!(session.view().remote_state, received);
        }
    }
}

#[test]
fn silence_for_the_detection_time_ends_up_and_init_and_nothing_else() {
    let now = Instant::now();
    for (before, after) in [
        (State::AdminDown, State::AdminDown),
        (State::Down, State::Down),
        (State::Init, State::Down),
        (State::Up, State::Down),
    ] {
        let mut session = in_state(before, now);
        // As heard from a peer that is not heard any more; AdminDown keeps no state.
        session.handle_packet(&from_peer(if before == State::Down { State::Up } else { State::Down }), now);
        if before == State::Up {
            session = in_state(before, now);
        }
        session.take_transition();
        session.handle_timeout(now + 30 * MS - Duration::from_nanos(1));
        assert_eq!(session.state, before);
        session.handle_timeout(now + 30 * MS);
        assert_eq!(session.state, after, "{before}");
        let diagnostic = session.take_transition().map(|transition| transition.diagnostic);
        assert_eq!(diagnostic, (before != after).then_some(Diagnostic::DETECTION_TIME_EXPIRED));
        // RFC 5880 §6.8.1: bfd.RemoteDiscr is forgotten.
        assert_eq!(session.contents().your_discriminator, 0);
    }
}

#[test]
fn ten_milliseconds_times_three_detect_exactly_thirty_after_the_last_packet() {
    let start = Instant::now();
    for last in [0, 1, 7, 29] {
        let mut session = up(fast(), start);
        let heard = start + last * MS;
        session.handle_packet(&from_peer(State::Up), heard);
        while session.state == State::Up {
            let at = session.poll_timeout().expect("a session that is up waits for something");
            assert!(at <= heard + 30 * MS, "a shell that wakes when told does not miss the moment");
            session.handle_timeout(at);
            drain(&mut session);
            if session.state == State::Down {
                assert_eq!(at, heard + 30 * MS);
            }
        }
        assert!(session.take_transition().unwrap().is_failure());
        assert_eq!(session.view().failures, 1);
    }
}

#[test]
fn the_peers_multiplier_and_the_slower_interval_make_the_detection_time() {
    let now = Instant::now();
    let mut session = up(Config { receive_interval: 20 * MS, ..fast() }, now);
    assert_eq!(session.view().detection_time, Some(60 * MS));
    let slower = Packet { desired_min_tx_us: 100_000, detect_mult: mult(5), ..from_peer(State::Up) };
    session.handle_packet(&slower, now);
    assert_eq!(session.view().detection_time, Some(500 * MS));
    assert_eq!(session.view().receive_interval, Some(100 * MS));
}

#[test]
fn nobody_is_told_more_than_once_a_second_until_the_session_is_up() {
    let now = Instant::now();
    let mut session = session(fast(), now);
    let mut sent = Vec::new();
    let end = now + 60 * 1000 * MS;
    while let Some(at) = session.poll_timeout().filter(|at| *at <= end) {
        session.handle_timeout(at);
        for packet in drain(&mut session) {
            assert_eq!((packet.state, packet.desired_min_tx_us), (State::Down, 1_000_000));
            sent.push(at);
        }
    }
    assert!((60..=81).contains(&sent.len()), "{}", sent.len());
    for pair in sent.windows(2) {
        assert!((750 * MS..=1000 * MS).contains(&(pair[1] - pair[0])), "{:?}", pair[1] - pair[0]);
    }
}

#[test]
fn once_up_packets_come_at_the_agreed_rate_with_jitter() {
    for (multiplier, longest_us) in [(3, 10_000), (1, 9_000)] {
        let start = Instant::now();
        let mut session = up(Config::new(10 * MS, mult(multiplier)), start);
        let mut now = start;
        let mut sent = Vec::new();
        while sent.len() < 500 {
            now = session.poll_timeout().unwrap();
            session.handle_timeout(now);
            sent.extend(drain(&mut session).iter().map(|_| now));
            session.handle_packet(&from_peer(State::Up), now);
        }
        let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let least = Duration::from_micros(7_500);
        let most = Duration::from_micros(longest_us);
        assert!(gaps.iter().all(|gap| (least..=most).contains(gap)), "× {multiplier}: {gaps:?}");
        let distinct: std::collections::BTreeSet<&Duration> = gaps.iter().collect();
        assert!(distinct.len() > 100, "jitter is drawn for every packet");
        assert!(now > start);
    }
}

#[test]
fn a_change_of_state_does_not_wait_for_the_timer() {
    let now = Instant::now();
    let mut session = session(fast(), now);
    session.handle_timeout(now);
    assert_eq!(drain(&mut session).len(), 1);
    session.handle_packet(&Packet { your_discriminator: 0, ..from_peer(State::Down) }, now + MS);
    let said = drain(&mut session);
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].state, said[0].your_discriminator), (State::Init, PEER.get()));
    session.handle_packet(&from_peer(State::Init), now + 2 * MS);
    let said = drain(&mut session);
    // Up, and a Poll Sequence for the faster timers with it.
    assert_eq!((said[0].state, said[0].poll, said[0].desired_min_tx_us), (State::Up, true, 10_000));
    // The same packet again says nothing new.
    session.handle_packet(&from_peer(State::Up), now + 3 * MS);
    assert_eq!(drain(&mut session), []);
}

#[test]
fn a_peer_that_cannot_decide_does_not_make_us_talk() {
    let start = Instant::now();
    let mut session = session(fast(), start);
    let mut sent = 0;
    for step in 0..10_000 {
        let received = if step % 2 == 0 { State::Down } else { State::Init };
        let now = start + step * MS;
        session.handle_packet(&from_peer(received), now);
        session.handle_timeout(now);
        assert!(session.poll_timeout().unwrap() > now, "what is put off does not make the shell spin");
        sent += drain(&mut session).len();
    }
    // Ten seconds: a burst, one each second, and those of the timer, which is 7.5 ms at the least while it is up.
    assert!(sent <= 4 + 10 + 1400, "{sent} packets");
    assert!(session.view().stats.ups > 4000);
}

#[test]
fn a_poll_is_answered_in_every_state_at_once_with_final_alone() {
    let now = Instant::now();
    for state in State::ALL {
        let mut session = in_state(state, now);
        drain(&mut session);
        session.handle_packet(&Packet { poll: true, ..from_peer(State::Up) }, now);
        let said = drain(&mut session);
        assert!(said[0].is_final && !said[0].poll, "{state}: {said:?}");
        assert!(said.iter().skip(1).all(|packet| !packet.is_final), "{state}: {said:?}");
    }
}

#[test]
fn slower_sending_waits_for_the_final() {
    let start = Instant::now();
    let mut session = up(fast(), start);
    session.configure(Config::new(100 * MS, mult(3)), start);
    let said = drain(&mut session);
    assert_eq!((said.len(), said[0].poll, said[0].desired_min_tx_us), (1, true, 100_000));
    // Not told yet: the old rate stays, and each packet polls.
    assert_eq!(session.view().transmit_interval, Some(10 * MS));
    let next = session.poll_timeout().unwrap();
    assert!(next <= start + 10 * MS);
    session.handle_timeout(next);
    assert!(drain(&mut session)[0].poll);
    session.handle_packet(&answer(), next);
    assert_eq!(session.view().transmit_interval, Some(100 * MS));
    session.handle_timeout(next + 9 * MS);
    assert_eq!(drain(&mut session), [], "from now on every 75 to 100 ms");
}

#[test]
fn faster_sending_begins_at_once() {
    let start = Instant::now();
    let mut session = up(Config { transmit_interval: 100 * MS, ..fast() }, start);
    session.configure(fast(), start);
    assert_eq!(session.view().transmit_interval, Some(10 * MS));
    assert!(drain(&mut session)[0].poll);
    assert!(session.poll_timeout().unwrap() <= start + 10 * MS);
}

#[test]
fn a_shorter_detection_time_waits_for_the_final_and_a_longer_one_does_not() {
    let now = Instant::now();
    let mut session = up(Config { receive_interval: 50 * MS, ..fast() }, now);
    assert_eq!(session.view().detection_time, Some(150 * MS));
    session.configure(fast(), now);
    assert_eq!(session.view().detection_time, Some(150 * MS), "the peer may still send every 50 ms");
    session.handle_packet(&answer(), now);
    assert_eq!(session.view().detection_time, Some(30 * MS));
    session.handle_packet(&from_peer(State::Up), now);
    session.configure(Config { receive_interval: 200 * MS, ..fast() }, now);
    assert_eq!(session.view().detection_time, Some(600 * MS));
    assert_eq!(session.take_transition(), None, "no flap");
}

#[test]
fn a_second_change_waits_until_the_first_is_settled() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    session.configure(Config::new(20 * MS, mult(3)), now);
    session.configure(Config::new(40 * MS, mult(3)), now);
    assert_eq!(drain(&mut session)[0].desired_min_tx_us, 20_000, "the poll under way keeps its words");
    session.handle_packet(&answer(), now);
    assert_eq!(session.poll, Poll::Settling { until: now + SETTLE });
    session.handle_packet(&answer(), now);
    assert!(drain(&mut session).iter().all(|packet| !packet.poll), "a second Final may be of the first poll");
    session.handle_packet(&from_peer(State::Up), now);
    let said = drain(&mut session);
    assert_eq!((said[0].poll, said[0].desired_min_tx_us), (true, 40_000));
    session.handle_packet(&answer(), now);
    assert_eq!(session.view().transmit_interval, Some(40 * MS));
}

#[test]
fn the_multiplier_changes_without_a_poll() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    session.configure(Config { detect_mult: mult(5), ..fast() }, now);
    let said = drain(&mut session);
    assert_eq!((said.len(), said[0].poll, said[0].detect_mult), (1, false, mult(5)));
}

#[test]
fn a_peer_that_can_take_more_gets_more_at_once() {
    let start = Instant::now();
    let mut session = up(fast(), start);
    session.handle_packet(&Packet { required_min_rx_us: 500_000, ..from_peer(State::Up) }, start);
    assert_eq!(session.view().transmit_interval, Some(500 * MS));
    assert!(session.next_sent.unwrap() >= start + 375 * MS);
    // RFC 5880 §6.8.3: "the local system MUST honor the new interval immediately".
    session.handle_packet(&from_peer(State::Up), start + 20 * MS);
    assert_eq!(session.next_sent, Some(start + 20 * MS));
}

#[test]
fn a_peer_that_wants_no_packets_gets_none() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    session.handle_packet(&Packet { required_min_rx_us: 0, ..from_peer(State::Up) }, now);
    assert_eq!((session.next_sent, session.view().transmit_interval), (None, None));
    assert_eq!(session.poll_timeout(), Some(now + 30 * MS), "but it is watched");
}

#[test]
fn a_peer_in_demand_mode_hears_nothing_but_answers_and_polls() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    let demand = Packet { demand: true, ..from_peer(State::Up) };
    session.handle_packet(&demand, now);
    assert_eq!(session.next_sent, None);
    // It still has to be heard: the mode is about what it receives.
    assert_eq!(session.poll_timeout(), Some(now + 30 * MS));
    session.handle_packet(&Packet { poll: true, ..demand }, now);
    assert!(drain(&mut session)[0].is_final);
    session.configure(Config::new(20 * MS, mult(3)), now);
    assert!(drain(&mut session)[0].poll && session.next_sent.is_some(), "a Poll Sequence is repeated");
    session.handle_packet(&Packet { is_final: true, ..demand }, now);
    assert_eq!(session.next_sent, None);
    // Demand mode is not active on a peer that is not up: RFC 5880 §6.6.
    session.handle_packet(&Packet { demand: true, ..from_peer(State::Init) }, now);
    assert!(session.next_sent.is_some());
}

#[test]
fn polls_of_a_silent_demand_peer_settle_by_time() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    session.configure(Config::new(20 * MS, mult(3)), now);
    session.handle_packet(&Packet { demand: true, desired_min_tx_us: 10_000_000, ..answer() }, now);
    assert_eq!(session.poll_timeout(), Some(now + SETTLE));
    session.handle_timeout(now + SETTLE);
    assert_eq!(session.poll, Poll::Idle);
}

#[test]
fn the_passive_side_is_silent_until_spoken_to_and_after_the_peer_is_gone() {
    let now = Instant::now();
    let mut session = session(Config { passive: true, ..fast() }, now);
    session.handle_timeout(now);
    assert_eq!((session.poll_transmit(), session.poll_timeout()), (None, None));
    session.handle_packet(&from_peer(State::Down), now);
    assert_eq!(drain(&mut session).len(), 1);
    let silent = now + 30 * MS;
    session.handle_timeout(silent);
    assert_eq!((session.state, drain(&mut session), session.poll_timeout()), (State::Down, vec![], None));
}

#[test]
fn admin_down_says_so_slowly_and_is_no_failure() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    assert_eq!(session.farewell(), 30 * MS);
    session.admin_down(now);
    let said = drain(&mut session);
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].state, said[0].diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
    assert_eq!(said[0].desired_min_tx_us, 1_000_000);
    assert!(!session.take_transition().unwrap().is_failure());
    assert_eq!(session.view().failures, 0);
}

#[test]
fn a_peer_that_is_switched_off_is_no_failure_and_one_that_restarts_is() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    session.handle_packet(&from_peer(State::AdminDown), now);
    assert_eq!((session.state, session.view().failures), (State::Down, 0));
    let mut session = up(fast(), now);
    session.handle_packet(&Packet { your_discriminator: 0, ..from_peer(State::Down) }, now);
    assert_eq!((session.state, session.view().failures), (State::Down, 1));
}

#[test]
fn a_late_shell_that_hands_in_what_waited_loses_nothing() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    let late = now + 500 * MS;
    session.handle_packet(&from_peer(State::Up), late);
    session.handle_timeout(late);
    assert_eq!(session.state, State::Up);
    // And what was missed is not sent in a burst.
    assert_eq!(drain(&mut session).len(), 1);
}

#[test]
fn a_spurious_timeout_does_nothing() {
    let now = Instant::now();
    let mut session = up(fast(), now);
    let before = (session.view(), session.poll_timeout());
    session.handle_timeout(now);
    assert_eq!((session.view(), session.poll_timeout()), before);
    assert_eq!(drain(&mut session), []);
}
