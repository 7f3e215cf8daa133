//! A door for fuzzers: whatever arrives and whenever, a speaker neither panics nor breaks its promises.

use crate::{Arrival, Config, Endpoint, Hops, PACKET_LEN, Packet, Speaker, State, TTL};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

/// Feed `data` to a speaker with a session of each kind, in pieces: a head of four octets (what to do, milliseconds to pass,
/// TTL, length), then a payload. Panics only when the speaker breaks a promise.
pub fn fuzz_packets(data: &[u8], start: Instant) {
    let mut now = start;
    let mut speaker = Speaker::new(data.len() as u64);
    let endpoint = |hops| Endpoint {
        local: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
        remote: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        scope_id: 0,
        hops,
    };
    let config = Config::new(Duration::from_millis(10), NonZeroU8::MIN);
    let ids = [Hops::Single, Hops::Multi].map(|hops| speaker.add(endpoint(hops), 254, config, now));
    let mut your_discriminator = [0; 2];
    let mut rest = data;
    while let Some((&[what, pass, ttl, len], tail)) = rest.split_first_chunk::<4>() {
        let (payload, tail) = tail.split_at(tail.len().min(usize::from(len)));
        rest = tail;
        now += Duration::from_millis(pass.into());
        let hops = usize::from(what & 1);
        let mut payload = payload.to_vec();
        if what & 2 != 0 {
            // Most random octets are refused early: mend the head and name the session.
            payload.resize(payload.len().max(PACKET_LEN), 1);
            payload[0] = 0x20 | payload[0] & 0x1f;
            payload[1] &= !1;
            payload[3] = PACKET_LEN as u8;
            if what & 4 != 0 {
                payload[8..12].copy_from_slice(&u32::to_be_bytes(your_discriminator[hops]));
            }
        }
        let arrival = Arrival {
            endpoint: endpoint([Hops::Single, Hops::Multi][hops]),
            ttl: (what & 8 == 0).then_some(if what & 16 == 0 { TTL } else { ttl }),
        };
        speaker.handle_packet(arrival, &payload, now);
        if what & 32 != 0 {
            speaker.handle_timeout(now);
        }
        if let (64.., Ok(id)) = (what, ids[hops]) {
            let interval = Duration::from_millis(u64::from(ttl) + 1);
            speaker.configure(
                id,
                ttl,
                Config { passive: what >= 128, ..Config::new(interval, NonZeroU8::MAX) },
                now,
            );
        }
        let mut sent = 0;
        while let Some(transmit) = speaker.poll_transmit() {
            sent += 1;
            assert!(sent <= 4, "a session sends an answer and a packet of its own, no more");
            let packet = Packet::decode(&transmit.payload);
            let Ok(packet) = packet else { panic!("we sent {packet:?}") };
            assert!(!packet.demand);
            assert!(!packet.poll || !packet.is_final);
            assert!(packet.state == State::Up || packet.desired_min_tx_us >= 1_000_000);
            for (index, id) in ids.iter().enumerate() {
                if id.is_ok_and(|id| id == transmit.session) {
                    your_discriminator[index] = packet.my_discriminator.get();
                }
            }
        }
        while speaker.poll_event().is_some() {}
    }
}
