//! What the differential test cannot make a kernel answer, and the words. All else is `tests/tests/model`'s.

use std::{net::IpAddr, sync::Arc};

use proptest::prelude::*;
use weir_abi::{
    Config,
    guard::{
        ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, GUARDED_RATES, Guard, SOURCE_SCOPE_BITS, Source,
        SourcePrefix,
    },
    hop::{KIND_GUE4, KIND_LOCAL},
    limits::TABLE_LEN,
    service::{PROTO_TCP, SERVICE_IN_USE, SERVICE_SOURCE_LIMIT, Service, Slot, VipKey, VipRanges},
};

use super::*;

pub(super) const ACK: u8 = 0x10;
pub(super) const SYN: u8 = 0x02;

/// tcp/80 of 198.51.100.10 → a tunnel; tcp/81 → this host, before that the tunnel's.
pub(super) fn image(mtu: u32) -> Image {
    let own = Address::v4([10, 1, 1, 2]);
    let config = Config { has_v4: 1, address4: own.v4_octets(), mtu, ..Config::default() };
    let mut image = Image { config, ..Image::default() };
    image.backends.insert(1, Backend { address: own, kind: KIND_LOCAL, _pad: [0; 3] });
    image.backends.insert(2, Backend { address: Address::v4([10, 1, 2, 2]), kind: KIND_GUE4, _pad: [0; 3] });
    let key = |port: u16| VipKey {
        address: Address::v4([198, 51, 100, 10]),
        port: port.to_be_bytes(),
        protocol: PROTO_TCP,
        _pad: 0,
    };
    image.filter = crate::image::filter_of([key(0).address]);
    image.ranges.insert(key(0), VipRanges::default());
    for (table, slot) in [(0, Slot { owner: 2, previous: 0 }), (1, Slot { owner: 1, previous: 2 })] {
        image.tables.insert(table, Arc::new(vec![slot.pack(); TABLE_LEN]));
        image.services.insert(table, Service { table, flags: SERVICE_IN_USE });
        image.vips.insert(key(80 + table as u16), table);
    }
    image
}

pub(super) fn tcp(port: u16, flags: u8, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0]);
    frame.extend(((40 + len) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, PROTO_TCP, 0, 0, 203, 0, 113, 7, 198, 51, 100, 10]);
    frame.extend([0x9c, 0x40]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(54 + len, 7);
    frame
}

fn listening(socket: Socket) -> Host {
    let mut host = Host::default();
    host.ports.insert((true, PROTO_TCP, 81), socket);
    host
}

#[test]
fn an_answer_to_a_cookie_of_the_listener_is_at_home_and_a_mere_listener_knows_nobody() {
    let reason = |socket, flags| run(&image(0), &mut listening(socket), &tcp(81, flags, 0)).reason;
    assert_eq!(reason(Socket::AwaitsCookie, ACK), Reason::DeliverLocal);
    assert_eq!(reason(Socket::Own, ACK), Reason::DeliverLocal);
    assert_eq!(reason(Socket::Listener, ACK), Reason::EncapSecondHop);
    assert_eq!(reason(Socket::Listener, SYN), Reason::DeliverLocal);
}

#[test]
fn without_a_token_or_room_the_packet_is_dropped() {
    let (image, frame) = (image(1400), tcp(80, ACK, 1380));
    assert_eq!(run(&image, &mut Host::default(), &frame).reason, Reason::IcmpTooBig);
    let mut silent = Host { may_tell: false, ..Host::default() };
    assert_eq!(run(&image, &mut silent, &frame).reason, Reason::DropTooBig);
    let mut cramped = Host { headroom: 31, ..Host::default() };
    assert_eq!(run(&image, &mut cramped, &tcp(80, ACK, 0)).reason, Reason::DropHeadroom);
    cramped.headroom = 32;
    assert_eq!(run(&image, &mut cramped, &tcp(80, ACK, 0)).reason, Reason::Encap);
}

#[test]
fn every_step_of_a_packet_is_told_and_telling_changes_nothing() {
    let names = Names::from([
        (Address::from("198.51.100.10".parse::<IpAddr>().expect("ip")), "web".to_owned()),
        (Address::v4([10, 1, 2, 2]), "lb2".to_owned()),
    ]);
    let (image, frame) = (image(1500), tcp(80, SYN, 0));
    let told = explain(&image, &mut Host::default(), &frame, &names);
    let stages: Vec<Stage> = told.steps.iter().map(|step| step.stage).collect();
    let expected = [
        Stage::Packet,
        Stage::Service,
        Stage::Slot,
        Stage::Owner,
        Stage::Encap,
        Stage::Mtu,
        Stage::NextHop,
        Stage::Verdict,
    ];
    assert_eq!(stages, expected);
    let words: String =
        told.steps.iter().map(|step| format!("{}: {}\n", step.decision, step.reason)).collect();
    for word in
        ["TCP 203.0.113.7:40000 → 198.51.100.10:80", "of web (198.51.100.10)", "lb2 (10.1.2.2)", "encap"]
    {
        assert!(words.contains(word), "{word} is not in\n{words}");
    }
    let run = run(&image, &mut Host::default(), &frame);
    assert_eq!(Outcome { steps: Vec::new(), ..told }, run);
}

#[test]
fn whoever_is_kept_out_is_told_which_list_or_rate_did_it() {
    let mut image = image(0);
    let client = Address::v4([203, 0, 113, 7]);
    let key = SourcePrefix { len_bits: SOURCE_SCOPE_BITS + 96 + 32, source: Source::new(0, client) };
    image.config.guarded = GUARDED_ACCESS | GUARDED_RATES;
    image.access.insert(key, AccessRule { until_s: 100, list: 7, action: ACCESS_BLOCK, len_bits: 96 + 32 });
    let interval = 1_000_000_000;
    image
        .guards
        .insert(0, Guard { scope: 1, source_interval_ns: interval, source_burst: 2, ..Guard::default() });
    image.services.get_mut(&0).expect("service").flags |= SERVICE_SOURCE_LIMIT;
    let mut host = Host::default();
    let mut told = |boot_s, now_s: u64| {
        (host.boot_s, host.now_ns) = (boot_s, now_s * u64::from(interval));
        let outcome = explain(&image, &mut host, &tcp(80, SYN, 0), &Names::new());
        let step = outcome.steps.into_iter().find(|step| matches!(step.stage, Stage::Access | Stage::Rate));
        let words = step.map(|step| format!("{}: {}", step.decision, step.reason));
        (outcome.reason, outcome.blocked_by, words.expect("a step"))
    };
    let words = "203.0.113.7 blocked: access list 7 says so of its /32".to_owned();
    assert_eq!(told(99, 1), (Reason::DropBlocked, Some(7), words));
    let words = "203.0.113.7 may come: no access list names it".to_owned();
    let comes = (Reason::Encap, None, words.clone());
    assert_eq!([told(100, 1), told(100, 1)], [comes.clone(), comes.clone()]);
    assert_eq!(told(100, 1), (Reason::DropSourceLimit, None, words));
    assert_eq!(told(100, 2), comes, "a second later one more comes");
}

#[test]
fn packets_that_are_described_are_whole() {
    let end = |text: &str| text.parse().expect("address");
    let written = |source, destination, carried| Written {
        source: end(source),
        destination: end(destination),
        carried,
        payload_len: 0,
        hops_left: 64,
        sequence: 1,
    };
    let (client, vip) = ("203.0.113.7:40000", "198.51.100.10:80");
    for (carried, reason) in [
        (Carried::Tcp(Carried::SYN), Reason::Encap),
        (Carried::Udp, Reason::PassNotVip),
        (Carried::Echo, Reason::IcmpEcho),
    ] {
        let frame = written(client, vip, carried).frame().expect("frame");
        assert_eq!(run(&image(0), &mut Host::default(), &frame).reason, reason);
        // Summed up with its own checksum, everything is nothing.
        assert_eq!(frame::folded(frame::sum(&frame[14..34])), [0, 0]);
        let len = (frame.len() - 34) as u32;
        let pseudo = if carried == Carried::Echo {
            0
        } else {
            frame::sum(&frame[26..34]) + u32::from(frame[23]) + len
        };
        assert_eq!(frame::folded(pseudo + frame::sum(&frame[34..])), [0, 0], "{carried:?}");
    }
    assert!(written("[2001:db8::1]:1", "[2001:db8::2]:2", Carried::Udp).frame().is_some());
    assert_eq!(written(client, "[2001:db8::2]:2", Carried::Udp).frame(), None);
    assert_eq!(Written { payload_len: 65_530, ..written(client, vip, Carried::Udp) }.frame(), None);
}

#[test]
fn hex_is_read_as_people_write_it() {
    assert_eq!(from_hex("0x45 00:0a\nff"), Some(vec![0x45, 0, 10, 255]));
    assert_eq!((from_hex("4"), from_hex("4g")), (None, None));
    assert_eq!(from_hex(&to_hex(&[0, 1, 0xab])), Some(vec![0, 1, 0xab]));
}

proptest! {
    #[test]
    fn no_frame_makes_the_model_panic(frame in proptest::collection::vec(any::<u8>(), 0..400), at in 0..60usize) {
        let image = image(1400);
        run(&image, &mut Host::default(), &frame);
        // And behind an honest beginning.
        let mut honest = tcp(80, ACK, 0);
        honest.truncate(at);
        honest.extend(frame);
        run(&image, &mut Host::default(), &honest);
    }
}
