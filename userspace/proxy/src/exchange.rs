//! One exchange as it is accounted for: a line of the access log and the metrics, written when it is over.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::{Instant, SystemTime},
};

use serde::Serialize;
use weir_model::{Name, Timestamp};
use weir_runtime::metrics::{Counter, Histogram, LATENCY_SECONDS, Registry};

use crate::{access_log::AccessLog, limits::LOGGED_LEN_MAX};

/// Where exchanges are written to.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) log: AccessLog,
    pub(crate) registry: Registry,
    /// By listener and pool; the pool is absent for requests that found none.
    series: RwLock<HashMap<SeriesKey, Arc<Series>>>,
}

type SeriesKey = (Name, Option<Name>);

/// The metrics of one listener and pool.
#[derive(Debug)]
struct Series {
    /// By first digit of the status code; index 0 is none at all.
    by_class: [Counter; 6],
    duration: Histogram,
    retries: Counter,
}

/// One request and its response, or one relayed connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    ledger: Arc<Ledger>,
    began: Instant,
    pub(crate) listener: Name,
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) protocol: &'static str,
    pub(crate) tls: bool,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) pool: Option<Name>,
    pub(crate) home: Option<Name>,
    pub(crate) zone: Option<Name>,
    pub(crate) server: Option<Name>,
    pub(crate) status: u16,
    pub(crate) retries: u32,
    pub(crate) bytes_out: u64,
    /// Why it did not go as it should; empty when it did.
    pub(crate) cause: &'static str,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
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

impl Ledger {
    pub(crate) fn new(log: AccessLog, registry: Registry) -> Self {
        Self { log, registry, series: RwLock::default() }
    }

    /// Forgets the metrics of listeners that are gone.
    pub(crate) fn retain(&self, wanted: impl Fn(&Name) -> bool) {
        self.series
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(listener, _), _| wanted(listener));
    }

    fn series(&self, listener: &Name, pool: Option<&Name>) -> Arc<Series> {
        let key = (listener.clone(), pool.cloned());
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(series);
        }
        let pool = pool.map_or("", Name::as_str);
        let at = [("listener", listener.as_str()), ("pool", pool)];
        let by_class = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
            let labels = [at[0], at[1], ("code", class)];
            self.registry.counter(
                "weir_proxy_requests_total",
                "Requests answered, or connections relayed.",
                &labels,
            )
        });
        let help = "From the head of a request to the last byte of its response.";
        let duration =
            self.registry.histogram("weir_proxy_request_duration_seconds", help, &at, LATENCY_SECONDS);
        let retries =
            self.registry.counter("weir_proxy_retries_total", "Requests sent to another server.", &at);
        let series = Arc::new(Series { by_class, duration, retries });
        self.series.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&series));
        series
    }
}

impl Exchange {
    pub(crate) fn begin(
        ledger: &Arc<Ledger>,
        listener: &Name,
        client: SocketAddr,
        local: SocketAddr,
        protocol: &'static str,
        tls: bool,
    ) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            began: Instant::now(),
            listener: listener.clone(),
            client,
            local,
            protocol,
            tls,
            method: String::new(),
            host: String::new(),
            target: String::new(),
            pool: None,
            home: None,
            zone: None,
            server: None,
            status: 0,
            retries: 0,
            bytes_out: 0,
            cause: "",
        }
    }
}

impl Exchange {
    /// What is asked of whom; only the log wants to know.
    pub(crate) fn note_request(&mut self, method: &str, host: &str, target: &str) {
        if self.ledger.log.is_on() {
            method.clone_into(&mut self.method);
            cut(host).clone_into(&mut self.host);
            cut(target).clone_into(&mut self.target);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.status == 0 && self.cause.is_empty() && !matches!(self.protocol, "tcp" | "tls") {
            self.cause = "client-gone";
        }
        let elapsed = self.began.elapsed();
        let series = self.ledger.series(&self.listener, self.pool.as_ref());
        series.by_class[usize::from(self.status / 100).min(5)].add(1);
        series.duration.observe(elapsed.as_secs_f64());
        series.retries.add(u64::from(self.retries));
        if !self.ledger.log.is_on() {
            return;
        }
        let line = Line {
            time: Timestamp(SystemTime::now()).to_string(),
            listener: &self.listener,
            client: self.client.ip().to_canonical(),
            client_port: self.client.port(),
            local: self.local,
            protocol: self.protocol,
            tls: self.tls,
            method: &self.method,
            host: cut(&self.host),
            target: cut(&self.target),
            pool: self.pool.as_ref(),
            home: self.home.as_ref(),
            zone: self.zone.as_ref(),
            server: self.server.as_ref(),
            status: self.status,
            retries: self.retries,
            bytes_out: self.bytes_out,
            duration_us: elapsed.as_micros() as u64,
            cause: self.cause,
        };
        // Strings and numbers always serialise.
        if let Ok(line) = serde_json::to_string(&line) {
            self.ledger.log.write(line);
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOGGED_LEN_MAX)]
}
