//! Builds packets, byte by byte, with right lengths and checksums.

use std::net::{IpAddr, SocketAddr};

/// Source MAC of every packet built: the router.
pub const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Destination MAC: the balancer.
pub const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// TCP flags.
pub const SYN: u8 = 0x02;
/// TCP flags.
pub const ACK: u8 = 0x10;

/// A TCP segment in an Ethernet frame.
pub fn tcp(from: &str, to: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let mut segment = Vec::from(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = checksum(&segment, pseudo(from.ip(), to.ip(), 6, segment.len()));
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    frame(ip(from.ip(), to.ip(), 6, 64, &segment))
}

/// A UDP datagram in an Ethernet frame.
pub fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to) = ends(from, to);
    let datagram = udp_datagram(from, to, payload, true);
    frame(ip(from.ip(), to.ip(), 17, 64, &datagram))
}

/// An ICMP or ICMPv6 message in an Ethernet frame; `rest` is what stands between the checksum and `payload`.
pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(payload);
    let (protocol, start) = if from.is_ipv4() { (1, 0) } else { (58, pseudo(from, to, 58, message.len())) };
    let sum = checksum(&message, start);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(ip(from, to, protocol, 64, &message))
}

fn udp_datagram(from: SocketAddr, to: SocketAddr, payload: &[u8], with_checksum: bool) -> Vec<u8> {
    let mut datagram = Vec::from(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    if with_checksum {
        let sum = checksum(&datagram, pseudo(from.ip(), to.ip(), 17, datagram.len()));
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    datagram
}

/// The IP packet of `frame` in a GUE tunnel, optionally with a second hop; `source_port` is the flow's.
pub fn gue(frame_in: &[u8], from: IpAddr, to: IpAddr, source_port: u16, second: Option<IpAddr>) -> Vec<u8> {
    let protocol = inner_protocol(frame_in);
    let mut payload = match second {
        None => vec![0, protocol, 0, 0],
        Some(IpAddr::V4(hop)) => [&[2, protocol, 0, 0, 4, 1, 2, 0][..], &hop.octets()].concat(),
        Some(IpAddr::V6(hop)) => [&[5, protocol, 0, 0, 6, 1, 2, 0][..], &hop.octets()].concat(),
    };
    payload.extend(&frame_in[14..]);
    let datagram =
        udp_datagram(SocketAddr::new(from, source_port), SocketAddr::new(to, 6080), &payload, false);
    outer(ip(from, to, 17, 64, &datagram), tos(frame_in))
}

/// The IP packet of `frame` in GUE of variant 1: right behind UDP.
pub fn gue_variant_1(frame_in: &[u8], from: IpAddr, to: IpAddr, source_port: u16) -> Vec<u8> {
    let (from_port, to_port) = (SocketAddr::new(from, source_port), SocketAddr::new(to, 6080));
    let datagram = udp_datagram(from_port, to_port, &frame_in[14..], false);
    outer(ip(from, to, 17, 64, &datagram), tos(frame_in))
}

/// The IP packet of `frame` in IPIP; over IPv6 the flow label is made of the flow's hash.
pub fn ipip(frame_in: &[u8], from: IpAddr, to: IpAddr, hash: u32) -> Vec<u8> {
    let mut tunnel = outer(ip(from, to, inner_protocol(frame_in), 64, &frame_in[14..]), tos(frame_in));
    if from.is_ipv6() {
        let label = (hash >> 12).to_be_bytes();
        tunnel[15] |= label[1];
        tunnel[16..18].copy_from_slice(&label[2..]);
    }
    tunnel
}

fn inner_protocol(frame: &[u8]) -> u8 {
    if frame[12..14] == [8, 0] { 4 } else { 41 }
}

/// The frame of a tunnel's packet, which is marked as the packet in it.
fn outer(mut packet: Vec<u8>, tos: u8) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        (packet[0], packet[1]) = (0x60 | tos >> 4, tos << 4);
    } else {
        packet[1] = tos;
        packet[6] = 0x40; // don't fragment
        packet[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&packet[..20], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    frame(packet)
}

/// The IPv6 packet of a frame with extension headers, each given as its number and what follows its first two bytes.
pub fn with_extensions(mut frame: Vec<u8>, extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let carried = frame[20];
    let numbers = extensions.iter().map(|(number, _)| *number).chain([carried]).skip(1);
    let mut headers = Vec::new();
    for ((_, rest), next) in extensions.iter().zip(numbers) {
        headers.extend([next, ((rest.len() + 2) / 8 - 1) as u8]);
        headers.extend(rest);
    }
    frame[20] = extensions.first().map_or(carried, |(number, _)| *number);
    let len = u16::from_be_bytes([frame[18], frame[19]]) + headers.len() as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame.splice(54..54, headers);
    frame
}

/// The packet of a frame in fragments whose payloads are `len` bytes long, a multiple of eight; the last may be shorter.
pub fn fragments(frame: &[u8], id: u16, len: usize) -> Vec<Vec<u8>> {
    let header_len = if frame[12..14] == [8, 0] { 20 } else { 40 };
    let (header, payload) = frame[14..].split_at(header_len);
    let count = payload.len().div_ceil(len);
    let pieces = payload.chunks(len).enumerate().map(|(number, piece)| {
        let more = number + 1 < count;
        let mut packet = header.to_vec();
        if header_len == 20 {
            let total = (20 + piece.len()) as u16;
            let offset = (number * len / 8) as u16 | if more { 0x2000 } else { 0 };
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[6..8].copy_from_slice(&offset.to_be_bytes());
            packet[10..12].copy_from_slice(&[0, 0]);
            let sum = checksum(&packet, 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let offset = (number * len) as u16 | u16::from(more);
            packet[4..6].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
            packet.extend([packet[6], 0]);
            packet[6] = 44;
            packet.extend(offset.to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(id.to_be_bytes());
        }
        packet.extend(piece);
        [&frame[..14], &packet].concat()
    });
    pieces.collect()
}

/// DSCP and ECN of the packet in a frame.
pub fn tos(frame: &[u8]) -> u8 {
    if frame[12..14] == [8, 0] { frame[15] } else { frame[14] << 4 | frame[15] >> 4 }
}

/// The same frame with other DSCP and ECN.
pub fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        frame[15] = tos;
        frame[24..26].copy_from_slice(&[0, 0]);
        let header_len = usize::from(frame[14] & 0x0f) * 4;
        let sum = checksum(&frame[14..14 + header_len], 0);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        (frame[14], frame[15]) = (0x60 | tos >> 4, tos << 4 | frame[15] & 0x0f);
    }
    frame
}

/// An IP packet around `payload`.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let len = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0, (len >> 8) as u8, len as u8, 0, 0, 0, 0, ttl, protocol, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header, 0);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.extend(payload);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let len = payload.len() as u16;
            let mut header = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, protocol, ttl];
            header.extend(from.octets());
            header.extend(to.octets());
            header.extend(payload);
            header
        }
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// An Ethernet frame from the router to the host.
pub fn frame(ip: Vec<u8>) -> Vec<u8> {
    let ethertype = if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&HOST[..], &ROUTER, &ethertype, &ip].concat()
}

/// The same frame on its way back: MAC addresses exchanged.
pub fn turned(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&ROUTER);
    frame[6..12].copy_from_slice(&HOST);
    frame
}

fn ends(from: &str, to: &str) -> (SocketAddr, SocketAddr) {
    (from.parse().expect("source address"), to.parse().expect("destination address"))
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u32 {
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("{from} and {to} are of different families"),
    };
    sum(&addresses) + u32::from(protocol) + len as u32
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + sum(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of the TCP segment in a frame without IPv4 options or extension headers, its own field taken for zero.
pub fn tcp_checksum(frame: &[u8]) -> u16 {
    let (from, to, at): (IpAddr, IpAddr, usize) = if frame[12..14] == [8, 0] {
        let address = |at| <[u8; 4]>::try_from(&frame[at..at + 4]).expect("address").into();
        (address(26), address(30), 34)
    } else {
        let address = |at| <[u8; 16]>::try_from(&frame[at..at + 16]).expect("address").into();
        (address(22), address(38), 54)
    };
    let mut segment = frame[at..].to_vec();
    segment[16..18].copy_from_slice(&[0, 0]);
    checksum(&segment, pseudo(from, to, 6, segment.len()))
}
