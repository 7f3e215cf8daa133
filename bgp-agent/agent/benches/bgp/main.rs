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

use bench::Agent;
use bfd_fabric::Fabric;
use std::process::ExitCode;
use weir_lab::figures::Asked;
use weir_lab::sys;

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

/// weir-bgp on the host, logging as it does by default: what it writes for people takes time too.
fn quiet_agent(fabric: &Fabric, config: &str) -> Agent {
    let netns = fabric.host.netns.fd();
    Agent::start_with(config, "n1", |command| {
        command.env_remove("RUST_LOG");
        sys::confine(command, netns);
    })
}
