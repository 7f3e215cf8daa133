//! Network namespaces: made, entered, removed. Nothing here knows what the laboratory puts into them.
//!
//! A namespace belongs to a thread, so work in one is done by a thread that entered it: a passing one
//! ([`NetNs::run`]) or one that stays ([`Resident`]). Threads of the main runtime never change theirs. They are named
//! under `/run/netns`, so `ip netns exec NAME` and `nsenter --net=` work on them.

use std::{
    fs::{self, File},
    future::Future,
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use tokio::sync::oneshot;

/// Where `ip netns` keeps names of namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// A named namespace. Dropping it does not remove it: names outlive processes, [`remove`] ends them.
#[derive(Clone)]
pub struct NetNs {
    name: Arc<str>,
    file: Arc<File>,
}

impl NetNs {
    /// Makes a new namespace called `name`.
    pub fn create(name: &str) -> Result<Self> {
        share_netns_dir()?;
        let path = path_of(name);
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let made = thread::scope(|scope| {
            let made = scope.spawn(|| -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET)?;
                // The thread's own entry: /proc/self is the main thread, which stays where it is.
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
                Ok(())
            });
            made.join().map_err(|_| anyhow!("the thread panicked"))?
        });
        if let Err(error) = made {
            let _ = fs::remove_file(&path);
            return Err(error).with_context(|| format!("create namespace {name} (this needs root)"));
        }
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { name: name.into(), file: Arc::new(file) })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its descriptor, for netlink attributes and children.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let done = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET).context("enter")?;
                work()
            });
            done.join().map_err(|_| anyhow!("the thread panicked"))?
        })
        .with_context(|| format!("in namespace {}", self.name))
    }

    /// Writes `value` to `/proc/sys/net/KEY` for each pair; keys the kernel does not have are an error.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))?;
            }
            Ok(())
        })
    }
}

/// A thread that lives in a namespace and runs futures there: sockets they open belong to the namespace.
pub struct Resident {
    handle: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Resident {
    /// Starts a thread in `namespace`.
    pub fn start(namespace: &NetNs) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, started) = std::sync::mpsc::sync_channel::<Result<tokio::runtime::Handle>>(1);
        let file = namespace.file.clone();
        let thread = thread::Builder::new().name(namespace.name().into()).spawn(move || {
            let runtime = setns(&*file, CloneFlags::CLONE_NEWNET)
                .map_err(anyhow::Error::from)
                .and_then(|()| Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
            match runtime {
                Ok(runtime) => {
                    let _ = ready.send(Ok(runtime.handle().clone()));
                    let _ = runtime.block_on(stopped);
                    runtime.shutdown_background();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        let handle = started.recv().context("the namespace thread died")??;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts `work` in the namespace.
    pub fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle.spawn(work)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The path of a namespace's name.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// The names of all namespaces that begin with `prefix`.
pub fn names(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Removes a name; the namespace itself ends with its last process and socket.
pub fn remove(name: &str) {
    let path = path_of(name);
    // A crash between creating the file and mounting on it leaves a plain file: then only the unlink does something.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}

/// Does once what `ip netns add` does: names must appear in other mount namespaces, and go away there too.
fn share_netns_dir() -> Result<()> {
    let dir = Path::new(NETNS_DIR);
    fs::create_dir_all(dir).with_context(|| format!("create {NETNS_DIR} (this needs root)"))?;
    let none = None::<&str>;
    let shared = || mount(none, dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if shared().is_ok() {
        return Ok(());
    }
    mount(Some(dir), dir, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context("bind /run/netns to itself (this needs root)")?;
    shared().context("share /run/netns")
}
