//! Bodies on their way to servers of HTTP/2.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Boxed because the causes differ and nobody looks into them: they end the connection.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// How far a request body has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) bytes: AtomicU64,
    pub(crate) done: AtomicBool,
    /// The next bytes are the client's to send: meanwhile no server owes an answer.
    pub(crate) awaits_client: AtomicBool,
}

/// The body sent to a server.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None: such a request can be sent again.
    Empty,
    /// Handed over piece by piece, by whoever reads it from the client.
    Fed {
        /// What comes next; without a [`Piece::End`] the client is gone.
        pieces: mpsc::Receiver<Piece>,
        /// Seen by the one who waits for the response.
        progress: Arc<Progress>,
    },
}

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// More of it.
    Data(Bytes),
    /// There is no more.
    End,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Fed { pieces, progress } = self.get_mut() else { return Poll::Ready(None) };
        if progress.done.load(Relaxed) {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(pieces.poll_recv(cx)) {
            Some(Piece::Data(data)) => {
                progress.bytes.fetch_add(data.len() as u64, Relaxed);
                Some(Ok(Frame::data(data)))
            }
            Some(Piece::End) => {
                progress.done.store(true, Relaxed);
                None
            }
            None => Some(Err("the client is gone".into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Fed { progress, .. } => progress.done.load(Relaxed),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Fed { .. } => SizeHint::default(),
        }
    }
}
