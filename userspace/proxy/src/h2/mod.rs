//! HTTP/2 with clients: one task for the connection, which reads and writes, and one for each request, which is relayed as one of
//! HTTP/1.1 is.
//!
//! ```text
//!  client ─► Buffer ─► weir_core::h2::Server ─► Body ─► Stream ─► relay (crate::h1) ─► server
//!  client ◄─────────── output ◄─ weir_core::h2::Server ◄─ Stream, Heads ◄─ relay ◄──── server
//! ```
//!
//! Responses gather in the output while their tasks run, and leave in one piece when the connection's has its turn.

mod shared;
mod stream;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::Instant,
};
use weir_core::h2::{Event, Fatal, Head, OUTPUT_MAX, Server, StreamId, Terms};
use weir_model::Listener;

use self::{shared::Shared, stream::Stream};
use crate::{
    connection::Connection,
    h1::{After, Buffer, Client, Deadline, linger, relay},
    ledger::Timeout,
    limits::{CLIENT_STREAM_WINDOW, CLIENT_WINDOW, HEAD_LEN_MAX, LAST_CALL, PING_INTERVAL, STREAMS_MAX},
    listener::Ear,
};

/// Serves until the end a client of which some bytes were read already.
pub(crate) async fn serve<S>(connection: Connection, came: Buffer, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = Arc::new(connection);
    let terms = Terms {
        streams_max: STREAMS_MAX,
        head_len_max: HEAD_LEN_MAX as u32,
        stream_window: CLIENT_STREAM_WINDOW,
        connection_window: CLIENT_WINDOW,
    };
    let now = Instant::now();
    let shared = Arc::new(Shared::new(Server::new(terms)));
    let mut driver = Driver {
        stream,
        came,
        out: Vec::new(),
        written: 0,
        requests: Vec::new(),
        shared: Arc::clone(&shared),
        connection: &connection,
        began: now,
        heard: now,
        is_pinged: false,
        ending: None,
        partial: None,
        quiet_since: now,
        is_unread: true,
    };
    let first = Deadline::new(now + connection.listener.spec.header_timeout);
    let ended = {
        let (mut ear, mut deadline) = (connection.listener.ending.ear(), pin!(first));
        poll_fn(|cx| driver.poll(cx, &mut ear, deadline.as_mut())).await
    };
    // Requests under way have nobody to answer.
    shared.lock().close();
    match ended {
        End::Said => linger(&mut driver.stream, &mut driver.came).await,
        End::Cut(why) => tracing::debug!(client = %connection.client, "connection: {why}"),
    }
}

/// How a connection ends.
enum End {
    /// All that was to be said has been.
    Said,
    /// There is nobody to say it to.
    Cut(&'static str),
}

struct Driver<'c, S> {
    stream: S,
    came: Buffer,
    /// What is being written, and how much of it has been.
    out: Vec<u8>,
    written: usize,
    /// Those that have just come.
    requests: Vec<(StreamId, Head, bool)>,
    shared: Arc<Shared>,
    connection: &'c Arc<Connection>,
    began: Instant,
    /// When the client showed a sign of life, and whether it was asked for one since.
    heard: Instant,
    is_pinged: bool,
    /// Since when it is asked to end.
    ending: Option<Instant>,
    /// Since when the rest of a frame or of a head is waited for.
    partial: Option<Instant>,
    /// The last that is known of when no stream was open.
    quiet_since: Instant,
    /// Some of what came was not looked at.
    is_unread: bool,
}

impl<'c, S: AsyncRead + AsyncWrite + Unpin> Driver<'c, S> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        ear: &mut Ear<'_>,
        mut deadline: Pin<&mut Deadline>,
    ) -> Poll<End> {
        loop {
            if self.ending.is_none() && ear.poll(cx).is_ready() {
                let now = Instant::now();
                self.ending = Some(now);
                let mut state = self.shared.lock();
                state.machine.go_away();
                state.machine.ping();
                deadline.as_mut().set(now + LAST_CALL);
            }
            let is_blocked = match self.poll_write(cx) {
                Poll::Ready(Ok(())) => false,
                Poll::Ready(Err(_)) => return Poll::Ready(End::Cut("broken while writing")),
                Poll::Pending => true,
            };
            let (is_over, is_full, quiet_since) = {
                let mut state = self.shared.lock();
                state.wait_for_output(cx);
                let machine = &state.machine;
                (machine.is_over(), machine.output_len() >= OUTPUT_MAX, state.quiet_since)
            };
            if std::mem::replace(&mut self.quiet_since, quiet_since) != quiet_since {
                let idle_until = quiet_since + self.times().keep_alive_timeout;
                let at = deadline.at().min(idle_until);
                deadline.as_mut().set(at);
            }
            if is_over {
                if !is_blocked {
                    return Poll::Ready(End::Said);
                }
            } else if !is_full {
                match self.poll_read(cx) {
                    Poll::Ready(true) => {
                        if let Some(since) = self.partial {
                            let at = deadline.at().min(since + self.times().header_timeout);
                            deadline.as_mut().set(at);
                        }
                        continue;
                    }
                    Poll::Ready(false) => return Poll::Ready(End::Cut("closed by the client")),
                    Poll::Pending => {}
                }
            }
            if deadline.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match self.look_at_clock() {
                Ok(next) => deadline.as_mut().set(next),
                Err(why) => return Poll::Ready(End::Cut(why)),
            }
        }
    }

    fn times(&self) -> &'c Listener {
        &self.connection.listener.spec
    }

    /// Writes all there is.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            while self.written < self.out.len() {
                let rest = &self.out[self.written..];
                match std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    len => self.written += len,
                }
                self.heard = Instant::now();
            }
            self.out.clear();
            self.written = 0;
            if !self.shared.lock().take_output(&mut self.out) {
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
            // There is room for those that waited for it, and for answers to what was not looked at for want of it.
            self.take_in();
        }
    }

    /// Reads once and does what it says; `false` at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !std::mem::take(&mut self.is_unread) {
            match std::task::ready!(self.came.poll_fill(cx, &mut self.stream)) {
                Ok(0) | Err(_) => return Poll::Ready(false),
                Ok(_) => {}
            }
        }
        self.heard = Instant::now();
        self.is_pinged = false;
        self.take_in();
        Poll::Ready(true)
    }

    /// Looks at what came, and begins to answer requests.
    fn take_in(&mut self) {
        self.look();
        for (id, head, ends) in self.requests.drain(..) {
            // No server is asked for what was taken back with the same breath, but it counts.
            if self.shared.lock().was_given_up(id) {
                drop(self.connection.begin("h2"));
                continue;
            }
            tokio::spawn(answer(Arc::clone(self.connection), Arc::clone(&self.shared), id, head, ends));
        }
    }

    fn look(&mut self) {
        let since = self.heard.saturating_duration_since(self.began);
        let mut state = self.shared.lock();
        loop {
            let (used, event) = state.machine.receive(self.came.data(), since);
            let is_at_end = used == 0 && event.is_none();
            match event {
                Some(Event::Request { id, head, ends }) => {
                    // Whoever is told to go may still have asked.
                    if self.ending.is_none() && self.connection.is_ending() {
                        state.machine.go_away();
                    }
                    state.open(id, ends);
                    self.requests.push((id, head, ends));
                }
                Some(Event::Data { id, bytes, ends }) => state.came(id, bytes, ends),
                Some(Event::Trailers { id, .. }) => state.came(id, &[], true),
                Some(Event::Room { id }) => state.may_send(id),
                Some(Event::Reset { id, .. }) => state.is_gone(id),
                Some(Event::PingAnswered)
                    if self.ending.is_some() && self.connection.has_asked.load(Relaxed) =>
                {
                    state.machine.go_away();
                }
                Some(Event::Fatal(fatal)) => {
                    if fatal == Fatal::Flood {
                        self.connection.listener.live.floods.add(1);
                    }
                    tracing::debug!(client = %self.connection.client, "http/2: {fatal}");
                    state.close();
                }
                Some(Event::PingAnswered) | None => {}
            }
            self.came.consume(used);
            if is_at_end {
                let is_partial = !self.came.is_empty() || state.machine.is_in_head();
                self.partial = is_partial.then(|| self.partial.unwrap_or(self.heard));
                return;
            }
        }
    }

    /// What is due, and when to look again; or why the connection is cut.
    fn look_at_clock(&mut self) -> Result<Instant, &'static str> {
        let now = Instant::now();
        let (times, unrouted) = (self.times(), &self.connection.listener.live.unrouted);
        let mut state = self.shared.lock();
        let mut next = now + PING_INTERVAL;
        let has_asked = self.connection.has_asked.load(Relaxed);
        // The preface and the first request, or what is not whole.
        let head_began = if has_asked { self.partial } else { Some(self.partial.unwrap_or(self.began)) };
        if let Some(since) = self.ending {
            if now >= since + LAST_CALL {
                state.machine.go_away();
            }
        } else if let Some(since) = head_began {
            if now >= since + times.header_timeout {
                unrouted.mine().count_timeout(Timeout::Header);
                return Err("a head that does not end");
            }
            next = next.min(since + times.header_timeout);
        } else if state.machine.open_streams() == 0 {
            let idle_until = state.quiet_since + times.keep_alive_timeout;
            if now >= idle_until {
                unrouted.mine().count_timeout(Timeout::KeepAlive);
                // Nothing is on its way that would have to be waited for.
                state.machine.go_away();
                state.machine.go_away();
            } else {
                next = next.min(idle_until);
            }
        }
        let silent_at = self.heard + PING_INTERVAL;
        if now < silent_at {
            return Ok(next.min(silent_at));
        }
        if self.is_pinged {
            return Err("silent");
        }
        self.is_pinged = true;
        state.machine.ping();
        Ok(next)
    }
}

/// Answers one request.
async fn answer(connection: Arc<Connection>, shared: Arc<Shared>, id: StreamId, head: Head, ends: bool) {
    let (stream, dialect) = Stream::new(&shared, id, head, ends);
    let mut client = Client { stream, came: Buffer::default(), dialect };
    let deadline = pin!(Deadline::new(Instant::now() + connection.listener.spec.keep_alive_timeout));
    match relay(&connection, &mut client, (None, deadline)).await {
        After::Next | After::Close => {
            // Of one that gave up meanwhile nothing is left to say.
            let _gone = client.stream.shutdown().await;
        }
        After::Cut => {}
    }
}
