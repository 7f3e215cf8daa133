//! Floods of SYNs from everywhere: what is open goes on, and who wants to connect does.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_abi::{counters::Reason, maps};
use weir_tests::{
    packet::{self, SYN},
    rig::{self, Rig, Role, VIP4, VIP6, say},
};

const PORT: u16 = 80;

/// SYNs of a flood, one in ten of them IPv6; more for a longer run.
fn syns() -> u32 {
    std::env::var("WEIR_SYNS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000)
}

fn config(protection: &str) -> String {
    rig::config().replace("\"udp/53\"]", &format!("\"tcp/{PORT}\"]\n{protection}"))
}

/// What was seen while a flood went on.
#[derive(Debug, Default)]
struct Seen {
    /// Per SYN, all the way from the sender to the answer: the kernel does it in the sender's time.
    per_syn_ns: f64,
    /// Exchanges on connections that were open before.
    exchanges: u32,
    /// Connections that were open before and failed.
    broken: u32,
    /// Connections opened meanwhile, with an exchange each.
    opened: u32,
    /// Connections that could not be opened, or failed.
    refused: u32,
    slowest_open: Duration,
    /// SYNs answered by a program with a cookie.
    answered: u64,
    /// SYN-ACKs with a cookie from the kernel itself.
    by_kernel: u64,
    /// Time the machine spent in interrupts, whoever caused them.
    interrupts: Duration,
}

/// Packets counted under a reason by a host so far.
fn counted(rig: &Rig, host: usize, reason: Reason) -> Result<u64> {
    let data = MapData::from_pin(rig.pin_dir(host).join("maps").join(maps::REASONS))?;
    let map: PerCpuArray<_, u64> = Map::from_map_data(data)?.try_into()?;
    Ok(map.get(&(reason as u32), 0)?.iter().sum())
}

/// `TcpExt: SyncookiesSent` of a host.
fn cookies_of_kernel(rig: &Rig, host: usize) -> Result<u64> {
    let text = rig.hosts[host].netns.run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "SyncookiesSent").context("SyncookiesSent")?;
    Ok(value.parse()?)
}

/// What was counted so far: answers of the programs, answers of the kernel, time in interrupts.
fn counts(rig: &Rig) -> Result<(u64, u64, Duration)> {
    let (mut answered, mut by_kernel) = (0, 0);
    for host in 0..rig.hosts.len() {
        answered += counted(rig, host, Reason::SynCookie)?;
        by_kernel += cookies_of_kernel(rig, host)?;
    }
    // user, nice, system, idle, iowait, irq, softirq in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/stat")?;
    let softirq: u64 = stat.split_whitespace().nth(7).context("softirq")?.parse()?;
    Ok((answered, by_kernel, Duration::from_millis(softirq * 10)))
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} ns per SYN, {:?} in interrupts; cookies: {} here, {} by the kernel; open connections: {} exchanges, {} broken; new ones: {} opened, {} failed, slowest {:?}",
            self.per_syn_ns,
            self.interrupts,
            self.answered,
            self.by_kernel,
            self.exchanges,
            self.broken,
            self.opened,
            self.refused,
            self.slowest_open
        )
    }
}

/// Packets the first host's program has seen that may be SYNs.
fn arrived(rig: &Rig) -> Result<u64> {
    let mut sum = 0;
    for reason in [Reason::Encap, Reason::DeliverLocal, Reason::SynCookie] {
        sum += counted(rig, 0, reason)?;
    }
    Ok(sum)
}

/// Sends SYNs from as many sources, which nobody has, as fast as the host takes them off the wire: what a queue drops before
/// it gets there is no load.
fn send(rig: &Rig, count: u32) -> Result<Duration> {
    rig.router.netns.run(|| {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255)));
        let (v4, v6) = (raw(Domain::IPV4)?, raw(Domain::IPV6)?);
        let to4 = SockAddr::from(SocketAddr::from((VIP4, 0)));
        let to6 = SockAddr::from(SocketAddr::from((VIP6, 0)));
        let packets: Vec<Vec<u8>> = (0..count).map(syn).collect();
        let started = Instant::now();
        let before = arrived(rig)?;
        for (sent, packet) in packets.iter().enumerate() {
            // A veth queue holds 256.
            if sent.is_multiple_of(128) {
                let waited = Instant::now();
                while arrived(rig)? - before + 64 < sent as u64 && waited.elapsed() < Duration::from_millis(2)
                {
                    thread::yield_now();
                }
            }
            let (socket, to) = if packet[0] >> 4 == 4 { (&v4, &to4) } else { (&v6, &to6) };
            // A full queue is a part of floods.
            let _dropped = socket.send_to(packet, to);
        }
        Ok(started.elapsed())
    })
}

/// A SYN of its own source.
fn syn(number: u32) -> Vec<u8> {
    let mixed = number.wrapping_mul(0x9e37_79b1);
    let (from, to): (IpAddr, IpAddr) = if number.is_multiple_of(10) {
        (Ipv6Addr::from(0x2001_0db8_f100_0000_u128 << 64 | u128::from(mixed)).into(), VIP6.into())
    } else {
        // 100.64.0.0/10: nobody's.
        (Ipv4Addr::from(0x6440_0000 | mixed >> 10).into(), VIP4.into())
    };
    let port = 1_024 + (number % 60_000) as u16;
    let (from, to) = (SocketAddr::new(from, port), SocketAddr::new(to, PORT));
    packet::tcp(&from.to_string(), &to.to_string(), SYN, b"").split_off(14)
}

fn flood(rig: &Rig, count: u32) -> Seen {
    let vips: [SocketAddr; 2] = [(VIP4, PORT).into(), (VIP6, PORT).into()];
    let mut streams: Vec<_> = (0..20)
        .map(|number| {
            let stream = rig.connect(vips[number % 2]).expect("connect in peace");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            stream
        })
        .collect();
    let over = AtomicBool::new(false);
    let mut seen = Seen::default();
    let before = counts(rig).expect("counts");
    thread::scope(|scope| {
        let (over, streams) = (&over, &mut streams);
        let exchange = scope.spawn(move || {
            let (mut exchanges, mut broken) = (0, 0);
            while !over.load(Relaxed) {
                streams.retain_mut(|stream| {
                    let good = say(stream, b"are you there?").is_ok();
                    (exchanges, broken) = (exchanges + u32::from(good), broken + u32::from(!good));
                    good
                });
            }
            (exchanges, broken)
        });
        let open = scope.spawn(move || {
            let (mut opened, mut refused, mut slowest) = (0, 0, Duration::ZERO);
            for turn in 0.. {
                if over.load(Relaxed) {
                    break;
                }
                let started = Instant::now();
                let good = rig.connect(vips[turn % 2]).and_then(|mut stream| say(&mut stream, b"hello"));
                match good {
                    Ok(_) => opened += 1,
                    Err(error) => {
                        println!("a new connection: {error:#}");
                        refused += 1;
                    }
                }
                slowest = slowest.max(started.elapsed());
            }
            (opened, refused, slowest)
        });
        let took = send(rig, count).expect("flood");
        over.store(true, Relaxed);
        seen.per_syn_ns = took.as_nanos() as f64 / f64::from(count);
        (seen.exchanges, seen.broken) = exchange.join().expect("exchange");
        (seen.opened, seen.refused, seen.slowest_open) = open.join().expect("open");
    });
    let after = counts(rig).expect("counts");
    (seen.answered, seen.by_kernel) = (after.0 - before.0, after.1 - before.1);
    seen.interrupts = after.2 - before.2;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_flood_of_syns_is_answered_with_cookies_and_hurts_nobody() {
    let roles = [Role::Node, Role::Node];
    let rig = Rig::with(&roles, &config("syn_protection = { cookies = false }")).await.expect("rig");
    let mut greeters = Vec::new();
    for host in 0..2 {
        for vip in [VIP4.into(), VIP6.into()] {
            greeters.push(rig.greet(host, SocketAddr::new(vip, PORT)).expect("listener"));
        }
    }
    let count = syns();
    let without = flood(&rig, count);
    println!("{count} SYNs, cookies by the kernel: {without}");
    assert_eq!(without.answered, 0, "they are turned off: {without}");
    let off = rig.until(0, "a status", |_| true).await.expect("status");

    rig.configure("rig.toml", &config("")).expect("write");
    let generation = |status: &weir_model::status::L4Status| status.config.generation;
    for host in 0..2 {
        let changed = |status: &_| generation(status) != generation(&off);
        rig.until(host, "the new configuration", changed).await.expect("status");
    }
    let with = flood(&rig, count);
    println!("{count} SYNs, cookies here:          {with}");
    assert!(with.answered > u64::from(count / 2), "{with}");
    assert_eq!((with.broken, with.refused), (0, 0), "{with}");
    assert!(with.exchanges > 0 && with.opened > 0, "{with}");
}
