//! Packets: one of every kind that makes sense, and a generator of many more that do or do not.

use std::net::IpAddr;

use weir_tests::{
    packet::{self, ACK, SYN},
    vips::ip,
};

use crate::{
    special,
    world::{
        ALL4, ALL6, CLIENT4, CLIENT6, CONNECTED, Node, OTHERS4, OTHERS6, OWN4, PEERS4, PEERS6, QUIC_SERVERS,
        STRANGER4, STRANGER6, VIP4, VIP6,
    },
};

const OWN6: &str = "fd00:1:1::2";
/// What fits into an Ethernet frame, with two tags.
const LEN_MAX: usize = 1522;
const LEN_MIN: usize = 14;

/// SplitMix64: small, seeded, good enough to damage packets.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

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

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

pub(crate) fn end(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Packets that make sense, of every kind the program tells apart.
pub(crate) fn good(node: &Node) -> Vec<Vec<u8>> {
    let mut plain = Vec::new();
    for (client, vip, all) in [(CLIENT4, VIP4, ALL4), (CLIENT6, VIP6, ALL6)] {
        let from = end(client, CONNECTED);
        for (port, flags, payload) in [
            (80, SYN, &b""[..]),
            (80, ACK, b"hello"),
            (81, SYN | ACK, b""),
            (83, SYN, b""),
            (83, ACK, b"known here"),
            (84, ACK, b"known nowhere"),
            (87, SYN, b""),
            (7, ACK, b"no such service"),
            (1_000, ACK, b""),
            (2_001, ACK, b""),
        ] {
            plain.push(packet::tcp(&from, &end(vip, port), flags, payload));
        }
        plain.push(packet::tcp(&end(client, 40_001), &end(vip, 83), ACK, b"a stranger to the listener"));
        plain.push(packet::tcp(&from, &end(all, 65_535), ACK, b""));
        for port in [53, 5_353, 443, 6_080, 8_443] {
            plain.push(packet::udp(&from, &end(vip, port), b"query"));
        }
        plain.push(packet::udp(&from, &end(all, 53), b"query"));
        plain.extend(special::of_quic(&from, vip));
        plain.extend(special::of_guarded(vip));
        // ICMP errors about answers of each service, also one that is a fragment, and echo requests.
        let (to, client) = (ip(vip), ip(client));
        let (router, kind) =
            if client.is_ipv4() { (ip("192.0.2.1"), 3) } else { (ip("2001:db8:ffff::1"), 2) };
        for port in [80, 83, 84, 7] {
            let answer = packet::tcp(&end(vip, port), &from, ACK, b"answer");
            plain.push(packet::icmp(router, to, kind, 4, [0, 0, 5, 0], &answer[14..]));
        }
        let answer = packet::udp(&end(vip, 53), &from, &[7; 64]);
        plain.push(packet::icmp(router, to, 1, 1, [0; 4], &answer[14..]));
        for part in packet::fragments(&answer, 9, 48) {
            plain.push(packet::icmp(router, to, kind, 0, [0; 4], &part[14..]));
        }
        for kind in [0, 8, 128, 129, 135] {
            plain.push(packet::icmp(client, to, kind, 0, [0; 4], b"ping"));
        }
        // Fragments of a segment and of a datagram, the last of the first before its first.
        for (number, whole) in
            [packet::tcp(&from, &end(vip, 80), ACK, &[7; 100]), packet::udp(&from, &end(vip, 53), &[7; 100])]
                .into_iter()
                .enumerate()
        {
            let parts = packet::fragments(&whole, 10 + number as u16, 48);
            plain.extend(parts.iter().rev().cloned().chain(parts.iter().cloned()));
        }
        plain.push(packet::frame(packet::ip(client, to, 132, 64, &[0; 20])));
        plain.push(packet::frame(packet::ip(client, to, 6, 1, &[0; 20])));
    }
    plain.push(packet::tcp(&end(CLIENT4, 1), "198.51.100.99:80", ACK, b"not a vip"));
    let mut zeroes = packet::icmp(ip(CLIENT4), ip(VIP4), 8, 0, [0; 4], b"");
    zeroes[36..38].copy_from_slice(&[0xf7, 0xff]); // the answer's checksum becomes a zero
    plain.push(zeroes);
    plain.extend(with_options_and_extensions());
    let mut good = plain.clone();
    good.extend(tunnels(&plain));
    good.extend(tunnel_errors());
    for len in [1_200, 1_300, 1_340, 1_380, 1_420] {
        let mut unfragmentable = packet::tcp(&end(CLIENT4, 9), &end(VIP4, 80), ACK, &vec![7; len]);
        good.push(unfragmentable.clone());
        unfragmentable[20] = 0x40;
        good.extend([
            packet::gue(&unfragmentable, ip(PEERS4[0]), ip(OWN4), 1, Some(ip(PEERS6[2]))),
            unfragmentable,
        ]);
        good.push(packet::tcp(&end(CLIENT6, 9), &end(VIP6, 80), ACK, &vec![7; len]));
    }
    good.push([&packet::HOST[..], &packet::ROUTER, &[8, 6], &[0; 28]].concat());
    // Every seventh again in a VLAN or in two.
    let tagged: Vec<_> =
        good.iter().step_by(7).enumerate().map(|(number, frame)| tagged(frame, number)).collect();
    good.extend(tagged);
    good.retain(|frame| frame.len() <= LEN_MAX);
    assert!(node.has_v4 || node.has_v6);
    good
}

fn with_options_and_extensions() -> Vec<Vec<u8>> {
    let whole = packet::tcp(&end(CLIENT4, CONNECTED), &end(VIP4, 80), ACK, b"data");
    let options = [1_usize, 10].map(|words| {
        let mut optioned = whole.clone();
        optioned.splice(34..34, vec![1; words * 4]);
        optioned[14] = 0x45 + words as u8;
        optioned
    });
    let mut all = Vec::from(options);
    let whole = packet::tcp(&end(CLIENT6, CONNECTED), &end(VIP6, 83), ACK, b"data");
    for headers in 1..=5 {
        all.push(packet::with_extensions(whole.clone(), &vec![(60, vec![1, 4, 0, 0, 0, 0]); headers]));
    }
    for (number, rest) in [
        (0, vec![0; 6]),
        (43, vec![0; 6]),
        (43, vec![4, 1, 0, 0, 0, 0]),
        (60, vec![0; 190]),
        (60, vec![0; 198]),
    ] {
        all.push(packet::with_extensions(whole.clone(), &[(number, rest)]));
    }
    // An atomic fragment, and a first one behind destination options.
    for offset in [0, 1] {
        all.push(packet::with_extensions(
            whole.clone(),
            &[(60, vec![0; 6]), (44, vec![0, offset, 0, 0, 0, 9])],
        ));
    }
    let echo = packet::icmp(ip(CLIENT6), ip(VIP6), 128, 0, [0; 4], b"ping");
    all.push(packet::with_extensions(echo, &[(60, vec![0; 6])]));
    all
}

/// The packets in tunnels of every form, from peers and strangers, marked by congestion, and in one another.
fn tunnels(plain: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for inner in plain {
        for second in [None, Some(ip(PEERS4[1])), Some(ip(PEERS6[0]))] {
            let tunnel = packet::gue(inner, ip(PEERS4[0]), ip(OWN4), 50_000, second);
            if second.is_none() && tunnel.len() < 1_300 {
                all.push(packet::gue(&tunnel, ip(PEERS4[0]), ip(OWN4), 50_001, None));
            }
            all.push(packet::gue(inner, ip(PEERS6[0]), ip(OWN6), 50_000, second));
            if second.is_some() {
                all.push(asked(tunnel.clone()));
            }
            all.push(tunnel);
        }
        all.push(packet::gue(inner, ip(STRANGER4), ip(OWN4), 50_000, None));
        for (from, own) in [(OTHERS4[0], OWN4), (OTHERS4[1], OWN4), (OTHERS6[0], OWN6), (PEERS6[1], OWN6)] {
            all.push(packet::ipip(inner, ip(from), ip(own), 0x1234_5678));
        }
        all.push(packet::gue(inner, ip(OTHERS4[0]), ip(OWN4), 50_000, None));
        all.push(packet::gue_variant_1(inner, ip(OTHERS6[0]), ip(OWN6), 50_000));
        let capable = packet::with_tos(inner.clone(), 2);
        for inner in [inner.clone(), capable] {
            let tunnel = packet::gue(&inner, ip(PEERS6[0]), ip(OWN6), 50_000, Some(ip(PEERS4[2])));
            all.push(packet::with_tos(tunnel, 3));
        }
    }
    all
}

/// A tunnel with a second hop as that second hop gets it, where the first would have back what is new.
fn asked(mut tunnel: Vec<u8>) -> Vec<u8> {
    let ip_len = if tunnel[12..14] == [8, 0] { 20 } else { 40 };
    let index_at = 14 + ip_len + 8 + 4 + 1;
    if let Some(place) = tunnel.get_mut(index_at..index_at + 2) {
        place.copy_from_slice(&[2, 3]);
    }
    tunnel
}

/// What a router says of a tunnel of this host, of which it quotes so much.
fn tunnel_error(tunnel: &[u8], kind: u8, code: u8, mtu: u16, quoted: usize) -> Vec<u8> {
    let (router, own) = if tunnel[12..14] == [8, 0] { ("192.0.2.1", OWN4) } else { ("2001:db8:9::1", OWN6) };
    let [high, low] = mtu.to_be_bytes();
    let quote = &tunnel[14..];
    packet::icmp(ip(router), ip(own), kind, code, [0, 0, high, low], &quote[..quote.len().min(quoted)])
}

/// Errors about tunnels of every form.
fn tunnel_errors() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (client, vip) in [(CLIENT4, VIP4), (CLIENT6, VIP6)] {
        let mut inner = packet::tcp(&end(client, CONNECTED), &end(vip, 80), ACK, &[7; 64]);
        if client == CLIENT4 {
            inner[20] |= 0x40;
        }
        let (own, own6, hop, hop6) = (ip(OWN4), ip(OWN6), ip(PEERS4[0]), ip(PEERS6[0]));
        let tunnels = [
            packet::gue(&inner, own, hop, 50_000, None),
            packet::gue(&inner, own, hop, 50_000, Some(hop6)),
            packet::ipip(&inner, own, hop, 0),
            packet::gue(&inner, own6, hop6, 50_000, Some(hop)),
            packet::ipip(&inner, own6, hop6, 0),
        ];
        for tunnel in tunnels {
            let is_v4 = tunnel[12..14] == [8, 0];
            for mtu in [0, 600, 1_400] {
                let (kind, code) = if is_v4 { (3, 4) } else { (2, 0) };
                all.push(tunnel_error(&tunnel, kind, code, mtu, 200));
            }
            all.push(tunnel_error(&tunnel, if is_v4 { 11 } else { 1 }, 0, 0, 200));
        }
    }
    all
}

fn tagged(frame: &[u8], number: usize) -> Vec<u8> {
    const TAGS: [&[u8]; 4] = [
        &[0x81, 0, 0, 5],
        &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6],
        &[0x88, 0xa8, 0, 5],
        &[0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 7],
    ];
    [&frame[..12], TAGS[number % TAGS.len()], &frame[12..]].concat()
}

/// Any packet: a third makes sense, half once did, the rest is noise.
pub(crate) fn any(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    match random.below(12) {
        0 => noise(random),
        1..=4 => sensible(random),
        5 => {
            let frame = sensible(random);
            damaged(random, frame, good)
        }
        _ => {
            let frame = good[random.below(good.len())].clone();
            damaged(random, frame, good)
        }
    }
}

/// A packet of any kind, from anywhere, to any service, with fields of any value.
fn sensible(random: &mut Random) -> Vec<u8> {
    let is_v4 = random.one_in(2);
    let client = match (is_v4, random.below(8)) {
        (true, 0) => ip(CLIENT4),
        (false, 0) => ip(CLIENT6),
        (true, _) => IpAddr::from((random.next() as u32).to_be_bytes()),
        (false, _) => {
            IpAddr::from((u128::from(random.next()) << 64 | u128::from(random.next())).to_be_bytes())
        }
    };
    let vip = ip(match (is_v4, random.below(4)) {
        (true, 0) => ALL4,
        (true, _) => VIP4,
        (false, 0) => ALL6,
        (false, _) => VIP6,
    });
    let source_port = if random.one_in(8) { CONNECTED } else { random.next() as u16 };
    let port = if random.one_in(16) {
        random.next() as u16
    } else {
        random.of(&[53, 80, 81, 83, 84, 87, 443, 1_000, 1_999, 2_000, 3_000, 3_001, 5_353, 8_443])
    };
    let len = if random.one_in(4) { 1_180 + random.below(260) } else { random.below(80) };
    let payload = match (random.below(8), random.of(&QUIC_SERVERS)) {
        (0, (id, _)) => special::short_header(id),
        (1, (id, _)) => special::long_header(random.of(&[0xe0, 0xef, 0xc0, 0xf0, 0xa0]), id),
        _ => vec![random.next() as u8; len],
    };
    let len = payload.len();
    let (from, to) = (end(&client.to_string(), source_port), end(&vip.to_string(), port));
    let mut frame = match random.below(8) {
        0 | 1 => packet::udp(&from, &to, &payload),
        2 => {
            let answer = if random.one_in(2) {
                packet::tcp(&to, &from, ACK, &payload[..len.min(64)])
            } else {
                packet::udp(&to, &from, &payload[..len.min(64)])
            };
            let kind = if is_v4 { random.of(&[3, 11, 12, 5]) } else { random.of(&[1, 2, 3, 4, 137]) };
            let rest = (random.next() as u32).to_be_bytes();
            let carried = answer.len() - random.below(2) * random.below(answer.len() - 14);
            packet::icmp(client, vip, kind, random.next() as u8, rest, &answer[14..carried.max(14)])
        }
        3 => packet::icmp(client, vip, if is_v4 { 8 } else { 128 }, 0, [1, 2, 3, 4], &payload),
        _ => packet::tcp(&from, &to, random.of(&[SYN, ACK, SYN | ACK, ACK | 4, 0xff]), &payload),
    };
    if random.one_in(3) {
        let tos = random.next() as u8;
        frame = packet::with_tos(frame, tos);
    }
    if is_v4 && random.one_in(2) {
        frame[20] |= 0x40; // don't fragment
    }
    if random.one_in(8) {
        frame[if is_v4 { 22 } else { 21 }] = random.of(&[0, 1, 2, 255]);
    }
    if random.one_in(8) {
        let parts = packet::fragments(&frame, random.below(4) as u16, 8 * (1 + random.below(100)));
        frame = parts[random.below(parts.len())].clone();
    } else if !is_v4 && random.one_in(4) {
        let extensions: Vec<_> = (0..1 + random.below(5))
            .map(|_| {
                (
                    random.of(&[0, 43, 44, 60]),
                    random.of(&[[0; 6], [0, 1, 0, 0, 0, 1], [4, 0, 0, 0, 0, 9]]).to_vec(),
                )
            })
            .collect();
        frame = packet::with_extensions(frame, &extensions);
    }
    for _ in 0..random.below(4) / 2 + usize::from(random.one_in(16)) {
        frame = in_tunnel(random, &frame);
    }
    if random.one_in(12) {
        let hop = random.of(&[(OWN4, PEERS4[1]), (OWN6, PEERS6[1])]);
        let tunnel = if random.one_in(2) {
            packet::ipip(&frame, ip(hop.0), ip(hop.1), 0)
        } else {
            packet::gue(&frame, ip(hop.0), ip(hop.1), 50_000, None)
        };
        let (mtu, quoted) = (random.next() as u16 % 2_000, random.below(200));
        frame = tunnel_error(&tunnel, random.of(&[1, 2, 3, 11]), random.of(&[0, 4]), mtu, quoted);
    }
    if random.one_in(8) {
        let number = random.below(4);
        frame = tagged(&frame, number);
    }
    frame.truncate(LEN_MAX);
    frame
}

fn in_tunnel(random: &mut Random, inner: &[u8]) -> Vec<u8> {
    let hop = match random.below(6) {
        0 | 1 => None,
        2 | 3 => Some(ip(random.of(&PEERS4))),
        4 => Some(ip(random.of(&PEERS6))),
        _ => Some(IpAddr::from((random.next() as u32).to_be_bytes())),
    };
    let (from, to) = if random.one_in(2) {
        (if random.one_in(16) { STRANGER4 } else { random.of(&PEERS4) }, OWN4)
    } else {
        (if random.one_in(16) { STRANGER6 } else { random.of(&PEERS6) }, OWN6)
    };
    let from = match (random.below(6), to) {
        (0, OWN4) => random.of(&OTHERS4),
        (0, _) => random.of(&OTHERS6),
        _ => from,
    };
    let port = random.next() as u16;
    let tunnel = match random.below(6) {
        0 => packet::ipip(inner, ip(from), ip(to), random.next() as u32),
        1 => packet::gue_variant_1(inner, ip(from), ip(to), port),
        2 if hop.is_some() => asked(packet::gue(inner, ip(from), ip(to), port, hop)),
        _ => packet::gue(inner, ip(from), ip(to), port, hop),
    };
    if random.one_in(4) { packet::with_tos(tunnel, random.of(&[0, 1, 2, 3, 0xff])) } else { tunnel }
}

/// One to four injuries, most of them among the headers.
fn damaged(random: &mut Random, mut packet: Vec<u8>, good: &[Vec<u8>]) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let headers = packet.len().min(110);
        let at = if random.one_in(8) { random.below(packet.len()) } else { random.below(headers) };
        match random.below(9) {
            0 | 1 => packet[at] ^= 1 << random.below(8),
            2 => packet[at] = random.next() as u8,
            3 => packet[at] = random.of(&[0, 1, 4, 6, 17, 41, 0x45, 0x60, 0x7f, 0x80, 0xff]),
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
    let room = if random.one_in(4) { LEN_MAX - LEN_MIN } else { 100 };
    let len = LEN_MIN + random.below(room);
    let mut packet = random.bytes(len);
    if random.one_in(2) {
        let ethertype = random.of(&[[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]]);
        packet[12..14].copy_from_slice(&ethertype);
        let first = packet.get(14).copied().unwrap_or_default();
        if let Some(place) = packet.get_mut(14) {
            *place = random.of(&[0x45, 0x46, 0x4f, 0x60, first]);
        }
    }
    packet
}
