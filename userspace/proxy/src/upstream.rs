//! Connections to servers: HTTP/1.1, kept and used again.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use weir_model::Pool;

use crate::{
    body::{Progress, RequestBody},
    connection::Connection,
    dial::connect,
    errors::Failure,
    limits::{HEAD_LEN_MAX, HEADERS_MAX, READY_TIMEOUT},
    live::Slot,
};

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: http1::SendRequest<RequestBody>,
    /// Whether it carried a request before: then the server may close it at any moment, which says nothing about the server.
    pub(crate) reused: bool,
    /// It is one client's.
    is_private: bool,
    pub(crate) slot: Slot,
    progress: Arc<Progress>,
}

impl Upstream {
    /// A kept connection, or a new one.
    pub(crate) async fn obtain(
        slot: Slot,
        pool: &Pool,
        client: &Connection,
        progress: &Arc<Progress>,
    ) -> Result<Self, (Slot, Failure)> {
        let progress = Arc::clone(progress);
        let is_private = pool.dials_for_one_client();
        while let Some(mut sender) =
            (!is_private).then(|| slot.server.take_sender(pool.idle_timeout)).flatten()
        {
            if sender.is_ready() || matches!(timeout(READY_TIMEOUT, sender.ready()).await, Ok(Ok(()))) {
                return Ok(Self { sender, reused: true, is_private, slot, progress });
            }
        }
        let stream = match connect(&slot, pool, client).await {
            Ok(stream) => stream,
            Err(failure) => return Err((slot, failure)),
        };
        let handshake = http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        match handshake {
            Ok((sender, connection)) => {
                // Ends when the sender is dropped or the server closes; errors reach whoever waits for a response.
                tokio::spawn(connection);
                Ok(Self { sender, reused: false, is_private, slot, progress })
            }
            Err(error) => Err((slot, Failure::Broken(error))),
        }
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        response_timeout: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let sending = self.sender.try_send_request(request);
        tokio::pin!(sending);
        let mut sent = self.progress.bytes.load(Relaxed);
        loop {
            match timeout(response_timeout, &mut sending).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => {
                    return Err(match error.take_message() {
                        Some(request) => Failure::NotSent(Box::new(request)),
                        None => Failure::Broken(error.into_error()),
                    });
                }
                Err(_) => {
                    // The server's time runs only while it is not still being sent something.
                    let now = self.progress.bytes.load(Relaxed);
                    if now == sent {
                        return Err(Failure::ResponseTimeout);
                    }
                    sent = now;
                }
            }
        }
    }

    /// The response is complete: keeps the connection, unless it is one client's or the request is still on its way.
    pub(crate) fn keep(self) {
        let Self { sender, slot, progress, is_private, .. } = self;
        if !is_private && progress.done.load(Relaxed) {
            slot.server.keep_sender(sender);
        }
    }
}
