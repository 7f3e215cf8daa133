//! A client's stream of HTTP/2, of which each frame is looked at as it passes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weir_core::h2_guard::H2Guard;
use weir_runtime::metrics::Counter;

/// A stream of which some may have been read already. It ends with an error at a flood.
pub(crate) struct Guarded<S> {
    came: Vec<u8>,
    stream: S,
    guard: H2Guard,
    began: Instant,
    floods: Counter,
}

impl<S> Guarded<S> {
    /// A stream that continues `came`; its flood is counted.
    pub(crate) fn new(came: Vec<u8>, stream: S, floods: Counter) -> Self {
        Self { came, stream, guard: H2Guard::default(), began: Instant::now(), floods }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.came.is_empty() {
            std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let len = this.came.len().min(buffer.remaining());
            buffer.put_slice(&this.came[..len]);
            this.came.drain(..len);
        }
        let looked = this.guard.look(&buffer.filled()[before..], this.began.elapsed());
        Poll::Ready(looked.map_err(|flood| {
            this.floods.add(1);
            io::Error::other(flood)
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
