//! One exchange as it is accounted for: counted, and written to the access log, when it is over.

use std::{
    cell::RefCell,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use serde::{Serialize, Serializer};
use tokio::time::Instant;
use weir_model::{Name, Timestamp};

use crate::{connection::Connection, ledger::Part, limits::LOGGED_LEN_MAX};

/// One request and its response, or one relayed connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    began: Instant,
    /// Set by whoever looks at the clock when it ends.
    pub(crate) ended: Option<Instant>,
    /// Where it is counted.
    pub(crate) part: Arc<Part>,
    pub(crate) protocol: &'static str,
    pub(crate) status: u16,
    pub(crate) retries: u32,
    pub(crate) bytes_out: u64,
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

    fn give_back(mut self: Box<Self>) {
        let Self { method, host, target, pool, home, zone, server } = &mut *self;
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
            ended: None,
            part: connection.listener.live.unrouted.mine(),
            protocol,
            status: 0,
            retries: 0,
            bytes_out: 0,
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
        exchange.part.count(exchange.status, exchange.retries, took);
        let Some(noted) = exchange.noted.take() else { return };
        let line = Line {
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
            pool: noted.pool.as_ref(),
            home: noted.home.as_ref(),
            zone: noted.zone.as_ref(),
            server: noted.server.as_ref(),
            status: exchange.status,
            retries: exchange.retries,
            bytes_out: exchange.bytes_out,
            duration_us: took.as_micros() as u64,
            cause: exchange.cause,
        };
        // Texts and numbers always serialise.
        connection.proxy.log.write(|out| _ = serde_json::to_writer(out, &line));
        noted.give_back();
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "as_text")]
    time: Timestamp,
    listener: &'a Name,
    client: IpAddr,
    client_port: u16,
    local: SocketAddr,
    protocol: &'a str,
    tls: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'a str,
    pool: Option<&'a Name>,
    home: Option<&'a Name>,
    zone: Option<&'a Name>,
    server: Option<&'a Name>,
    status: u16,
    retries: u32,
    bytes_out: u64,
    duration_us: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    cause: &'a str,
}

fn as_text<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOGGED_LEN_MAX)]
}
