//! What was said to the routers, as a file of MRT records. RFC 6396; the records are [`weir_bgp::mrt`]'s.
//!
//! Written by a thread of its own: a slow disk holds up no session. What it cannot take is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use tracing::warn;
use weir_runtime::metrics::{Counter, Registry};

/// Records waiting for the disk; more are dropped. At most 64 KiB each, mostly 100 bytes.
const WAITING_MAX: usize = 1024;

/// Files kept besides the one that is written: FILE.1 is the youngest of them.
const KEPT_FILES: u32 = 3;

/// Takes records. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    records: SyncSender<Vec<u8>>,
    lost: Counter,
}

impl Recorder {
    /// Begin to write to `path`, which is appended to, and set aside when it would grow beyond `len_max` bytes.
    pub(crate) fn open(path: &Path, len_max: u64, registry: &Registry) -> io::Result<Self> {
        let lost =
            registry.counter("weir_bgp_mrt_records_lost_total", "Records the MRT file could not take.", &[]);
        let log = Log::open(path, len_max)?;
        let (records, waiting) = sync_channel(WAITING_MAX);
        let failed = lost.clone();
        thread::Builder::new().name("mrt".into()).spawn(move || write(log, &waiting, &failed))?;
        Ok(Self { records, lost })
    }

    pub(crate) fn record(&self, record: Vec<u8>) {
        if self.records.try_send(record).is_err() {
            self.lost.add(1);
        }
    }
}

fn write(mut log: Log, waiting: &Receiver<Vec<u8>>, lost: &Counter) {
    let mut complained = false;
    while let Ok(record) = waiting.recv() {
        match log.append(&record) {
            Ok(()) => complained = false,
            Err(error) => {
                lost.add(1);
                if !complained {
                    warn!(file = %log.path.display(), %error, "write MRT record");
                }
                complained = true;
            }
        }
    }
}

/// A file that is set aside when it is full.
struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    len_max: u64,
}

impl Log {
    fn open(path: &Path, len_max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), len: file.metadata()?.len(), file, len_max })
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + record.len() as u64 > self.len_max {
            self.set_aside()?;
        }
        // One write, so that a reader never sees half a record of a file that is not full.
        self.file.write_all(record)?;
        self.len += record.len() as u64;
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..KEPT_FILES).rev() {
            match std::fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        *self = Self::open(&self.path, self.len_max)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bgp.mrt");
        let mut log = Log::open(&path, 100).unwrap();
        for n in 0..30u8 {
            log.append(&[n; 30]).unwrap();
        }
        let mut files: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, ["bgp.mrt", "bgp.mrt.1", "bgp.mrt.2", "bgp.mrt.3"]);
        for file in &files {
            assert!(std::fs::metadata(dir.path().join(file)).unwrap().len() <= 100);
        }
        assert_eq!(std::fs::read(&path).unwrap().last(), Some(&29));
        drop(log);
        let mut log = Log::open(&path, 100).unwrap();
        log.append(&[30; 30]).unwrap();
        assert_eq!(std::fs::read(dir.path().join("bgp.mrt.1")).unwrap().last(), Some(&29), "appended to");
    }
}
