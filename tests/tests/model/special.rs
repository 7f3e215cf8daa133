//! Packets for services that look at more than the flow: at connection ids, at who sends, at how often.

use weir_tests::{
    packet::{self, ACK, SYN},
    vips::ip,
};

use crate::{packets::end, world::QUIC_SERVERS};

/// A flag of TCP.
const FIN: u8 = 1;

/// Datagrams with connection ids: of each server, one nobody has, and one too short.
pub(crate) fn of_quic(from: &str, vip: &str) -> Vec<Vec<u8>> {
    let ids = QUIC_SERVERS.into_iter().map(|(id, _)| id).chain([0x0999]);
    let mut payloads: Vec<_> = ids.map(short_header).collect();
    payloads.extend([0xe0, 0xc0].map(|first| long_header(first, QUIC_SERVERS[0].0)));
    payloads.push(vec![0x40, 7, 1]);
    let mut all = Vec::new();
    for port in [443, 8_443] {
        all.extend(payloads.iter().map(|payload| packet::udp(from, &end(vip, port), payload)));
    }
    all
}

pub(crate) fn short_header(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    [&[0x40, 0x07, high, low][..], &[9; 20]].concat()
}

pub(crate) fn long_header(first: u8, id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    [&[first, 0, 0, 0, 1, 8, 0x07, high, low][..], &[9; 30]].concat()
}

/// SYNs and more from clients that lists and rates tell apart, and from where the routing table knows a way.
pub(crate) fn of_guarded(vip: &str) -> Vec<Vec<u8>> {
    let clients: &[&str] = if ip(vip).is_ipv4() {
        &[
            "1.2.3.4",
            "17.1.1.1",
            "25.1.1.1",
            "33.1.1.1",
            "203.0.113.66",
            "203.0.113.67",
            "10.1.2.2",
            "10.1.3.2",
            "10.1.5.2",
        ]
    } else {
        &[
            "::1:1",
            "2001:db8:e::1",
            "4001::1",
            "2001:db8:f::66",
            "9001::1",
            "fd00:1:2::2",
            "fd00:1:3::2",
            "fd00:1:5::2",
        ]
    };
    let mut all = Vec::new();
    for client in clients {
        for (port, flags) in [(80, SYN), (83, SYN), (84, SYN), (84, ACK), (1_500, SYN)] {
            all.push(packet::tcp(&end(client, 999), &end(vip, port), flags, b"data"));
        }
        all.push(packet::udp(&end(client, 999), &end(vip, 53), b"query"));
    }
    // SYNs a kernel answers with no cookie, and one with options.
    all.push(packet::tcp(&end(clients[0], 998), &end(vip, 83), SYN | FIN, b""));
    let mut optioned = packet::tcp(&end(clients[0], 998), &end(vip, 83), SYN, &[2, 4, 5, 180, 1, 1, 4, 2]);
    let data_offset_at = optioned.len() - 8 - 20 + 12;
    optioned[data_offset_at] = 7 << 4;
    all.push(optioned);
    all
}
