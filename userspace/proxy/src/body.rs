//! Bodies on their way: the client's towards the server, and the server's (or our own words) back.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};

use crate::{connection::Connection, exchange::Account, limits::STALL_MAX, upstream::Upstream};

/// Boxed because the causes differ and nobody looks into them: they end the connection.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// An exchange of HTTP/2, where many share a connection.
pub(crate) type SharedAccount = Account<Arc<Connection>>;

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
    /// The client's, as it comes.
    Stream {
        /// From the client.
        incoming: Incoming,
        /// Seen by the one who waits for the response.
        progress: Arc<Progress>,
        /// Gives up on a client that stopped sending.
        stall: Stall,
    },
    /// Handed over piece by piece, by whoever reads it from the client.
    Fed {
        /// What comes next; without a [`Piece::End`] the client is gone.
        pieces: mpsc::Receiver<Piece>,
        /// The same as above.
        progress: Arc<Progress>,
        /// The same as above.
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

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, progress: &Arc<Progress>) -> Self {
        if incoming.is_end_stream() {
            progress.done.store(true, Relaxed);
            return Self::Empty;
        }
        Self::Stream { incoming, progress: Arc::clone(progress), stall: Stall::default() }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (incoming, progress, stall) = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Stream { incoming, progress, stall } => (incoming, progress, stall),
            Self::Fed { pieces, progress, stall } => {
                if progress.done.load(Relaxed) {
                    return Poll::Ready(None);
                }
                let Poll::Ready(piece) = pieces.poll_recv(cx) else {
                    ready!(stall.poll(cx));
                    return Poll::Ready(Some(Err("the client stopped sending its request".into())));
                };
                stall.moved();
                return Poll::Ready(match piece {
                    Some(Piece::Data(data)) => {
                        progress.bytes.fetch_add(data.len() as u64, Relaxed);
                        Some(Ok(Frame::data(data)))
                    }
                    Some(Piece::End) => {
                        progress.done.store(true, Relaxed);
                        None
                    }
                    None => Some(Err("the client is gone".into())),
                });
            }
        };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
            ready!(stall.poll(cx));
            return Poll::Ready(Some(Err("the client stopped sending its request".into())));
        };
        stall.moved();
        if let Some(Ok(frame)) = &frame {
            progress.bytes.fetch_add(frame.data_ref().map_or(1, |data| data.len() as u64), Relaxed);
        }
        if frame.is_none() || incoming.is_end_stream() {
            progress.done.store(true, Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
            Self::Fed { progress, .. } => progress.done.load(Relaxed),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
            Self::Fed { .. } => SizeHint::default(),
        }
    }
}

/// The body sent to a client. When it is dropped the exchange is over: it is logged, and the connection to the server
/// kept if it can be.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    /// Absent when the exchange goes on beside this body, in a tunnel.
    exchange: Option<SharedAccount>,
    stall: Stall,
}

#[derive(Debug)]
enum Source {
    Words(Option<Bytes>),
    Server { incoming: Incoming, upstream: Option<Upstream>, ended: bool },
}

impl ResponseBody {
    /// Our own words.
    pub(crate) fn words(words: Bytes, exchange: SharedAccount) -> Self {
        let words = Some(words).filter(|words| !words.is_empty());
        Self { source: Source::Words(words), exchange: Some(exchange), stall: Stall::default() }
    }

    /// What the server says.
    pub(crate) fn server(incoming: Incoming, upstream: Upstream, exchange: SharedAccount) -> Self {
        let source = Source::Server { incoming, upstream: Some(upstream), ended: false };
        Self { source, exchange: Some(exchange), stall: Stall::default() }
    }

    /// Nothing at all.
    pub(crate) fn none() -> Self {
        Self { source: Source::Words(None), exchange: None, stall: Stall::default() }
    }

    fn count(&mut self, len: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.bytes_out += len as u64;
        }
    }

    fn blame(&mut self, cause: &'static str) {
        if let Some(exchange) = &mut self.exchange {
            exchange.cause = cause;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let incoming = match &mut this.source {
            Source::Words(words) => {
                let words = words.take();
                this.count(words.as_ref().map_or(0, Bytes::len));
                return Poll::Ready(words.map(|words| Ok(Frame::data(words))));
            }
            Source::Server { incoming, .. } => incoming,
        };
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
            ready!(this.stall.poll(cx));
            this.blame("response-stalled");
            return Poll::Ready(Some(Err("the server stopped sending its response".into())));
        };
        this.stall.moved();
        match (&frame, &mut this.source) {
            (None, Source::Server { ended, .. }) => *ended = true,
            (Some(Ok(frame)), _) => this.count(frame.data_ref().map_or(0, Bytes::len)),
            (Some(Err(_)), Source::Server { upstream: Some(upstream), .. }) => {
                upstream.slot.server.note_failure(Duration::ZERO);
                this.blame("response-broken");
            }
            (None | Some(Err(_)), _) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Words(words) => words.is_none(),
            Source::Server { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Words(words) => {
                SizeHint::with_exact(words.as_ref().map_or(0, |words| words.len() as u64))
            }
            Source::Server { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Source::Server { incoming, upstream, ended } = &mut self.source else { return };
        // A reader that knows the length does not ask for the end.
        if *ended || incoming.is_end_stream() {
            if let Some(upstream) = upstream.take() {
                upstream.keep();
            }
        } else if self.exchange.as_ref().is_some_and(|exchange| exchange.cause.is_empty()) {
            self.blame("client-gone");
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
