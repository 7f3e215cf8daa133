//! What a fresh machine lacks, installed once: every other command calls the part it needs.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, output, root, run};

/// bpf-linker loads the LLVM of the pinned toolchain; versions from 0.11 on want a newer one.
const BPF_LINKER: &str = "0.10.3";

/// A Debian package, and a file that is there when it is installed.
struct Package {
    name: &'static str,
    file: &'static str,
}

const fn package(name: &'static str, file: &'static str) -> Package {
    Package { name, file }
}

/// The laboratory's routers.
const LAB: &[Package] = &[package("bird2", "/usr/sbin/bird")];
/// Other BGP and BFD speakers, for interoperation tests; `ip`, for routes and bridges that weir itself never makes; `chrt`, for
/// routers that are measured.
const NET: &[Package] = &[
    package("bird2", "/usr/sbin/bird"),
    package("frr", "/usr/lib/frr/bgpd"),
    package("gobgpd", "/usr/bin/gobgpd"),
    package("openbgpd", "/usr/sbin/bgpd"),
    package("iproute2", "/usr/sbin/ip"),
    package("util-linux", "/usr/bin/chrt"),
];
/// A virtual machine and what is put into it.
const VM: &[Package] = &[
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    package("busybox-static", "/usr/share/doc/busybox-static"),
    package("kmod", "/usr/sbin/depmod"),
    package("xz-utils", "/usr/bin/xz"),
    package("bird2", "/usr/sbin/bird"),
];
/// Proxies that ours is measured beside.
const RIVALS: &[Package] = &[
    package("haproxy", "/usr/sbin/haproxy"),
    package("nginx", "/usr/sbin/nginx"),
    package("libnginx-mod-stream", "/usr/lib/nginx/modules/ngx_stream_module.so"),
];
/// rustls builds its cryptography from C.
const BUILD: &[Package] = &[package("gcc", "/usr/bin/cc"), package("libc6-dev", "/usr/include/stdio.h")];
/// libFuzzer is C++.
const FUZZ: &[Package] = &[package("g++", "/usr/bin/c++")];

/// Everything.
pub(crate) fn all() -> Result<()> {
    toolchain()?;
    packages(BUILD)?;
    net()?;
    rivals()?;
    vm()
}

/// What building takes.
pub(crate) fn toolchain() -> Result<()> {
    packages(BUILD)?;
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    let rust_src = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !rust_src.exists() {
        say("adding the toolchain component rust-src");
        run(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(root()))
            .context("the kernel programs need the component rust-src")?;
    }
    let found = output(Command::new("bpf-linker").arg("--version")).unwrap_or_default();
    if found.split_whitespace().last() != Some(BPF_LINKER) {
        say(&format!("installing bpf-linker {BPF_LINKER} (about a minute)"));
        run(cargo().args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]))
            .with_context(|| {
                format!("install it by hand: cargo install bpf-linker --version {BPF_LINKER} --locked")
            })?;
    }
    Ok(())
}

/// What fuzzing takes.
pub(crate) fn fuzz() -> Result<()> {
    toolchain()?;
    packages(FUZZ)
}

/// What the laboratory takes.
pub(crate) fn lab() -> Result<()> {
    packages(LAB)
}

/// What the tests in namespaces take.
pub(crate) fn net() -> Result<()> {
    packages(NET)
}

/// What the benchmark of the proxy takes.
pub(crate) fn rivals() -> Result<()> {
    packages(RIVALS)
}

/// What the tests in virtual machines take.
pub(crate) fn vm() -> Result<()> {
    packages(VM)
}

fn packages(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|package| !Path::new(package.file).exists())
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0");
    if !is_root || !Path::new("/usr/bin/apt-get").exists() {
        bail!(
            "Debian packages are missing, and this is not root on a machine with apt; install them: {by_hand}"
        );
    }
    say(&format!("installing Debian packages: {}", missing.join(" ")));
    let _until_installed = NoStart::claim();
    // A package list that is only partly reachable still finds what it finds.
    let _try_anyway = apt().args(["update", "--quiet"]).status();
    run(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&missing))
        .with_context(|| format!("install them by hand: {by_hand}"))
}

/// While it lives no package starts its daemon, under systemd too, which asks for no runlevel.
struct NoStart;

impl NoStart {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    /// Leaves a policy alone that is there already.
    fn claim() -> Option<Self> {
        const POLICY_TEXT: &[u8] =
            b"#!/bin/sh\n# Of `cargo xtask setup`, while it installs packages. If none runs, remove this.\nexit 101\n";
        use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(Self::POLICY).ok()?;
        let claimed = Self;
        file.write_all(POLICY_TEXT).is_ok().then_some(claimed)
    }
}

impl Drop for NoStart {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(Self::POLICY) {
            say(&format!("no package will start its daemon until {} is removed: {error}", Self::POLICY));
        }
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // With runlevel 1 no package starts its daemon: the laboratory runs its own routers.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command.stdout(std::process::Stdio::null());
    command
}

fn say(what: &str) {
    eprintln!("setup: {what}");
}
