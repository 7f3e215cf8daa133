//! Measures the announcer with real routers beside a reference of the same run: `cargo xtask bench bgp [--json] [--only CASE]`.
//!
//! Needs root, BIRD and FRR. The rig is that of the interoperation tests.

#[path = "../../tests/interop/bench.rs"]
#[allow(dead_code)]
mod bench;
mod bfd;
#[path = "../../tests/interop/bfd_fabric.rs"]
#[allow(dead_code)]
mod bfd_fabric;
#[path = "../../tests/interop/bird.rs"]
#[allow(dead_code, unused_imports)]
mod bird;
#[path = "../../tests/interop/frr.rs"]
#[allow(dead_code, unused_imports)]
mod frr;

use serde_json::json;
use std::process::ExitCode;

/// One figure beside its reference.
struct Case {
    case: &'static str,
    unit: &'static str,
    ours: f64,
    reference: f64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1)).map_or("", String::as_str);
    let Some(cases) = bfd::measure(only) else {
        eprintln!("nothing was measured: see SKIPPED above");
        return ExitCode::FAILURE;
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
        println!("{:#}", serde_json::Value::from(list));
    } else {
        println!("{:<20} {:>6} {:>12} {:>12} {:>8}", "case", "unit", "ours", "reference", "ratio");
        for c in &cases {
            let ratio = c.ours / c.reference;
            println!("{:<20} {:>6} {:>12.3} {:>12.3} {ratio:>8.2}", c.case, c.unit, c.ours, c.reference);
        }
    }
    ExitCode::SUCCESS
}
