//! Builds the kernel programs with the pinned stable toolchain, as the Linux kernel builds its Rust code.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::run::{cargo, run, target};

const TARGET: &str = "bpfel-unknown-none";

/// Builds them; returns where the object is.
pub(crate) fn build() -> Result<PathBuf> {
    let build_dir = target()?.join("ebpf-build");
    let flags = ["linker=bpf-linker", "debuginfo=2", "link-arg=--btf", "target-cpu=v3"];
    let flags = flags.map(|flag| format!("-C{flag}")).join("\x1f");
    run(cargo()
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "weir-ebpf",
            "--target",
            TARGET,
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(&build_dir)
        // -Z on a stable toolchain: core for the BPF target is built from rust-src, nothing else is unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTFLAGS"))
    .context("build the kernel programs")?;
    let object = target()?.join("ebpf/weir");
    std::fs::create_dir_all(object.parent().context("no target directory")?)?;
    // By rename, so that a laboratory that starts meanwhile reads the old object or the new one.
    let fresh = object.with_extension(format!("{}", std::process::id()));
    std::fs::copy(build_dir.join(TARGET).join("release/weir"), &fresh).context("copy the object")?;
    std::fs::rename(&fresh, &object).context("move the object into its place")?;
    Ok(object)
}
