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
mod speaker;
mod verdict;

use std::process::ExitCode;
use weir_lab::figures::Asked;

/// What the router runs.
#[derive(Clone, Copy)]
enum Router {
    Bird,
    Frr,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::read(&arguments);
    let measured = verdict::measure(&asked).and_then(|mut cases| {
        cases.extend(bfd::measure(&asked)?);
        Some(cases)
    });
    let Some(cases) = measured else {
        eprintln!("nothing was measured: see SKIPPED above");
        return ExitCode::FAILURE;
    };
    print!("{}", asked.render(&cases));
    ExitCode::SUCCESS
}
