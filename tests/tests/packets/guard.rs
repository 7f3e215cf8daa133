//! Packet tables: access lists and the rates of new connections.

use std::net::IpAddr;

use weir_abi::{
    Address,
    counters::Reason,
    guard::{
        ACCESS_ALLOW, ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, GUARDED_RATES, Guard, LIST_DEFAULT,
        SOURCE_SCOPE_BITS, Source, SourcePrefix,
    },
    service::{SERVICE_ACCESS, SERVICE_SOURCE_LIMIT, SERVICE_SOURCES, SERVICE_SYN_RATE},
};
use weir_core::plan::Op;
use weir_tests::{
    packet::{self, ACK, SYN},
    prog_run::Balancer,
    vips::*,
};

/// VIP number of the service on port 80.
const SCOPE: u32 = 81;
/// A list's number.
const LIST: u16 = 7;

fn entry(balancer: &mut Balancer, scope: u32, prefix: &str, action: u8, until_s: u32) {
    let (address, len) = prefix.split_once('/').expect("prefix");
    let len: u8 = len.parse().expect("length");
    let address: IpAddr = ip(address);
    let len_bits = if address.is_ipv4() { len + 96 } else { len };
    let source = Source::new(scope, Address::from(address));
    let key = SourcePrefix { len_bits: SOURCE_SCOPE_BITS + u32::from(len_bits), source };
    let rule = AccessRule { until_s, list: LIST, action, len_bits };
    balancer.apply(Op::PutAccess(key, rule)).expect("entry");
}

/// The balancer with lists looked at.
fn listed() -> Balancer {
    let mut balancer = balancer();
    balancer.guarded(GUARDED_ACCESS).expect("config");
    balancer
}

#[test]
fn the_longest_prefix_that_holds_a_source_decides() {
    let mut balancer = listed();
    entry(&mut balancer, 0, "203.0.113.0/24", ACCESS_BLOCK, 0);
    entry(&mut balancer, 0, "203.0.113.64/26", ACCESS_ALLOW, 0);
    entry(&mut balancer, 0, "203.0.113.65/32", ACCESS_BLOCK, 0);
    entry(&mut balancer, 0, "2001:db8:f::/48", ACCESS_BLOCK, 0);
    entry(&mut balancer, 0, "::/0", ACCESS_ALLOW, 0);
    // Only at port 80's VIP: one source is let in again, another is blocked, and where both say something, it is right.
    entry(&mut balancer, SCOPE, "203.0.113.7/32", ACCESS_ALLOW, 0);
    entry(&mut balancer, SCOPE, "192.0.2.0/25", ACCESS_BLOCK, 0);
    entry(&mut balancer, SCOPE, "203.0.113.64/26", ACCESS_BLOCK, 0);
    entry(&mut balancer, SCOPE, "203.0.113.0/25", ACCESS_ALLOW, 0);
    balancer.guard(80, SERVICE_ACCESS, Guard { scope: SCOPE, ..Guard::default() }).expect("guard");
    let cases = [
        ("203.0.113.7:1", "198.51.100.10:80", true),
        ("203.0.113.7:1", "198.51.100.10:81", false),
        ("203.0.113.200:1", "198.51.100.10:80", false),
        ("203.0.113.1:1", "198.51.100.10:80", true),
        ("203.0.113.1:1", "198.51.100.10:81", false),
        ("203.0.113.66:1", "198.51.100.10:80", false),
        ("203.0.113.66:1", "198.51.100.10:81", true),
        ("203.0.113.65:1", "198.51.100.10:81", false),
        ("203.0.114.1:1", "198.51.100.10:81", true),
        ("192.0.2.1:1", "198.51.100.10:80", false),
        ("192.0.2.200:1", "198.51.100.10:80", true),
        ("192.0.2.1:1", "198.51.100.10:81", true),
        ("[2001:db8:f::7]:1", "[2001:db8::10]:80", false),
        ("[2001:db8:e::7]:1", "[2001:db8::10]:80", true),
    ];
    let mut blocked = 0;
    for (from, to, comes) in cases {
        for flags in [SYN, ACK] {
            let seen = balancer.run(&packet::tcp(from, to, flags, b"data")).expect("run");
            let wanted = if comes { (XDP_TX, Reason::Encap) } else { (XDP_DROP, Reason::DropBlocked) };
            assert_eq!((seen.action, seen.reason), wanted, "{from} to {to}");
            blocked += u64::from(!comes);
        }
    }
    assert_eq!(balancer.access_hits(LIST).expect("hits"), blocked);
    // UDP, fragments, pings and errors about a flow of the source are no way around it.
    let own = packet::udp("203.0.113.7:5353", "198.51.100.10:53", &[7; 3000]);
    let answer = packet::tcp("198.51.100.10:81", "203.0.113.7:1", ACK, b"answer");
    let mut sent = packet::fragments(&own, 1, 1480);
    sent.push(own);
    sent.push(packet::icmp(ip("203.0.113.7"), ip("198.51.100.10"), 8, 0, [0; 4], b"ping"));
    sent.push(packet::icmp(ip("192.0.2.1"), ip("198.51.100.10"), 3, 1, [0; 4], &answer[14..]));
    for packet in sent {
        assert_eq!(balancer.run(&packet).expect("run").reason, Reason::DropBlocked);
    }
}

#[test]
fn only_sources_of_a_list_come_where_all_others_are_closed_out() {
    let mut balancer = listed();
    entry(&mut balancer, SCOPE, "203.0.113.0/24", ACCESS_ALLOW, 0);
    let guard = Guard { scope: SCOPE, only_allowed: 1, ..Guard::default() };
    balancer.guard(80, SERVICE_ACCESS, guard).expect("guard");
    for (from, port, reason) in [
        ("203.0.113.7:1", 80, Reason::Encap),
        ("192.0.2.1:1", 80, Reason::DropBlocked),
        ("192.0.2.1:1", 81, Reason::Encap),
    ] {
        let sent = packet::tcp(from, &format!("198.51.100.10:{port}"), ACK, b"");
        assert_eq!(balancer.run(&sent).expect("run").reason, reason, "{from} to port {port}");
    }
    assert_eq!(balancer.access_hits(LIST_DEFAULT).expect("hits"), 1);
}

#[test]
fn an_entry_ends_by_the_clock_alone_and_what_it_hid_holds_again() {
    let mut balancer = listed();
    let now = boot_s();
    entry(&mut balancer, 0, "203.0.113.0/24", ACCESS_BLOCK, 0);
    entry(&mut balancer, 0, "203.0.113.0/28", ACCESS_ALLOW, now - 1);
    entry(&mut balancer, 0, "203.0.113.0/29", ACCESS_ALLOW, now - 1);
    entry(&mut balancer, 0, "203.0.113.7/32", ACCESS_ALLOW, now - 1);
    entry(&mut balancer, 0, "192.0.2.1/32", ACCESS_BLOCK, now - 1);
    entry(&mut balancer, 0, "192.0.2.2/32", ACCESS_BLOCK, now + 3600);
    for (from, reason) in [
        ("203.0.113.7:1", Reason::DropBlocked),
        ("192.0.2.1:1", Reason::Encap),
        ("192.0.2.2:1", Reason::DropBlocked),
    ] {
        let sent = packet::tcp(from, "198.51.100.10:80", ACK, b"");
        assert_eq!(balancer.run(&sent).expect("run").reason, reason, "{from}");
    }
}

#[test]
fn what_comes_by_tunnel_was_looked_at_where_it_came_in() {
    let mut balancer = listed();
    entry(&mut balancer, 0, "0.0.0.0/0", ACCESS_BLOCK, 0);
    let inner = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"");
    let tunnel = packet::gue(&inner, ip("10.1.2.2"), own(), 50_000, None);
    assert_eq!(balancer.run(&tunnel).expect("run").reason, Reason::DecapDeliver);
    // And what is not for a VIP is nobody's business here.
    let other = packet::tcp(CLIENT, "198.51.100.99:80", ACK, b"");
    assert_eq!(balancer.run(&other).expect("run").reason, Reason::PassNotVip);
    assert_eq!(balancer.run(&inner).expect("run").reason, Reason::DropBlocked);
}

fn boot_s() -> u32 {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("uptime");
    uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

#[test]
fn a_source_opens_so_many_connections_at_once_and_others_are_not_hurt() {
    let mut balancer = balancer();
    balancer.guarded(GUARDED_RATES).expect("config");
    // One a second: none comes back while this runs for less.
    let guard =
        Guard { scope: SCOPE, source_interval_ns: 1_000_000_000, source_burst: 20, ..Guard::default() };
    for service in [80, 6] {
        balancer.guard(service, SERVICE_SOURCE_LIMIT, guard).expect("guard");
    }
    let mut open =
        |from: &str, to: &str, flags| balancer.run(&packet::tcp(from, to, flags, b"")).expect("run").reason;
    for (one, other, to) in [
        ("203.0.113.7", "203.0.113.8", "198.51.100.10:80"),
        ("[2001:db8:f::7]", "[2001:db8:f:1::7]", "[2001:db8::10]:80"),
    ] {
        let started = std::time::Instant::now();
        let reasons: Vec<_> = (0..60).map(|port| open(&format!("{one}:{}", 2_000 + port), to, SYN)).collect();
        let admitted = reasons.iter().filter(|reason| **reason == Reason::Encap).count();
        let back = started.elapsed().as_secs() as usize + 1;
        assert!((20..=20 + back).contains(&admitted), "{admitted} of {one}");
        assert!(reasons.iter().all(|reason| matches!(reason, Reason::Encap | Reason::DropSourceLimit)));
        assert_eq!(open(&format!("{one}:2000"), to, ACK), Reason::Encap, "what is open goes on");
        assert_eq!(open(&format!("{other}:2000"), to, SYN), Reason::Encap);
    }
    // An IPv6 source is a network of 64 bits.
    assert_eq!(open("[2001:db8:f::9999]:1", "[2001:db8::10]:80", SYN), Reason::DropSourceLimit);
    // Another VIP's connections are not counted, since they are not limited.
    assert_eq!(open("203.0.113.7:1", "198.51.100.10:81", SYN), Reason::Encap);
}

#[test]
fn syns_beyond_the_rate_of_a_service_are_dropped_and_nothing_else_is() {
    let mut balancer = balancer();
    balancer.guarded(GUARDED_RATES).expect("config");
    // Two in 100 ms, and none but these: the interval is longer than the burst.
    let guard = Guard { scope: SCOPE, syn_interval_ns: 60_000_000, ..Guard::default() };
    balancer.guard(80, SERVICE_SYN_RATE, guard).expect("guard");
    let mut dropped = 0;
    for n in 0..2_000 {
        let from = format!("203.0.{}.{}:99", n / 250, n % 250);
        match balancer.run(&packet::tcp(&from, "198.51.100.10:80", SYN, b"")).expect("run").reason {
            Reason::DropSynRate => dropped += 1,
            reason => assert_eq!(reason, Reason::Encap),
        }
    }
    assert!(dropped > 1_000, "{dropped} dropped");
    let ack = packet::tcp(CLIENT, "198.51.100.10:80", ACK, b"data");
    assert_eq!(balancer.run(&ack).expect("run").reason, Reason::Encap);
}

#[test]
fn sources_with_a_group_of_their_own_go_to_its_proxies() {
    let mut balancer = balancer();
    // Port 80 leads to proxy 2; some of its sources to the table of port 999, that is proxy 3, some of those back.
    let key = |net: &str, len: u32| {
        let address = Address::from(ip(net));
        let len = if address.is_v4() { len + 96 } else { len };
        SourcePrefix { len_bits: SOURCE_SCOPE_BITS + len, source: Source::new(80 + 1, address) }
    };
    balancer.apply(Op::PutSourceTable(key("203.0.113.0", 24), 100)).expect("source");
    balancer.apply(Op::PutSourceTable(key("203.0.113.128", 25), 80)).expect("source");
    let to_proxy = |balancer: &mut Balancer, from: &str, port: u16| {
        let to = format!("198.51.100.10:{port}");
        let seen = balancer.run(&packet::tcp(&format!("{from}:4000"), &to, ACK, b"data")).expect("run");
        assert_eq!(seen.reason, Reason::Encap);
        IpAddr::from(<[u8; 4]>::try_from(&seen.packet[30..34]).expect("address"))
    };
    assert_eq!(to_proxy(&mut balancer, "203.0.113.7", 80), ip("10.1.2.2"), "not looked at without its bit");
    balancer.guard(80, SERVICE_SOURCES, Guard::default()).expect("service");
    for (from, port, proxy) in [
        ("203.0.113.7", 80, "10.1.3.2"),
        ("203.0.113.200", 80, "10.1.2.2"),
        ("203.0.114.7", 80, "10.1.2.2"),
        ("203.0.113.7", 81, "10.1.2.2"),
    ] {
        assert_eq!(to_proxy(&mut balancer, from, port), ip(proxy), "{from} to port {port}");
    }
    // Errors about their flows and fragments go with them.
    let mut pieces =
        packet::fragments(&packet::tcp("203.0.113.7:4000", "198.51.100.10:80", ACK, &[7; 2_000]), 9, 1_480);
    let answer = packet::tcp("198.51.100.10:80", "203.0.113.7:4000", ACK, b"answer");
    pieces.push(packet::icmp(ip("192.0.2.1"), ip("198.51.100.10"), 3, 1, [0; 4], &answer[14..]));
    for piece in pieces {
        let seen = balancer.run(&piece).expect("run");
        assert_eq!(seen.packet[30..34], [10, 1, 3, 2], "{:?}", seen.reason);
    }
}
