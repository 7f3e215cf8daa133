//! The threads that carry traffic, each with a runtime of its own: a connection stays on the thread that accepted it, and what
//! requests change lies apart for each thread, so that no two of them wait for the same memory.

use std::{
    cell::Cell,
    io,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

/// Workers of this process; set once, before anything is [`PerThread`].
static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Which worker this thread is, from 1; 0 is everybody else.
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The running workers.
pub(crate) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    end: watch::Sender<bool>,
}

impl Workers {
    /// Starts so many. Once per process.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        COUNT.store(count, Relaxed);
        let (end, ended) = watch::channel(false);
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), end };
        for index in 1..=count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            workers.handles.push(runtime.handle().clone());
            let mut ended = ended.clone();
            let work = move || {
                INDEX.set(index);
                // A sender that is gone means the end as well. What still runs is cut when the runtime is dropped.
                let _ended = runtime.block_on(ended.wait_for(|ended| *ended));
            };
            workers.threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(work)?);
        }
        Ok(workers)
    }

    /// Where tasks are started, one for each worker.
    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ends them and cuts what still runs on them; one that does not end within `limit` is left behind.
    pub(crate) fn end(self, limit: Duration) {
        self.end.send_replace(true);
        let begin = Instant::now();
        while self.threads.iter().any(|thread| !thread.is_finished()) && begin.elapsed() < limit {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One value for each worker and one for everybody else.
#[derive(Debug)]
pub(crate) struct PerThread<T>(Box<[Apart<T>]>);

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Apart<T>(T);

impl<T: Default> Default for PerThread<T> {
    fn default() -> Self {
        Self((0..=COUNT.load(Relaxed)).map(|_| Apart::default()).collect())
    }
}

impl<T> PerThread<T> {
    /// That of the calling thread.
    pub(crate) fn mine(&self) -> &T {
        &self.0.get(INDEX.get()).unwrap_or(&self.0[0]).0
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|apart| &apart.0)
    }
}

impl PerThread<AtomicU64> {
    /// Counts on this thread.
    pub(crate) fn add(&self, n: u64) {
        self.mine().fetch_add(n, Relaxed);
    }

    /// What all threads have counted.
    pub(crate) fn sum(&self) -> u64 {
        self.iter().map(|part| part.load(Relaxed)).sum()
    }
}
