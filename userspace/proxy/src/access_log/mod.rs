//! The access log: one line for each exchange, as JSON or as HAProxy writes it, at any number of places. Threads write lines into
//! memory of their own, and each place has a thread that takes them from there: no request waits for a disk, a receiver or another
//! thread's line, and no place for another.

mod out;
mod place;

use std::{
    io,
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

use clap::ValueEnum;
use weir_core::log_line::LogLine;
use weir_runtime::metrics::{Counter, Registry};

use self::out::{Lost, Out};
pub(crate) use self::place::Place;
use crate::{h1::Scratch, limits::LOG_BUFFER_MAX, worker::PerThread};

/// How long lines gather before they are written, so that a busy proxy does not wake the writer for each.
const GATHER: Duration = Duration::from_millis(5);

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LineFormat {
    /// One JSON object.
    #[default]
    Json,
    /// HAProxy's: `option httplog`, and `option tcplog` where there are no requests.
    Haproxy,
}

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    outs: Arc<[Door]>,
    format: LineFormat,
    dropped: Counter,
}

/// What threads and the writer of a place share, and how to wake the writer.
#[derive(Debug)]
struct Door {
    shared: Arc<Shared>,
    writer: Thread,
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
    /// Opens all places.
    pub(crate) fn open(
        places: &[Place],
        format: LineFormat,
        registry: &Registry,
    ) -> io::Result<(Self, Vec<Writer>)> {
        let help = "Lines of the access log that were dropped because they could not be written, or not soon enough.";
        let dropped = registry.counter("weir_proxy_access_log_dropped_total", help, &[]);
        let (mut outs, mut writers) = (Vec::new(), Vec::new());
        for place in places {
            let Some(out) = Out::open(place)? else { continue };
            let shared = Arc::new(Shared::default());
            let (lines, lost) = (Arc::clone(&shared), dropped.clone());
            let write = move || write_lines(out, &lines, &lost);
            let thread = thread::Builder::new().name("access-log".into()).spawn(write)?;
            outs.push(Door { shared: Arc::clone(&shared), writer: thread.thread().clone() });
            writers.push(Writer { shared, thread });
        }
        Ok((Self { outs: outs.into(), format, dropped }, writers))
    }

    pub(crate) fn is_on(&self) -> bool {
        !self.outs.is_empty()
    }

    /// Has a line written everywhere; drops and counts it where the writer is behind.
    pub(crate) fn write(&self, line: &LogLine<'_>) {
        match &*self.outs {
            [only] => only.write(&self.dropped, |lines| self.format(line, lines)),
            outs => {
                let mut text = Scratch::new();
                self.format(line, &mut text.0);
                for out in outs {
                    out.write(&self.dropped, |lines| lines.extend_from_slice(&text.0));
                }
            }
        }
    }

    fn format(&self, line: &LogLine<'_>, out: &mut Vec<u8>) {
        match self.format {
            LineFormat::Json => line.write_json(out),
            LineFormat::Haproxy => line.write_haproxy(out),
        }
        out.push(b'\n');
    }
}

impl Door {
    fn write(&self, dropped: &Counter, put: impl FnOnce(&mut Vec<u8>)) {
        {
            let mut lines = self.shared.lines.mine().lock();
            if lines.len() >= LOG_BUFFER_MAX {
                return dropped.add(1);
            }
            put(&mut lines);
        }
        // Either this sees that the writer has begun to look, or the writer sees the line.
        fence(SeqCst);
        if !self.shared.is_called.load(Relaxed) && !self.shared.is_called.swap(true, SeqCst) {
            self.writer.unpark();
        }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Writes what is left, until then at most.
    pub(crate) fn end(self, deadline: Instant) {
        self.shared.is_over.store(true, SeqCst);
        self.thread.thread().unpark();
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn write_lines(mut out: Out, shared: &Shared, dropped: &Counter) {
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
            let result = out.write(&taken);
            if let Err(Lost { lines, error }) = &result {
                dropped.add(*lines);
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
