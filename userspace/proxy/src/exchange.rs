//! One exchange as it is accounted for: counted, and written to the access log, when it is over.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use tokio::time::Instant;
use weir_core::log_line::{Counts, LogLine, Stage, State, Timers};
use weir_model::{Name, Timestamp};

use crate::{body::Progress, connection::Connection, ledger::Part, limits::LOGGED_LEN_MAX, live::ServerLive};

/// One request and its response, or one relayed connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    began: Instant,
    /// When the head of the request did; absent where it came whole at once.
    pub(crate) head_began: Option<Instant>,
    /// What the request is called; plain ASCII, empty where it has no name.
    pub(crate) id: Vec<u8>,
    /// When it left the queue, when it had its last connection to a server, and when the head of the response came.
    pub(crate) dequeued: Option<Instant>,
    pub(crate) connected: Option<Instant>,
    pub(crate) answered: Option<Instant>,
    /// Set by whoever looks at the clock when it ends.
    pub(crate) ended: Option<Instant>,
    /// Where it is counted.
    pub(crate) part: Arc<Part>,
    pub(crate) protocol: &'static str,
    pub(crate) status: u16,
    pub(crate) retries: u32,
    /// How far the body from the client has come, where others count it.
    pub(crate) progress: Option<Arc<Progress>>,
    /// Of the body, from the client and to it; and of the head of the response.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) head_bytes_out: u64,
    /// Why it did not go as it should; empty when it did.
    pub(crate) cause: &'static str,
    /// What only the log wants to know; absent without one.
    noted: Option<Box<Noted>>,
}

/// Who asked whom for what.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    method: String,
    host: String,
    target: String,
    pub(crate) pool: Option<Name>,
    pub(crate) home: Option<Name>,
    pub(crate) zone: Option<Name>,
    pub(crate) server: Option<Name>,
    counts: Counts,
}

/// An exchange on a connection, which is accounted for when this is dropped.
#[derive(Debug)]
pub(crate) struct Account<C: Deref<Target = Connection>> {
    exchange: Exchange,
    connection: C,
}

/// Used again, because their texts have room already. No more than a few: one thread has few exchanges at a moment that wait
/// for nobody.
const SPARE_MAX: usize = 64;

thread_local! {
    #[expect(clippy::vec_box, reason = "they move, and are large")]
    static SPARE: RefCell<Vec<Box<Noted>>> = const { RefCell::new(Vec::new()) };
}

impl Exchange {
    /// Notes for the log, if there is one.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Noted)) {
        if let Some(noted) = &mut self.noted {
            note(noted);
        }
    }

    /// How far it has come.
    fn stage(&self) -> Stage {
        match (self.noted.as_ref().is_some_and(|noted| noted.pool.is_some()), self.dequeued) {
            _ if self.answered.is_some() => Stage::Data,
            // Nothing is waited for but bytes.
            _ if self.connected.is_some() && matches!(self.protocol, "tcp" | "tls") => Stage::Data,
            _ if self.connected.is_some() => Stage::Response,
            (_, Some(_)) => Stage::Connect,
            (true, None) => Stage::Queue,
            (false, None) => Stage::Request,
        }
    }

    fn timers(&self) -> Timers {
        let us = |from: Option<Instant>, to: Option<Instant>| {
            Some(to?.saturating_duration_since(from?).as_micros() as u64)
        };
        Timers {
            // All else begins with the whole head.
            request_us: us(self.head_began, Some(self.began)).unwrap_or_default(),
            queue_us: us(Some(self.began), self.dequeued),
            connect_us: us(self.dequeued, self.connected),
            response_us: us(self.connected, self.answered),
        }
    }
}

impl Noted {
    fn new() -> Box<Self> {
        SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    /// What is asked of whom.
    pub(crate) fn request(&mut self, method: &str, host: &str, target: &str) {
        method.clone_into(&mut self.method);
        cut(host).clone_into(&mut self.host);
        cut(target).clone_into(&mut self.target);
    }

    /// Who is asked, and how many others are.
    pub(crate) fn asks(&mut self, server: &ServerLive, queued: u64) {
        self.server = Some(server.name.clone());
        self.zone = Some(server.zone.clone());
        (self.counts.pool, self.counts.server) = (server.pool.active(), server.active());
        self.counts.queued = queued;
    }

    fn give_back(mut self: Box<Self>) {
        let Self { method, host, target, pool, home, zone, server, counts } = &mut *self;
        *counts = Counts::default();
        for text in [method, host, target] {
            text.clear();
        }
        for name in [pool, home, zone, server] {
            *name = None;
        }
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(self);
            }
        });
    }
}

impl<C: Deref<Target = Connection>> Account<C> {
    pub(crate) fn begin(connection: C, protocol: &'static str) -> Self {
        connection.has_asked.store(true, Relaxed);
        connection.listener.live.requests.add(1);
        let exchange = Exchange {
            began: Instant::now(),
            head_began: None,
            id: Vec::new(),
            dequeued: None,
            connected: None,
            answered: None,
            ended: None,
            part: connection.listener.live.unrouted.mine(),
            protocol,
            status: 0,
            retries: 0,
            progress: None,
            bytes_in: 0,
            bytes_out: 0,
            head_bytes_out: 0,
            cause: "",
            noted: connection.proxy.log.is_on().then(Noted::new),
        };
        Self { exchange, connection }
    }
}

impl<C: Deref<Target = Connection>> Deref for Account<C> {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.exchange
    }
}

impl<C: Deref<Target = Connection>> DerefMut for Account<C> {
    fn deref_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }
}

impl<C: Deref<Target = Connection>> Drop for Account<C> {
    fn drop(&mut self) {
        let Self { exchange, connection } = self;
        if exchange.status == 0 && exchange.cause.is_empty() && !matches!(exchange.protocol, "tcp" | "tls") {
            exchange.cause = "client-gone";
        }
        let took = exchange.ended.unwrap_or_else(Instant::now).saturating_duration_since(exchange.began);
        exchange.part.count(exchange.status, exchange.retries, took, exchange.cause);
        let (timers, state) = (exchange.timers(), State::of(exchange.cause, exchange.stage()));
        let Some(noted) = exchange.noted.take() else { return };
        let live = &connection.listener.live;
        let counts = Counts { process: live.crowd.open(), listener: live.connections(), ..noted.counts };
        connection.proxy.log.write(&LogLine {
            time: Timestamp(SystemTime::now()),
            listener: &connection.listener.name,
            client: connection.client.ip().to_canonical(),
            client_port: connection.client.port(),
            local: connection.local,
            protocol: exchange.protocol,
            tls: connection.tls,
            method: &noted.method,
            host: &noted.host,
            target: &noted.target,
            request_id: std::str::from_utf8(&exchange.id).unwrap_or_default(),
            pool: noted.pool.as_ref(),
            home: noted.home.as_ref(),
            zone: noted.zone.as_ref(),
            server: noted.server.as_ref(),
            status: exchange.status,
            retries: exchange.retries,
            bytes_in: exchange
                .progress
                .as_ref()
                .map_or(exchange.bytes_in, |progress| progress.bytes.load(Relaxed)),
            bytes_out: exchange.bytes_out,
            duration_us: took.as_micros() as u64,
            timers,
            state,
            cause: exchange.cause,
            head_bytes_out: exchange.head_bytes_out,
            counts,
        });
        noted.give_back();
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOGGED_LEN_MAX)]
}
