//! BFD beside the BGP sessions: a thread of its own with its own sockets, so that nothing the agent does delays a packet.
//!
//! ```text
//!  agent ── wanted sessions ──► engine (thread weir-bfd) ── weir_bfd::Speaker ── sockets ──► routers
//!    ▲                             │
//!    └── view of each session ◄────┴── notes for the log
//! ```
//!
//! The engine never waits for the agent: what is wanted lies in a mutex that is held for a copy, views are left where drivers
//! find them, and what does not fit into the log is not logged.

mod engine;
mod gate;
mod notes;
mod priority;
mod socket;

pub(crate) use gate::Gate;

use crate::bfd::engine::Engine;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tracing::error;
use weir_bfd::{Config, Hops, State, Stats};
use weir_model::status::BfdStatus;
use weir_model::{Name, Timestamp};
use weir_runtime::metrics::{Registry, Text};

/// How long the thread may take to say goodbye: the longest farewell of a session, and some.
const STOP_MAX: Duration = Duration::from_millis(1500);

/// Lines for the log that wait for the agent.
const NOTES_MAX: usize = 256;

/// What makes a session; other timers are changed on a session that runs, other addresses make a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The address we speak from; the kernel's choice when absent.
    pub(crate) local: Option<IpAddr>,
    pub(crate) remote: IpAddr,
    /// The interface of a link-local address; else 0.
    pub(crate) scope_id: u32,
    pub(crate) hops: Hops,
    pub(crate) minimum_ttl: u8,
    pub(crate) config: Config,
}

impl Plan {
    /// Beside a BGP session with `remote`.
    pub(crate) fn new(remote: SocketAddr, local: Option<IpAddr>, bfd: &weir_model::Bfd) -> Self {
        Self {
            local,
            remote: remote.ip(),
            scope_id: match remote {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(remote) => remote.scope_id(),
            },
            hops: if bfd.multihop { Hops::Multi } else { Hops::Single },
            minimum_ttl: bfd.minimum_ttl.unwrap_or(weir_model::Bfd::MINIMUM_TTL_DEFAULT),
            config: Config {
                transmit_interval: bfd.interval,
                receive_interval: bfd.receive_interval.unwrap_or(bfd.interval),
                // The model has refused 0.
                detect_mult: NonZeroU8::new(bfd.multiplier).unwrap_or(NonZeroU8::MIN),
                passive: bfd.passive,
            },
        }
    }
}

/// A session the agent wants, and where to leave how it stands.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) plan: Plan,
    pub(crate) view: ViewSender,
}

/// `None` while no session is wanted.
pub(crate) type ViewSender = watch::Sender<Option<View>>;

/// How a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) remote_state: State,
    pub(crate) since: SystemTime,
    pub(crate) transmit_interval: Option<Duration>,
    pub(crate) receive_interval: Option<Duration>,
    pub(crate) detection_time: Option<Duration>,
    /// Why it last left Up; empty when it never did.
    pub(crate) diagnostic: String,
    pub(crate) ups: u64,
    pub(crate) failures: u64,
    /// Why there is no session yet.
    pub(crate) error: String,
}

impl View {
    /// Of a session that is wanted, before there is one.
    pub(crate) fn wanted() -> Self {
        Self {
            state: State::Down,
            remote_state: State::Down,
            since: SystemTime::now(),
            transmit_interval: None,
            receive_interval: None,
            detection_time: None,
            diagnostic: String::new(),
            ups: 0,
            failures: 0,
            error: String::new(),
        }
    }

    pub(crate) fn status(self, holds_bgp: bool) -> BfdStatus {
        BfdStatus {
            state: self.state.to_string(),
            since: Some(Timestamp(self.since)),
            remote_state: self.remote_state.to_string(),
            transmit_interval: self.transmit_interval,
            receive_interval: self.receive_interval,
            detection_time: self.detection_time,
            diagnostic: self.diagnostic,
            ups: self.ups,
            failures: self.failures,
            holds_bgp,
            error: self.error,
        }
    }
}

/// What metrics are made of.
#[derive(Debug, Default)]
struct Numbers {
    peers: BTreeMap<Name, PeerNumbers>,
    discarded: Vec<(&'static str, u64)>,
    notes_lost: u64,
}

#[derive(Debug, Default)]
struct PeerNumbers {
    up: bool,
    detection_time: Duration,
    failures: u64,
    stats: Stats,
    send_errors: u64,
}

/// What the agent tells the engine.
#[derive(Debug, Default)]
struct Orders {
    /// Raised by each change.
    number: u64,
    wanted: BTreeMap<Name, Wanted>,
    stop: bool,
}

/// The agent's end.
pub(crate) struct Bfd {
    orders: Arc<Mutex<Orders>>,
    wake: Arc<socket::Wake>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Bfd {
    /// Start the thread; must be called inside a runtime, which writes what it has to say to the log. Without a thread (no
    /// memory, no descriptors) BGP works, and sessions stay down.
    pub(crate) fn start(registry: &Registry) -> Self {
        let numbers = Arc::new(Mutex::new(Numbers::default()));
        let shared = Arc::clone(&numbers);
        registry.collect(move |text| render(&shared.lock().unwrap_or_else(PoisonError::into_inner), text));
        let orders = Arc::new(Mutex::new(Orders::default()));
        let wake = Arc::new(socket::Wake::new());
        let (sender, receiver) = mpsc::channel(NOTES_MAX);
        tokio::spawn(notes::write(receiver));
        let engine = Engine::new(Arc::clone(&orders), Arc::clone(&wake), numbers, sender);
        let thread = thread::Builder::new().name("weir-bfd".to_owned()).spawn(move || engine.run());
        let thread = thread.inspect_err(|error| error!(%error, "no thread for BFD: its sessions stay down"));
        Self { orders, wake, thread: thread.ok() }
    }

    /// Have these sessions and no others. One that goes says AdminDown first.
    pub(crate) fn apply(&self, wanted: BTreeMap<Name, Wanted>) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let same = orders.wanted.len() == wanted.len()
            && orders.wanted.iter().zip(&wanted).all(|((name, old), (new_name, new))| {
                name == new_name && old.plan == new.plan && old.view.same_channel(&new.view)
            });
        if !same {
            orders.wanted = wanted;
            orders.number += 1;
            drop(orders);
            self.wake.wake();
        }
    }

    /// Say AdminDown on all sessions, and end. RFC 5880 §6.8.16.
    pub(crate) async fn stop(mut self) {
        {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.stop = true;
            orders.number += 1;
        }
        self.wake.wake();
        if let Some(thread) = self.thread.take() {
            let ended = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(STOP_MAX, ended).await.is_err() {
                error!("BFD did not end in time");
            }
        }
    }
}

fn render(numbers: &Numbers, text: &mut Text) {
    type Value = fn(&PeerNumbers) -> f64;
    let families: [(&str, &str, &str, Value); 7] = [
        ("weir_bfd_session_up", "gauge", "1 while the BFD session is up.", |peer| {
            f64::from(u8::from(peer.up))
        }),
        (
            "weir_bfd_detection_time_seconds",
            "gauge",
            "Silence of the router for this long is death; 0 until it was heard.",
            |peer| peer.detection_time.as_secs_f64(),
        ),
        ("weir_bfd_session_ups_total", "counter", "How often the session came up.", |peer| {
            peer.stats.ups as f64
        }),
        (
            "weir_bfd_session_failures_total",
            "counter",
            "How often the path died: neither side had switched the session off.",
            |peer| peer.failures as f64,
        ),
        ("weir_bfd_packets_sent_total", "counter", "Control packets sent.", |peer| peer.stats.sent as f64),
        ("weir_bfd_packets_received_total", "counter", "Control packets received and taken.", |peer| {
            peer.stats.received as f64
        }),
        ("weir_bfd_send_errors_total", "counter", "Control packets the kernel did not take.", |peer| {
            peer.send_errors as f64
        }),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (peer, numbers) in &numbers.peers {
            text.value(name, &[("peer", peer.as_str())], value(numbers));
        }
    }
    text.family("weir_bfd_packets_discarded_total", "counter", "Packets thrown away, by reason.");
    for (reason, count) in &numbers.discarded {
        text.value("weir_bfd_packets_discarded_total", &[("reason", reason)], *count as f64);
    }
    text.family("weir_bfd_notes_lost_total", "counter", "Lines that did not reach the log.");
    text.value("weir_bfd_notes_lost_total", &[], numbers.notes_lost as f64);
}
