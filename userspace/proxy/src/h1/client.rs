//! A client's connection: one request after the other, until either side has enough.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, sleep_until},
};
use weir_core::h1::{self, Bad, Sender};

use super::{
    answer,
    buffer::{Buffer, Scratch},
    relay,
};
use crate::{
    connection::Connection,
    limits::{HANDSHAKE_TIMEOUT, HEAD_TIMEOUT, LAST_CALL, LINGER, LINGER_LEN_MAX},
};

/// How HTTP/2 begins. RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection ended.
pub(crate) enum Ended<S> {
    /// It is over.
    Over,
    /// It is HTTP/2 and not for us: the stream, and what was read of it.
    Http2(S, Vec<u8>),
}

/// Both sides' bytes while requests are served.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    pub(crate) came: Buffer,
    pub(crate) sender: Sender,
}

/// What a request leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The connection takes the next request.
    Next,
    /// It is closed, once the client had time to read.
    Close,
    /// It is cut: there is nobody to read, or an end that cannot be said otherwise.
    Cut,
}

/// Serves until the end.
pub(crate) async fn serve<S>(connection: &Connection, stream: S) -> Ended<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sender = Sender::new(connection.client.ip(), connection.tls);
    let mut client = Client { stream, came: Buffer::default(), sender };
    let mut deadline = pin!(sleep_until(Instant::now() + HANDSHAKE_TIMEOUT));
    let mut ending = pin!(connection.asked_to_end());
    let mut is_first = true;
    let mut last_call = false;
    loop {
        match head(&mut client, deadline.as_mut(), ending.as_mut(), is_first, &mut last_call).await {
            Waited::Head => {}
            Waited::Http2 => {
                let came = client.came.data().to_vec();
                return Ended::Http2(client.stream, came);
            }
            Waited::Bad(bad) => {
                let after = answer::refuse_bad(connection, &mut client, bad).await;
                end(client, after).await;
                return Ended::Over;
            }
            Waited::Silent if !client.came.is_empty() => {
                let after = answer::refuse_slow(connection, &mut client).await;
                end(client, after).await;
                return Ended::Over;
            }
            Waited::Silent | Waited::Gone => return Ended::Over,
        }
        is_first = false;
        // In memory of its own: a task is as large as the largest thing it ever does, and most connections do nothing.
        match Box::pin(relay::relay(connection, &mut client)).await {
            After::Next if !connection.is_stopping() => {
                deadline.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
            }
            After::Next => {
                end(client, After::Close).await;
                return Ended::Over;
            }
            after => {
                end(client, after).await;
                return Ended::Over;
            }
        }
    }
}

/// What came of the wait for a request.
enum Waited {
    Head,
    Http2,
    Bad(Bad),
    /// Nothing, or not all of a head, in time; or there will be no time.
    Silent,
    /// The client left.
    Gone,
}

/// Waits for the whole head of a request.
async fn head<S: AsyncRead + Unpin>(
    client: &mut Client<S>,
    mut deadline: Pin<&mut Sleep>,
    mut ending: Pin<&mut impl Future<Output = ()>>,
    is_first: bool,
    last_call: &mut bool,
) -> Waited {
    std::future::poll_fn(|cx: &mut Context<'_>| {
        loop {
            match is_whole(client.came.data(), is_first) {
                Ok(Some(what)) => return Poll::Ready(what),
                Err(bad) => return Poll::Ready(Waited::Bad(bad)),
                Ok(None) => {}
            }
            match client.came.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Waited::Gone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    // Whoever is asked to end between two requests ends; one that has sent nothing yet gets a little time.
                    if !*last_call && ending.as_mut().poll(cx).is_ready() {
                        *last_call = true;
                        if !is_first && client.came.is_empty() {
                            return Poll::Ready(Waited::Silent);
                        }
                        deadline.as_mut().reset(Instant::now() + LAST_CALL);
                    }
                    return deadline.as_mut().poll(cx).map(|()| Waited::Silent);
                }
            }
        }
    })
    .await
}

/// Whether there is enough to go on with. Parsed again by whoever does: a head seldom comes in pieces.
fn is_whole(came: &[u8], is_first: bool) -> Result<Option<Waited>, Bad> {
    if came.is_empty() {
        return Ok(None);
    }
    if is_first && came.starts_with(&PREFACE[..came.len().min(PREFACE.len())]) {
        return Ok((came.len() >= PREFACE.len()).then_some(Waited::Http2));
    }
    // Most heads are whole and end with what came.
    if came.ends_with(b"\r\n\r\n") && came[0] != b'\r' {
        return Ok(Some(Waited::Head));
    }
    let mut room = h1::field_room();
    Ok(h1::parse_request(came, &mut room)?.map(|_| Waited::Head))
}

/// Ends a connection so that the last response arrives: a close with bytes unread would make the kernel throw away what it has
/// not sent yet. RFC 9112 §9.6.
async fn end<S: AsyncRead + AsyncWrite + Unpin>(client: Client<S>, after: After) {
    let Client { mut stream, mut came, .. } = client;
    if after == After::Cut || stream.shutdown().await.is_err() {
        return;
    }
    let mut left = LINGER_LEN_MAX;
    let drained = async {
        while left > 0 {
            came.consume(came.data().len());
            match std::future::poll_fn(|cx| came.poll_fill(cx, &mut stream)).await {
                Ok(len) if len > 0 => left = left.saturating_sub(len),
                _ => return,
            }
        }
    };
    let _in_time = tokio::time::timeout(LINGER, drained).await;
}

/// Writes all of it.
pub(crate) async fn write<S: AsyncWrite + Unpin>(stream: &mut S, out: &Scratch) -> std::io::Result<()> {
    stream.write_all(&out.0).await?;
    stream.flush().await
}
