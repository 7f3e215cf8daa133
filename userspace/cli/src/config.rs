//! The configuration directory: read whole, or not at all; changed by whole files.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use weir_model::{Problems, Snapshot, SourceFile};

/// A directory that makes sense.
pub(crate) struct Config {
    pub(crate) dir: PathBuf,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) snapshot: Snapshot,
}

impl Config {
    /// Reads it; every problem is in the error.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let files =
            weir_runtime::source::read_directory(dir).map_err(Problems).map_err(|p| refused(dir, &p))?;
        let snapshot = Snapshot::read(&files).map_err(|problems| refused(dir, &problems))?;
        Ok(Self { dir: dir.to_owned(), files, snapshot })
    }

    /// What the directory would be with other files; an error when the daemons would refuse it.
    pub(crate) fn with_files(&self, files: &[SourceFile]) -> Result<Snapshot> {
        Snapshot::read(files).map_err(|problems| anyhow::anyhow!("the result would be refused:\n{problems}"))
    }
}

fn refused(dir: &Path, problems: &Problems) -> anyhow::Error {
    anyhow::anyhow!("{} has problems, daemons refuse it as it is:\n{problems}", dir.display())
}

/// Puts a file in place whole: a daemon that reads meanwhile sees the old one or the new one.
pub(crate) fn replace_file(path: &Path, text: &str) -> Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{} is not a file name", path.display());
    };
    // Daemons skip names that begin with a dot.
    let temporary = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        let _ = fs::remove_file(&temporary);
        return Err(error).with_context(|| format!("write {}", path.display()));
    }
    sync_directory(dir)
}

/// Removes a file for good.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))?;
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(dir: &Path) -> Result<()> {
    let sync = || fs::File::open(dir)?.sync_all();
    sync().with_context(|| format!("sync {}", dir.display()))
}
