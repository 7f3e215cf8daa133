//! The life of one request: host → route → pool → home zone → zone → server → connection → response.

use std::{future::poll_fn, io, sync::Arc, task::Poll, time::Duration};

use http::request::Parts;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    time::timeout,
};
use weir_core::{
    ClientKey,
    h1::{self, Bad, Framing, RequestHead, Version},
};
use weir_model::Name;

use super::{
    answer::{Refused, refuse_bad, say},
    bridge,
    buffer::{Buffer, Scratch},
    client::{After, Client, write},
    pump::{Broken, Pump},
    server::Server,
};
use crate::{
    attempts::Attempts,
    body::Stall,
    connection::Connection,
    errors::{Failure, Refusal},
    exchange::{Account, Exchange},
    live::{ServerLive, Slot},
    request::{Destination, destination},
    tables::{PoolTable, Tables},
};

/// A request as it is asked of servers.
pub(super) struct Asked<'t> {
    pub(super) pool: &'t PoolTable,
    pub(super) home: Option<&'t Name>,
    /// What the pool hashes it by.
    pub(super) key: Option<ClientKey>,
    /// Its head for a server.
    head: Scratch,
    /// The same where servers are asked by HTTP/2.
    pub(super) parts: Option<Box<Parts>>,
    pub(super) framing: Framing,
    pub(super) client: Version,
    /// Whether the client goes on with the connection.
    pub(super) is_persistent: bool,
    pub(super) is_head: bool,
    pub(super) expects_continue: bool,
    is_idempotent: bool,
    wants_upgrade: bool,
    pub(super) set_cookie: Option<String>,
}

/// A response, as the client shall see it.
struct Answer {
    status: u16,
    head: Scratch,
    framing: Framing,
    in_chunks: bool,
    /// Whether the server goes on with its connection, and the client with its own.
    keeps: [bool; 2],
}

/// What the head in a buffer says; nothing of it is held, nor the room its fields took.
type Request<'c, 't> = (Account<&'c Connection>, Result<Asked<'t>, Refused>);

/// Relays the request whose head is in the buffer.
pub(crate) async fn relay<S>(connection: &Connection, client: &mut Client<S>) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let tables = connection.tables();
    match read(connection, client, &tables) {
        Ok(None) => {
            let mut out = Scratch::new();
            out.0.extend_from_slice(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
            let _either_way = write(&mut client.stream, &out).await;
            After::Cut
        }
        Ok(Some((mut exchange, Ok(mut asked)))) if asked.parts.is_some() => {
            bridge::serve(connection, client, &tables, &mut asked, &mut exchange).await
        }
        Ok(Some((mut exchange, Ok(asked)))) => serve(connection, client, &tables, asked, &mut exchange).await,
        Ok(Some((mut exchange, Err(refused)))) => say(connection, client, &mut exchange, refused).await,
        Err(bad) => refuse_bad(connection, client, bad).await,
    }
}

/// Reads it; `None` where a check of our own asks.
fn read<'c, 't, S>(
    connection: &'c Connection,
    client: &mut Client<S>,
    tables: &'t Tables,
) -> Result<Option<Request<'c, 't>>, Bad> {
    let mut room = h1::field_room();
    let head = h1::parse_request(client.came.data(), &mut room)?.ok_or(Bad::Syntax)?;
    if connection.answers_itself() {
        return Ok(None);
    }
    let mut exchange = connection.begin(name(head.version));
    let asked = ask(&head, connection, tables, &mut exchange);
    let len = head.len;
    client.came.consume(len);
    Ok(Some((exchange, asked)))
}

/// Finds out what a request is and whom it is for.
fn ask<'t>(
    head: &RequestHead<'_, '_>,
    connection: &Connection,
    tables: &'t Tables,
    exchange: &mut Exchange,
) -> Result<Asked<'t>, Refused> {
    let is_whole = head.framing == Framing::None && head.is_persistent;
    let is_head = head.method == "HEAD";
    let refused = |refusal| Refused { refusal, is_whole, is_head };
    exchange.note(|noted| noted.request(head.method, head.host, head.target));
    let path = head.target.split('?').next().unwrap_or_default();
    let cookies = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("cookie"));
    let cookies = cookies.map(|field| field.value);
    let found = destination(connection, tables, (head.host, path), cookies, exchange);
    let Destination { pool, home, set_cookie } = found.map_err(refused)?;
    let key = pool.key(head.target, head.fields.iter().map(|field| (field.name, field.value)));
    let mut out = Scratch(Vec::new());
    let mut parts = None;
    if pool.spec.protocol.is_h2() {
        parts = Some(Box::new(bridge::parts(head, connection, pool).map_err(refused)?));
    } else {
        out = Scratch::new();
        h1::write_request(&mut out.0, head, &h1::Sender::new(connection.client.ip(), connection.tls));
    }
    Ok(Asked {
        pool,
        home,
        key,
        head: out,
        parts,
        expects_continue: head.expects_continue,
        framing: head.framing,
        client: head.version,
        is_persistent: head.is_persistent,
        is_head,
        is_idempotent: matches!(head.method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE"),
        wants_upgrade: head.upgrade.is_some(),
        set_cookie,
    })
}

async fn serve<S>(
    connection: &Connection,
    client: &mut Client<S>,
    tables: &Tables,
    asked: Asked<'_>,
    exchange: &mut Exchange,
) -> After
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut attempts = Attempts::new(asked.pool, tables, connection, asked.home).by(asked.key);
    let mut transfer = Transfer {
        connection,
        client,
        asked: &asked,
        request: Pump::new(asked.framing, asked.framing == Framing::Chunked),
        written: 0,
        began: false,
        client_ended: false,
        came: Buffer::default(),
    };
    loop {
        let slot = match attempts.next(exchange).await {
            Ok(slot) => slot,
            Err(refusal) => return transfer.refuse(exchange, refusal).await,
        };
        let live = Arc::clone(&slot.server);
        let failure = match transfer.ask_one(slot).await {
            Ok((server, answer)) => {
                attempts.answered(&live, answer.status);
                return transfer.respond(server, answer, exchange).await;
            }
            Err(failure) => failure,
        };
        match failure {
            Failure::Client => {
                exchange.cause = "client-gone";
                return After::Cut;
            }
            // No fault of the server's.
            Failure::BadRequest => return transfer.refuse(exchange, failure.refusal()).await,
            _ => {}
        }
        attempts.failed(&live, &failure);
        if !transfer.may_be_sent_again(&failure) {
            return transfer.refuse(exchange, attempts.refusal()).await;
        }
    }
}

/// A request on its way to a server and the response on its way back.
struct Transfer<'a, 't, S> {
    connection: &'a Connection,
    client: &'a mut Client<S>,
    asked: &'a Asked<'t>,
    /// The body of the request.
    request: Pump,
    /// Bytes of the head written; of a request with a body, the pump has it.
    written: usize,
    /// Whether bytes of the request's body were taken: then it cannot be sent a second time.
    began: bool,
    /// The client will send no more.
    client_ended: bool,
    /// What came from the server.
    came: Buffer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transfer<'_, '_, S> {
    /// Asks one server. A kept connection that turns out to be closed is no failure of the server: it is asked on another.
    async fn ask_one(&mut self, slot: Slot) -> Result<(Server, Answer), Failure> {
        let pool = self.asked.pool;
        let obtain = |slot| Server::obtain(slot, pool);
        let mut server = obtain(slot).await.map_err(|(_, failure)| failure)?;
        loop {
            match self.ask_on(&mut server).await {
                Ok(answer) => return Ok((server, answer)),
                Err(failure) if server.reused && self.may_be_sent_again_quietly(&failure) => {
                    let Server { slot, .. } = server;
                    server = obtain(slot).await.map_err(|(_, failure)| failure)?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Asks on a connection, and passes on what the server says before its answer.
    async fn ask_on(&mut self, server: &mut Server) -> Result<Answer, Failure> {
        self.written = 0;
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
                101 if self.asked.wants_upgrade => return Ok(answer),
                // RFC 9110 §7.8: a server may not switch to what was not asked for.
                101 => return Err(Failure::BadResponse(Bad::Connection)),
                100..=199 => {
                    if self.asked.client == Version::Http11 {
                        write(&mut self.client.stream, &answer.head).await.map_err(|_| Failure::Client)?;
                    }
                }
                _ => return Ok(answer),
            }
        }
    }

    /// The head of a response. The server's time runs only while it is not still being sent something.
    async fn head_in_time(&mut self, server: &mut Server) -> Result<Answer, Failure> {
        let response_timeout: Duration = self.asked.pool.spec.response_timeout;
        loop {
            let moved = self.request.moves;
            match timeout(response_timeout, self.head(server)).await {
                Ok(result) => return result,
                Err(_) if self.request.moves == moved => return Err(Failure::ResponseTimeout),
                Err(_) => {}
            }
        }
    }

    async fn head(&mut self, server: &mut Server) -> Result<Answer, Failure> {
        let mut broken = None;
        poll_fn(|cx| {
            // Towards the server.
            if self.asked.framing == Framing::None {
                while self.written < self.asked.head.0.len() && broken.is_none() {
                    let rest = &self.asked.head.0[self.written..];
                    match std::pin::Pin::new(&mut server.stream).poll_write(cx, rest) {
                        Poll::Ready(Ok(len)) => self.written += len,
                        Poll::Ready(Err(error)) => broken = Some(error),
                        Poll::Pending => break,
                    }
                }
                // TLS may hold some of it back.
                if let Poll::Ready(Err(error)) = std::pin::Pin::new(&mut server.stream).poll_flush(cx) {
                    broken.get_or_insert(error);
                }
            } else if !self.request.is_done() && broken.is_none() {
                let client = &mut *self.client;
                match self.request.poll(cx, &mut client.stream, &mut client.came, &mut server.stream) {
                    Poll::Ready(Err(Broken::To(error))) => broken = Some(error),
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
                        let error = broken.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                        return Poll::Ready(Err(Failure::Lost(error)));
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(Failure::Lost(broken.take().unwrap_or(error))));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            self.watch_client(cx)
        })
        .await
    }

    /// Notices a client that goes while its answer is waited for; what it sends already waits for its turn.
    fn watch_client(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<Answer, Failure>> {
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

    /// Makes of what came from the server what the client shall see, once the head is whole.
    fn read_answer(&mut self) -> Result<Option<Answer>, Bad> {
        if self.came.is_empty() {
            return Ok(None);
        }
        let mut room = h1::field_room();
        let Some(head) = h1::parse_response(self.came.data(), &mut room, self.asked.is_head)? else {
            return Ok(None);
        };
        let is_10 = self.asked.client == Version::Http10;
        let is_final = head.status >= 200;
        let in_chunks = match head.framing {
            Framing::Chunked | Framing::UntilClose => !is_10,
            Framing::None | Framing::Length(_) => false,
        };
        let framing = match head.framing {
            Framing::Chunked | Framing::UntilClose if is_10 => Framing::UntilClose,
            Framing::UntilClose => Framing::Chunked,
            framing => framing,
        };
        // With the request still on its way, or an end that only a close can say, the connection is spent.
        let is_sent = self.asked.framing == Framing::None || self.request.has_come();
        let goes_on = self.asked.is_persistent
            && framing != Framing::UntilClose
            && is_sent
            && !self.client_ended
            && !self.connection.is_ending();
        let connection: &[u8] = match (goes_on, is_10) {
            _ if !is_final => b"",
            (true, true) => b"connection: keep-alive\r\n",
            (true, false) => b"",
            (false, _) => b"connection: close\r\n",
        };
        let cookie = self.asked.set_cookie.as_ref().filter(|_| is_final);
        let cookie = cookie.map_or(String::new(), |cookie| format!("set-cookie: {cookie}\r\n"));
        let mut out = Scratch::new();
        h1::write_response(&mut out.0, &head, framing, &[connection, cookie.as_bytes()]);
        let answer = Answer {
            status: head.status,
            head: out,
            framing: head.framing,
            in_chunks,
            keeps: [head.is_persistent, goes_on],
        };
        let len = head.len;
        self.came.consume(len);
        Ok(Some(answer))
    }

    /// Passes the response on.
    async fn respond(&mut self, mut server: Server, answer: Answer, exchange: &mut Exchange) -> After {
        exchange.status = answer.status;
        if answer.status == 101 {
            return self.tunnel(server, &answer, exchange).await;
        }
        let mut response = Pump::new(answer.framing, answer.in_chunks);
        response.begin_with(answer.head);
        if let Err(bad) = response.take_along(&mut self.came) {
            // Nothing was said yet.
            let failure = Failure::BadResponse(bad);
            server.slot.server.note_failure(failure.avoid_for());
            return self.refuse(exchange, failure.refusal()).await;
        }
        let mut stall = Stall::default();
        let mut moved = 0;
        let result = poll_fn(|cx| {
            let client = &mut *self.client;
            if let Poll::Ready(result) =
                response.poll(cx, &mut server.stream, &mut self.came, &mut client.stream)
            {
                return Poll::Ready(Some(result));
            }
            if self.asked.framing != Framing::None && !self.request.is_done() {
                // Whatever becomes of the rest of the request: the answer is there.
                let _either_way =
                    self.request.poll(cx, &mut client.stream, &mut client.came, &mut server.stream);
            }
            let moves = response.moves + self.request.moves;
            if moves != moved {
                moved = moves;
                stall.moved();
            }
            stall.poll(cx).map(|()| None)
        })
        .await;
        exchange.bytes_out = response.bytes;
        match result {
            Some(Ok(())) => {}
            Some(Err(broken)) => {
                tracing::debug!(server = %server.slot.server.name, "response: {broken}");
                if !matches!(broken, Broken::To(_)) {
                    return lost(exchange, &server.slot.server, "response-broken");
                }
                exchange.cause = "client-gone";
                return After::Cut;
            }
            None => {
                exchange.cause = "response-stalled";
                return After::Cut;
            }
        }
        let [server_stays, client_stays] = answer.keeps;
        let is_sent = self.asked.framing == Framing::None || self.request.is_done();
        if server_stays && is_sent && self.came.is_empty() {
            server.keep();
        }
        if client_stays && is_sent { After::Next } else { After::Close }
    }

    /// Passes the 101 on and joins the two connections.
    async fn tunnel(&mut self, mut server: Server, answer: &Answer, exchange: &mut Exchange) -> After {
        let joined = async {
            write(&mut self.client.stream, &answer.head).await?;
            // What either side said already.
            self.client.stream.write_all(self.came.data()).await?;
            server.stream.write_all(self.client.came.data()).await?;
            let first = self.came.data().len() as u64;
            self.came.consume(self.came.data().len());
            self.client.came.consume(self.client.came.data().len());
            let (_, out) = copy_bidirectional(&mut self.client.stream, &mut server.stream).await?;
            io::Result::Ok(first + out)
        };
        match joined.await {
            Ok(out) => exchange.bytes_out = out,
            Err(error) => {
                tracing::debug!("tunnel: {error}");
                exchange.cause = "tunnel-broken";
            }
        }
        After::Cut
    }

    /// Whether another server may be asked: nothing was sent, or the request is idempotent and complete.
    fn may_be_sent_again(&self, failure: &Failure) -> bool {
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

    async fn refuse(&mut self, exchange: &mut Exchange, refusal: Refusal) -> After {
        let is_whole = self.asked.is_persistent && self.asked.framing == Framing::None && !self.client_ended;
        let refused = Refused { refusal, is_whole, is_head: self.asked.is_head };
        say(self.connection, self.client, exchange, refused).await
    }
}

fn lost(exchange: &mut Exchange, server: &ServerLive, cause: &'static str) -> After {
    server.note_failure(Duration::ZERO);
    exchange.cause = cause;
    After::Cut
}

/// What a version is called in the log.
pub(super) fn name(version: Version) -> &'static str {
    match version {
        Version::Http10 => "http/1.0",
        Version::Http11 => "http/1.1",
    }
}
