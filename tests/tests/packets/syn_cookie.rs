//! Packet tables: SYNs answered with cookies. (That the kernel takes the ACKs is shown by the test of floods.)

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use anyhow::Result;
use weir_abi::{counters::Reason, guard::Guard, service::SERVICE_SYN_COOKIES};
use weir_lab::netns::{self, NetNs};
use weir_tests::{
    packet::{self, ACK, SYN},
    prog_run::Balancer,
    vips::*,
};

/// Runs in a namespace with listeners on the VIPs, where the kernel makes cookies always (2), when it must (1), or never (0).
fn with_listeners(syncookies: &str, run: impl FnOnce() -> Result<()> + Send) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("weir-t{}c{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
    let namespace = NetNs::create(&name).expect("namespace");
    let done = namespace.sysctl(&[("ipv4/tcp_syncookies", syncookies)]).and_then(|()| {
        namespace.run(|| {
            let listen = |at: &str| -> Result<TcpListener> {
                let at: SocketAddr = at.parse()?;
                let socket =
                    socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
                if at.is_ipv4() {
                    socket.set_freebind_v4(true)?
                } else {
                    socket.set_freebind_v6(true)?
                }
                socket.bind(&at.into())?;
                socket.listen(16)?;
                Ok(socket.into())
            };
            let _v4 = listen("198.51.100.10:82")?;
            let _v6 = listen("[2001:db8::10]:80")?;
            run()
        })
    });
    netns::remove(&name);
    done.expect("run");
}

/// Services with cookies for every SYN (one a second and CPU comes through): tcp/82 of IPv4, which is local, and tcp/80 of IPv6.
fn guarded() -> Balancer {
    let mut balancer = balancer();
    let guard =
        Guard { scope: 1, cookie_interval_ns: u32::MAX, mss4: 1_420, mss6: 1_380, ..Guard::default() };
    for service in [82, 6] {
        balancer.guard(service, SERVICE_SYN_COOKIES, guard).expect("guard");
    }
    balancer
}

/// A SYN with a sequence number of its own and these words of options.
fn syn(from: &str, to: &str, sequence: u32, options: &[u8]) -> Vec<u8> {
    let mut frame = packet::tcp(from, to, SYN, b"");
    let at = if from.starts_with('[') { 54 } else { 34 };
    frame[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
    frame[at + 12] = (((20 + options.len()) / 4) << 4) as u8;
    frame.extend(options);
    let (len_at, len) = if at == 54 { (18, 20 + options.len()) } else { (16, 40 + options.len()) };
    frame[len_at..len_at + 2].copy_from_slice(&(len as u16).to_be_bytes());
    let tos = packet::tos(&frame);
    packet::with_tos(frame, tos)
}

/// The first of many runs that is not the one a second that comes through.
fn run(balancer: &mut Balancer, packet: &[u8]) -> Result<weir_tests::prog_run::Seen> {
    let first = balancer.run(packet)?;
    if first.reason == Reason::SynCookie { Ok(first) } else { balancer.run(packet) }
}

#[test]
fn a_syn_beyond_the_rate_is_answered_with_a_cookie_byte_for_byte() {
    let mut balancer = guarded();
    with_listeners("2", move || {
        let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        for (client, vip, at, mss) in
            [(CLIENT, "198.51.100.10:82", 34, 1_420_u16), (CLIENT6, "[2001:db8::10]:80", 54, 1_380)]
        {
            for words in [0, 1, 3, 5, 10] {
                let sequence = if words > 1 { 7 } else { u32::MAX };
                let options: Vec<u8> = options.iter().copied().chain([1; 20]).take(words * 4).collect();
                let sent = syn(client, vip, sequence, &options);
                let is_v6 = at == 54;
                // IPv6 comes by tunnel: its service here is not local.
                let came = if is_v6 { packet::gue(&sent, ip("10.1.2.2"), own(), 50_000, None) } else { sent };
                let seen = run(&mut balancer, &came)?;
                assert_eq!((seen.action, seen.reason), (XDP_TX, Reason::SynCookie), "{vip}, {words} words");
                let answer = &seen.packet;
                assert_eq!(answer.len(), at + 24, "{vip}");
                // From the VIP to the client, with ports and MAC addresses exchanged, and everything right in between.
                let cookie = &answer[at + 4..at + 8];
                let mut wanted = packet::turned(packet::tcp(vip, client, SYN | ACK, b"1234"));
                if !is_v6 {
                    wanted[20] = 0x40;
                    wanted = packet::with_tos(wanted, 0);
                }
                wanted[at + 4..at + 8].copy_from_slice(cookie);
                wanted[at + 8..at + 12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
                wanted[at + 12] = 6 << 4;
                wanted[at + 14..at + 16].copy_from_slice(&64_240_u16.to_be_bytes());
                wanted[at + 20..at + 24].copy_from_slice(&[2, 4, (mss >> 8) as u8, mss as u8]);
                let sum = packet::tcp_checksum(&wanted);
                wanted[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
                assert_eq!(answer, &wanted, "{vip}, {words} words");
            }
        }
        Ok(())
    });
}

#[test]
fn syns_are_delivered_while_few_or_while_the_kernel_wants_no_cookies() {
    let to = "198.51.100.10:82";
    for syncookies in ["0", "1"] {
        let mut balancer = guarded();
        with_listeners(syncookies, move || {
            for _ in 0..10 {
                let seen = balancer.run(&syn(CLIENT, to, 1, &[]))?;
                assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DeliverLocal), "{syncookies}");
                assert_eq!(seen.packet, syn(CLIENT, to, 1, &[]), "as it came");
            }
            Ok(())
        });
    }
    let mut balancer = guarded();
    let few = Guard { scope: 1, cookie_interval_ns: 1_000, mss4: 1_460, ..Guard::default() };
    balancer.guard(82, SERVICE_SYN_COOKIES, few).expect("guard");
    with_listeners("2", move || {
        for _ in 0..10 {
            assert_eq!(balancer.run(&syn(CLIENT, to, 1, &[]))?.reason, Reason::DeliverLocal);
        }
        Ok(())
    });
}

#[test]
fn nothing_but_a_syn_for_a_listener_is_answered() {
    let mut balancer = guarded();
    with_listeners("2", move || {
        let to = "198.51.100.10:82";
        balancer.run(&syn(CLIENT, to, 1, &[]))?;
        assert_eq!(run(&mut balancer, &syn(CLIENT, to, 1, &[]))?.reason, Reason::SynCookie);
        let mut short = syn(CLIENT, to, 1, &[]);
        short[34 + 12] = 4 << 4;
        let mut long = syn(CLIENT, to, 1, &[]);
        long[34 + 12] = 15 << 4;
        let cases = [
            ("ack", packet::tcp(CLIENT, to, ACK, b"data")),
            ("syn and fin", packet::tcp(CLIENT, to, SYN | 1, b"")),
            ("syn and rst", packet::tcp(CLIENT, to, SYN | 4, b"")),
            ("a header too short", short),
            ("a header that is not there", long),
        ];
        for (name, sent) in cases {
            let seen = balancer.run(&sent)?;
            assert_eq!((seen.action, seen.reason), (XDP_PASS, Reason::DeliverLocal), "{name}");
            assert_eq!(seen.packet, sent, "{name}");
        }
        Ok(())
    });
}
