//! The directory of TOML files as a stream of candidate snapshots, and what became of each.
//!
//! A candidate makes sense by itself; whether it can be put in force only the daemon knows (a certificate may not
//! load), so it answers each with [`Source::accept`] or [`Source::refuse`]. What is in force stays so until a newer
//! candidate is accepted. One that is refused for what it would do, not for what it is, may be let through by an operator
//! ([`Permit`]): exactly that one, once.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use weir_model::{Generation, Problem, Problems, Snapshot, SourceFile, Timestamp, status::ConfigStatus};

use crate::{
    metrics::{Counter, Gauge, Registry},
    status::{Question, Site, questions},
};

/// Files read from one directory; with more the configuration is refused.
pub const FILES_MAX: usize = 4_096;
/// Bytes of one file; a larger one is refused.
pub const FILE_LEN_MAX_BYTES: u64 = 16 << 20;
/// Bytes of all files together, held in memory while they are parsed.
pub const TOTAL_LEN_MAX_BYTES: u64 = 64 << 20;
/// Nesting of directories; deeper ones are refused, which also ends loops of symbolic links.
pub const DEPTH_MAX: usize = 8;

/// The page of a daemon's status socket that takes a [`Permit`].
pub const PERMIT_PAGE: &str = "/accept";
/// Bytes of a permit.
const PERMIT_LEN_MAX_BYTES: usize = 1_024;

/// A directory is read when it has been quiet for this long: editors write in several steps.
const QUIET: Duration = Duration::from_millis(20);
/// … or when it has not become quiet for this long.
const QUIET_MAX: Duration = Duration::from_millis(500);
/// Without any notification it is read again this often: not every file system notifies.
const REREAD: Duration = Duration::from_secs(1);

/// What is in the directory, or why that cannot be said.
type Reading = Result<Vec<SourceFile>, Vec<Problem>>;

/// An operator's word that a configuration that is held back is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// Which: whatever else has come meanwhile is not let through.
    pub generation: Generation,
    /// Who says so, for the log.
    pub by: String,
}

/// Where permits are given.
#[derive(Clone)]
pub struct Permits(mpsc::Sender<Question>);

impl Permits {
    /// Takes them on this site.
    pub fn take_on(&self, site: &mut Site) {
        site.ask_at(PERMIT_PAGE, PERMIT_LEN_MAX_BYTES, self.0.clone());
    }
}

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

async fn keep_reading(
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

fn watch_directory(dir: &Path, changed: &Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
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

/// Every `*.toml` below `dir`, sorted by path; names that begin with a dot are skipped. Or everything that is wrong.
pub fn read_directory(dir: &Path) -> Result<Vec<SourceFile>, Vec<Problem>> {
    let mut paths = Vec::new();
    let mut problems = Vec::new();
    collect(dir, Path::new(""), 0, &mut paths, &mut problems);
    paths.sort();
    let mut files = Vec::new();
    let mut total = 0;
    for relative in paths {
        match read_file(&dir.join(&relative)) {
            Ok(text) => {
                total += text.len() as u64;
                files.push(SourceFile { path: relative.to_string_lossy().into_owned(), text });
            }
            Err(what) => problems.push(problem(&relative, what)),
        }
        if total > TOTAL_LEN_MAX_BYTES {
            problems.push(problem(
                Path::new(""),
                format!("files are larger than {TOTAL_LEN_MAX_BYTES} bytes together"),
            ));
            break;
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

fn collect(dir: &Path, relative: &Path, depth: usize, paths: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    if depth > DEPTH_MAX {
        return problems.push(problem(relative, format!("is nested deeper than {DEPTH_MAX} directories")));
    }
    let entries = match std::fs::read_dir(dir.join(relative)) {
        Ok(entries) => entries,
        Err(error) => {
            let shown = if relative.as_os_str().is_empty() { dir } else { relative };
            return problems.push(problem(shown, format!("directory cannot be read: {error}")));
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = relative.join(&name);
        // Follows symbolic links; a dangling one named *.toml is an error when it is read.
        let is_dir = std::fs::metadata(dir.join(&path)).is_ok_and(|metadata| metadata.is_dir());
        if is_dir {
            collect(dir, &path, depth + 1, paths, problems);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            if paths.len() == FILES_MAX {
                return problems.push(problem(relative, format!("holds more than {FILES_MAX} files")));
            }
            paths.push(path);
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        // A named pipe would block for ever.
        return Err("is not a regular file".into());
    }
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LEN_MAX_BYTES + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_LEN_MAX_BYTES {
        return Err(format!("is larger than {FILE_LEN_MAX_BYTES} bytes"));
    }
    String::from_utf8(text).map_err(|error| format!("is not UTF-8: {error}"))
}

fn problem(path: &Path, what: String) -> Problem {
    Problem {
        file: path.to_string_lossy().into_owned(),
        line: 0,
        path: String::new(),
        what,
        hint: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[zone.az1]\n";
    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_bad_change_is_refused_and_the_next_good_one_accepted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.toml"), GOOD).unwrap();
        let registry = Registry::default();
        let mut source = Source::open(dir.path(), &registry).unwrap();
        let first = source.candidate().await;
        source.accept(&first);
        let mut status = source.status();

        std::fs::write(dir.path().join("b.toml"), "[zone.az1]\n[nonsense.x]\n").unwrap();
        let refused = async {
            tokio::select! {
                _ = source.candidate() => panic!("a bad change became a candidate"),
                seen = status.wait_for(|status| status.refused.len() == 2) => seen.unwrap().generation,
            }
        };
        assert_eq!(timeout(LIMIT, refused).await.unwrap(), first.generation);
        assert!(registry.render().contains("weir_config_refused_total 1\n"));

        let started = Instant::now();
        std::fs::write(dir.path().join("b.toml"), "[zone.az2]\n").unwrap();
        let second = timeout(LIMIT, source.candidate()).await.unwrap();
        assert!(second.zones.contains_key("az2"));
        assert!(started.elapsed() < REREAD, "the change was not notified");
        source.accept(&second);
        assert!(source.status().borrow().refused.is_empty());
    }

    #[tokio::test]
    async fn going_back_to_what_is_in_force_clears_the_problems() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.toml"), GOOD).unwrap();
        let mut source = Source::open(dir.path(), &Registry::default()).unwrap();
        let first = source.candidate().await;
        source.accept(&first);
        let mut status = source.status();
        for (text, problems) in [("[", 1), (GOOD, 0)] {
            std::fs::write(dir.path().join("a.toml"), text).unwrap();
            let seen = async {
                tokio::select! {
                    _ = source.candidate() => panic!("no candidate expected"),
                    seen = status.wait_for(|status| status.refused.len() == problems) => drop(seen.unwrap()),
                }
            };
            timeout(LIMIT, seen).await.unwrap();
        }
    }

    #[test]
    fn a_bad_configuration_at_the_first_start_is_an_error_with_every_problem() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("a.toml"), "[zoen.x]\n").unwrap();
        std::fs::write(dir.path().join("sub/b.toml"), "[x.y]\n").unwrap();
        std::fs::write(dir.path().join(".hidden.toml"), "[x.y]\n").unwrap();
        std::fs::write(dir.path().join("ignored.txt"), "[x.y]\n").unwrap();
        let problems = Source::open(dir.path(), &Registry::default()).err().unwrap();
        let files: Vec<_> = problems.0.iter().map(|problem| problem.file.as_str()).collect();
        assert_eq!(files, ["a.toml", "sub/b.toml"]);
        assert!(Source::open(&dir.path().join("absent"), &Registry::default()).is_err());
    }

    #[tokio::test]
    async fn a_step_that_takes_most_vips_off_the_network_is_refused_until_it_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let base = "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\n[peer.p1]\nnode = \"n1\"\n\
             address = \"10.0.1.1\"\nasn = 65000\nlocal_asn = 65001\n[group.g]\nnodes = [\"n1\"]\n";
        let vips: String = (0..4)
            .map(|vip| {
                format!(
                    "[vip.v{vip}]\naddresses = [\"192.0.2.{vip}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n"
                )
            })
            .collect();
        let write = |text: &str| std::fs::write(dir.path().join("a.toml"), text).unwrap();
        write(&format!("{base}{vips}"));
        let mut source = Source::open(dir.path(), &Registry::default()).unwrap();
        let first = source.candidate().await;
        source.accept(&first);
        write(base);
        let mut status = source.status();
        let refused = timeout(LIMIT, async {
            tokio::select! {
                _ = source.candidate() => panic!("the step was taken"),
                refused = status.wait_for(|status| !status.refused.is_empty()) => refused.unwrap().refused.clone(),
            }
        });
        let refused = refused.await.unwrap();
        assert!(refused[0].what.contains("4 of 4 VIPs off the network"), "{refused:?}");
        assert!(status.borrow().held_back.is_some());
        write(&format!("{base}withdraw_freely_until = \"2100-01-01T00:00:00Z\"\n"));
        let second = timeout(LIMIT, source.candidate()).await.unwrap();
        assert!(second.vips.is_empty());
    }

    #[tokio::test]
    async fn what_is_held_back_is_let_through_once_and_nothing_else_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = "[zone.z1]\n[node.n1]\nzone = \"z1\"\naddress = \"10.0.1.2\"\n[peer.p1]\nnode = \"n1\"\n\
             address = \"10.0.1.1\"\nasn = 65000\nlocal_asn = 65001\n[group.g]\nnodes = [\"n1\"]\n";
        let write = |vips: u8, more: &str| {
            let vips = (0..vips).map(|vip| {
                format!(
                    "[vip.v{vip}]\naddresses = [\"192.0.2.{vip}\"]\ngroup = \"g\"\nservices = [\"udp/53\"]\n"
                )
            });
            std::fs::write(dir.path().join("a.toml"), format!("{base}{}{more}", vips.collect::<String>()))
                .unwrap();
        };
        write(8, "");
        let mut source = Source::open(dir.path(), &Registry::default()).unwrap();
        let first = source.candidate().await;
        source.accept(&first);
        let mut status = source.status();
        let (_publisher, feed) = crate::status::publisher(&0);
        let mut site = Site::new(feed, Registry::default(), || crate::status::Health::Ok);
        source.permits().take_on(&mut site);
        let socket = dir.path().join("a.sock");
        let _server = crate::status::serve_unix(&socket, site.clone()).await.unwrap();
        let ask = async |generation| {
            let permit = Permit { generation, by: "somebody".into() };
            let permit = serde_json::to_vec(&permit).unwrap();
            crate::status::ask(&socket, PERMIT_PAGE, permit).await.map_err(|error| error.to_string())
        };
        // Answers come from within `candidate`, which must come to nothing but where it is expected.
        let until_held = async |source: &mut Source, status: &mut watch::Receiver<ConfigStatus>, other| {
            let held = status.wait_for(|status| status.held_back.is_some_and(|held| held != other));
            tokio::select! {
                _ = source.candidate() => panic!("the step was taken"),
                held = timeout(LIMIT, held) => held.unwrap().unwrap().held_back.unwrap(),
            }
        };
        write(2, "");
        let held = until_held(&mut source, &mut status, Generation(0)).await;
        let refused = tokio::select! {
            _ = source.candidate() => panic!("the step was taken"),
            refused = ask(first.generation) => refused,
        };
        assert!(refused.unwrap_err().contains("is not held back"));
        // Another change: the word was for the one before.
        write(1, "");
        let newer = until_held(&mut source, &mut status, held).await;
        let refused = tokio::select! {
            _ = source.candidate() => panic!("the step was taken"),
            refused = ask(held) => refused,
        };
        assert!(refused.is_err());
        let (taken, answer) = tokio::join!(source.candidate(), ask(newer));
        assert_eq!((taken.generation, taken.vips.len(), answer.is_ok()), (newer, 1, true));
        source.accept(&taken);
        assert_eq!(status.borrow().held_back, None);
        // Once: the next step is judged as ever.
        write(8, "");
        let back = timeout(LIMIT, source.candidate()).await.unwrap();
        source.accept(&back);
        write(1, "");
        assert_eq!(until_held(&mut source, &mut status, Generation(0)).await, newer);
        // Over TCP nobody gives permits.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(crate::status::serve_tcp(listener, site));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = "POST /accept HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        server.abort();
    }
}
