//! Where things run: the proxies on one core, the load and the origin on another.

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pub(crate) proxy: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// The first and the last that this process may use.
    pub(crate) fn find() -> Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0)).context("ask for the cores to run on")?;
        let usable = |core: &usize| set.is_set(*core).unwrap_or(false);
        let proxy = (0..CpuSet::count()).find(usable).context("no core to run on")?;
        let load = (0..CpuSet::count()).rev().find(usable).context("no core to run on")?;
        ensure!(proxy != load, "a proxy and its load need a core each, and there is one");
        Ok(Self { proxy, load })
    }
}

/// Lets this process, and what it starts, have so many files open.
pub(crate) fn raise_open_files(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < wanted {
        let hard = hard.max(wanted);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
            .with_context(|| format!("{wanted} open files are needed; raise the limit (ulimit -Hn)"))?;
    }
    Ok(())
}
