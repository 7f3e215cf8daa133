//! What the task of a connection and those of its streams share. All of them are on one thread: nobody waits for the lock.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::{io::ReadBuf, time::Instant};
use weir_core::h2::{Gone, Reason, Server, StreamId};

/// Bytes that wait to be written before streams wait for them to go.
const OUTPUT_MAX: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Shared(Mutex<State>);

/// The connection, and of each stream what came and was not read yet.
#[derive(Debug)]
pub(super) struct State {
    pub(super) machine: Server,
    /// By their id, which only grows.
    streams: Vec<(StreamId, Body)>,
    /// The task of the connection, while it does not know yet that there is something to write.
    writer: Option<Waker>,
    /// Streams that wait until what waits is written.
    crowded: Vec<Waker>,
    /// Since when no stream is open.
    pub(super) quiet_since: Instant,
}

/// The body of a request, and who waits for what of its stream.
#[derive(Debug, Default)]
struct Body {
    came: BytesMut,
    has_ended: bool,
    is_gone: bool,
    /// The whole response was said.
    is_answered: bool,
    reader: Option<Waker>,
    /// Waits for a window.
    sender: Option<Waker>,
}

impl Shared {
    pub(super) fn new(machine: Server) -> Self {
        Self(Mutex::new(State {
            machine,
            streams: Vec::new(),
            writer: None,
            crowded: Vec::new(),
            quiet_since: Instant::now(),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, id: StreamId) -> Option<&mut Body> {
        let at = self.streams.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(&mut self.streams[at].1)
    }

    /// A request has come.
    pub(super) fn open(&mut self, id: StreamId, has_ended: bool) {
        self.streams.push((id, Body { has_ended, ..Body::default() }));
    }

    /// More of a body has come.
    pub(super) fn came(&mut self, id: StreamId, bytes: &[u8], ends: bool) {
        let Some(body) = self.find(id) else {
            // Whoever asked does not read it any more.
            self.machine.consumed(id, bytes.len());
            return;
        };
        body.came.extend_from_slice(bytes);
        body.has_ended |= ends;
        wake(&mut body.reader);
    }

    /// There is a window again.
    pub(super) fn may_send(&mut self, id: StreamId) {
        if let Some(body) = self.find(id) {
            wake(&mut body.sender);
        }
    }

    /// The client gave up.
    pub(super) fn is_gone(&mut self, id: StreamId) {
        if let Some(body) = self.find(id) {
            body.is_gone = true;
            wake(&mut body.reader);
            wake(&mut body.sender);
        }
    }

    /// Forgets a stream nobody serves yet if the client gave it up: whether it did.
    pub(super) fn was_given_up(&mut self, id: StreamId) -> bool {
        let is_gone = self.find(id).is_none_or(|body| body.is_gone);
        if is_gone {
            self.leave(id);
        }
        is_gone
    }

    /// The connection is over.
    pub(super) fn close(&mut self) {
        for (_, body) in &mut self.streams {
            body.is_gone = true;
            wake(&mut body.reader);
            wake(&mut body.sender);
        }
        self.wake_crowded();
    }

    fn wake_crowded(&mut self) {
        for waker in self.crowded.drain(..) {
            waker.wake();
        }
    }

    /// The task of the connection waits until there is something to write.
    pub(super) fn wait_for_output(&mut self, cx: &Context<'_>) {
        if self.writer.is_none() {
            self.writer = Some(cx.waker().clone());
        }
    }

    /// Takes what is to be written in exchange for an empty buffer; whether there is anything.
    pub(super) fn take_output(&mut self, empty: &mut Vec<u8>) -> bool {
        if self.machine.output_len() == 0 {
            return false;
        }
        std::mem::swap(self.machine.output(), empty);
        self.wake_crowded();
        true
    }

    /// Somebody has put something there, perhaps.
    pub(super) fn has_said(&mut self) {
        if self.machine.output_len() > 0 {
            wake(&mut self.writer);
        }
    }

    /// Reads of a body: 0 bytes at its end.
    pub(super) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        id: StreamId,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<usize, Gone>> {
        let Some(body) = self.find(id).filter(|body| !body.is_gone) else { return Poll::Ready(Err(Gone)) };
        let len = body.came.len().min(buf.remaining());
        if len == 0 {
            if body.has_ended && body.came.is_empty() {
                return Poll::Ready(Ok(0));
            }
            wait(&mut body.reader, cx);
            return Poll::Pending;
        }
        buf.put_slice(&body.came[..len]);
        body.came.advance(len);
        if body.came.is_empty() {
            body.came = BytesMut::new();
        }
        self.machine.consumed(id, len);
        self.has_said();
        Poll::Ready(Ok(len))
    }

    /// Notices a client that gives up.
    pub(super) fn poll_gone(&mut self, cx: &Context<'_>, id: StreamId) -> Poll<Gone> {
        let Some(body) = self.find(id).filter(|body| !body.is_gone) else { return Poll::Ready(Gone) };
        wait(&mut body.reader, cx);
        Poll::Pending
    }

    /// Sends of a body, as much as goes.
    pub(super) fn poll_send(
        &mut self,
        cx: &Context<'_>,
        id: StreamId,
        bytes: &[u8],
    ) -> Poll<Result<usize, Gone>> {
        if self.machine.output_len() >= OUTPUT_MAX {
            self.crowded.push(cx.waker().clone());
            return Poll::Pending;
        }
        let sent = self.machine.send(id, bytes, false);
        if let (Ok(0), false, Some(body)) = (&sent, bytes.is_empty(), self.find(id)) {
            wait(&mut body.sender, cx);
            return Poll::Pending;
        }
        self.has_said();
        Poll::Ready(sent)
    }

    /// The response is complete.
    pub(super) fn end(&mut self, id: StreamId) -> Result<(), Gone> {
        let Some(body) = self.find(id) else { return Err(Gone) };
        if std::mem::replace(&mut body.is_answered, true) {
            return Ok(());
        }
        let ended = self.machine.end(id);
        self.has_said();
        ended
    }

    /// The same with fields behind the body.
    pub(super) fn trailers<'f>(
        &mut self,
        id: StreamId,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Result<(), Gone> {
        let Some(body) = self.find(id) else { return Err(Gone) };
        body.is_answered = true;
        let ended = self.machine.trailers(id, fields);
        self.has_said();
        ended
    }

    /// Whoever serves a request is done with it, or has given up.
    pub(super) fn leave(&mut self, id: StreamId) {
        if let Ok(at) = self.streams.binary_search_by_key(&id, |(id, _)| *id) {
            let (_, body) = self.streams.remove(at);
            self.machine.consumed(id, body.came.len());
            // RFC 9113 §8.1: who has its answer may be told that the rest of its request is not wanted.
            let reason = if body.is_answered { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR };
            self.machine.reset(id, reason);
        }
        if self.streams.is_empty() {
            self.quiet_since = Instant::now();
            // It may have waited for the last one to end.
            wake(&mut self.writer);
        }
        self.has_said();
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn wait(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        slot => *slot = Some(cx.waker().clone()),
    }
}
