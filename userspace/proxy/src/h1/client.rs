//! A client's connection: one request after the other, until either side has enough.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};
use weir_core::h1::{self, Bad};

use super::{
    answer,
    buffer::{Buffer, Scratch},
    deadline::Deadline,
    relay,
    text::Text,
};
use crate::{
    connection::Connection,
    limits::{HANDSHAKE_TIMEOUT, LAST_CALL, LINGER, LINGER_LEN_MAX},
    listener::{Ear, Ending},
};

/// How HTTP/2 begins. RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a connection ended.
pub(crate) enum Ended {
    /// It is over.
    Over,
    /// It is HTTP/2 and not for us.
    Http2,
}

/// A connection and its client. Most of them do nothing most of the time: what is not here is held only while there is work.
pub(crate) struct Http1<S> {
    connection: Connection,
    client: Client<S, Text>,
}

/// The client's side while requests are served.
pub(crate) struct Client<S, D> {
    pub(crate) stream: S,
    pub(crate) came: Buffer,
    pub(crate) dialect: D,
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

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    pub(crate) fn new(connection: Connection, stream: S) -> Self {
        Self { connection, client: Client { stream, came: Buffer::default(), dialect: Text } }
    }

    /// The connection, what was read of it, and its stream.
    pub(crate) fn into_parts(self) -> (Connection, Buffer, S) {
        let Client { stream, came, .. } = self.client;
        (self.connection, came, stream)
    }

    /// Serves until the end.
    pub(crate) async fn serve(&mut self) -> Ended {
        let Self { connection, client } = self;
        let mut waiting = pin!(Waiting::begin(&connection.listener.ending));
        loop {
            // All that takes room is in memory of its own: a task is as large as the largest thing it ever does.
            let after = match waiting.as_mut().head(client).await {
                Waited::Head => Box::pin(relay::relay(connection, client, waiting.as_mut().deadline())).await,
                Waited::Http2 => return Ended::Http2,
                Waited::Bad(bad) => Box::pin(answer::refuse_bad(connection, client, bad)).await,
                Waited::Slow => Box::pin(answer::refuse_slow(connection, client)).await,
                Waited::Gone => return Ended::Over,
            };
            match after {
                After::Next if !connection.is_stopping() => waiting.as_mut().again(),
                After::Next | After::Close => {
                    Box::pin(linger(&mut client.stream, &mut client.came)).await;
                    return Ended::Over;
                }
                After::Cut => return Ended::Over,
            }
        }
    }
}

/// What came of the wait for a request.
enum Waited {
    Head,
    Http2,
    Bad(Bad),
    /// Not all of a head, in time; or there will be no time.
    Slow,
    /// The client left, or said nothing for too long.
    Gone,
}

pin_project! {
    /// The wait for the head of a request: all that an idle connection is.
    struct Waiting<'e> {
        #[pin]
        deadline: Deadline,
        ear: Ear<'e>,
        is_first: bool,
        last_call: bool,
    }
}

impl<'e> Waiting<'e> {
    fn begin(ending: &'e Ending) -> Self {
        let deadline = Deadline::new(Instant::now() + HANDSHAKE_TIMEOUT);
        Self { deadline, ear: ending.ear(), is_first: true, last_call: false }
    }

    /// The next request is waited for, until the deadline.
    fn again(self: Pin<&mut Self>) {
        *self.project().is_first = false;
    }

    fn deadline(self: Pin<&mut Self>) -> Pin<&mut Deadline> {
        self.project().deadline
    }

    /// Waits for the whole head of a request.
    async fn head<S: AsyncRead + Unpin>(mut self: Pin<&mut Self>, client: &mut Client<S, Text>) -> Waited {
        poll_fn(|cx| self.as_mut().poll_head(cx, client)).await
    }

    fn poll_head<S: AsyncRead + Unpin>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        client: &mut Client<S, Text>,
    ) -> Poll<Waited> {
        let mut this = self.project();
        loop {
            match is_whole(client.came.data(), *this.is_first) {
                Ok(Some(what)) => return Poll::Ready(what),
                Err(bad) => return Poll::Ready(Waited::Bad(bad)),
                Ok(None) => {}
            }
            match client.came.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Waited::Gone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        // Whoever is asked to end between two requests ends; one that has sent nothing yet gets a little time.
        if !*this.last_call && this.ear.poll(cx).is_ready() {
            *this.last_call = true;
            if !*this.is_first && client.came.is_empty() {
                return Poll::Ready(Waited::Gone);
            }
            this.deadline.as_mut().set(Instant::now() + LAST_CALL);
        }
        let silent = if client.came.is_empty() { Waited::Gone } else { Waited::Slow };
        this.deadline.poll(cx).map(|()| silent)
    }
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
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, came: &mut Buffer) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut left = LINGER_LEN_MAX;
    let drained = async {
        while left > 0 {
            came.consume(came.data().len());
            match poll_fn(|cx| came.poll_fill(cx, stream)).await {
                Ok(len) if len > 0 => left = left.saturating_sub(len),
                _ => return,
            }
        }
    };
    let _in_time = timeout(LINGER, drained).await;
}

/// Writes all of it.
pub(crate) async fn write<S: AsyncWrite + Unpin>(stream: &mut S, out: &Scratch) -> std::io::Result<()> {
    stream.write_all(&out.0).await?;
    stream.flush().await
}
