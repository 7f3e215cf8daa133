//! Reading a directory again whenever it may have changed, and only when it has settled.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use weir_model::{Problem, SourceFile};

use super::directory::{problem, read_directory};

/// A directory is read when it has been quiet for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(20);
/// … or when it has not become quiet for this long.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// Without any notification it is read again this often: not every file system notifies.
pub(super) const REREAD: Duration = Duration::from_secs(1);

/// What is in the directory, or why that cannot be said.
pub(super) type Reading = Result<Vec<SourceFile>, Vec<Problem>>;

/// Sends what is read whenever it differs from what was read before.
pub(super) async fn keep_reading(
    dir: PathBuf,
    mut last: Reading,
    changed: Arc<Notify>,
    // Keeps the notifications coming; absent where the system gives none.
    _watcher: Option<notify::RecommendedWatcher>,
    readings: mpsc::Sender<Reading>,
) {
    loop {
        tokio::select! {
            _ = timeout(REREAD, changed.notified()) => {}
            () = readings.closed() => return,
        }
        let reading = read_settled(&dir, &last).await;
        if reading != last {
            last = reading.clone();
            if readings.send(reading).await.is_err() {
                return;
            }
        }
    }
}

/// Reads until two readings [`QUIET`] apart agree, so that a half-written file is not taken for the whole.
async fn read_settled(dir: &Path, before: &Reading) -> Reading {
    let deadline = Instant::now() + QUIET_MAX;
    let mut last = read_in_background(dir).await;
    if last == *before {
        return last;
    }
    loop {
        sleep(QUIET).await;
        let again = read_in_background(dir).await;
        if again == last || Instant::now() >= deadline {
            return again;
        }
        last = again;
    }
}

/// Has `changed` notified of everything that happens there.
pub(super) fn watch_directory(
    dir: &Path,
    changed: &Arc<Notify>,
) -> notify::Result<notify::RecommendedWatcher> {
    let notify = Arc::clone(changed);
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading of the files is an event too.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            notify.notify_one();
        }
    })
    .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::Recursive).map(|()| watcher))
}

async fn read_in_background(dir: &Path) -> Reading {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || read_directory(&dir)).await.unwrap_or_else(|error| {
        Err(vec![problem(Path::new(""), format!("reading was interrupted: {error}"))])
    })
}
