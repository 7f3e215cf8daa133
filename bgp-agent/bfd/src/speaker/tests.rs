//! Several sessions: who gets which packet, every refusal, two speakers on one virtual clock, noise.
#![allow(clippy::disallowed_methods)] // A virtual clock needs one real instant to start from.

mod pair;

use super::*;
use crate::{Diagnostic, State, fuzz_packets};
use proptest::prelude::*;
use std::num::NonZeroU8;

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn config(interval: Duration) -> Config {
    Config::new(interval, NonZeroU8::new(3).unwrap())
}

pub(super) fn endpoint(peer: u8, hops: Hops) -> Endpoint {
    Endpoint { local: [10, 0, 0, 2].into(), remote: [10, 0, 0, peer].into(), scope_id: 0, hops }
}

fn from(peer: u8, hops: Hops, ttl: u8) -> Arrival {
    Arrival { endpoint: endpoint(peer, hops), ttl: Some(ttl) }
}

fn packet(state: State, your_discriminator: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        authentication: None,
        demand: false,
        detect_mult: NonZeroU8::new(3).unwrap(),
        my_discriminator: NonZeroU32::new(0x99).unwrap(),
        your_discriminator,
        desired_min_tx_us: 10_000,
        required_min_rx_us: 10_000,
        required_min_echo_rx_us: 0,
    }
}

fn state(speaker: &Speaker, id: SessionId) -> State {
    speaker.view(id).expect("session").state
}

#[test]
fn the_discriminator_selects_and_before_it_the_address() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    let one = speaker.add(endpoint(1, Hops::Single), 0, config(MS), now).unwrap();
    let other = speaker.add(endpoint(3, Hops::Single), 0, config(MS), now).unwrap();
    assert_ne!(one, other);
    speaker.handle_packet(from(3, Hops::Single, 255), &packet(State::Down, 0).encode(), now);
    assert_eq!((state(&speaker, one), state(&speaker, other)), (State::Down, State::Init));
    // The discriminator counts, even when the peer speaks from another address. RFC 5880 §6.3.
    let up = packet(State::Init, other.0.get()).encode();
    speaker.handle_packet(from(77, Hops::Single, 255), &up, now);
    assert_eq!((state(&speaker, one), state(&speaker, other)), (State::Down, State::Up));
}

#[test]
fn link_local_peers_differ_by_interface() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    let on = |scope_id| Endpoint {
        local: "fe80::2".parse().unwrap(),
        remote: "fe80::1".parse().unwrap(),
        scope_id,
        hops: Hops::Single,
    };
    let two = speaker.add(on(2), 0, config(MS), now).unwrap();
    let three = speaker.add(on(3), 0, config(MS), now).unwrap();
    let arrival = Arrival { endpoint: on(3), ttl: Some(255) };
    speaker.handle_packet(arrival, &packet(State::Down, 0).encode(), now);
    assert_eq!((state(&speaker, two), state(&speaker, three)), (State::Down, State::Init));
}

#[test]
fn each_refusal_is_counted_under_its_reason_and_changes_nothing() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    let single = speaker.add(endpoint(1, Hops::Single), 0, config(MS), now).unwrap();
    let multi = speaker.add(endpoint(1, Hops::Multi), 250, config(MS), now).unwrap();
    let down = packet(State::Down, 0).encode();
    let to_single = packet(State::Down, single.0.get()).encode();
    let mut authenticated = [down.as_slice(), &[4, 28], &[0xaa; 26]].concat();
    (authenticated[1], authenticated[3]) = (0x44, 52);
    let mut bad_version = down;
    bad_version[0] = 0;
    let near = from(1, Hops::Single, 255);
    let cases: Vec<(Arrival, Vec<u8>, Discard)> = vec![
        (near, vec![], Discard::Truncated(0)),
        (near, bad_version.into(), Discard::Version(0)),
        (near, packet(State::Down, 0x1234).encode().into(), Discard::UnknownDiscriminator(0x1234)),
        (near, packet(State::Init, 0).encode().into(), Discard::YourDiscriminatorZero(State::Init)),
        (near, packet(State::Up, 0).encode().into(), Discard::YourDiscriminatorZero(State::Up)),
        (from(9, Hops::Single, 255), down.into(), Discard::UnknownPeer),
        (near, authenticated, Discard::Authenticated(4)),
        (from(1, Hops::Single, 254), down.into(), Discard::Ttl(254)),
        (from(1, Hops::Single, 0), down.into(), Discard::Ttl(0)),
        (Arrival { ttl: None, ..near }, down.into(), Discard::TtlUnknown),
        (from(1, Hops::Multi, 249), down.into(), Discard::TtlBelowMinimum { ttl: 249, least: 250 }),
        // Round the TTL check through the other door.
        (from(1, Hops::Multi, 255), to_single.into(), Discard::UnknownDiscriminator(single.0.get())),
    ];
    let mut expected = [0; Discard::LABELS.len()];
    for (arrival, payload, discard) in cases {
        speaker.handle_packet(arrival, &payload, now);
        assert_eq!(speaker.poll_event(), Some(Event::Discarded(arrival, discard)));
        expected[discard.index()] += 1;
        assert_eq!((state(&speaker, single), state(&speaker, multi)), (State::Down, State::Down));
    }
    assert!(speaker.discarded().map(|(_, count)| count).eq(expected));
    assert_eq!(speaker.view(single).unwrap().stats.received, 0);
    // The same, allowed.
    speaker.handle_packet(from(1, Hops::Multi, 250), &down, now);
    assert_eq!((state(&speaker, single), state(&speaker, multi)), (State::Down, State::Init));
}

#[test]
fn an_address_has_one_session_and_there_is_a_bound() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    speaker.add(endpoint(1, Hops::Single), 0, config(MS), now).unwrap();
    assert_eq!(speaker.add(endpoint(1, Hops::Single), 0, config(MS), now), Err(AddError::Taken));
    for scope_id in 1..SESSIONS_MAX as u32 {
        let endpoint = Endpoint { scope_id, ..endpoint(1, Hops::Single) };
        speaker.add(endpoint, 0, config(MS), now).unwrap();
    }
    assert_eq!(speaker.add(endpoint(2, Hops::Single), 0, config(MS), now), Err(AddError::TooMany));
}

#[test]
fn a_removed_session_says_so_and_is_gone_after_the_detection_time_of_the_peer() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    let id = speaker.add(endpoint(1, Hops::Single), 0, config(10 * MS), now).unwrap();
    let near = from(1, Hops::Single, 255);
    speaker.handle_packet(near, &packet(State::Init, id.0.get()).encode(), now);
    while speaker.poll_transmit().is_some() || speaker.poll_event().is_some() {}
    speaker.remove(id, now);
    let last = Packet::decode(&speaker.poll_transmit().unwrap().payload).unwrap();
    assert_eq!((last.state, last.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
    speaker.handle_timeout(now + 30 * MS);
    assert!(!speaker.is_empty());
    let at = speaker.poll_timeout().unwrap();
    assert!(at > now + 30 * MS && at < now + 31 * MS);
    speaker.handle_timeout(at);
    assert!(speaker.is_empty());
    let events: Vec<Event> = std::iter::from_fn(|| speaker.poll_event()).collect();
    assert!(matches!(events[..], [Event::State(_, t), Event::Gone(gone)] if gone == id && !t.is_failure()));
    assert_eq!(speaker.poll_timeout(), None);
}

#[test]
fn a_leaving_session_makes_room_for_its_successor() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    let old = speaker.add(endpoint(1, Hops::Single), 0, config(MS), now).unwrap();
    speaker.remove(old, now);
    let new = speaker.add(endpoint(1, Hops::Single), 0, config(MS), now).unwrap();
    assert!(speaker.view(old).is_none());
    speaker.handle_packet(from(1, Hops::Single, 255), &packet(State::Down, 0).encode(), now);
    assert_eq!(state(&speaker, new), State::Init);
}

#[test]
fn events_nobody_takes_are_bounded() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1);
    for _ in 0..10 * EVENTS_MAX {
        speaker.handle_packet(from(1, Hops::Single, 255), &[], now);
    }
    assert_eq!(std::iter::from_fn(|| speaker.poll_event()).count(), EVENTS_MAX);
    assert_eq!(speaker.discarded().next(), Some(("truncated", 10 * EVENTS_MAX as u64)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_noise_makes_it_panic_or_break_its_promises(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_packets(&data, Instant::now());
    }
}
