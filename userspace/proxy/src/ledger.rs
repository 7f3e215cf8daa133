//! What is counted of requests, by listener and pool. Every thread counts for itself; whoever reads adds up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use weir_model::Name;
use weir_runtime::metrics::{LATENCY_SECONDS, Text};

use crate::worker::PerThread;

/// Classes of status codes, by first digit; the first is no status at all.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What requests are counted in.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<SeriesKey, Arc<Series>>>);

/// Listener and pool; the pool is absent for requests that found none.
type SeriesKey = (Name, Option<Name>);

/// The requests of one listener to one pool, as each thread has counted them.
#[derive(Debug, Default)]
pub(crate) struct Series(PerThread<Arc<Part>>);

/// What one thread has counted.
#[derive(Debug, Default)]
pub(crate) struct Part {
    by_class: [AtomicU64; CLASSES.len()],
    retries: AtomicU64,
    /// By duration; one for each bound and one for everything above.
    durations: [AtomicU64; LATENCY_SECONDS.len() + 1],
    sum_us: AtomicU64,
    by_timeout: [AtomicU64; Timeout::ALL.len()],
}

/// What ended because its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// The head of a request.
    Header,
    /// The wait for the next one.
    KeepAlive,
    /// The wait for a client within a body,
    Client,
    /// and that for a faster one.
    BodyRate,
    /// The queue of a pool.
    Queue,
    /// Connecting to a server.
    Connect,
    /// Its answer.
    Response,
    /// The rest of that.
    Server,
    /// A relayed connection.
    Idle,
}

impl Timeout {
    const ALL: [Self; 9] = [
        Self::Header,
        Self::KeepAlive,
        Self::Client,
        Self::BodyRate,
        Self::Queue,
        Self::Connect,
        Self::Response,
        Self::Server,
        Self::Idle,
    ];

    /// What it is called in metrics: the setting that says how long it is.
    const fn name(self) -> &'static str {
        match self {
            Self::Header => "header_timeout",
            Self::KeepAlive => "keep_alive_timeout",
            Self::Client => "client_timeout",
            Self::BodyRate => "body_rate_min",
            Self::Queue => "queue_timeout",
            Self::Connect => "connect_timeout",
            Self::Response => "response_timeout",
            Self::Server => "server_timeout",
            Self::Idle => "idle_timeout",
        }
    }

    /// The one an exchange ended by, told by its cause.
    fn of(cause: &str) -> Option<Self> {
        Some(match cause {
            "header-timeout" => Self::Header,
            "client-timeout" => Self::Client,
            "body-too-slow" => Self::BodyRate,
            "queue-timeout" => Self::Queue,
            "connect-timeout" => Self::Connect,
            "response-timeout" => Self::Response,
            "response-stalled" => Self::Server,
            "idle" => Self::Idle,
            _ => return None,
        })
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SeriesKey, Arc<Series>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The series of a listener and a pool.
    pub(crate) fn series(&self, listener: &Name, pool: Option<&Name>) -> Arc<Series> {
        Arc::clone(self.lock().entry((listener.clone(), pool.cloned())).or_default())
    }

    /// Forgets the series of listeners that are gone.
    pub(crate) fn retain(&self, wanted: impl Fn(&Name) -> bool) {
        self.lock().retain(|(listener, _), _| wanted(listener));
    }

    /// All of it as metrics.
    pub(crate) fn write(&self, text: &mut Text) {
        let series = self.lock();
        let labels = |(listener, pool): &SeriesKey| {
            let pool = pool.as_ref().map_or(String::new(), Name::to_string);
            [("listener", listener.to_string()), ("pool", pool)]
        };
        let name = "weir_proxy_requests_total";
        text.family(name, "counter", "Requests answered, or connections relayed.");
        for (key, series) in series.iter() {
            let [listener, pool] = &labels(key);
            for (index, class) in CLASSES.iter().enumerate() {
                let labels = [(listener.0, listener.1.as_str()), (pool.0, &pool.1), ("code", class)];
                text.value(name, &labels, series.sum(|part| &part.by_class[index]) as f64);
            }
        }
        let name = "weir_proxy_retries_total";
        text.family(name, "counter", "Requests sent to another server.");
        for (key, series) in series.iter() {
            let labels = labels(key);
            let labels = labels.each_ref().map(|(label, value)| (*label, value.as_str()));
            text.value(name, &labels, series.sum(|part| &part.retries) as f64);
        }
        let name = "weir_proxy_timeouts_total";
        text.family(name, "counter", "Requests and connections that ended because their time was over.");
        for (key, series) in series.iter() {
            let [listener, pool] = &labels(key);
            for timeout in Timeout::ALL {
                let setting = ("timeout", timeout.name());
                let labels = [(listener.0, listener.1.as_str()), (pool.0, &pool.1), setting];
                text.value(name, &labels, series.sum(|part| &part.by_timeout[timeout as usize]) as f64);
            }
        }
        let name = "weir_proxy_request_duration_seconds";
        text.family(name, "histogram", "From the head of a request to the last byte of its response.");
        for (key, series) in series.iter() {
            let labels = labels(key);
            let labels = labels.each_ref().map(|(label, value)| (*label, value.as_str()));
            let counts: Vec<u64> =
                (0..=LATENCY_SECONDS.len()).map(|index| series.sum(|part| &part.durations[index])).collect();
            let sum = series.sum(|part| &part.sum_us) as f64 / 1e6;
            text.histogram(name, &labels, LATENCY_SECONDS, &counts, sum);
        }
    }
}

impl Series {
    /// Where this thread counts.
    pub(crate) fn mine(&self) -> Arc<Part> {
        Arc::clone(self.0.mine())
    }

    fn sum(&self, of: impl Fn(&Part) -> &AtomicU64) -> u64 {
        self.0.iter().map(|part| of(part).load(Relaxed)).sum()
    }
}

impl Part {
    /// Counts what ended because its time was over.
    pub(crate) fn count_timeout(&self, timeout: Timeout) {
        self.by_timeout[timeout as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request that is over; `status` 0 where there was none, `cause` empty where all went well.
    pub(crate) fn count(&self, status: u16, retries: u32, took: Duration, cause: &str) {
        if let Some(timeout) = Some(cause).filter(|cause| !cause.is_empty()).and_then(Timeout::of) {
            self.count_timeout(timeout);
        }
        let class = usize::from(status / 100).min(CLASSES.len() - 1);
        self.by_class[class].fetch_add(1, Relaxed);
        if retries > 0 {
            self.retries.fetch_add(u64::from(retries), Relaxed);
        }
        let seconds = took.as_secs_f64();
        let index = LATENCY_SECONDS.partition_point(|bound| *bound < seconds);
        self.durations[index].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took.as_micros() as u64, Relaxed);
    }
}
