//! Bodies on their way to servers of HTTP/2, and how long one may stand still.

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
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};

use crate::limits::STALL_MAX;

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
        /// Gives up on a client that stopped sending.
        stall: Stall,
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
        let Self::Fed { pieces, progress, stall } = self.get_mut() else { return Poll::Ready(None) };
        if progress.done.load(Relaxed) {
            return Poll::Ready(None);
        }
        let Poll::Ready(piece) = pieces.poll_recv(cx) else {
            ready!(stall.poll(cx));
            return Poll::Ready(Some(Err("the client stopped sending its request".into())));
        };
        stall.moved();
        Poll::Ready(match piece {
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

/// A deadline that moves with every movement; the timer is made only when somebody waits.
#[derive(Debug, Default)]
pub(crate) struct Stall(Option<Pin<Box<Sleep>>>, Option<Instant>);

impl Stall {
    pub(crate) fn moved(&mut self) {
        self.1 = None;
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self(timer, waiting_since) = self;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(STALL_MAX)));
        if waiting_since.is_none() {
            let now = Instant::now();
            *waiting_since = Some(now);
            timer.as_mut().reset(now + STALL_MAX);
        }
        timer.as_mut().poll(cx)
    }
}
