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
    ledger::Timeout,
    limits::{LAST_CALL, LINGER, LINGER_LEN_MAX},
    listener::{Ear, ListenerState},
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
        let mut waiting = pin!(Waiting::begin(&connection.listener));
        loop {
            let waited = waiting.as_mut().head(client).await;
            let began = waiting.head_began();
            // All that takes room is in memory of its own: a task is as large as the largest thing it ever does.
            let after = match waited {
                Waited::Head => {
                    Box::pin(relay::relay(connection, client, (began, waiting.as_mut().deadline()))).await
                }
                Waited::Http2 => return Ended::Http2,
                Waited::Bad(bad) => Box::pin(answer::refuse_bad(connection, client, bad, began)).await,
                Waited::Slow => Box::pin(answer::refuse_slow(connection, client, began)).await,
                Waited::Idle(timeout) => {
                    connection.listener.live.unrouted.mine().count_timeout(timeout);
                    return Ended::Over;
                }
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
    /// The client said nothing for as long as it may.
    Idle(Timeout),
    /// The client left, or was asked to.
    Gone,
}

pin_project! {
    /// The wait for the head of a request: all that an idle connection is.
    struct Waiting<'e> {
        #[pin]
        deadline: Deadline,
        ear: Ear<'e>,
        listener: &'e ListenerState,
        // The deadline is that of a head which has begun, and did not come whole at once.
        in_head: bool,
        is_first: bool,
        last_call: bool,
    }
}

impl<'e> Waiting<'e> {
    fn begin(listener: &'e ListenerState) -> Self {
        let deadline = Deadline::new(Instant::now() + listener.spec.header_timeout);
        let ear = listener.ending.ear();
        Self { deadline, ear, listener, in_head: false, is_first: true, last_call: false }
    }

    /// When the head did of which the end was waited for. Not kept beside the deadline: there may be very many of these.
    fn head_began(&self) -> Option<Instant> {
        self.in_head.then(|| self.deadline.at() - self.listener.spec.header_timeout)
    }

    /// The next request is waited for, until the deadline.
    fn again(self: Pin<&mut Self>) {
        let this = self.project();
        (*this.is_first, *this.in_head) = (false, false);
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
        let mut may_be_whole = true;
        loop {
            if may_be_whole {
                match is_whole(client.came.data(), *this.is_first) {
                    Ok(Some(what)) => return Poll::Ready(what),
                    Err(bad) => return Poll::Ready(Waited::Bad(bad)),
                    Ok(None) => {}
                }
            }
            let before = client.came.data().len();
            match client.came.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Waited::Gone),
                // Not parsed anew for every byte of a line.
                Poll::Ready(Ok(_)) => may_be_whole = adds_up(client.came.data(), before),
                Poll::Pending => break,
            }
        }
        // Many that send a byte now and then cost as much memory as they have sent.
        client.came.shrink();
        // The clock is looked at only for heads that come in pieces, and once for each.
        if !*this.in_head && !*this.last_call && !client.came.is_empty() {
            *this.in_head = true;
            this.deadline.as_mut().set(Instant::now() + this.listener.spec.header_timeout);
        }
        // Whoever is asked to end between two requests ends; one that has sent nothing yet gets a little time.
        if !*this.last_call && this.ear.poll(cx).is_ready() {
            (*this.last_call, *this.in_head) = (true, false);
            if !*this.is_first && client.came.is_empty() {
                return Poll::Ready(Waited::Gone);
            }
            this.deadline.as_mut().set(Instant::now() + LAST_CALL);
        }
        this.deadline.poll(cx).map(|()| match (client.came.is_empty(), *this.last_call, *this.is_first) {
            (false, ..) => Waited::Slow,
            (true, true, _) => Waited::Gone,
            (true, false, true) => Waited::Idle(Timeout::Header),
            (true, false, false) => Waited::Idle(Timeout::KeepAlive),
        })
    }
}

/// Whether what has come since there were `before` bytes can make a difference: another line has ended, there are first bytes to
/// judge, or too many.
fn adds_up(came: &[u8], before: usize) -> bool {
    before == 0
        || came.len() >= h1::HEAD_LEN_MAX
        || came.get(before..).is_some_and(|new| new.contains(&b'\n'))
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
