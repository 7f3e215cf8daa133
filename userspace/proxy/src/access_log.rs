//! The access log: one JSON object per line. Threads write lines into memory of their own, and a thread for the log takes them
//! from there: no request waits for a disk, nor for another thread's line.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use weir_runtime::metrics::{Counter, Registry};

use crate::{limits::LOG_BUFFER_MAX, worker::PerThread};

/// How long lines gather before they are written, so that a busy proxy does not wake the writer for each.
const GATHER: Duration = Duration::from_millis(5);

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    /// What threads and the writer share, and how to wake the writer.
    on: Option<(Arc<Shared>, Thread)>,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Shared {
    lines: PerThread<Lines>,
    /// There are lines, and the writer knows.
    is_called: AtomicBool,
    is_over: AtomicBool,
}

/// Whole lines of one thread.
#[derive(Debug, Default)]
struct Lines(Mutex<Vec<u8>>);

/// The writing thread; to be ended when nobody writes lines any more.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl AccessLog {
    /// Opens `place`: `-`, `off`, or a file that is appended to.
    pub(crate) fn open(place: &str, registry: &Registry) -> io::Result<(Self, Option<Writer>)> {
        let help = "Lines of the access log that were dropped because they could not be written, or not soon enough.";
        let dropped = registry.counter("weir_proxy_access_log_dropped_total", help, &[]);
        let out: Box<dyn Write + Send> = match place {
            "off" => return Ok((Self { on: None, dropped }, None)),
            "-" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let shared = Arc::new(Shared::default());
        let (lines, lost) = (Arc::clone(&shared), dropped.clone());
        let write = move || write_lines(out, &lines, &lost);
        let thread = thread::Builder::new().name("access-log".into()).spawn(write)?;
        let on = Some((Arc::clone(&shared), thread.thread().clone()));
        Ok((Self { on, dropped }, Some(Writer { shared, thread })))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Has a line written; drops and counts it when the writer is behind.
    pub(crate) fn write(&self, line: impl FnOnce(&mut Vec<u8>)) {
        let Some((shared, writer)) = &self.on else { return };
        {
            let mut lines = shared.lines.mine().lock();
            if lines.len() >= LOG_BUFFER_MAX {
                return self.dropped.add(1);
            }
            line(&mut lines);
            lines.push(b'\n');
        }
        // Either this sees that the writer has begun to look, or the writer sees the line.
        fence(SeqCst);
        if !shared.is_called.load(Relaxed) && !shared.is_called.swap(true, SeqCst) {
            writer.unpark();
        }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Writes what is left, for so long at most.
    pub(crate) fn end(self, limit: Duration) {
        self.shared.is_over.store(true, SeqCst);
        self.thread.thread().unpark();
        let begin = Instant::now();
        while !self.thread.is_finished() && begin.elapsed() < limit {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_lines(mut out: impl Write, shared: &Shared, dropped: &Counter) {
    let mut failed = false;
    // The other half of each pair of buffers.
    let mut taken = Vec::new();
    loop {
        let is_over = shared.is_over.load(SeqCst);
        if !is_over && !shared.is_called.load(SeqCst) {
            thread::park();
            continue;
        }
        if !is_over {
            thread::sleep(GATHER);
        }
        // Before looking: a line that comes while we look calls again.
        shared.is_called.store(false, Relaxed);
        fence(SeqCst);
        for lines in shared.lines.iter() {
            std::mem::swap(&mut *lines.lock(), &mut taken);
            if taken.is_empty() {
                continue;
            }
            let result = out.write_all(&taken).and_then(|()| out.flush());
            if let Err(error) = &result {
                dropped.add(taken.iter().filter(|byte| **byte == b'\n').count() as u64);
                if !failed {
                    tracing::error!("access log: {error}");
                }
            }
            failed = result.is_err();
            taken.clear();
        }
        if is_over {
            return;
        }
    }
}
