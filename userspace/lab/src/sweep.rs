//! What a laboratory leaves on the machine, how it is claimed, and how it is taken away — by its owner at the end, or
//! by the next laboratory when the owner crashed.
//!
//! Everything carries the laboratory's name: namespaces `weir-NAME-*`, pins `/sys/fs/bpf/weir-NAME-*`, and the
//! directory `/run/weir-lab/NAME` with a file whose lock the owner holds for life.

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::control;
use crate::netns;

/// Where laboratories keep their directories.
const LABS_DIR: &str = "/run/weir-lab";
/// Where maps and links are pinned.
pub(crate) const BPF_DIR: &str = "/sys/fs/bpf";
/// The longest name: it is part of socket paths, which the kernel limits to 107 bytes.
const NAME_LEN_MAX: usize = 24;
/// How long a name may stay locked before its laboratory counts as up.
const CLAIM_WITHIN: Duration = Duration::from_millis(500);
/// How long killed processes may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A claimed name. Dropping it takes away everything that carries the name.
pub(crate) struct Claim {
    name: String,
    /// Taken out (and with it unlocked) at the very end.
    lock: Option<Flock<File>>,
}

impl Claim {
    /// Claims `name`, after taking away what crashed laboratories left, this one's predecessor among them.
    pub(crate) fn take(name: &str) -> Result<Self> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(good) {
            // No '-': the prefix of one laboratory must not begin another's.
            bail!("laboratory name {name:?} is not 1 to {NAME_LEN_MAX} of a-z and 0-9");
        }
        if !nix::unistd::geteuid().is_root() {
            bail!("a laboratory needs root: it makes network namespaces and loads kernel programs");
        }
        sweep();
        let dir = directory(name);
        let deadline = Instant::now() + CLAIM_WITHIN;
        let lock = loop {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            match lock(&dir, true) {
                Ok(Some(lock)) => break lock,
                // Another laboratory that starts now may be sweeping: it holds locks for a moment.
                Ok(None) | Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                Ok(None) => bail!("laboratory {name} is already up"),
                Err(error) => return Err(error),
            }
        };
        Ok(Self { name: name.into(), lock: Some(lock) })
    }

    /// Takes away what crashed laboratories left. Done again some time after the claim: the lock of a process that was
    /// killed a moment before it is still held while the process dies.
    pub(crate) fn sweep_again(&self) {
        sweep();
    }

    /// The laboratory's directory.
    pub(crate) fn dir(&self) -> PathBuf {
        directory(&self.name)
    }

    /// Takes away everything that carries the name.
    pub(crate) fn take_away(&self) {
        take_away(&self.name);
    }

    /// What the names of its namespaces begin with.
    pub(crate) fn prefix(&self) -> String {
        prefix(&self.name)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        take_away(&self.name);
        self.lock = None;
    }
}

/// The directory of a laboratory.
pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(LABS_DIR).join(name)
}

/// The names of the laboratories that are up and can be asked: one made for a single run answers nobody else.
pub(crate) fn running() -> Vec<String> {
    let answers = |dir: &Path| matches!(lock(dir, false), Ok(None)) && dir.join(control::SOCKET).exists();
    all().into_iter().filter(|name| answers(&directory(name))).collect()
}

fn all() -> Vec<String> {
    let Ok(entries) = fs::read_dir(LABS_DIR) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn prefix(name: &str) -> String {
    format!("weir-{name}-")
}

/// The lock of a laboratory's directory, unless somebody holds it. Only who claims the name makes the file: a look must
/// not leave one behind in a directory that is being removed.
fn lock(dir: &Path, create: bool) -> Result<Option<Flock<File>>> {
    let path = dir.join("lock");
    let file = File::options()
        .create(create)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            // Somebody who swept may have unlinked the file between the opening and the locking.
            let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            let linked = fs::metadata(&path).and_then(|named| Ok(same(named, lock.metadata()?)));
            if linked.unwrap_or(false) { Ok(Some(lock)) } else { bail!("{} was swept away", path.display()) }
        }
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Takes away everything of laboratories whose owner is gone.
fn sweep() {
    for name in all() {
        match lock(&directory(&name), false) {
            Ok(Some(_held)) => take_away(&name),
            Ok(None) => {}
            // A directory without a lock was left by a crash between the two; an empty one can go.
            Err(_) => drop(fs::remove_dir(directory(&name))),
        }
    }
}

fn take_away(name: &str) {
    let namespaces = netns::names(&prefix(name));
    end_processes_in(&namespaces);
    for namespace in &namespaces {
        netns::remove(namespace);
    }
    for entry in fs::read_dir(BPF_DIR).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix(name)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let _ = fs::remove_dir_all(directory(name));
    // Gone with the last laboratory.
    let _ = fs::remove_dir(LABS_DIR);
}

/// Kills every process whose main thread is in one of the namespaces, and waits until they are gone. This process
/// only has threads there.
fn end_processes_in(namespaces: &[String]) {
    let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let inside: HashSet<_> = namespaces.iter().filter_map(|name| identity(&netns::path_of(name))).collect();
    let own = Pid::this();
    let residents = || -> Vec<Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
            .filter(|pid| *pid != own)
            .filter(|pid| {
                identity(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|ns| inside.contains(&ns))
            })
            .collect()
    };
    let deadline = Instant::now() + GONE_WITHIN;
    loop {
        let left = residents();
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in left {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
