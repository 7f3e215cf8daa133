//! Servers of HTTP/2: the head is translated, the body goes on piece by piece. RFC 9113 §8.
//!
//! Trailer fields of a request are not passed on, as RFC 9110 §6.5.1 allows; those of a response are.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri, Version as HttpVersion, header, request::Parts,
};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::PollSender;
use weir_core::{
    h1::{self, Framing, RequestHead, Version},
    pace::TooSlow,
    request_id::REQUEST_ID,
};

use super::{
    answer::{Refused, say},
    asked::Asked,
    buffer::{BUFFER_LEN, Buffer, Scratch},
    client::{After, Client, write},
    deadline::Deadline,
    patience::{Moved, OutOfTime, Patience, Whom},
    pump::{Broken, Pump},
};
use crate::{
    attempts::Attempts,
    body::{Piece, Progress, RequestBody, Stall},
    connection::Connection,
    dialect::{Dialect, Said},
    errors::{Failure, Refusal, slow_cause},
    exchange::Exchange,
    headers,
    tables::{PoolTable, Tables},
    upstream::{Message, Upstream, ask_servers},
};

/// A head as servers of HTTP/2 are asked.
pub(super) fn parts(
    head: &RequestHead<'_, '_>,
    connection: &Connection,
    pool: &PoolTable,
    instead: [(&'static str, &[u8]); 3],
) -> Result<Parts, Refusal> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(head.method.as_bytes()).map_err(|_| Refusal::BAD_TARGET)?;
    parts.uri = Uri::try_from(head.target).map_err(|_| Refusal::BAD_TARGET)?;
    parts.version = match head.version {
        Version::Http10 => HttpVersion::HTTP_10,
        Version::Http11 => HttpVersion::HTTP_11,
        Version::Http2 => HttpVersion::HTTP_2,
    };
    for field in head.fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Refusal::BAD_FIELD)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Refusal::BAD_FIELD)?;
        parts.headers.append(name, value);
    }
    // One, where there is one: said twice alike is once too often for HTTP/2.
    parts.headers.remove(header::CONTENT_LENGTH);
    if let Framing::Length(length) = head.framing {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let takes_trailers = headers::takes_trailers(&parts.headers);
    headers::to_server(&mut parts, head.host, connection.client, connection.tls)?;
    headers::instead(&mut parts.headers, instead);
    // HTTP/2 has no word for no host.
    let address;
    let host = if head.host.is_empty() {
        address = connection.local.to_string();
        &address
    } else {
        head.host
    };
    headers::as_http2(&mut parts, host, pool.tls.is_some(), takes_trailers)?;
    Ok(parts)
}

/// What came of a request.
enum Done {
    /// The response has gone to the client; whether its end was said.
    Answered(bool),
    /// Nobody answered.
    Refused(Refusal),
    /// The client is gone, or the response broke off.
    Cut,
}

/// Asks servers, and passes the answer on while the rest of the request goes the other way.
pub(super) async fn serve<S, D>(
    connection: &Connection,
    client: &mut Client<S, D>,
    tables: &Tables,
    asked: &mut Asked<'_>,
    (exchange, mut deadline): (&mut Exchange, Pin<&mut Deadline>),
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
    D: Dialect,
{
    let Some(parts) = asked.parts.take() else { return After::Cut };
    let asked = &*asked;
    if asked.expects_continue && asked.framing != Framing::None {
        let said = Said {
            status: 100,
            reason: "Continue",
            framing: Framing::None,
            length: None,
            client: asked.client,
            goes_on: true,
            protocol: None,
        };
        let mut out = Scratch::new();
        client.dialect.respond(&mut out.0, &said, std::iter::empty());
        if write(&mut client.stream, &out).await.is_err() {
            exchange.cause = "client-gone";
            return After::Cut;
        }
    }
    let progress = Arc::new(Progress::default());
    exchange.progress = Some(Arc::clone(&progress));
    let (body, mut feed) = Feed::of(asked.body, &progress);
    let message = Message::new(*parts, body);
    let attempts = Attempts::new(asked.pool, tables, connection, asked.home).by(asked.key);

    let Client { stream, came, dialect } = &mut *client;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut client_ended = false;
    let answered = AtomicBool::new(false);
    let done = {
        let mut answering = pin!(async {
            let asking = ask_servers(connection, attempts, message, &progress, exchange);
            let (response, upstream) = match asking.await {
                Ok(answer) => answer,
                Err(refusal) => return Done::Refused(refusal),
            };
            answered.store(true, Relaxed);
            let goes_on = asked.is_persistent && progress.done.load(Relaxed) && !connection.is_ending();
            let to = (&mut writing, connection.listener.spec.client_timeout);
            respond((to, dialect), asked, goes_on, response, upstream, exchange).await
        });
        let mut fed = None;
        let mut patience = Patience::default();
        poll_fn(|cx| {
            if fed.is_none()
                && let Poll::Ready(result) = feed.poll(cx, &mut reading, came, &mut client_ended)
            {
                match result {
                    // Whatever becomes of the rest of the request: the answer will say.
                    Ok(()) | Err(Broken::To(_)) => fed = Some(()),
                    Err(Broken::From(_)) => return Poll::Ready(Done::Cut),
                    Err(Broken::Bad(_)) => return Poll::Ready(Done::Refused(Failure::BadRequest.refusal())),
                }
            }
            if let Poll::Ready(done) = answering.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            // Servers have times of their own, and one that has answered may be spoken to now and then.
            let client_owes = fed.is_none() && feed.pump.awaits_sender() && !answered.load(Relaxed);
            progress.awaits_client.store(client_owes, Relaxed);
            if !client_owes {
                patience.rest();
                return Poll::Pending;
            }
            let moved = Moved { moves: feed.pump.moves, bytes: feed.pump.bytes };
            let listener = &connection.listener.spec;
            patience.poll(cx, deadline.as_mut(), listener, Whom::Client, moved).map(|out| match out {
                OutOfTime::Client(why) => Done::Refused(Failure::SlowClient(why).refusal()),
                OutOfTime::Server => Done::Cut,
            })
        })
        .await
    };
    match done {
        Done::Answered(true) if !client_ended && progress.done.load(Relaxed) => After::Next,
        Done::Answered(_) => After::Close,
        Done::Refused(refusal) if exchange.status == 0 => {
            let is_whole = asked.is_persistent && asked.framing == Framing::None && !client_ended;
            let refused = Refused { refusal, is_whole, is_head: asked.is_head };
            say(connection, client, exchange, refused).await
        }
        Done::Refused(_) | Done::Cut => {
            if exchange.cause.is_empty() {
                exchange.cause = "client-gone";
            }
            After::Cut
        }
    }
}

/// Passes a response on.
async fn respond<W: AsyncWrite + Unpin, D: Dialect>(
    (mut to, dialect): ((&mut W, Duration), &mut D),
    asked: &Asked<'_>,
    goes_on: bool,
    response: Response<Incoming>,
    upstream: Upstream,
    exchange: &mut Exchange,
) -> Done {
    let (mut parts, mut body) = response.into_parts();
    exchange.status = parts.status.as_u16();
    headers::to_client(&mut parts.headers, parts.version);
    if let Some(id) = HeaderValue::from_bytes(&exchange.id).ok().filter(|id| !id.is_empty()) {
        parts.headers.insert(REQUEST_ID, id);
    }
    let has_none = asked.is_head || matches!(exchange.status, 204 | 304);
    let length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let is_empty = body.is_end_stream();
    let is_unsized = !has_none && !length && !is_empty;
    let in_chunks = is_unsized && asked.client == Version::Http11;
    let said = Said {
        status: exchange.status,
        reason: parts.status.canonical_reason().unwrap_or_default(),
        framing: if in_chunks { Framing::Chunked } else { Framing::None },
        // Where the server has said one, it is among the fields.
        length: (!has_none && !length && is_empty).then_some(0),
        client: asked.client,
        goes_on: goes_on && (!is_unsized || asked.client != Version::Http10),
        protocol: None,
    };
    let goes_on = said.goes_on;
    let fields = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let cookie = asked.set_cookie.as_ref().map(|cookie| ("set-cookie", cookie.as_bytes()));
    let mut out = Scratch::new();
    exchange.head_bytes_out = dialect.respond(&mut out.0, &said, fields.chain(cookie)) as u64;

    loop {
        // What is at hand leaves in one piece with the head.
        let frame = match poll_now(&mut body).await {
            Some(frame) => frame,
            None => {
                if let Err(cause) = flush(&mut to, &mut out).await {
                    exchange.cause = cause;
                    return Done::Cut;
                }
                match timeout(asked.pool.spec.server_timeout, body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => {
                        exchange.cause = "response-stalled";
                        return Done::Cut;
                    }
                }
            }
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                tracing::debug!(server = %upstream.slot.server.name, "response: {error}");
                upstream.slot.server.note_failure(Duration::ZERO);
                exchange.cause = "response-broken";
                return Done::Cut;
            }
            None => break,
        };
        match frame.into_data() {
            Ok(data) if data.is_empty() || has_none => {}
            Ok(data) => {
                exchange.bytes_out += data.len() as u64;
                if in_chunks {
                    h1::write_chunk_head(&mut out.0, data.len());
                }
                out.0.extend_from_slice(&data);
                if in_chunks {
                    h1::write_chunk_end(&mut out.0);
                }
            }
            Err(frame) => {
                let takes = in_chunks || asked.client == Version::Http2;
                if let (true, Ok(mut trailers)) = (takes, frame.into_trailers()) {
                    headers::only_trailers(&mut trailers);
                    // What is said apart from the body is not to overtake it.
                    if !in_chunks && let Err(cause) = flush(&mut to, &mut out).await {
                        exchange.cause = cause;
                        return Done::Cut;
                    }
                    let fields = trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                    dialect.trailers(&mut out.0, fields);
                    return end(&mut to, &mut out, goes_on, upstream, exchange).await;
                }
            }
        }
        if out.0.len() >= BUFFER_LEN
            && let Err(cause) = flush(&mut to, &mut out).await
        {
            exchange.cause = cause;
            return Done::Cut;
        }
    }
    if in_chunks {
        out.0.extend_from_slice(b"0\r\n\r\n");
    }
    end(&mut to, &mut out, goes_on, upstream, exchange).await
}

async fn end<W: AsyncWrite + Unpin>(
    to: &mut (&mut W, Duration),
    out: &mut Scratch,
    goes_on: bool,
    upstream: Upstream,
    exchange: &mut Exchange,
) -> Done {
    drop(upstream);
    match flush(to, out).await {
        Ok(()) => Done::Answered(goes_on),
        Err(cause) => {
            exchange.cause = cause;
            Done::Cut
        }
    }
}

/// The next frame, if it is there.
async fn poll_now(body: &mut Incoming) -> Option<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Writes all that waits, or says why nobody took it.
async fn flush<W: AsyncWrite + Unpin>(
    (to, time): &mut (&mut W, Duration),
    out: &mut Scratch,
) -> Result<(), &'static str> {
    let written = async {
        to.write_all(&out.0).await?;
        to.flush().await
    };
    let taken = timeout(*time, written).await;
    out.0.clear();
    match taken {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("client-gone"),
        Err(_) => Err(slow_cause(TooSlow::Silent)),
    }
}

/// The client's side of a request body.
struct Feed {
    pump: Pump,
    to: Pieces,
    ended: bool,
}

/// Pieces on their way to a [`RequestBody`].
struct Pieces(PollSender<Piece>);

impl Feed {
    /// A body framed like this, and what reads it from the client.
    fn of(framing: Framing, progress: &Arc<Progress>) -> (RequestBody, Self) {
        // One on its way while the next is read.
        let (sender, pieces) = mpsc::channel(1);
        let body = if framing == Framing::None {
            progress.done.store(true, Relaxed);
            RequestBody::Empty
        } else {
            RequestBody::Fed { pieces, progress: Arc::clone(progress), stall: Stall::default() }
        };
        let pump = Pump::new(framing, false);
        (body, Self { pump, to: Pieces(PollSender::new(sender)), ended: framing == Framing::None })
    }

    /// Moves until the whole body was handed over; then only watches for a client that goes.
    fn poll<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<S>,
        came: &mut Buffer,
        client_ended: &mut bool,
    ) -> Poll<Result<(), Broken>> {
        while !self.ended {
            if !self.pump.is_done() {
                let polled = self.pump.poll(cx, from, came, &mut self.to);
                std::task::ready!(polled)?;
            }
            std::task::ready!(self.to.poll_send(cx, Piece::End)).map_err(Broken::To)?;
            self.ended = true;
        }
        if *client_ended || !came.is_empty() {
            return Poll::Pending;
        }
        match came.poll_fill(cx, from) {
            // Half a connection is enough to be answered on.
            Poll::Ready(Ok(0)) => *client_ended = true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        Poll::Pending
    }
}

impl Pieces {
    fn poll_send(&mut self, cx: &mut Context<'_>, piece: Piece) -> Poll<io::Result<()>> {
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        std::task::ready!(self.0.poll_reserve(cx)).map_err(closed)?;
        Poll::Ready(self.0.send_item(piece).map_err(closed))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        std::task::ready!(this.0.poll_reserve(cx)).map_err(closed)?;
        // Copied only once there is room.
        this.0.send_item(Piece::Data(Bytes::copy_from_slice(bytes))).map_err(closed)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
