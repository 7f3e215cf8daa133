//! The kernels weir is tried on: Debian's, downloaded and unpacked below the target directory, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::run::output;

/// A line of the matrix.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What it is called here.
    pub(crate) name: &'static str,
    /// Debian's suite that has it.
    pub(crate) suite: &'static str,
    /// The series to take the newest of, where the suite has several; else the suite's newest kernel is taken.
    series: Option<&'static str>,
    /// The cases a run without `--case` tries on it.
    pub(crate) cases: &'static [&'static str],
}

const fn kernel(
    name: &'static str,
    suite: &'static str,
    series: Option<&'static str>,
    cases: &'static [&'static str],
) -> Kernel {
    Kernel { name, suite, series, cases }
}

/// The matrix: long-term kernels and the newest. A laboratory under emulation costs minutes, so it is tried on one of them
/// unless somebody asks for more.
pub(crate) const KERNELS: &[Kernel] = &[
    kernel("5.10", "bullseye", None, &["packets"]),
    kernel("6.1", "bookworm", None, &["packets", "lab"]),
    kernel("6.12", "trixie", None, &["packets"]),
    kernel("6.18", "trixie-backports", Some("6.18"), &["packets"]),
    kernel("7.2", "trixie-backports", Some("7.2"), &["packets"]),
];

/// The package that depends on a suite's newest kernel for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Names of the packages a kernel is made of; newer ones are split in two.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel that can be booted.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Its name in the matrix, or that of the file it came from.
    pub(crate) name: String,
    /// `uname -r`.
    pub(crate) release: String,
    /// The image.
    pub(crate) image: PathBuf,
    /// The directory that holds `lib/modules`.
    pub(crate) root: PathBuf,
}

/// The one of the matrix called `name`, or what is at that path: a package file, or a directory with `boot/vmlinuz-*`
/// and `lib/modules`.
pub(crate) fn find(name: &str, cache: &Path) -> Result<Unpacked> {
    if let Some(kernel) = KERNELS.iter().find(|kernel| kernel.name == name) {
        return kernel.fetch(cache);
    }
    let path = Path::new(name);
    let title = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if path.is_dir() {
        return unpacked(&title, path);
    }
    if !path.is_file() {
        let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("{name} is neither a file, nor a directory, nor one of {}", known.join(", "));
    }
    let root = cache.join(&title);
    unpack(&[path.into()], &root)?;
    unpacked(&title, &root)
}

impl Kernel {
    /// Downloads it, unless that was done before.
    fn fetch(&self, cache: &Path) -> Result<Unpacked> {
        let root = cache.join(self.name);
        if let Ok(found) = unpacked(self.name, &root) {
            return Ok(found);
        }
        let downloads = cache.join(format!("{}.packages", self.name));
        fs::create_dir_all(&downloads).with_context(|| format!("create {}", downloads.display()))?;
        let apt = Apt::of(self.suite, &downloads)?;
        let files = match apt.download(self.series, &downloads) {
            Ok(files) => files,
            // No list of packages yet, or one so old that its files are gone from the mirror.
            Err(_) => {
                apt.update()?;
                apt.download(self.series, &downloads)
                    .with_context(|| format!("download Linux {}", self.name))?
            }
        };
        unpack(&files, &root)?;
        fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))?;
        unpacked(self.name, &root)
    }
}

/// apt with the lists of one suite: the machine's own, or a set beside the downloads.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn of(suite: &str, dir: &Path) -> Result<Self> {
        // It would drop to a user that cannot write here, and warn about not doing so.
        let mut options = vec!["APT::Sandbox::User=root".to_owned()];
        let own = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !own.lines().any(|line| line == format!("VERSION_CODENAME={suite}")) {
            let list = dir.join("sources.list");
            let line = format!("deb [signed-by={KEYRING} arch=amd64] {MIRROR} {suite} main\n");
            fs::write(&list, line).with_context(|| format!("write {}", list.display()))?;
            let lists = dir.join("lists");
            fs::create_dir_all(lists.join("partial"))?;
            options.push(format!("Dir::Etc::sourcelist={}", list.display()));
            options.push("Dir::Etc::sourceparts=/dev/null".into());
            options.push(format!("Dir::State::lists={}", lists.display()));
            options.push(format!("Dir::Cache::pkgcache={}", dir.join("pkgcache.bin").display()));
            options.push(format!("Dir::Cache::srcpkgcache={}", dir.join("srcpkgcache.bin").display()));
        }
        Ok(Self { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    fn update(&self) -> Result<()> {
        output(self.command("apt-get").args(["--quiet", "update"])).map(drop)
    }

    fn download(&self, series: Option<&str>, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut packages = vec![match series {
            None => META_PACKAGE.to_owned(),
            Some(series) => {
                let named =
                    output(self.command("apt-cache").args(["pkgnames", &format!("linux-image-{series}.")]))?;
                newest(&named).with_context(|| format!("no Linux {series} in this suite"))?
            }
        }];
        let mut looked_at = 0;
        while let Some(package) = packages.get(looked_at).cloned() {
            looked_at += 1;
            let depends = output(self.command("apt-cache").args(["depends", "--important", &package]))?;
            for name in parts(&depends) {
                if !packages.contains(&name) {
                    packages.push(name);
                }
            }
        }
        packages.retain(|package| package != META_PACKAGE);
        if packages.is_empty() {
            bail!("{META_PACKAGE} depends on no kernel");
        }
        output(self.command("apt-get").args(["--quiet", "download"]).args(&packages).current_dir(dir))?;
        let entries = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
    }
}

/// The newest kernel for virtual machines among names of packages.
fn newest(names: &str) -> Option<String> {
    let version = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    names
        .lines()
        .filter(|name| name.ends_with("-cloud-amd64"))
        .max_by_key(|name| version(name))
        .map(str::to_owned)
}

/// The parts of a kernel among the lines of `apt-cache depends`.
fn parts(depends: &str) -> Vec<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "))
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .map(str::to_owned)
        .collect()
}

fn unpack(packages: &[PathBuf], root: &Path) -> Result<()> {
    // By rename, so that an interrupted run leaves nothing that looks complete.
    let fresh = root.with_extension("fresh");
    let _nothing_may_be_there = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    for package in packages {
        output(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&fresh))?;
    }
    // Without /usr merged, or with: kmod looks below lib/modules.
    let (old, new) = (fresh.join("lib"), fresh.join("usr/lib"));
    if !old.join("modules").exists() && new.join("modules").exists() {
        std::os::unix::fs::symlink("usr/lib", &old)
            .with_context(|| format!("link {} to usr/lib", old.display()))?;
    }
    let release = release(&fresh)?;
    output(Command::new("depmod").arg("-b").arg(&fresh).arg(&release))?;
    let _nothing_may_be_there = fs::remove_dir_all(root);
    fs::rename(&fresh, root).with_context(|| format!("move {} into its place", root.display()))
}

/// The kernel whose modules are there.
fn release(root: &Path) -> Result<String> {
    let modules = root.join("lib/modules");
    let entries = fs::read_dir(&modules).with_context(|| format!("read {}", modules.display()))?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .max()
        .with_context(|| format!("{} is empty", modules.display()))
}

fn unpacked(name: &str, root: &Path) -> Result<Unpacked> {
    let release = release(root)?;
    // Beside its modules since 7.2.
    let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let image = places
        .iter()
        .map(|place| root.join(place))
        .find(|path| path.is_file())
        .with_context(|| format!("{} has neither {}", root.display(), places.join(" nor ")))?;
    Ok(Unpacked { name: name.into(), release, image, root: root.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found_behind_the_package_that_depends_on_it() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n |Depends: kmod\n  \
                       Suggests: linux-doc-6.1\n";
        assert_eq!(parts(depends), ["linux-image-6.1.0-1-cloud-amd64"]);
        let split = "x\n  Depends: linux-binary-7.2-cloud-amd64\n  Depends: linux-modules-7.2-cloud-amd64\n";
        assert_eq!(parts(split).len(), 2);
    }

    #[test]
    fn the_newest_of_a_series_is_taken_by_number() {
        let names = "linux-image-6.18.9+deb13-cloud-amd64\nlinux-image-6.18.12+deb13-cloud-amd64\n\
                     linux-image-6.18.15+deb13-amd64\n";
        assert_eq!(newest(names).as_deref(), Some("linux-image-6.18.12+deb13-cloud-amd64"));
        assert_eq!(newest(""), None);
    }
}
