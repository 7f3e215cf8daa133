//! A request on its way to a server of HTTP/2.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::{
    attempts::Attempts,
    body::{Progress, RequestBody},
    connection::Connection,
    errors::{Failure, Refusal},
    exchange::Exchange,
    live::Slot,
    multiplexed::{self, Stream},
    tables::PoolTable,
};

/// A part of a connection.
#[derive(Debug)]
pub(crate) struct Upstream {
    stream: Stream,
    /// Whether the connection carried a request before: then the server may close it at any moment, which says nothing about the
    /// server.
    pub(crate) reused: bool,
    pub(crate) slot: Slot,
    progress: Arc<Progress>,
}

impl Upstream {
    /// A stream on a connection that is there, or on a new one.
    pub(crate) async fn obtain(
        slot: Slot,
        pool: &PoolTable,
        client: &Connection,
        progress: &Arc<Progress>,
    ) -> Result<Self, Failure> {
        let (stream, reused) = multiplexed::obtain(&slot, pool, client).await?;
        Ok(Self { stream, reused, slot, progress: Arc::clone(progress) })
    }

    /// Sends a request and waits for the head of the response.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        response_timeout: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let sending = self.stream.sender.try_send_request(request);
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
}

/// Asks one server after the other until one answers, the retries are used up, or asking again could do harm.
pub(crate) async fn ask_servers(
    connection: &Connection,
    mut attempts: Attempts<'_>,
    mut message: Message,
    progress: &Arc<Progress>,
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, Upstream), Refusal> {
    loop {
        let slot = attempts.next(exchange).await?;
        let server = Arc::clone(&slot.server);
        let failure = match ask(connection, slot, attempts.pool(), &mut message, progress, exchange).await {
            Ok(answer) => {
                attempts.answered(&server, answer.0.status().as_u16());
                return Ok(answer);
            }
            Err(failure) => failure,
        };
        attempts.failed(&server, &failure);
        if !message.may_be_sent_again(failure) {
            return Err(attempts.refusal());
        }
    }
}

/// Asks one server. A kept connection that turns out to be closed is no failure of the server: it is asked on another.
async fn ask(
    connection: &Connection,
    slot: Slot,
    pool: &PoolTable,
    message: &mut Message,
    progress: &Arc<Progress>,
    exchange: &mut Exchange,
) -> Result<(Response<Incoming>, Upstream), Failure> {
    let obtain = |slot| Upstream::obtain(slot, pool, connection, progress);
    let mut upstream = obtain(slot).await?;
    let mut may_repeat = true;
    loop {
        exchange.connected = Some(Instant::now());
        let request = message.request();
        match upstream.send(request, pool.spec.response_timeout).await {
            Ok(response) => {
                exchange.answered = Some(Instant::now());
                return Ok((response, upstream));
            }
            Err(failure) if upstream.reused && may_repeat => {
                may_repeat = false;
                let Upstream { slot, .. } = upstream;
                if !message.may_be_sent_again_quietly(&failure) {
                    return Err(failure);
                }
                if let Failure::NotSent(request) = failure {
                    message.take_back(*request);
                }
                upstream = obtain(slot).await?;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// A request that may have to be sent more than once.
pub(crate) struct Message {
    parts: Parts,
    body: Option<RequestBody>,
    is_empty: bool,
}

impl Message {
    pub(crate) fn new(parts: Parts, body: RequestBody) -> Self {
        let is_empty = matches!(body, RequestBody::Empty);
        Self { parts, body: Some(body), is_empty }
    }

    fn request(&mut self) -> Request<RequestBody> {
        let body = self.body.take().unwrap_or(RequestBody::Empty);
        Request::from_parts(self.parts.clone(), body)
    }

    fn take_back(&mut self, request: Request<RequestBody>) {
        self.body = Some(request.into_body());
    }

    /// Whether another server may be asked after `failure`: the request was not sent, or is idempotent and complete.
    fn may_be_sent_again(&mut self, failure: Failure) -> bool {
        match failure {
            Failure::Connect(_) | Failure::ConnectTimeout | Failure::Tls(_) => true,
            Failure::NotSent(request) => {
                self.take_back(*request);
                true
            }
            // What was taken of a body is gone.
            Failure::Unprocessed(_) => self.is_empty,
            Failure::Broken(_) | Failure::Lost(_) => self.is_empty && self.parts.method.is_idempotent(),
            Failure::BadResponse(_) | Failure::BadRequest | Failure::SlowClient(_) | Failure::Client => false,
            // It may be working on it still; a second one would make matters worse.
            Failure::ResponseTimeout => false,
        }
    }

    /// The same for another connection to the same server, after a kept one failed.
    fn may_be_sent_again_quietly(&self, failure: &Failure) -> bool {
        match failure {
            Failure::NotSent(_) => true,
            Failure::Unprocessed(_) => self.is_empty,
            // Its host is silent: no other connection to it will do better.
            failure if failure.is_silence() => false,
            Failure::Broken(_) => self.is_empty && self.parts.method.is_idempotent(),
            _ => false,
        }
    }
}
