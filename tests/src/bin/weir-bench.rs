//! Measures hot paths beside a reference of the same run: `cargo xtask bench l4|zones [--json]`.
//!
//! Packets: `BPF_PROG_TEST_RUN` with `repeat` does not restore the packet, so a program around the data path does, and
//! gives it the source of the next flow; the reference is the same around an encapsulation that writes nothing. The way to
//! the next hop is not found in a test run (it has no routes), so its lookup costs less there than on a wire.

use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use weir_abi::{
    Address, Config,
    guard::{
        ACCESS_BLOCK, AccessRule, GUARDED_ACCESS, Guard, LIST_FIRST, SOURCE_SCOPE_BITS, Source, SourcePrefix,
    },
    hop::{Backend, KIND_GUE4, KIND_IPIP4, KIND_LOCAL},
    limits::TABLE_LEN,
    programs,
    service::{PROTO_TCP, PROTO_UDP, SERVICE_SYN_COOKIES, Slot, VipKey},
};
use weir_core::{
    ClientKey,
    balance::{self, Candidate, Candidates, Request},
    health::HealthView,
    maglev::{self, Weighted},
    plan::Op,
    routing,
};
use weir_lab::{
    figures::{self, Asked, Case},
    netns::NetNs,
};
use weir_model::{Balance, Name, Snapshot, SourceFile};
use weir_tests::{
    packet::{self, ACK, SYN},
    prog_run::{Balancer, key4},
};

/// Runs of each case; the median counts.
const RUNS: usize = 7;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::read(&arguments);
    let cases = match arguments.first().map(String::as_str) {
        Some("l4") => l4(&asked)?,
        Some("zones") => zones(&asked)?,
        _ => bail!("usage: weir-bench l4|zones [--only CASE] [--json]"),
    };
    print!("{}", asked.render(&cases));
    Ok(())
}

fn median(mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut seen = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        seen.push(run()?);
    }
    Ok(figures::median(&mut seen))
}

const VIP: [u8; 4] = [198, 51, 100, 10];
const PORT: u16 = 80;
const OWN: [u8; 4] = [10, 1, 1, 2];
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Services: port 80 → tunnel; 81 → tunnel with a second hop; 82 → this host; 83 → IPIP.
fn loaded() -> Result<Balancer> {
    let config = Config {
        abi_version: weir_abi::ABI_VERSION,
        has_v4: 1,
        has_v6: 1,
        address4: OWN,
        address6: "fd00::2".parse::<IpAddr>()?.into(),
        mtu: 1600,
        guarded: 0,
        tunnels: 0,
    };
    let mut balancer = Balancer::load(config)?;
    let backend = |address: [u8; 4], kind| Backend { address: Address::v4(address), kind, _pad: [0; 3] };
    balancer.backend(1, backend(OWN, KIND_LOCAL))?;
    balancer.backend(2, backend([10, 1, 2, 2], KIND_GUE4))?;
    balancer.backend(3, backend([10, 1, 3, 2], KIND_GUE4))?;
    for protocol in [PROTO_TCP, PROTO_UDP] {
        let index = u32::from(protocol) * 10;
        balancer.service(index, key4(VIP, protocol, PORT), Slot { owner: 2, previous: 0 })?;
        balancer.service(index + 1, key4(VIP, protocol, PORT + 1), Slot { owner: 2, previous: 3 })?;
        balancer.service(index + 2, key4(VIP, protocol, PORT + 2), Slot { owner: 1, previous: 0 })?;
    }
    balancer.backend(4, backend([10, 1, 4, 2], KIND_IPIP4))?;
    balancer.service(7, key4(VIP, PROTO_TCP, PORT + 3), Slot { owner: 4, previous: 0 })?;
    let vip6 = "2001:db8::10".parse::<IpAddr>()?.into();
    let key6 = VipKey { address: vip6, port: PORT.to_be_bytes(), protocol: PROTO_TCP, _pad: 0 };
    balancer.service(6, key6, Slot { owner: 2, previous: 0 })?;
    Ok(balancer)
}

fn packets(balancer: &mut Balancer, asked: &Asked) -> Result<Vec<Case>> {
    const SOURCE4: usize = 26;
    const SOURCE6: usize = 34;
    let client = "203.0.113.7:40000";
    let body = [0; 64];
    let ack = |port: &str| packet::tcp(client, &format!("198.51.100.10:{port}"), ACK, &body);
    let syn = packet::tcp(client, "198.51.100.10:80", SYN, &body);
    let udp = packet::udp(client, "198.51.100.10:80", &[0; 80]);
    let v6 = packet::tcp("[2001:db8:f::7]:40000", "[2001:db8::10]:80", ACK, &body);
    let other = packet::tcp(client, "203.0.113.99:80", ACK, &body);
    let tunnel = |inner: &[u8], second: Option<&str>| -> Result<Vec<u8>> {
        let second = second.map(str::parse).transpose()?;
        Ok(packet::gue(inner, "10.1.2.2".parse()?, OWN.into(), 50_000, second))
    };
    let (plain, chained) = (tunnel(&ack("80"), None)?, tunnel(&ack("80"), Some("10.1.3.2"))?);
    let k = 1 << 10;
    let cases: [Packet<'_>; 16] = [
        ("v4_tcp_ack_1", &ack("80"), 1, SOURCE4, XDP_TX),
        ("v4_tcp_ack_4k", &ack("80"), 4 * k, SOURCE4, XDP_TX),
        ("v4_tcp_ack_64k", &ack("80"), 64 * k, SOURCE4, XDP_TX),
        ("v4_tcp_ack_1m", &ack("80"), k * k, SOURCE4, XDP_TX),
        ("v4_tcp_syn_1", &syn, 1, SOURCE4, XDP_TX),
        ("v4_tcp_syn_64k", &syn, 64 * k, SOURCE4, XDP_TX),
        ("v4_tcp_syn_new", &syn, 1 << 32, SOURCE4, XDP_TX),
        ("gue2_v4_64k", &ack("81"), 64 * k, SOURCE4, XDP_TX),
        ("ipip_v4_64k", &ack("83"), 64 * k, SOURCE4, XDP_TX),
        ("v4_udp_64k", &udp, 64 * k, SOURCE4, XDP_TX),
        ("v6_tcp_ack_64k", &v6, 64 * k, SOURCE6, XDP_TX),
        ("local_64k", &ack("82"), 64 * k, SOURCE4, XDP_PASS),
        ("decap_hit", &plain, 64 * k, SOURCE4 + 32, XDP_PASS),
        ("decap_second_hop", &chained, 64 * k, SOURCE4 + 40, XDP_TX),
        ("pass_nonvip", &other, 64 * k, SOURCE4, XDP_PASS),
        ("pass_nonvip_1", &other, 1, SOURCE4, XDP_PASS),
    ];
    let mut measured = measure(balancer, asked, &cases)?;
    // Ten thousand prefixes that hold none of the sources, then one that holds them all.
    for n in 0..10_000_u32 {
        block(balancer, [10, (n >> 8) as u8, n as u8, 0], 24)?;
    }
    balancer.guarded(GUARDED_ACCESS)?;
    measured.extend(measure(
        balancer,
        asked,
        &[("v4_tcp_ack_64k_access", &ack("80"), 64 * k, SOURCE4, XDP_TX)],
    )?);
    block(balancer, [0, 0, 0, 0], 0)?;
    measured.extend(measure(balancer, asked, &[("blocked_source", &ack("80"), 64 * k, SOURCE4, XDP_DROP)])?);
    balancer.guarded(0)?;
    let syn = packet::tcp(client, "198.51.100.10:82", SYN, &body);
    let cookies = [("syn_cookie_64k", syn.as_slice(), 64 * k, SOURCE4, XDP_TX)];
    if asked.wants("syn_cookie_64k") {
        measured.extend(with_listener(|| {
            // Each is beyond the rate.
            let guard = Guard { scope: 1, cookie_interval_ns: u32::MAX, mss4: 1_460, ..Guard::default() };
            balancer.guard(u32::from(PROTO_TCP) * 10 + 2, SERVICE_SYN_COOKIES, guard)?;
            balancer.is_answered = true;
            measure(balancer, asked, &cookies)
        })?);
        balancer.is_answered = false;
    }
    Ok(measured)
}

fn block(balancer: &mut Balancer, prefix: [u8; 4], len: u8) -> Result<()> {
    let len_bits = len + 96;
    let source = Source::new(0, Address::v4(prefix));
    let key = SourcePrefix { len_bits: SOURCE_SCOPE_BITS + u32::from(len_bits), source };
    let rule = AccessRule { until_s: 0, list: LIST_FIRST, action: ACCESS_BLOCK, len_bits };
    balancer.apply(Op::PutAccess(key, rule))
}

/// Runs in a namespace where somebody listens on port 82 of the VIP, and the kernel answers each SYN with a cookie.
fn with_listener<T: Send>(run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let name = format!("weir-t{}bench", std::process::id());
    let namespace = NetNs::create(&name)?;
    namespace.sysctl(&[("ipv4/tcp_syncookies", "2"), ("ipv4/ip_nonlocal_bind", "1")])?;
    let done = namespace.run(|| {
        let _listener = std::net::TcpListener::bind((std::net::Ipv4Addr::from(VIP), PORT + 2))?;
        run()
    });
    weir_lab::netns::remove(&name);
    done
}

/// Name, packet, flows, where their number stands, and what becomes of it.
type Packet<'a> = (&'static str, &'a [u8], u64, usize, u32);

fn measure(balancer: &mut Balancer, asked: &Asked, cases: &[Packet<'_>]) -> Result<Vec<Case>> {
    let mut measured = Vec::new();
    for &(case, packet, flows, at, action) in cases.iter().filter(|(case, ..)| asked.wants(case)) {
        // In turn, so that a slow moment of the machine slows both.
        let mut references = Vec::with_capacity(RUNS);
        let ours = median(|| {
            references.push(balancer.time(programs::BENCH_NULL, packet, flows, at, XDP_TX)?);
            balancer.time(programs::BENCH, packet, flows, at, action)
        })?;
        let reference = figures::median(&mut references);
        measured.push(Case { case, unit: "ns", ours, reference });
    }
    Ok(measured)
}

fn l4(asked: &Asked) -> Result<Vec<Case>> {
    let mut balancer = loaded()?;
    let mut cases = packets(&mut balancer, asked)?;
    if !asked.wants_all() {
        return Ok(cases);
    }
    if let Some(ours) = balancer.verified_instructions(programs::BALANCER)? {
        let null = balancer.verified_instructions(programs::BENCH_NULL)?.unwrap_or(1);
        let (ours, reference) = (f64::from(ours), f64::from(null));
        cases.push(Case { case: "verifier_insns", unit: "insns", ours, reference });
    }
    // The reference of tables is sorting as many numbers as a table has slots.
    let sort = median(|| {
        let mut numbers: Vec<u64> = (0..TABLE_LEN as u64).map(weir_core::hash::mix).collect();
        let start = Instant::now();
        black_box(&mut numbers).sort_unstable();
        Ok(start.elapsed().as_secs_f64() * 1e3)
    })?;
    for (case, count) in [("table_build_10", 10), ("table_build_100", 100), ("table_build_1000", 1_000)] {
        let names: Vec<String> = (0..count).map(|n| format!("az1-lb{n}")).collect();
        let backends: Vec<_> = names.iter().map(|id| Weighted { id, weight: 100 }).collect();
        let ours = median(|| {
            let start = Instant::now();
            black_box(maglev::build(black_box(&backends), TABLE_LEN));
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })?;
        cases.push(Case { case, unit: "ms", ours, reference: sort });
    }
    let names: Vec<String> = (0..1_000).map(|n| format!("az1-lb{n}")).collect();
    let backends: Vec<_> = names.iter().map(|id| Weighted { id, weight: 100 }).collect();
    let swap = median(|| {
        let start = Instant::now();
        let words: Vec<u32> =
            maglev::build(&backends, TABLE_LEN).into_iter().map(|owner| owner.into()).collect();
        balancer.table_of(1, words)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    })?;
    cases.push(Case { case: "table_swap_1000", unit: "ms", ours: swap, reference: sort });
    Ok(cases)
}

fn zones(asked: &Asked) -> Result<Vec<Case>> {
    let mut cases = choices(asked)?;
    if asked.wants("decision_ns") {
        cases.push(decision()?);
    }
    Ok(cases)
}

/// The choice of a server of 10,000, beside the choice of one of 100.
fn choices(asked: &Asked) -> Result<Vec<Case>> {
    const CHOICES: u64 = 2_000;
    let ns = |balance: Balance, servers: usize| {
        let place = SocketAddr::from(([10, 0, 0, 1], 80));
        let named = (0..servers).map(|n| Ok((format!("s{n}").parse()?, place, 100)));
        let candidates = Candidates::new(named.collect::<Result<Vec<_>>>()?);
        let active: Vec<AtomicU64> = (0..servers as u64).map(|n| AtomicU64::new(n % 7)).collect();
        let chooser = balance::Balancer::new(balance, 0);
        median(|| {
            let start = Instant::now();
            for n in 0..CHOICES {
                let client = ClientKey(weir_core::hash::mix(n));
                let request = Request { client, key: None, random: client.0, tried: &[] };
                let load = |server: &Candidate| Some(active.get(server.index)?.load(Relaxed));
                black_box(chooser.choose(&candidates, black_box(request), load).context("nobody")?);
            }
            Ok(start.elapsed().as_secs_f64() * 1e9 / CHOICES as f64)
        })
    };
    let methods = [
        ("choose_round_robin_10000", Balance::RoundRobin),
        ("choose_least_10000", Balance::LeastConnections),
        ("choose_random_10000", Balance::Random),
        ("choose_hash_10000", Balance::Hash),
    ];
    let wanted = methods.into_iter().filter(|(case, _)| asked.wants(case));
    let case = |(case, balance)| {
        Ok(Case { case, unit: "ns", ours: ns(balance, 10_000)?, reference: ns(balance, 100)? })
    };
    wanted.map(case).collect()
}

fn decision() -> Result<Case> {
    const DECISIONS: u64 = 1_000_000;
    let mut text = String::new();
    for zone in 1..=3 {
        text += &format!("[zone.az{zone}]\n");
        for server in 1..=3 {
            text += &format!(
                "[server.z{zone}s{server}]\npools = [\"app\"]\nzone = \"az{zone}\"\naddress = \"10.{zone}.0.{server}:80\"\n"
            );
        }
    }
    text += "[pool.app]\ncheck = { kind = \"tcp\" }\n";
    let snapshot = Snapshot::read(&[SourceFile { path: "bench.toml".into(), text }])?;
    let (pool, home): (Name, Name) = ("app".parse()?, "az1".parse()?);
    let mut view = HealthView::all_up(&snapshot);
    for server in ["z1s1", "z1s2"] {
        view.set(&pool, &server.parse()?, weir_model::status::Health::Down);
    }
    let assessment = routing::assess(&snapshot, &pool, &view, &[]).context("no such pool")?;
    let nothing = median(|| {
        let start = Instant::now();
        for key in 0..DECISIONS {
            black_box(weir_core::hash::mix(black_box(key)));
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / DECISIONS as f64)
    })?;
    let ours = median(|| {
        let start = Instant::now();
        for key in 0..DECISIONS {
            black_box(
                assessment.pick_zone(black_box(Some(&home)), ClientKey(black_box(key))).context("no zone")?,
            );
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / DECISIONS as f64)
    })?;
    Ok(Case { case: "decision_ns", unit: "ns", ours, reference: nothing })
}
