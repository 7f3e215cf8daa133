//! Packets nobody meant to send: random ones and damaged ones through the loaded kernel program.
//!
//! Every run takes the same packets: the generator is seeded, so a failure comes again. Whatever comes in, it is counted
//! under exactly one reason, and what the kernel is told to do with it fits that reason.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, time::Instant};

use weir_abi::{
    Address, Config,
    counters::{REASONS, Reason},
    gue::OVERHEAD_LEN_BYTES_MAX,
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_LOCAL},
    service::{PROTO_TCP, PROTO_UDP, Slot, VipKey, VipRanges},
};
use weir_tests::{
    packet::{self, ACK, SYN},
    prog_run::{Balancer, Seen, key4},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Packets per run: about ten seconds.
const PACKETS: u32 = 120_000;
const SEED: u64 = 0x7765_6972;
/// The kernel takes no test packet shorter than an Ethernet header.
const LEN_MIN: usize = 14;
/// What fits into an Ethernet frame.
const LEN_MAX: usize = 1514;

const VIP: [u8; 4] = [198, 51, 100, 10];
const OWN4: [u8; 4] = [10, 1, 1, 2];
const OWN6: &str = "fd00:1:1::2";
const PEER6: &str = "fd00:1:4::2";

/// SplitMix64: small, seeded, good enough to damage packets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// tcp/80 → a tunnel; tcp/81 → with a second hop; tcp/82 → local; tcp/83 → local, before that a tunnel; tcp/84 → IPv6 tunnel
/// with a second hop; tcp/87 → nobody; udp/53; the same VIP in IPv6 as 81.
fn balancer() -> Balancer {
    let config = Config {
        abi_version: weir_abi::ABI_VERSION,
        has_v4: 1,
        has_v6: 1,
        address4: OWN4,
        address6: ip(OWN6).into(),
        mtu: 1400,
        tunnels: 0,
        guarded: 0,
    };
    let mut balancer = Balancer::load(config).expect("load");
    let backend = |address: Address, kind| Backend { address, kind, _pad: [0; 3] };
    let backends = [
        (1, backend(Address::v4(OWN4), KIND_LOCAL)),
        (2, backend(Address::v4([10, 1, 2, 2]), KIND_GUE4)),
        (3, backend(Address::v4([10, 1, 3, 2]), KIND_GUE4)),
        (4, backend(ip(PEER6).into(), KIND_GUE6)),
    ];
    for (slot, backend) in backends {
        balancer.backend(slot, backend).expect("backend");
    }
    for (port, owner, previous) in [(80, 2, 0), (81, 2, 3), (82, 1, 0), (83, 1, 3), (84, 4, 4), (87, 0, 0)] {
        let service = u32::from(port);
        balancer.service(service, key4(VIP, PROTO_TCP, port), Slot { owner, previous }).expect("service");
    }
    balancer.service(53, key4(VIP, PROTO_UDP, 53), Slot { owner: 2, previous: 0 }).expect("udp");
    let vip6 = VipKey {
        address: ip("2001:db8::10").into(),
        port: 80u16.to_be_bytes(),
        protocol: PROTO_TCP,
        _pad: 0,
    };
    balancer.service(6, vip6, Slot { owner: 2, previous: 3 }).expect("v6");
    let all = VipKey { port: [0, 0], ..key4(VIP, PROTO_UDP, 0) };
    balancer.ranges(all, VipRanges { fragments: 53 + 1, ..VipRanges::default() }).expect("fragments");
    balancer
}

/// Packets that make sense, of every kind the program tells apart.
fn good_packets() -> Vec<Vec<u8>> {
    let (client, client6) = ("203.0.113.7:40000", "[2001:db8:f::7]:40000");
    let mut plain = Vec::new();
    for port in [80, 81, 82, 83, 84, 87, 7] {
        for (flags, payload) in [(SYN, &b""[..]), (ACK, b"hello")] {
            plain.push(packet::tcp(client, &format!("198.51.100.10:{port}"), flags, payload));
        }
    }
    plain.push(packet::tcp(client6, "[2001:db8::10]:80", SYN, b""));
    plain.push(packet::tcp(client6, "[2001:db8::10]:80", ACK, &[7; 1300]));
    plain.push(packet::udp(client, "198.51.100.10:53", b"query"));
    plain.push(packet::tcp(client, "198.51.100.99:80", ACK, b"not a vip"));
    // ICMP errors about answers of each service, and echo requests.
    let (router, router6) = (ip("192.0.2.1"), ip("2001:db8:ffff::1"));
    for port in [80, 81, 82, 83, 84] {
        let answer = packet::tcp(&format!("198.51.100.10:{port}"), client, ACK, b"answer");
        plain.push(packet::icmp(router, IpAddr::from(VIP), 3, 4, [0, 0, 5, 0], &answer[14..]));
    }
    let answer = packet::tcp("[2001:db8::10]:80", client6, ACK, b"answer");
    plain.push(packet::icmp(router6, ip("2001:db8::10"), 2, 0, [0, 0, 5, 0], &answer[14..]));
    plain.push(packet::icmp(router6, ip("2001:db8::10"), 128, 0, [0; 4], b"ping"));
    plain.push(packet::icmp(router, IpAddr::from(VIP), 8, 0, [0; 4], b"ping"));

    let (peer, own, own6) = (ip("10.1.2.2"), IpAddr::from(OWN4), ip(OWN6));
    let mut good = plain.clone();
    for inner in plain {
        for second in [None, Some(ip("10.1.3.2")), Some(ip(PEER6))] {
            let tunnel = packet::gue(&inner, peer, own, 50_000, second);
            if second.is_none() && tunnel.len() < 1400 {
                good.push(packet::gue(&tunnel, peer, own, 50_001, None)); // a tunnel in a tunnel
            }
            good.push(tunnel);
            good.push(packet::gue(&inner, ip(PEER6), own6, 50_000, second));
        }
        good.push(packet::gue(&inner, ip("10.9.9.9"), own, 50_000, None));
    }
    let fragment = |bits: u8, offset: u8, mut packet: Vec<u8>| {
        (packet[20], packet[21]) = (bits, offset);
        packet
    };
    let whole = packet::tcp(client, "198.51.100.10:80", ACK, b"data");
    good.push(fragment(0x20, 0, whole.clone()));
    good.push(fragment(0, 9, whole.clone()));
    for words in [1usize, 10] {
        let mut optioned = whole.clone();
        optioned.splice(34..34, vec![1; words * 4]);
        optioned[14] = 0x45 + words as u8;
        good.push(optioned);
    }
    for next_header in [0, 43, 44, 58, 60] {
        let header = [6, 0, 0, 0, 0, 0, 0, 0];
        good.push(packet::frame(packet::ip(
            ip("2001:db8:f::7"),
            ip("2001:db8::10"),
            next_header,
            64,
            &header,
        )));
    }
    good.push(packet::frame(packet::ip(
        ip("203.0.113.7"),
        IpAddr::from(VIP),
        1,
        64,
        &[8, 0, 0, 0, 0, 0, 0, 0],
    )));
    good.push(packet::frame(packet::ip(ip("203.0.113.7"), IpAddr::from(VIP), 6, 1, &whole[34..])));
    good.push([&packet::HOST[..], &packet::ROUTER, &[8, 6], &[0; 28]].concat());
    let whole6 = packet::tcp(client6, "[2001:db8::10]:80", ACK, b"data");
    for headers in 1..=5 {
        let extensions = vec![(60, vec![1, 4, 0, 0, 0, 0]); headers];
        good.push(packet::with_extensions(whole6.clone(), &extensions));
    }
    for whole in [
        packet::tcp(client, "198.51.100.10:80", ACK, &[7; 100]),
        packet::udp(client, "198.51.100.10:53", &[7; 100]),
        packet::tcp(client6, "[2001:db8::10]:80", ACK, &[7; 100]),
    ] {
        good.extend(packet::fragments(&whole, 1, 48));
    }
    for payload in [1300, 1340] {
        let mut unfragmentable = packet::tcp(client, "198.51.100.10:80", ACK, &vec![7; payload]);
        good.push(unfragmentable.clone());
        unfragmentable[20] = 0x40;
        good.push(unfragmentable);
        good.push(packet::tcp(client6, "[2001:db8::10]:80", ACK, &vec![7; payload]));
    }
    // Every tenth again in a VLAN, every twentieth in two.
    let tagged: Vec<_> = good
        .iter()
        .step_by(10)
        .enumerate()
        .map(|(number, frame)| {
            let tags: &[u8] =
                if number % 2 == 0 { &[0x81, 0, 0, 5] } else { &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6] };
            [&frame[..12], tags, &frame[12..]].concat()
        })
        .collect();
    good.extend(tagged);
    good
}

/// One to four injuries, most of them among the headers.
fn damaged(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = good[random.below(good.len())].clone();
    for _ in 0..=random.below(4) {
        let headers = packet.len().min(110);
        let at = if random.below(8) == 0 { random.below(packet.len()) } else { random.below(headers) };
        match random.below(9) {
            0 | 1 => packet[at] ^= 1 << random.below(8),
            2 => packet[at] = random.next() as u8,
            3 => packet[at] = [0, 1, 4, 6, 17, 41, 0x45, 0x60, 0x7f, 0x80, 0xff][random.below(11)],
            4 => packet.truncate(at.max(LEN_MIN)),
            5 => {
                let len = random.below(40);
                let more = random.bytes(len);
                packet.splice(at..at, more);
            }
            6 => {
                let end = (at + random.below(24)).min(packet.len());
                packet.drain(at..end);
            }
            7 => {
                let other = &good[random.below(good.len())];
                let from = random.below(other.len());
                packet.truncate(at);
                packet.extend(&other[from..]);
            }
            _ => {
                let end = (at + random.below(32)).min(packet.len());
                let again = packet[at..end].to_vec();
                packet.splice(at..at, again);
            }
        }
        if packet.len() < LEN_MIN {
            packet.resize(LEN_MIN, 0);
        }
        packet.truncate(LEN_MAX);
    }
    packet
}

/// Noise, half of it behind an honest Ethernet header.
fn noise(random: &mut Random) -> Vec<u8> {
    let room = if random.below(4) == 0 { LEN_MAX - LEN_MIN } else { 100 };
    let len = LEN_MIN + random.below(room);
    let mut packet = random.bytes(len);
    if random.below(2) == 0 {
        let ethertype = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]][random.below(4)];
        packet[12..14].copy_from_slice(&ethertype);
        if let Some(first) = packet.get_mut(14) {
            *first = [0x45, 0x46, 0x4f, 0x60, *first][random.below(5)];
        }
    }
    packet
}

/// The VLAN tags of a frame, two at most, and the frame without them.
fn untagged(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let is_tag = |at: usize| frame.len() >= at + 4 && matches!(frame[at..at + 2], [0x81, 0] | [0x88, 0xa8]);
    let len = if !is_tag(12) { 0 } else { 4 + 4 * usize::from(is_tag(16)) };
    (frame[12..12 + len].to_vec(), [&frame[..12], &frame[12 + len..]].concat())
}

/// Whether `frame` ends with `packet`, except for a mark of congestion: a byte, and a checksum where there is one.
fn is_end(frame: &[u8], packet: &[u8]) -> bool {
    let end = &frame[frame.len() - packet.len()..];
    let is_congested = packet::tos(frame) & 3 == 3;
    let tos = packet.iter().zip(end).skip(1).take(1).all(|(now, before)| now == before || is_congested);
    let is_v4 = packet[0] >> 4 == 4;
    let rest =
        packet.iter().zip(end).enumerate().filter(|(at, _)| *at != 1 && !(is_v4 && matches!(at, 10 | 11)));
    let checksum = !is_v4 || is_congested || packet[10..12] == end[10..12];
    tos && checksum && rest.into_iter().all(|(_, (now, before))| now == before)
}

/// What must hold for every packet.
fn check(sent: &[u8], seen: &Seen) {
    let overhead = OVERHEAD_LEN_BYTES_MAX as usize;
    let ((tags, sent), (tags_after, packet)) = (untagged(sent), untagged(&seen.packet));
    if seen.action != XDP_DROP {
        assert_eq!(tags, tags_after, "tags stay as they are");
    }
    let (came, went) = (sent.len(), packet.len());
    match seen.reason {
        Reason::PassNotVip | Reason::PassVipOther | Reason::PassNoService | Reason::DeliverLocal => {
            assert_eq!(seen.action, XDP_PASS);
            assert_eq!(packet, sent, "a packet that is passed on stays as it is");
        }
        Reason::DecapDeliver => {
            assert_eq!(seen.action, XDP_PASS);
            // At least IPv4, UDP and GUE; at most IPv4 with all options or IPv6, and a chain.
            assert!((20 + 8 + 4..=60 + 8 + 24).contains(&(came - went)), "{came} bytes became {went}");
            assert!(is_end(&sent, &packet[14..]), "the inner packet stays as it is");
        }
        Reason::IcmpEcho => {
            assert_eq!(seen.action, XDP_TX);
            assert_eq!(went, came, "an echo is as long as what it answers");
        }
        Reason::IcmpTooBig => {
            assert_eq!(seen.action, XDP_TX);
            assert!(went == 14 + 28 + 256 || went == 14 + 48 + 256, "{came} bytes became {went}");
        }
        Reason::Encap | Reason::EncapIcmp | Reason::EncapFragment | Reason::EncapSecondHop => {
            assert_eq!(seen.action, XDP_TX);
            assert!((20 + 8 + 4..=overhead).contains(&(went - came)), "{came} bytes became {went}");
            assert!(packet.ends_with(&sent[14..]), "the packet stays as it is");
        }
        Reason::DecapSecondHop => {
            assert_eq!(seen.action, XDP_TX);
            // The new tunnel has no chain and is IPv4 or IPv6.
            let inner = [20, 40].into_iter().any(|ip| is_end(&sent, &packet[14 + ip + 8 + 4..]));
            assert!(inner && went < came + overhead, "the inner packet stays as it is");
        }
        _ => {
            assert_eq!(seen.action, XDP_DROP);
            assert!(went <= came + overhead);
        }
    }
}

/// Shows the packet at hand when a test fails.
struct Culprit<'a> {
    number: u32,
    packet: &'a [u8],
}

impl Drop for Culprit<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut hex = String::new();
            for byte in self.packet {
                let _ = write!(hex, "{byte:02x}");
            }
            eprintln!("packet {} of seed {SEED:#x}: {hex}", self.number);
        }
    }
}

#[test]
fn whatever_comes_in_is_counted_once_and_treated_as_counted() {
    // Routes of this machine shall not decide where a damaged second hop leads.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace of its own (root)");
    let mut balancer = balancer();
    let good = good_packets();
    let mut random = Random(SEED);
    let mut reasons: BTreeMap<Reason, u32> = BTreeMap::new();
    let begun = Instant::now();
    for number in 0..PACKETS {
        let sent = match number as usize {
            index if index < good.len() => good[index].clone(),
            index if index % 5 == 0 => noise(&mut random),
            _ => damaged(&mut random, &good),
        };
        let culprit = Culprit { number, packet: &sent };
        let seen = balancer.run(&sent).expect("run");
        check(&sent, &seen);
        drop(culprit);
        *reasons.entry(seen.reason).or_default() += 1;
    }
    println!("{PACKETS} packets in {:.1} s", begun.elapsed().as_secs_f64());
    for (reason, name) in REASONS {
        println!("{:>8} {name}", reasons.get(&reason).copied().unwrap_or(0));
    }
    // What needs a routing table or a lack of memory is not met here, and what cannot happen must not.
    for (reason, name) in REASONS {
        let met = reasons.contains_key(&reason);
        match reason {
            Reason::DropInternal => assert!(!met, "{name}"),
            Reason::DropNoRoute | Reason::DropHeadroom => {}
            _ => assert!(met, "no packet was counted under {name}: the packets are too tame"),
        }
    }
}
