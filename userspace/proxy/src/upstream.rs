//! Connections to servers that hyper speaks on: HTTP/1.1, kept and used again, and HTTP/2, shared.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::{
    body::{Progress, RequestBody},
    connection::Connection,
    errors::Failure,
    limits::{HEAD_LEN_MAX, HEADERS_MAX, READY_TIMEOUT},
    live::Slot,
    multiplexed::{self, Stream},
    server_stream::ServerStream,
    tables::PoolTable,
    tls::ServerTerms,
};

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: Sender,
    /// Whether it carried a request before: then the server may close it at any moment, which says nothing about the server.
    pub(crate) reused: bool,
    /// It is one client's.
    is_private: bool,
    pub(crate) slot: Slot,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Sender {
    /// A connection of its own, and the terms it was made on.
    Http1(http1::SendRequest<RequestBody>, Option<Arc<ServerTerms>>),
    /// A part of one.
    Http2(Stream),
}

impl Upstream {
    /// A kept connection, or a new one; or a stream on one.
    pub(crate) async fn obtain(
        slot: Slot,
        pool: &PoolTable,
        client: &Connection,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let progress = Arc::clone(progress);
        let is_private = pool.spec.dials_for_one_client();
        if pool.spec.protocol.is_h2() {
            let (stream, reused) = multiplexed::obtain(&slot, pool, client).await?;
            return Ok(Self { sender: Sender::Http2(stream), reused, is_private, slot, progress });
        }
        let terms = pool.tls.clone();
        while let Some(mut sender) = (!is_private).then(|| slot.server.take_sender(pool)).flatten() {
            if sender.is_ready() || matches!(timeout(READY_TIMEOUT, sender.ready()).await, Ok(Ok(()))) {
                let sender = Sender::Http1(sender, terms);
                return Ok(Self { sender, reused: true, is_private, slot, progress });
            }
        }
        let stream = ServerStream::open(&slot, pool, client).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::Broken)?;
        // Ends when the sender is dropped or the server closes; errors reach whoever waits for a response.
        tokio::spawn(connection);
        Ok(Self { sender: Sender::Http1(sender, terms), reused: false, is_private, slot, progress })
    }

    /// Whether other requests share the connection: that one of them failed says little of it.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        response_timeout: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let sender = &mut self.sender;
        let sending = async {
            match sender {
                Sender::Http1(sender, _) => sender.try_send_request(request).await,
                Sender::Http2(stream) => stream.sender.try_send_request(request).await,
            }
        };
        tokio::pin!(sending);
        let mut sent = self.progress.bytes.load(Relaxed);
        loop {
            match timeout(response_timeout, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => {
                    return Err(match error.take_message() {
                        Some(request) => Failure::NotSent(Box::new(request)),
                        None => Failure::of(error.into_error()),
                    });
                }
                Err(_) => {
                    // The server's time runs only while it is not still being sent something, nor the client waited for.
                    let now = self.progress.bytes.load(Relaxed);
                    if now == sent && !self.progress.awaits_client.load(Relaxed) {
                        return Err(Failure::ResponseTimeout);
                    }
                    sent = now;
                }
            }
        }
    }

    /// The response is complete: keeps the connection, unless it is one client's or the request is still on its way.
    pub(crate) fn keep(self) {
        let Self { sender: Sender::Http1(sender, terms), slot, progress, is_private, .. } = self else {
            return;
        };
        if !is_private && progress.done.load(Relaxed) {
            slot.server.keep_sender(sender, terms);
        }
    }
}
