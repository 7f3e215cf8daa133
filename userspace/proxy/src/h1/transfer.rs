//! A request on its way to servers, and the response on its way back.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::Instant,
};
use weir_core::{
    h1::{self, Bad, Framing, Version},
    request_id::REQUEST_ID,
};

use super::{
    answer::{Refused, say},
    asked::Asked,
    buffer::{Buffer, Scratch},
    client::{After, Client, write},
    deadline::Deadline,
    patience::{Moved, OutOfTime, Patience, Whom, limits},
    pump::{Broken, Pump},
    server::Server,
};
use crate::{
    connection::Connection,
    dialect::{Dialect, Said},
    errors::{self, Failure, Refusal},
    exchange::Exchange,
    live::{ServerLive, Slot},
    relay::{Ended, Relay},
};

/// A response, as the client shall see it.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Its head where it goes in front of the body, and the bytes it takes in any case.
    head: Scratch,
    head_len: u64,
    framing: Framing,
    in_chunks: bool,
    /// Whether the server goes on with its connection, and the client with its own.
    keeps: [bool; 2],
}

/// A request on its way to a server and the response on its way back.
pub(super) struct Transfer<'a, 't, S, D> {
    pub(super) connection: &'a Connection,
    client: &'a mut Client<S, D>,
    deadline: Pin<&'a mut Deadline>,
    pub(super) asked: &'a Asked<'t>,
    /// The body of the request.
    request: Pump,
    /// Bytes of the head written; of a request with a body, the pump has it.
    written: usize,
    /// What the request is called; the client is told.
    id: Vec<u8>,
    /// Why the server takes no more; it may have an answer all the same.
    broken: Option<io::Error>,
    /// The client sends its body when it has heard from the server, which it has not.
    awaits_word: bool,
    /// Whether bytes of the request's body were taken: then it cannot be sent a second time.
    began: bool,
    /// The client will send no more.
    client_ended: bool,
    /// What came from the server.
    came: Buffer,
}

impl<'a, 't, S: AsyncRead + AsyncWrite + Unpin, D: Dialect> Transfer<'a, 't, S, D> {
    /// Nothing was asked yet.
    pub(super) fn new(
        connection: &'a Connection,
        client: &'a mut Client<S, D>,
        asked: &'a Asked<'t>,
        exchange: &Exchange,
        deadline: Pin<&'a mut Deadline>,
    ) -> Self {
        Self {
            connection,
            client,
            deadline,
            asked,
            request: Pump::new(asked.body, asked.framing == Framing::Chunked),
            written: 0,
            id: exchange.id.clone(),
            broken: None,
            awaits_word: asked.expects_continue,
            began: false,
            client_ended: false,
            came: Buffer::default(),
        }
    }

    /// Asks one server. A kept connection that turns out to be closed is no failure of the server: it is asked on another.
    pub(super) async fn ask_one(
        &mut self,
        slot: Slot,
        exchange: &mut Exchange,
    ) -> Result<(Server, Answer), (Slot, Failure)> {
        let (pool, client) = (self.asked.pool, self.connection);
        // The clock is not looked at again for what takes no time.
        let now = exchange.dequeued.filter(|_| exchange.retries == 0).unwrap_or_else(Instant::now);
        let mut server = Server::obtain(slot, pool, client, now).await?;
        exchange.connected = Some(if server.reused { now } else { Instant::now() });
        loop {
            match self.ask_on(&mut server).await {
                Ok(answer) => {
                    exchange.answered = Some(Instant::now());
                    return Ok((server, answer));
                }
                Err(failure) if server.reused && self.may_be_sent_again_quietly(&failure) => {
                    server = Server::obtain(server.slot, pool, client, Instant::now()).await?;
                    exchange.connected = Some(Instant::now());
                }
                Err(failure) => return Err((server.slot, failure)),
            }
        }
    }

    /// Asks on a connection, and passes on what the server says before its answer.
    async fn ask_on(&mut self, server: &mut Server) -> Result<Answer, Failure> {
        self.written = 0;
        self.broken = None;
        self.came = Buffer::default();
        if self.asked.framing != Framing::None && !self.began {
            // Head and body leave in one piece where they came in one.
            let mut head = Scratch::new();
            head.0.extend_from_slice(&self.asked.head.0);
            self.request.begin_with(head);
            self.began = true;
            self.request.take_along(&mut self.client.came).map_err(|_| Failure::BadRequest)?;
        }
        loop {
            let answer = self.head_in_time(server).await?;
            match answer.status {
                101 => return Ok(answer),
                100..=199 => {
                    self.awaits_word = false;
                    if self.asked.client >= Version::Http11 {
                        write(&mut self.client.stream, &answer.head).await.map_err(|_| Failure::Client)?;
                    }
                }
                _ => return Ok(answer),
            }
        }
    }

    /// The head of a response. The server's time runs only while it is not still being sent something, nor the client waited for.
    async fn head_in_time(&mut self, server: &mut Server) -> Result<Answer, Failure> {
        let mut patience = Patience::default();
        let limits = limits(self.connection, self.asked.client);
        poll_fn(|cx| {
            if let Poll::Ready(result) = self.poll_head(cx, server) {
                return Poll::Ready(result);
            }
            let client_owes = self.request.awaits_sender()
                && self.broken.is_none()
                && !(self.awaits_word && self.request.bytes == 0);
            let whom =
                if client_owes { Whom::Client } else { Whom::Server(self.asked.pool.spec.response_timeout) };
            let moved = Moved { moves: self.request.moves, bytes: self.request.bytes };
            let polled = patience.poll(cx, self.deadline.as_mut(), &limits, whom, moved);
            polled.map(|out| match out {
                OutOfTime::Server => Err(Failure::ResponseTimeout),
                OutOfTime::Client(why) => Err(Failure::SlowClient(why)),
            })
        })
        .await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, server: &mut Server) -> Poll<Result<Answer, Failure>> {
        // Towards the server.
        if self.asked.framing == Framing::None {
            while self.written < self.asked.head.0.len() && self.broken.is_none() {
                let rest = &self.asked.head.0[self.written..];
                match Pin::new(&mut server.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(len)) => self.written += len,
                    Poll::Ready(Err(error)) => self.broken = Some(error),
                    Poll::Pending => break,
                }
            }
            // TLS may hold some of it back.
            if let Poll::Ready(Err(error)) = Pin::new(&mut server.stream).poll_flush(cx) {
                self.broken.get_or_insert(error);
            }
        } else if !self.request.is_done() && self.broken.is_none() {
            let client = &mut *self.client;
            match self.request.poll(cx, &mut client.stream, &mut client.came, &mut server.stream) {
                Poll::Ready(Err(Broken::To(error))) => self.broken = Some(error),
                Poll::Ready(Err(Broken::From(_))) => return Poll::Ready(Err(Failure::Client)),
                Poll::Ready(Err(Broken::Bad(_))) => return Poll::Ready(Err(Failure::BadRequest)),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        // From the server: it may have an answer before it has the whole request, and even when it took no more of it.
        loop {
            match self.read_answer() {
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Err(bad) => return Poll::Ready(Err(Failure::BadResponse(bad))),
                Ok(None) => {}
            }
            match self.came.poll_fill(cx, &mut server.stream) {
                Poll::Ready(Ok(0)) => {
                    let error = self.broken.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Err(Failure::Lost(error)));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Failure::Lost(self.broken.take().unwrap_or(error))));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        self.watch_client(cx)
    }

    /// Notices a client that goes while its answer is waited for; what it sends already waits for its turn.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Failure>> {
        let sends = self.asked.framing != Framing::None && !self.request.is_done();
        if sends || self.client_ended || !self.client.came.is_empty() {
            return Poll::Pending;
        }
        match self.client.came.poll_fill(cx, &mut self.client.stream) {
            // Half a connection is enough to be answered on.
            Poll::Ready(Ok(0)) => self.client_ended = true,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Client)),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        Poll::Pending
    }

    /// The answer whose head somebody else has read.
    pub(super) fn answer_in(&mut self, came: Buffer) -> Result<Answer, Bad> {
        self.came = came;
        self.broken = None;
        self.read_answer()?.ok_or(Bad::Syntax)
    }

    /// Makes of what came from the server what the client shall see, once the head is whole.
    fn read_answer(&mut self) -> Result<Option<Answer>, Bad> {
        if self.came.is_empty() {
            return Ok(None);
        }
        let mut room = h1::field_room();
        let Some(head) = h1::parse_response(self.came.data(), &mut room, self.asked.is_head)? else {
            return Ok(None);
        };
        match head.status {
            // RFC 9110 §7.8: a server may not switch to what was not asked for.
            101 if !self.asked.wants_upgrade => return Err(Bad::Connection),
            // RFC 8441 §5: to such a client, it would mean that the server did switch.
            200..=299 if self.asked.wants_upgrade && self.asked.client == Version::Http2 => {
                return Err(Bad::Connection);
            }
            _ => {}
        }
        let is_final = head.status >= 200;
        // Of HTTP/1.0 the end of the connection says it, and of HTTP/2 that of the stream.
        let has_chunks = self.asked.client == Version::Http11;
        let (framing, in_chunks) = match head.framing {
            Framing::Chunked | Framing::UntilClose if has_chunks => (Framing::Chunked, true),
            Framing::Chunked | Framing::UntilClose => (Framing::UntilClose, false),
            framing @ (Framing::None | Framing::Length(_)) => (framing, false),
        };
        // With the request still on its way, or an end that only a close can say, the connection is spent.
        let is_sent = self.asked.framing == Framing::None || self.request.has_come();
        let goes_on = self.asked.is_persistent
            && (framing != Framing::UntilClose || self.asked.client == Version::Http2)
            && is_sent
            && !self.client_ended
            && !self.connection.is_ending();
        let said = Said {
            status: head.status,
            reason: head.reason,
            framing,
            length: head.told_length(framing),
            client: self.asked.client,
            goes_on,
            protocol: head.upgrade.filter(|_| head.status == 101),
        };
        let (via, id) = (head.via(), [(REQUEST_ID, &*self.id)]);
        let id = id.into_iter().filter(|(_, id)| !id.is_empty());
        let cookie = self.asked.set_cookie.as_ref().filter(|_| is_final);
        let cookie = cookie.map(|cookie| ("set-cookie", cookie.as_bytes()));
        let without = if self.id.is_empty() { "" } else { REQUEST_ID };
        let fields = head.passed_on(without).chain([("via", &*via)]).chain(cookie).chain(id);
        let mut out = Scratch::new();
        let head_len = self.client.dialect.respond(&mut out.0, &said, fields) as u64;
        let answer = Answer {
            status: head.status,
            head: out,
            head_len,
            framing: head.framing,
            in_chunks,
            keeps: [head.is_persistent, goes_on],
        };
        let len = head.len;
        self.came.consume(len);
        Ok(Some(answer))
    }

    /// Passes the response on.
    pub(super) async fn respond(
        &mut self,
        mut server: Server,
        answer: Answer,
        exchange: &mut Exchange,
    ) -> After {
        exchange.status = answer.status;
        exchange.head_bytes_out = answer.head_len;
        if answer.status == 101 {
            return Box::pin(self.tunnel(server, &answer, exchange)).await;
        }
        let mut response = Pump::new(answer.framing, answer.in_chunks);
        response.begin_with(answer.head);
        if let Err(bad) = response.take_along(&mut self.came) {
            // Nothing was said yet.
            let failure = Failure::BadResponse(bad);
            server.slot.server.note_failure(failure.avoid_for());
            return self.refuse(exchange, failure.refusal()).await;
        }
        let mut patience = Patience::default();
        let limits = limits(self.connection, self.asked.client);
        let result = poll_fn(|cx| {
            let client = &mut *self.client;
            if let Poll::Ready(result) =
                response.poll(cx, &mut server.stream, &mut self.came, &mut client.stream)
            {
                return Poll::Ready(Ok(result));
            }
            if self.asked.framing != Framing::None && !self.request.is_done() {
                // Whatever becomes of the rest of the request: the answer is there.
                let _either_way =
                    self.request.poll(cx, &mut client.stream, &mut client.came, &mut server.stream);
            }
            let whom = if response.awaits_sender() {
                Whom::Server(self.asked.pool.spec.server_timeout)
            } else {
                Whom::Client
            };
            // A client that still sends is at work.
            let moved = Moved {
                moves: response.moves + self.request.moves,
                bytes: response.bytes + self.request.bytes,
            };
            patience.poll(cx, self.deadline.as_mut(), &limits, whom, moved).map(Err)
        })
        .await;
        (exchange.bytes_in, exchange.bytes_out) = (self.request.bytes, response.bytes);
        match result {
            Ok(Ok(())) => self.pass_trailers(&response),
            Ok(Err(broken)) => {
                tracing::debug!(server = %server.slot.server.name, "response: {broken}");
                if !matches!(broken, Broken::To(_)) {
                    return lost(exchange, &server.slot.server, "response-broken");
                }
                exchange.cause = "client-gone";
                return After::Cut;
            }
            Err(out) => {
                exchange.cause = match out {
                    OutOfTime::Server => "response-stalled",
                    OutOfTime::Client(why) => errors::slow_cause(why),
                };
                return After::Cut;
            }
        }
        let [server_stays, client_stays] = answer.keeps;
        let is_sent = self.asked.framing == Framing::None || self.request.is_done();
        let now = *exchange.ended.insert(Instant::now());
        if server_stays && is_sent && self.came.is_empty() {
            server.keep(now);
        }
        if client_stays && is_sent { After::Next } else { After::Close }
    }

    /// Passes on what came behind a body whose chunks the client does not see.
    fn pass_trailers(&mut self, response: &Pump) {
        let takes = self.asked.client == Version::Http2;
        let Some(trailers) = response.trailers().filter(|_| takes) else { return };
        // What is none is not passed on; the body is complete all the same.
        if let Ok(fields) = trailers.trailers(&mut h1::trailer_room()) {
            self.client.dialect.trailers(&mut Vec::new(), fields);
        }
    }

    /// Passes the 101 on and joins the two connections.
    async fn tunnel(&mut self, mut server: Server, answer: &Answer, exchange: &mut Exchange) -> After {
        let mut relay = Relay::new(&self.connection.listener.spec);
        let first = self.came.data().len() as u64;
        let joined = async {
            write(&mut self.client.stream, &answer.head).await?;
            // What either side said already.
            self.client.stream.write_all(self.came.data()).await?;
            server.stream.write_all(self.client.came.data()).await?;
            self.came.consume(self.came.data().len());
            self.client.came.consume(self.client.came.data().len());
            relay.join_any(&mut self.client.stream, &mut server.stream).await
        };
        match Box::pin(joined).await {
            Ok(Ended::Both) => {}
            Ok(Ended::Idle) => exchange.cause = "idle",
            Err(error) => {
                tracing::debug!("tunnel: {error}");
                exchange.cause = "tunnel-broken";
            }
        }
        (exchange.bytes_in, exchange.bytes_out) = (relay.bytes_in(), first + relay.bytes_out());
        After::Cut
    }

    /// Whether another server may be asked: nothing was sent, or the request is idempotent and complete.
    pub(super) fn may_be_sent_again(&self, failure: &Failure) -> bool {
        match failure {
            Failure::Connect(_) | Failure::ConnectTimeout | Failure::Tls(_) => !self.began,
            Failure::Lost(_) => self.asked.framing == Framing::None && self.asked.is_idempotent,
            _ => false,
        }
    }

    /// The same for another connection to the same server, after a kept one failed.
    fn may_be_sent_again_quietly(&self, failure: &Failure) -> bool {
        // Its host is silent: no other connection to it will do better.
        !failure.is_silence() && matches!(failure, Failure::Lost(_)) && self.may_be_sent_again(failure)
    }

    pub(super) async fn refuse(&mut self, exchange: &mut Exchange, refusal: Refusal) -> After {
        let is_whole = self.asked.is_persistent && self.asked.framing == Framing::None && !self.client_ended;
        let refused = Refused { refusal, is_whole, is_head: self.asked.is_head };
        exchange.bytes_in = self.request.bytes;
        say(self.connection, self.client, exchange, refused).await
    }
}

fn lost(exchange: &mut Exchange, server: &ServerLive, cause: &'static str) -> After {
    server.note_failure(Duration::ZERO);
    exchange.cause = cause;
    After::Cut
}
