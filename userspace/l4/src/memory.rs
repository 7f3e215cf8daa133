//! Keeps what a restart must know of unsettled tables in a file beside the sockets, and the clock it is told by.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use weir_core::image::{Image, TableHistory, memory};

/// The file and the clock. Both live as long as the host: after a boot there are no tables either.
pub(crate) struct Memory {
    path: PathBuf,
    written: Vec<u8>,
    started: Instant,
    started_after_boot: Duration,
}

impl Memory {
    /// Reads the clock; the file need not be there.
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let uptime = fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
        let seconds = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok());
        let seconds: f64 = seconds.with_context(|| format!("/proc/uptime says {uptime:?}"))?;
        let started_after_boot = Duration::try_from_secs_f64(seconds).context("/proc/uptime")?;
        Ok(Self { path, written: Vec::new(), started: Instant::now(), started_after_boot })
    }

    /// Time since the host booted.
    pub(crate) fn now(&self) -> Duration {
        self.started_after_boot + self.started.elapsed()
    }

    /// What the last process knew of the tables in the kernel.
    pub(crate) fn load(&mut self, current: &Image) -> BTreeMap<u32, TableHistory> {
        self.written = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!("{}: {error}", self.path.display());
                Vec::new()
            }
        };
        memory::decode(&self.written, &current.tables, self.now())
    }

    /// Leaves it for the next process. Failing costs flows in rows that changed twice, not the change itself.
    pub(crate) fn save(&mut self, histories: &BTreeMap<u32, TableHistory>, current: &Image) {
        let bytes = memory::encode(histories, &current.tables);
        if bytes == self.written {
            return;
        }
        let new = self.path.with_extension("new");
        match fs::write(&new, &bytes).and_then(|()| fs::rename(&new, &self.path)) {
            Ok(()) => self.written = bytes,
            Err(error) => tracing::warn!("{}: {error}", self.path.display()),
        }
    }
}
