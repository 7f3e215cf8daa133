//! `cargo xtask test`: all rings, one count at the end.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf, lab,
    run::{cargo, run, shown, target},
    setup,
};

/// Which tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// Pure code and loopback sockets: no root, no kernel programs.
    Unit,
    /// Kernel programs, namespaces, routers, missions: root.
    Net,
    /// The packet tables and an end-to-end case on a Debian kernel in QEMU.
    Vm,
    /// Everything.
    All,
}

/// Results of test runs, summed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Commands that ended badly without naming a failed test: a test program that did not build or died.
    broken: u64,
}

/// Packages whose tests need the kernel, routers or root.
const NET_PACKAGES: [&str; 1] = ["weir-tests"];

/// Runs them.
pub(crate) fn run_tests(what: What) -> Result<()> {
    setup::toolchain()?;
    let mut count = Count::default();
    if matches!(what, What::Unit | What::All) {
        unit(&mut count)?;
    }
    if matches!(what, What::Net | What::All) {
        net(&mut count)?;
    }
    if matches!(what, What::Vm | What::All) {
        vm(&mut count)?;
    }
    let failed = count.failed + count.broken;
    let skipped = if count.skipped == 0 { String::new() } else { format!(", {} skipped", count.skipped) };
    println!("{} passed, {failed} failed{skipped}", count.passed);
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}

fn unit(count: &mut Count) -> Result<()> {
    // BGP interoperation runs real routers on loopback, and in namespaces where there is root.
    setup::net()?;
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    for package in NET_PACKAGES {
        command.args(["--workspace", "--exclude", "weir-ebpf", "--exclude", package]);
    }
    count.run(command.args(["--", "--show-output"]))
}

fn net(count: &mut Count) -> Result<()> {
    setup::net()?;
    let weir = lab::prepare()?;
    let mut command = cargo();
    for (key, value) in weir.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.env("WEIR_BIN_DIR", target()?.join("debug"));
    command.args(["test", "--no-fail-fast"]);
    for package in NET_PACKAGES {
        command.args(["--package", package]);
    }
    // One at a time: laboratories measure, and two of them on two cores would measure each other.
    count.run(command.args(["--", "--show-output", "--test-threads=1"]))
}

fn vm(count: &mut Count) -> Result<()> {
    setup::vm()?;
    lab::prepare()?;
    ebpf::build()?;
    run(cargo().args(["build", "--quiet", "--package", "weir-tests", "--tests"]))?;
    count.run(cargo().args(["run", "--quiet", "--package", "weir-vm-tests"]))
}

impl Count {
    /// Runs a command that prints libtest's summaries, showing what it prints.
    fn run(&mut self, command: &mut Command) -> Result<()> {
        eprintln!("test: {}", shown(command));
        let before = self.failed;
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {}", shown(command)))?;
        let output = child.stdout.take().context("no output to read")?;
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("read the output of the tests")?;
            let line = String::from_utf8_lossy(&line);
            self.line(&line);
            let _closed_pipe_is_no_failure = writeln!(std::io::stdout(), "{line}");
        }
        let status = child.wait()?;
        if !status.success() && self.failed == before {
            self.broken += 1;
            eprintln!("test: {} ended with {status}", shown(command));
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if line.starts_with("SKIPPED") {
            self.skipped += 1;
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_test_programs_are_added_up() {
        let mut count = Count::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            "SKIPPED no FRR on this machine",
            "test some::test ... ok",
        ] {
            count.line(line);
        }
        assert_eq!(count, Count { passed: 15, failed: 2, skipped: 2, broken: 0 });
    }
}
