//! ICMP and ICMPv6 for a VIP: echo requests are answered on the spot, errors go where the flow goes they are about.
//!
//! An error names its flow in the packet it carries, which went from the VIP to the client: read backwards it is the
//! flow as a balancer knows it. So whichever balancer ECMP gives an error to, the proxy that sent the packet hears of it.

use core::mem::offset_of;

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    Address, checksum,
    counters::Reason,
    headers::{Eth, Icmp, Ipv4, Ipv6},
    service::{PROTO_TCP, PROTO_UDP},
};

use crate::{
    Verdict,
    classify::L3_AT,
    extension::FRAGMENT,
    maps, packet,
    work::{Kind, Parsed, Work},
};

/// Where ICMP begins behind an IPv4 header without options.
const V4_AT: usize = L3_AT + size_of::<Ipv4>();
/// Where ICMPv6 begins behind an IPv6 header alone.
const V6_AT: usize = L3_AT + size_of::<Ipv6>();
/// TTL and hop limit of answers.
pub(crate) const TTL: u8 = 64;
/// Length of an IPv6 fragment header.
const FRAGMENT_LEN: usize = 8;

/// Finds the service an ICMP message is about.
#[inline(always)]
pub(crate) fn service(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let parsed = &mut work.parsed;
    let at = parsed.at();
    let icmp: Icmp = packet::read(ctx, at)?;
    if parsed.is_v4 {
        match icmp.kind {
            Icmp::ECHO if at == V4_AT && is_answerable(&parsed.flow.source) => {
                parsed.kind = Kind::Echo;
                return Ok(());
            }
            Icmp::UNREACHABLE | Icmp::TIME_EXCEEDED | Icmp::PARAMETER => {
                reverse4(ctx, at + size_of::<Icmp>(), parsed)?;
            }
            _ => return Err(Reason::PassVipOther),
        }
    } else {
        match icmp.kind {
            Icmp::V6_ECHO if at == V6_AT && is_answerable(&parsed.flow.source) => {
                parsed.kind = Kind::Echo;
                return Ok(());
            }
            Icmp::V6_UNREACHABLE | Icmp::V6_TOO_BIG | Icmp::V6_TIME_EXCEEDED | Icmp::V6_PARAMETER => {
                reverse6(ctx, at + size_of::<Icmp>(), parsed)?;
            }
            _ => return Err(Reason::PassVipOther),
        }
    }
    (work.key.port, work.key.protocol) = (parsed.flow.destination_port, parsed.flow.protocol);
    parsed.service = maps::service_of(&mut work.key).map_err(|_| Reason::PassVipOther)?;
    if parsed.hops_left <= 1 {
        return Err(Reason::DropTtl);
    }
    parsed.kind = Kind::Error;
    Ok(())
}

/// Takes the flow from the IPv4 packet an error carries.
#[inline(always)]
fn reverse4(ctx: &XdpContext, at: usize, parsed: &mut Parsed) -> Verdict<()> {
    let other = |_| Reason::PassVipOther;
    let ip: [u16; 10] = packet::read(ctx, at).map_err(other)?;
    let [version_ihl, _] = ip[0].to_ne_bytes();
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    let is_first = u16::from_be(ip[3]) & 0x1fff == 0;
    // Errors come to whoever sent the packet they are about; others are forged.
    let is_ours = u32::from(ip[6]) | u32::from(ip[7]) << 16 == u32::to_le(parsed.flow.destination.0[3]);
    if version_ihl >> 4 != 4 || header_len < size_of::<Ipv4>() || !is_first || !is_ours {
        return Err(Reason::PassVipOther);
    }
    parsed.flow.source.0[3] = u32::from_le(u32::from(ip[8]) | u32::from(ip[9]) << 16);
    let [_, protocol] = ip[4].to_ne_bytes();
    reverse_ports(ctx, at + header_len, protocol, parsed)
}

/// The same for IPv6; the packet may be the first fragment of a larger one.
#[inline(always)]
fn reverse6(ctx: &XdpContext, at: usize, parsed: &mut Parsed) -> Verdict<()> {
    let other = |_| Reason::PassVipOther;
    let start: [u16; 4] = packet::read(ctx, at).map_err(other)?;
    let [version, _] = start[0].to_ne_bytes();
    packet::copy_v6(ctx, at + offset_of!(Ipv6, source), &mut parsed.flow.source).map_err(other)?;
    if version >> 4 != 6 || parsed.flow.source != parsed.flow.destination {
        return Err(Reason::PassVipOther);
    }
    packet::copy_v6(ctx, at + offset_of!(Ipv6, destination), &mut parsed.flow.source).map_err(other)?;
    let [mut protocol, _] = start[3].to_ne_bytes();
    let mut ports_at = at + size_of::<Ipv6>();
    if protocol == FRAGMENT {
        let fragment: [u16; 2] = packet::read(ctx, ports_at).map_err(other)?;
        if u16::from_be(fragment[1]) & 0xfff8 != 0 {
            return Err(Reason::PassVipOther);
        }
        [protocol, _] = fragment[0].to_ne_bytes();
        ports_at += FRAGMENT_LEN;
    }
    reverse_ports(ctx, ports_at, protocol, parsed)
}

#[inline(always)]
fn reverse_ports(ctx: &XdpContext, at: usize, protocol: u8, parsed: &mut Parsed) -> Verdict<()> {
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return Err(Reason::PassVipOther);
    }
    let ports: [u16; 2] = packet::read(ctx, at).map_err(|_| Reason::PassVipOther)?;
    parsed.flow.protocol = protocol;
    parsed.flow.destination_port = ports[0].to_ne_bytes();
    parsed.flow.source_port = ports[1].to_ne_bytes();
    Ok(())
}

/// Whether an answer may go to `address`: never to groups, this network or nobody. The kernel judges the rest.
#[inline(always)]
pub(crate) fn is_answerable(address: &Address) -> bool {
    let first = (address.0[3].to_ne_bytes())[0];
    if address.is_v4() {
        first != 0 && first != 127 && first < 224
    } else {
        (address.0[0].to_ne_bytes())[0] != 0xff && *address != Address([0; 4])
    }
}

/// Turns an echo request into its answer, to be sent back where it came from.
#[inline(never)]
pub(crate) fn answer_echo(ctx: &XdpContext, work: &mut Work) -> Verdict<()> {
    let verdict = answer(ctx, work.parsed.is_v4);
    work.settle(verdict)
}

#[inline(always)]
fn answer(ctx: &XdpContext, is_v4: bool) -> Verdict<()> {
    let eth: Eth = packet::read(ctx, 0)?;
    packet::write(ctx, 0, Eth { destination: eth.source, source: eth.destination, ..eth })?;
    if is_v4 {
        let mut ip: Ipv4 = packet::read(ctx, L3_AT)?;
        let from = [ip.ttl, ip.protocol];
        ip.ttl = TTL;
        // Exchanging the addresses changes no sum.
        ip.checksum = checksum::adjusted(ip.checksum, from, [ip.ttl, ip.protocol]);
        (ip.source, ip.destination) = (ip.destination, ip.source);
        packet::write(ctx, L3_AT, ip)?;
        retype(ctx, V4_AT, Icmp::ECHO_REPLY)
    } else {
        let mut ip: Ipv6 = packet::read(ctx, L3_AT)?;
        ip.hop_limit = TTL;
        (ip.source, ip.destination) = (ip.destination, ip.source);
        packet::write(ctx, L3_AT, ip)?;
        retype(ctx, V6_AT, Icmp::V6_ECHO_REPLY)
    }
}

#[inline(always)]
fn retype(ctx: &XdpContext, at: usize, kind: u8) -> Verdict<()> {
    let mut icmp: Icmp = packet::read(ctx, at)?;
    let from = [icmp.kind, icmp.code];
    icmp.kind = kind;
    icmp.checksum = checksum::adjusted(icmp.checksum, from, [icmp.kind, icmp.code]);
    if icmp.checksum == [0, 0] {
        // Both forms of zero are right, except over nothing but zeroes, which an echo reply may be: there only this one.
        icmp.checksum = [0xff, 0xff];
    }
    packet::write(ctx, at, icmp)
}
