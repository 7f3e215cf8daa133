//! Measures hot paths beside a reference of the same run: `cargo xtask bench l4|zones [--json]`.
//!
//! Packets: `BPF_PROG_TEST_RUN` with `repeat` does not restore the packet, so only cases that leave it as it is are
//! measured that way; the reference is the program `pass`, which does nothing.

use std::{hint::black_box, time::Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use weir_abi::{
    Address, Config,
    hop::{Backend, KIND_LOCAL},
    limits::TABLE_LEN,
    service::{PROTO_TCP, Slot},
};
use weir_core::{
    ClientKey,
    health::HealthView,
    maglev::{self, Weighted},
    routing,
};
use weir_model::{Name, Snapshot, SourceFile};
use weir_tests::{
    packet::{self, ACK},
    prog_run::{Balancer, key4},
};

/// Runs of each case; the median counts.
const RUNS: usize = 7;

struct Case {
    case: &'static str,
    unit: &'static str,
    ours: f64,
    reference: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cases = match arguments.first().map(String::as_str) {
        Some("l4") => l4()?,
        Some("zones") => zones()?,
        _ => bail!("usage: weir-bench l4|zones [--json]"),
    };
    if arguments.iter().any(|argument| argument == "--json") {
        let list: Vec<_> = cases
            .iter()
            .map(|c| {
                json!({
                    "case": c.case, "unit": c.unit, "ours": c.ours, "reference": c.reference,
                    "ratio": c.ours / c.reference,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        println!("{:<20} {:>6} {:>12} {:>12} {:>8}", "case", "unit", "ours", "reference", "ratio");
        for c in cases {
            let ratio = c.ours / c.reference;
            println!("{:<20} {:>6} {:>12.3} {:>12.3} {ratio:>8.2}", c.case, c.unit, c.ours, c.reference);
        }
    }
    Ok(())
}

fn median(mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut seen = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        seen.push(run()?);
    }
    seen.sort_by(f64::total_cmp);
    Ok(seen[RUNS / 2])
}

fn l4() -> Result<Vec<Case>> {
    const VIP: [u8; 4] = [198, 51, 100, 10];
    const REPEAT: u32 = 1_000_000;
    let own = [10, 1, 1, 2];
    let config = Config {
        abi_version: weir_abi::ABI_VERSION,
        has_v4: 1,
        has_v6: 0,
        address4: own,
        address6: Address::default(),
        mtu: 1500,
    };
    let mut balancer = Balancer::load(config)?;
    balancer.backend(1, Backend { address: Address::v4(own), kind: KIND_LOCAL, _pad: [0; 3] })?;
    balancer.service(0, key4(VIP, PROTO_TCP, 80), Slot { owner: 1, previous: 0 })?;
    let vip = packet::tcp("203.0.113.7:40000", "198.51.100.10:80", ACK, b"");
    let other = packet::tcp("203.0.113.7:40000", "198.51.100.99:80", ACK, b"");
    let null = median(|| balancer.time_pass(&vip, REPEAT))?;
    let mut cases = Vec::new();
    for (case, packet) in [("pass_nonvip", &other), ("deliver_local", &vip)] {
        let ours = median(|| balancer.time(packet, REPEAT))?;
        cases.push(Case { case, unit: "ns", ours, reference: null });
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
    let swap = median(|| {
        let start = Instant::now();
        balancer.table(0, Slot { owner: 1, previous: 0 })?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    })?;
    cases.push(Case { case: "table_swap", unit: "ms", ours: swap, reference: sort });
    Ok(cases)
}

fn zones() -> Result<Vec<Case>> {
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
    Ok(vec![Case { case: "decision_ns", unit: "ns", ours, reference: nothing }])
}
