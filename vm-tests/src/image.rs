//! The first and only file system of the guest: busybox, the programs under test with their libraries, kernel modules,
//! and a script that runs the cases.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    cases::{Case, DIR},
    cpio::Archive,
    kernels::Unpacked,
    run::{self, output},
};

/// Modules that the laboratory or its tools want; what they depend on comes along.
const MODULES: [&str; 4] = ["veth", "dummy", "tcp_diag", "udp_diag"];
/// Programs of the workspace.
const PROGRAMS: [&str; 4] = ["weir", "weir-l4", "weir-proxy", "weir-bgp"];

/// Builds the image for `kernel` and `cases` at `path`.
pub(crate) fn build(kernel: &Unpacked, cases: &[&Case], target: &Path, path: &Path) -> Result<()> {
    let mut image = Image { archive: Archive::default(), libraries: BTreeSet::new() };
    for dir in ["proc", "sys", "dev", "run", "tmp", "etc", "root", "var/run"] {
        image.archive.directory(dir);
    }
    image.archive.character_device("dev/console", (5, 1));
    image.archive.file("init", include_bytes!("init.sh"));
    image.archive.file("lab.sh", include_bytes!("lab.sh"));
    image.archive.file("cases", Case::table(cases).as_bytes());
    image.copy(Path::new("/bin/busybox"), "bin/busybox").context("Debian: apt-get install busybox-static")?;
    let debug = target.join("debug");
    for name in PROGRAMS {
        image.program(&debug.join(name), &format!("{DIR}/debug/{name}"))?;
    }
    let own = std::env::current_exe().context("find the running program")?;
    image.program(&own, &format!("{DIR}/debug/weir-vm-tests"))?;
    for name in cases.iter().filter_map(|case| case.test_program) {
        image.program(&run::test_program(name)?, &format!("{DIR}/debug/deps/{name}"))?;
    }
    image.copy(&target.join("ebpf/weir"), &format!("{DIR}/ebpf/weir"))?;
    image.program(Path::new("/usr/sbin/bird"), "usr/sbin/bird")?;
    image.modules(kernel)?;
    // By rename: another run may be reading the one of before.
    let fresh = path.with_extension(format!("{}", std::process::id()));
    fs::write(&fresh, image.archive.finish()).with_context(|| format!("write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("move {} into its place", path.display()))
}

struct Image {
    archive: Archive,
    libraries: BTreeSet<String>,
}

impl Image {
    fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.archive.file(to, &content);
        Ok(())
    }

    /// A program without what only a debugger reads, and its libraries at the paths it asks for.
    fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        if !from.is_file() {
            bail!("{} is missing: `cargo xtask test vm` builds and installs it", from.display());
        }
        // Of its own: the image of another kernel may be made at this moment.
        let stripped = tempfile::NamedTempFile::new().context("a file for a stripped program")?;
        output(Command::new("strip").arg("--strip-debug").arg("-o").arg(stripped.path()).arg(from))?;
        self.copy(stripped.path(), to)?;
        for library in libraries(&output(Command::new("ldd").arg(from))?) {
            if self.libraries.insert(library.clone()) {
                self.copy(Path::new(&library), &library)?;
            }
        }
        Ok(())
    }

    fn modules(&mut self, kernel: &Unpacked) -> Result<()> {
        let mut order: Vec<PathBuf> = Vec::new();
        for module in MODULES {
            let mut command = Command::new("modprobe");
            command.arg("-d").arg(&kernel.root).args(["-S", &kernel.release, "--show-depends", module]);
            for path in insmod_lines(&output(&mut command)?) {
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        let mut names = String::new();
        for path in order {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (name, content) = match name.strip_suffix(".xz") {
                Some(plain) => {
                    let mut command = Command::new("xz");
                    let unpacked = command.arg("-dc").arg(&path).output().context("start xz")?;
                    if !unpacked.status.success() {
                        bail!("xz cannot unpack {}", path.display());
                    }
                    (plain.to_owned(), unpacked.stdout)
                }
                None => (name, fs::read(&path).with_context(|| format!("read {}", path.display()))?),
            };
            self.archive.file(&format!("modules/{name}"), &content);
            names += &format!("{name}\n");
        }
        self.archive.file("modules/order", names.as_bytes());
        Ok(())
    }
}

/// The paths among the lines of `ldd`: `libc.so.6 => /lib/… (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

/// The paths among the lines of `modprobe --show-depends`: `insmod /… options`; `builtin NAME` has none.
fn insmod_lines(depends: &str) -> Vec<PathBuf> {
    depends
        .lines()
        .filter_map(|line| line.strip_prefix("insmod ")?.split_whitespace().next())
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        assert_eq!(libraries(ldd), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn modules_are_read_from_modprobe() {
        let depends = "builtin ipv6\ninsmod /x/lib/modules/6.1/kernel/net/veth.ko \n";
        assert_eq!(insmod_lines(depends), [PathBuf::from("/x/lib/modules/6.1/kernel/net/veth.ko")]);
    }
}
