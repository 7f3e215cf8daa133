//! The directory of TOML files as a stream of candidate snapshots, and what became of each.
//!
//! A candidate makes sense by itself; whether it can be put in force only the daemon knows (a certificate may not
//! load), so it answers each with [`Source::accept`] or [`Source::refuse`]. What is in force stays so until a newer
//! candidate is accepted. One that is refused for what it would do, not for what it is, may be let through by an operator
//! ([`Permit`]): exactly that one, once.

mod directory;
mod permit;
mod reading;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tokio::sync::{Notify, mpsc, watch};
use weir_model::{Problem, Problems, Snapshot, Timestamp, status::ConfigStatus};

pub use directory::{DEPTH_MAX, FILE_LEN_MAX_BYTES, FILES_MAX, TOTAL_LEN_MAX_BYTES, read_directory};
pub use permit::{PERMIT_PAGE, Permit, Permits};

use crate::{
    metrics::{Counter, Gauge, Registry},
    status::{Question, questions},
};
use reading::{REREAD, Reading, keep_reading, watch_directory};

/// A watched configuration directory.
pub struct Source {
    dir: PathBuf,
    first: Option<Arc<Snapshot>>,
    /// What the daemon last accepted; the next step is judged by it.
    in_force: Option<Arc<Snapshot>>,
    /// Settled readings that differ from the one before. One may wait; a newer one is read when it has been taken.
    readings: mpsc::Receiver<Reading>,
    /// Makes sense, and was refused for what it would do.
    held_back: Option<Arc<Snapshot>>,
    permits: (Permits, mpsc::Receiver<Question>),
    status: watch::Sender<ConfigStatus>,
    refused_total: Counter,
    refused_now: Gauge,
    applied_at: Gauge,
}

impl Source {
    /// Reads the directory for the first time; here every mistake is an error, because there is nothing to fall back to.
    ///
    /// Must be called inside a runtime: a task goes on reading.
    pub fn open(dir: &Path, registry: &Registry) -> Result<Self, Problems> {
        let changed = Arc::new(Notify::new());
        // Watch first, read second: a change in between is seen.
        let watcher = watch_directory(dir, &changed);
        let files = read_directory(dir).map_err(Problems)?;
        let first = Snapshot::read(&files)?;
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!("{} is read every {REREAD:?}, it cannot be watched: {error}", dir.display());
            })
            .ok();
        let refused_total = registry.counter(
            "weir_config_refused_total",
            "Configuration changes that were refused; the last good one stayed in force.",
            &[],
        );
        let refused_now = registry.gauge(
            "weir_config_refused",
            "Problems of the newest configuration, 0 when it is in force.",
            &[],
        );
        let applied_at = registry.gauge(
            "weir_config_applied_timestamp_seconds",
            "When the configuration in force was put in force.",
            &[],
        );
        let (sender, readings) = mpsc::channel(1);
        tokio::spawn(keep_reading(dir.to_owned(), Ok(files), changed, watcher, sender));
        let (permits, asked) = questions();
        Ok(Self {
            dir: dir.to_owned(),
            first: Some(Arc::new(first)),
            in_force: None,
            readings,
            held_back: None,
            permits: (Permits(permits), asked),
            status: watch::Sender::new(ConfigStatus::default()),
            refused_total,
            refused_now,
            applied_at,
        })
    }

    /// The directory; relative paths in objects (certificates) start here.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where an operator says that what is held back is meant.
    pub fn permits(&self) -> Permits {
        self.permits.0.clone()
    }

    /// The next snapshot to put in force; the first one at once. A change that makes no sense is refused in here.
    ///
    /// Cancel safe: a candidate is returned or not yet taken.
    pub async fn candidate(&mut self) -> Arc<Snapshot> {
        if let Some(first) = self.first.take() {
            return first;
        }
        loop {
            let reading = tokio::select! {
                reading = self.readings.recv() => reading,
                // We hold a sender ourselves.
                Some(question) = self.permits.1.recv() => match self.permit(question) {
                    Some(snapshot) => return snapshot,
                    None => continue,
                },
            };
            let Some(reading) = reading else {
                // The reading task ends only with the runtime.
                return std::future::pending().await;
            };
            match reading.map_err(Problems).and_then(|files| Snapshot::read(&files)) {
                Ok(snapshot) if snapshot.generation == self.status.borrow().generation => {
                    // Back to what is in force.
                    self.clear_refused();
                }
                Ok(snapshot) => match self.cautious(&snapshot) {
                    None => return Arc::new(snapshot),
                    Some(problem) => {
                        self.refuse(Problems(vec![problem]));
                        self.status.send_modify(|status| status.held_back = Some(snapshot.generation));
                        self.held_back = Some(Arc::new(snapshot));
                    }
                },
                Err(problems) => self.refuse(problems),
            }
        }
    }

    /// Why a step is not taken that makes sense by itself.
    fn cautious(&self, new: &Snapshot) -> Option<Problem> {
        self.in_force.as_ref()?.refuses(new, Timestamp(SystemTime::now()))
    }

    /// The snapshot that is let through, if it is the one that is held back.
    fn permit(&mut self, question: Question) -> Option<Arc<Snapshot>> {
        let permit = match serde_json::from_slice::<Permit>(&question.body) {
            Ok(permit) => permit,
            Err(error) => {
                question.answer(Err::<String, _>(format!("not a permit: {error}")));
                return None;
            }
        };
        let held_back = self.held_back.as_ref().map(|snapshot| snapshot.generation);
        if held_back != Some(permit.generation) {
            let what = match held_back {
                None => "nothing is held back".to_owned(),
                Some(other) => format!("{} is not held back, {other} is", permit.generation),
            };
            question.answer(Err::<String, _>(what));
            return None;
        }
        let user = question.user.map_or("unknown".to_owned(), |uid| uid.to_string());
        tracing::warn!(generation = %permit.generation, by = %permit.by.escape_debug(), uid = %user,
            "configuration that was held back is let through: it is said to be meant");
        question.answer(Ok("{}"));
        self.held_back.take()
    }

    /// The candidate is in force now.
    pub fn accept(&mut self, snapshot: &Arc<Snapshot>) {
        self.held_back = None;
        self.in_force = Some(Arc::clone(snapshot));
        let now = SystemTime::now();
        tracing::info!(generation = %snapshot.generation, "configuration in force");
        self.applied_at.set(now.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()));
        self.refused_now.set(0.0);
        self.status.send_replace(ConfigStatus {
            generation: snapshot.generation,
            applied_at: Some(Timestamp(now)),
            refused: Vec::new(),
            held_back: None,
        });
    }

    /// The candidate cannot be put in force; what was stays.
    pub fn refuse(&mut self, problems: Problems) {
        for problem in &problems.0 {
            tracing::error!("configuration refused: {problem}");
        }
        self.refused_total.add(1);
        self.refused_now.set(problems.0.len() as f64);
        self.held_back = None;
        self.status.send_modify(|status| (status.refused, status.held_back) = (problems.0, None));
    }

    /// What is in force and what was refused, as it changes.
    pub fn status(&self) -> watch::Receiver<ConfigStatus> {
        self.status.subscribe()
    }

    /// For daemons without a veto: accepts every candidate and offers the newest.
    pub fn follow(mut self) -> (watch::Receiver<Arc<Snapshot>>, watch::Receiver<ConfigStatus>) {
        let status = self.status();
        let first = self.first.take().unwrap_or_default();
        self.accept(&first);
        let (sender, receiver) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                let snapshot = tokio::select! {
                    snapshot = self.candidate() => snapshot,
                    () = sender.closed() => return,
                };
                self.accept(&snapshot);
                sender.send_replace(snapshot);
            }
        });
        (receiver, status)
    }

    fn clear_refused(&mut self) {
        self.held_back = None;
        self.refused_now.set(0.0);
        self.status.send_modify(|status| (status.refused, status.held_back) = (Vec::new(), None));
        tracing::info!("configuration is back to the one in force");
    }
}
