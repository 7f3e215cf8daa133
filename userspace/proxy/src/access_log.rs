//! The access log: one JSON object per line, written by a thread of its own so that no request waits for a disk.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use weir_runtime::metrics::{Counter, Registry};

use crate::limits::LOG_QUEUE_MAX;

/// Where lines go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    lines: Option<SyncSender<String>>,
    dropped: Counter,
}

/// The writing thread; to be joined before the process ends, after every [`AccessLog`] is gone.
pub(crate) type Writer = std::thread::JoinHandle<()>;

impl AccessLog {
    /// Opens `place`: `-`, `off`, or a file that is appended to.
    pub(crate) fn open(place: &str, registry: &Registry) -> io::Result<(Self, Option<Writer>)> {
        let help = "Lines of the access log that were dropped because its writer could not keep up.";
        let dropped = registry.counter("weir_proxy_access_log_dropped_total", help, &[]);
        let out: Box<dyn Write + Send> = match place {
            "off" => return Ok((Self { lines: None, dropped }, None)),
            "-" => Box::new(io::stdout()),
            path => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let (sender, lines) = sync_channel(LOG_QUEUE_MAX);
        let writer = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(BufWriter::with_capacity(64 << 10, out), &lines))?;
        Ok((Self { lines: Some(sender), dropped }, Some(writer)))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Queues a line; drops and counts it when the writer is behind.
    pub(crate) fn write(&self, line: String) {
        let Some(lines) = &self.lines else { return };
        match lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped.add(1),
        }
    }
}

fn write_lines(mut out: BufWriter<Box<dyn Write + Send>>, lines: &Receiver<String>) {
    let mut failed = false;
    while let Ok(line) = lines.recv() {
        // Write what there is, then flush once.
        let mut written = std::iter::once(line).chain(lines.try_iter().take(LOG_QUEUE_MAX));
        let result = written
            .try_for_each(|line| out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")))
            .and_then(|()| out.flush());
        if let (Err(error), false) = (&result, failed) {
            tracing::error!("access log: {error}");
        }
        failed = result.is_err();
    }
}
