//! HTTP/2 to servers: a connection shared by as many requests as the server allows, and another when they are more.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use crate::{
    body::RequestBody,
    connection::Connection,
    errors::Failure,
    limits::{
        HEAD_LEN_MAX, PING_INTERVAL, SERVER_SEND_BUFFER, SERVER_STREAM_WINDOW, SERVER_STREAMS_MAX,
        SERVER_WINDOW,
    },
    live::{Slot, now_ms},
    server_stream::{ServerStream, same_terms},
    tables::PoolTable,
    tls::ServerTerms,
};

/// A connection, as long as it takes requests.
#[derive(Debug)]
pub(crate) struct Shared {
    sender: SendRequest<RequestBody>,
    terms: Option<Arc<ServerTerms>>,
    usage: Arc<Usage>,
}

/// How much it is used.
#[derive(Debug)]
struct Usage {
    streams: AtomicUsize,
    /// How many the server allows, as it said last.
    streams_max: AtomicUsize,
    /// When the last one ended, in milliseconds of [`now_ms`].
    since_ms: AtomicU64,
}

/// The right to one request on a connection; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) sender: SendRequest<RequestBody>,
    usage: Arc<Usage>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.usage.since_ms.store(now_ms(), Relaxed);
        self.usage.streams.fetch_sub(1, SeqCst);
    }
}

impl Shared {
    /// Whether it takes requests, and is of the kind the pool wants now.
    pub(crate) fn is_of(&self, pool: &PoolTable) -> bool {
        !self.sender.is_closed() && same_terms(self.terms.as_ref(), pool.tls.as_ref())
    }

    /// Whether it takes requests and was not without one for too long.
    pub(crate) fn is_usable(&self, idle_timeout: Duration) -> bool {
        let idle_ms = now_ms().saturating_sub(self.usage.since_ms.load(Relaxed));
        let is_used = self.usage.streams.load(SeqCst) > 0 || idle_ms < idle_timeout.as_millis() as u64;
        !self.sender.is_closed() && is_used
    }

    /// Room for one more request on it. Those that have it are all on this thread.
    pub(crate) fn stream(&self) -> Option<Stream> {
        let max = self.usage.streams_max.load(Relaxed).min(SERVER_STREAMS_MAX);
        (self.usage.streams.load(SeqCst) < max).then(|| self.take())
    }

    fn take(&self) -> Stream {
        self.usage.streams.fetch_add(1, SeqCst);
        Stream { sender: self.sender.clone(), usage: Arc::clone(&self.usage) }
    }
}

/// A stream on a connection that is there, or on a new one; and whether it was there.
pub(crate) async fn obtain(
    slot: &Slot,
    pool: &PoolTable,
    client: &Connection,
) -> Result<(Stream, bool), Failure> {
    let server = &slot.server;
    if let Some(stream) = server.take_stream(pool) {
        return Ok((stream, true));
    }
    // Many requests that come at once wait for one connection instead of making as many.
    let Ok(_mine) = timeout(pool.spec.connect_timeout, server.dialling().lock()).await else {
        return Err(Failure::ConnectTimeout);
    };
    if let Some(stream) = server.take_stream(pool) {
        return Ok((stream, true));
    }
    let shared = open(slot, pool, client).await?;
    let stream = shared.take();
    server.share(shared);
    Ok((stream, false))
}

async fn open(slot: &Slot, pool: &PoolTable, client: &Connection) -> Result<Shared, Failure> {
    let stream = ServerStream::open(slot, pool, client).await?;
    let (sender, mut connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_INTERVAL)
        .max_header_list_size(HEAD_LEN_MAX as u32)
        .initial_stream_window_size(SERVER_STREAM_WINDOW)
        .initial_connection_window_size(SERVER_WINDOW)
        .max_send_buf_size(SERVER_SEND_BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::Broken)?;
    let name = slot.server.name.clone();
    let usage = Arc::new(Usage {
        streams: AtomicUsize::new(0),
        streams_max: AtomicUsize::new(connection.current_max_send_streams()),
        since_ms: AtomicU64::new(now_ms()),
    });
    let seen = Arc::clone(&usage);
    // Ends when nobody may send on it any more, or the server closes; errors reach whoever waits for a response.
    tokio::spawn(async move {
        let ended = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            seen.streams_max.store(connection.current_max_send_streams(), Relaxed);
            polled
        });
        if let Err(error) = ended.await {
            tracing::debug!(server = %name, "http/2: {error}");
        }
    });
    Ok(Shared { sender, terms: pool.tls.clone(), usage })
}
