//! One request and its response: its bodies are read and written like a connection of its own.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weir_core::{
    h1::{Bad, FieldRoom, RequestHead, Version},
    h2::{Head, StreamId},
    text::write_number,
};

use super::shared::Shared;
use crate::dialect::{Dialect, Said};

/// A stream. Dropped before it was shut down, it is reset.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    id: StreamId,
    /// Whether the end of the request is still to be told to whoever reads: of one whose length is known, only that the client
    /// gives up is of interest after it.
    tells_end: bool,
}

/// The heads of a stream.
#[derive(Debug)]
pub(super) struct Heads {
    shared: Arc<Shared>,
    id: StreamId,
    head: Head,
}

impl Stream {
    /// A stream that was opened with this head, and perhaps not more.
    pub(super) fn new(shared: &Arc<Shared>, id: StreamId, head: Head, ends: bool) -> (Self, Heads) {
        let tells_end = !ends && !head.fields().any(|(name, _)| name == "content-length");
        let stream = Self { shared: Arc::clone(shared), id, tells_end };
        (stream, Heads { shared: Arc::clone(shared), id, head })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().leave(self.id);
    }
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        match state.poll_read(cx, this.id, buf) {
            Poll::Ready(Ok(0)) if buf.remaining() > 0 && !std::mem::take(&mut this.tells_end) => {
                let _gone = ready!(state.poll_gone(cx, this.id));
                Poll::Ready(Err(gone()))
            }
            polled => polled.map(|read| read.map(|_| ()).map_err(|_| gone())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_send(cx, self.id, bytes).map(|sent| sent.map_err(|_| gone()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.lock().end(self.id).map_err(|_| gone()))
    }
}

impl Dialect for Heads {
    const VERSION: Version = Version::Http2;

    fn request<'h, 'b>(
        &'b self,
        _came: &'b [u8],
        room: &'h mut FieldRoom<'b>,
    ) -> Result<Option<RequestHead<'h, 'b>>, Bad> {
        self.head.request(room).map(Some)
    }

    fn respond<'f>(
        &mut self,
        _out: &mut Vec<u8>,
        said: &Said<'_>,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> usize {
        // RFC 8441 §5: a stream becomes a tunnel with 200, and what the key and its answer prove is not in question.
        let switches = said.status == 101;
        let status = if switches { 200 } else { said.status };
        let fields =
            fields.filter(|(name, _)| !switches || !name.eq_ignore_ascii_case("sec-websocket-accept"));
        let fields = fields.map(|(name, value)| -> (&str, &[u8]) { (name, value) });
        let mut digits = Vec::with_capacity(20);
        let length = said.length.map(|length| {
            write_number(&mut digits, length);
            ("content-length", &*digits)
        });
        let mut state = self.shared.lock();
        let before = state.machine.output_len();
        // Of a client that gave up, whoever writes the body will hear.
        let _gone = state.machine.respond(self.id, status, fields.chain(length), false);
        let len = state.machine.output_len() - before;
        state.has_said();
        len
    }

    fn trailers<'f>(&mut self, _out: &mut Vec<u8>, fields: impl Iterator<Item = (&'f str, &'f [u8])>) {
        let _gone = self.shared.lock().trailers(self.id, fields);
    }
}
