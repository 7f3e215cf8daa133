//! The packet tables and an end-to-end case in QEMU, on Debian kernels. `cargo xtask test vm` runs it.
//!
//! ```text
//!  kernels (which, from where) ─┐
//!  cases (what runs)  ──────────┼─► image (cpio: busybox, programs, modules, init.sh) ─► qemu (serial line, verdict)
//!  target/debug, target/ebpf ───┘
//! ```
//!
//! The guest has no disk, no network and nothing of the machine but the files copied into its image. What it runs are the
//! same programs that run here, so a difference is the kernel's.

mod cases;
mod cpio;
mod image;
mod kernels;
mod qemu;
mod run;
mod verdict;

use std::{
    fs,
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Parser;

use crate::{
    cases::{CASES, Case, Tally},
    kernels::KERNELS,
};

/// Machines at once: a guest keeps little more than one core busy.
const MACHINES: usize = 2;

/// Boots Debian kernels in QEMU and runs weir's packet tables and an end-to-end case in them.
#[derive(Debug, Parser)]
#[command(name = "weir-vm-tests")]
struct Arguments {
    /// A kernel of the list, a Debian package file, or a directory with boot/vmlinuz-* and lib/modules; may be repeated
    #[arg(long, value_name = "NAME|PATH")]
    kernel: Vec<String>,
    /// Only this case; may be repeated
    #[arg(long, value_name = "NAME", value_parser = CASES.iter().map(|case| case.name).collect::<Vec<_>>())]
    case: Vec<String>,
    /// List kernels and cases
    #[arg(long)]
    list: bool,
    /// Inside the guest: hand a verdict to QEMU
    #[arg(long, hide = true, value_name = "BYTE")]
    verdict: Option<u8>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run_all(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-vm-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the others count is whole, whatever became of one.
fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether all passed.
fn run_all(arguments: &Arguments) -> Result<bool> {
    if let Some(verdict) = arguments.verdict {
        verdict::hand_over(verdict)?;
    }
    if arguments.list {
        for kernel in KERNELS {
            println!("kernel {:<10} Debian {}: {}", kernel.name, kernel.suite, kernel.cases.join(", "));
        }
        for case in CASES {
            println!("case   {:<10} {}", case.name, case.about);
        }
        return Ok(true);
    }
    let kernels: Vec<String> = match &arguments.kernel {
        asked if asked.is_empty() => KERNELS.iter().map(|kernel| kernel.name.to_owned()).collect(),
        asked => asked.clone(),
    };
    let begun = Instant::now();
    let (sum, queue) = (Mutex::new(Tally::default()), Mutex::new(kernels.iter()));
    thread::scope(|scope| {
        for _ in 0..MACHINES.min(kernels.len()) {
            scope.spawn(|| {
                // Not in the loop's head, where the lock would be held for the whole round.
                let next = || locked(&queue).next();
                while let Some(name) = next() {
                    let done = run_on(name, &cases_for(name, &arguments.case));
                    let mut sum = locked(&sum);
                    match done {
                        Ok(tally) => {
                            sum.passed += tally.passed;
                            sum.failed += tally.failed;
                            sum.ignored += tally.ignored;
                        }
                        Err(error) => {
                            println!("kernel {name}: {error:#}");
                            sum.failed += 1;
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    // As libtest says it, for whoever adds up.
    println!(
        "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if sum.failed == 0 { "ok" } else { "FAILED" },
        sum.passed,
        sum.failed,
        sum.ignored,
        begun.elapsed().as_secs_f64()
    );
    Ok(sum.failed == 0)
}

/// The cases asked for; without any, those of the kernel's line in the list, and all for a kernel that is not in it.
fn cases_for(kernel: &str, asked: &[String]) -> Vec<&'static Case> {
    let listed = KERNELS.iter().find(|listed| listed.name == kernel);
    let wanted = |case: &&Case| match (asked, listed) {
        ([], Some(listed)) => listed.cases.contains(&case.name),
        ([], None) => true,
        (asked, _) => asked.iter().any(|name| name == case.name),
    };
    CASES.iter().filter(wanted).collect()
}

fn run_on(name: &str, cases: &[&Case]) -> Result<Tally> {
    let target = run::target()?;
    let cache = target.join("vm");
    fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
    let kernel = kernels::find(name, &cache)?;
    let initrd = cache.join(format!("{}.cpio", kernel.name));
    image::build(&kernel, cases, &target, &initrd)?;
    let len = fs::metadata(&initrd).map_or(0, |file| file.len());
    println!("kernel {}: Linux {}, image of {} MiB", kernel.name, kernel.release, len >> 20);
    let tally = qemu::boot(&kernel, &initrd, cases.len())?;
    println!("kernel {}: {} passed, {} failed", kernel.name, tally.passed, tally.failed);
    Ok(tally)
}
