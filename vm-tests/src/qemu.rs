//! One run of the virtual machine: QEMU under emulation, its serial line read here, a deadline for all of it.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{cases::Tally, kernels::Unpacked, run::shown, verdict};

/// From the start of QEMU to the first word of the guest; a few seconds on an idle machine.
const BOOT_WITHIN: Duration = Duration::from_secs(120);
/// The whole run.
const DONE_WITHIN: Duration = Duration::from_secs(20 * 60);
/// What isa-debug-exit makes of the guest's verdicts 16 and 17.
const EXIT_GOOD: i32 = 2 * 16 + 1;
const EXIT_BAD: i32 = 2 * 17 + 1;

/// QEMU, ended with this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _may_have_ended = self.0.kill();
        let _nothing_left_to_do = self.0.wait();
    }
}

/// How often a kernel may crash before anything of ours runs: emulated, one of two processors now and then sees the other patch
/// the kernel's code (an Oops by int3 within the first seconds).
const BOOTS_MAX: usize = 3;

/// Boots `kernel` with the file system `initrd`, shows what the guest prints, and counts; `cases` is how many must end.
pub(crate) fn boot(kernel: &Unpacked, initrd: &Path, cases: usize) -> Result<Tally> {
    for attempt in 1..=BOOTS_MAX {
        if let Some(tally) = boot_once(kernel, initrd, cases)? {
            return Ok(tally);
        }
        println!(
            "kernel {}: crashed before anything of ours ran, boot {attempt} of {BOOTS_MAX}",
            kernel.name
        );
    }
    bail!("Linux {} does not boot", kernel.release);
}

/// The same once; `None` when the kernel ended before its first process had said a word.
fn boot_once(kernel: &Unpacked, initrd: &Path, cases: usize) -> Result<Option<Tally>> {
    let mut command = Command::new("qemu-system-x86_64");
    // Emulated even where KVM offers itself: nested KVM may hang its guests. `-cx16`: with it, 6.12 crashes now and then.
    command
        .args(["-machine", "q35,accel=tcg", "-cpu", "max,-cx16", "-smp", "2", "-m", "2G"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-nic", "none"])
        .arg("-device")
        .arg(format!("isa-debug-exit,iobase={:#x},iosize=1", verdict::PORT))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 loglevel=4 panic=-1 rdinit=/init"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let begun = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("start {} (Debian: apt-get install qemu-system-x86)", shown(&command)))?;
    let mut machine = Machine(child);
    let mut serial = BufReader::new(machine.0.stdout.take().context("no serial line")?);
    let (send, lines) = mpsc::sync_channel::<String>(64);
    thread::spawn(move || {
        let mut line = Vec::new();
        while serial.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            line.clear();
            if send.send(text).is_err() {
                return;
            }
        }
    });

    let mut tally = Tally::default();
    let mut up = false;
    loop {
        let deadline = begun + if up { DONE_WITHIN } else { BOOT_WITHIN };
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                // Indented: a count printed in the guest is not one of this program's.
                println!("  {:<4} {:>5.1} s  {line}", kernel.name, begun.elapsed().as_secs_f64());
                up |= line.starts_with("GUEST up");
                tally.line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let what = if up { "was not done" } else { "did not boot" };
                bail!("Linux {} {what} within {} s", kernel.release, (deadline - begun).as_secs());
            }
        }
    }
    let status = machine.0.wait().context("wait for QEMU")?;
    match status.code() {
        Some(EXIT_GOOD) if tally.ended == cases && tally.failed == 0 => Ok(Some(tally)),
        Some(EXIT_BAD) if tally.failed > 0 => Ok(Some(tally)),
        _ if !up => Ok(None),
        _ => bail!(
            "Linux {} ended with {status} after {} of {cases} cases, without a verdict",
            kernel.release,
            tally.ended
        ),
    }
}
