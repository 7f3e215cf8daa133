//! The thread: waits for packets, times and orders, and moves them between sockets and the [`Speaker`].

use super::notes::Note;
use super::socket::{self, Local, Receiver, Sender, Wake, local_towards, wait};
use super::{Numbers, Orders, PeerNumbers, Plan, View, Wanted, priority};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use weir_bfd::{Endpoint, Event, SessionId, Speaker, State, Transition};
use weir_model::Name;

/// Packets taken from a socket before timers have their turn: a flood delays them by less than a millisecond.
const PACKETS_PER_TURN: usize = 64;

/// Between two attempts to open sockets: an address or a route may come later.
const OPEN_RETRY: Duration = Duration::from_secs(1);

/// Wakes at least this often, in case a wake-up was lost.
const IDLE: Duration = Duration::from_secs(1);

/// Metrics are brought up to date no more often.
const NUMBERS_EVERY: Duration = Duration::from_millis(100);

/// Room in the log that refused packets, of which there may be many, leave to changes of state.
const NOTES_RESERVED: usize = 128;

pub(crate) struct Engine {
    orders: Arc<Mutex<Orders>>,
    orders_seen: u64,
    stopping: bool,
    wake: Arc<Wake>,
    numbers: Arc<Mutex<Numbers>>,
    numbers_due: Instant,
    notes: mpsc::Sender<Note>,
    notes_lost: u64,
    speaker: Speaker,
    links: BTreeMap<Name, Link>,
    /// Of all sessions, those that only say goodbye included.
    senders: BTreeMap<SessionId, Sender>,
    receivers: BTreeMap<Local, Receiver>,
    random: RandomState,
    drawn: u32,
}

/// A wanted session.
struct Link {
    wanted: Wanted,
    shown: Option<View>,
    session: Result<Open, Failed>,
    since: SystemTime,
    diagnostic: String,
    /// Of earlier sessions of this peer, so that counters only grow.
    before: weir_bfd::Stats,
    failures_before: u64,
    send_errors: u64,
}

struct Open {
    id: SessionId,
    local: Local,
}

struct Failed {
    error: String,
    retry: Instant,
}

impl Engine {
    pub(crate) fn new(
        orders: Arc<Mutex<Orders>>,
        wake: Arc<Wake>,
        numbers: Arc<Mutex<Numbers>>,
        notes: mpsc::Sender<Note>,
    ) -> Self {
        // Keyed by the kernel's randomness: discriminators must not be guessed.
        let random = RandomState::new();
        Self {
            orders,
            orders_seen: 0,
            stopping: false,
            wake,
            numbers,
            numbers_due: Instant::now(),
            notes,
            notes_lost: 0,
            speaker: Speaker::new(random.hash_one(0u32)),
            links: BTreeMap::new(),
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            random,
            drawn: 0,
        }
    }

    /// Until the agent wants an end and all has been said.
    pub(crate) fn run(mut self) {
        self.note(Note::Priority(priority::raise()));
        loop {
            // What waits in a socket came before this moment: a thread that got no CPU for a while does not take a peer for
            // dead whose packets are there.
            let now = Instant::now();
            self.follow_orders(now);
            self.receive();
            self.speaker.handle_timeout(now);
            self.transmit();
            self.report();
            if self.stopping && self.speaker.is_empty() {
                return;
            }
            let retries = self.links.values().filter_map(|link| Some(link.session.as_ref().err()?.retry));
            let next = self.speaker.poll_timeout().into_iter().chain(retries).min();
            let timeout = next.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()).min(IDLE));
            wait(&self.wake, self.receivers.values(), timeout);
        }
    }

    fn follow_orders(&mut self, now: Instant) {
        let Some(wanted) = self.new_orders() else {
            self.retry(now);
            return;
        };
        let gone: Vec<Name> = self.links.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(link) = self.links.remove(&name) {
                self.close(&link, now);
                link.wanted.view.send_replace(None);
            }
        }
        for (name, wanted) in wanted {
            self.follow(name, wanted, now);
        }
        // Sockets nobody needs any more; those of sessions that say goodbye receive nothing.
        let needed: BTreeSet<Local> =
            self.links.values().filter_map(|link| Some(link.session.as_ref().ok()?.local)).collect();
        self.receivers.retain(|local, _| needed.contains(local));
    }

    /// What is wanted, if it is something else than before. The agent may hold the lock without having a CPU: it wakes us when
    /// it has let go.
    fn new_orders(&mut self) -> Option<BTreeMap<Name, Wanted>> {
        let orders = match self.orders.try_lock() {
            Ok(orders) => orders,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if orders.number == self.orders_seen {
            return None;
        }
        self.orders_seen = orders.number;
        self.stopping = orders.stop;
        Some(if orders.stop { BTreeMap::new() } else { orders.wanted.clone() })
    }

    fn retry(&mut self, now: Instant) {
        let due = |link: &Link| link.session.as_ref().is_err_and(|failed| failed.retry <= now);
        let names: Vec<Name> =
            self.links.iter().filter(|(_, link)| due(link)).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(mut link) = self.links.remove(&name) {
                self.open(&name, &mut link, now);
                self.links.insert(name, link);
            }
        }
    }

    fn follow(&mut self, name: Name, wanted: Wanted, now: Instant) {
        let Some(mut link) = self.links.remove(&name) else {
            let mut link = Link {
                wanted,
                shown: None,
                session: Err(Failed { error: String::new(), retry: now }),
                since: SystemTime::now(),
                diagnostic: String::new(),
                before: weir_bfd::Stats::default(),
                failures_before: 0,
                send_errors: 0,
            };
            self.open(&name, &mut link, now);
            self.links.insert(name, link);
            return;
        };
        let (old, new) = (&link.wanted.plan, &wanted.plan);
        if identity(old) != identity(new) {
            self.close(&link, now);
            link.forget_session(&self.speaker, now);
        } else if let (Ok(open), true) = (&link.session, old != new) {
            self.speaker.configure(open.id, new.minimum_ttl, new.config, now);
        }
        if !link.wanted.view.same_channel(&wanted.view) {
            link.shown = None;
        }
        link.wanted = wanted;
        if link.session.as_ref().is_err_and(|failed| failed.retry <= now) {
            self.open(&name, &mut link, now);
        }
        self.links.insert(name, link);
    }

    fn open(&mut self, name: &Name, link: &mut Link, now: Instant) {
        match self.try_open(&link.wanted.plan, now) {
            Ok((open, port, endpoint)) => {
                self.note(Note::Begun {
                    peer: name.clone(),
                    local: endpoint.local,
                    remote: endpoint.remote,
                    port,
                });
                link.session = Ok(open);
            }
            Err(error) => {
                // The same failure every second is one line.
                if link.session.as_ref().is_err_and(|failed| failed.error != error) {
                    self.note(Note::NotBegun { peer: name.clone(), error: error.clone() });
                }
                link.session = Err(Failed { error, retry: now + OPEN_RETRY });
            }
        }
    }

    fn try_open(&mut self, plan: &Plan, now: Instant) -> Result<(Open, u16, Endpoint), String> {
        let Plan { remote, scope_id, hops, .. } = *plan;
        let local = plan.local.map_or_else(|| local_towards(remote, scope_id), Ok);
        let local = local.map_err(|error| format!("find the way to {remote}: {error}"))?;
        let endpoint = Endpoint { local, remote, scope_id, hops };
        let taken = self.senders.values().map(|sender| sender.port).collect();
        self.drawn = self.drawn.wrapping_add(1);
        let random = self.random.hash_one(self.drawn) as u32;
        let explain = |error: io::Error| format!("speak from {local}: {error}");
        let sender = Sender::open(&endpoint, &taken, random).map_err(explain)?;
        let at = Local::of(&endpoint);
        if let Entry::Vacant(vacant) = self.receivers.entry(at) {
            let port = socket::port(hops);
            let receiver = Receiver::open(at);
            vacant.insert(receiver.map_err(|error| format!("listen on {local} port {port}: {error}"))?);
        }
        let id = self
            .speaker
            .add(endpoint, plan.minimum_ttl, plan.config, now)
            .map_err(|error| format!("session with {remote}: {error}"))?;
        let port = sender.port;
        self.senders.insert(id, sender);
        Ok((Open { id, local: at }, port, endpoint))
    }

    /// The session says goodbye, and is forgotten when it is [`Event::Gone`].
    fn close(&mut self, link: &Link, now: Instant) {
        if let Ok(open) = &link.session {
            self.speaker.remove(open.id, now);
        }
    }

    fn receive(&mut self) {
        for receiver in self.receivers.values_mut() {
            for _ in 0..PACKETS_PER_TURN {
                let Some((arrival, payload)) = receiver.receive() else { break };
                self.speaker.handle_packet(arrival, &payload, Instant::now());
            }
        }
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.speaker.poll_transmit() {
            let Some(sender) = self.senders.get(&transmit.session) else { continue };
            if sender.send(&transmit.payload).is_err()
                && let Some((_, link)) = find(&mut self.links, transmit.session)
            {
                link.send_errors += 1;
            }
        }
    }

    fn report(&mut self) {
        while let Some(event) = self.speaker.poll_event() {
            match event {
                Event::State(id, transition) => self.changed(id, transition),
                Event::Gone(id) => drop(self.senders.remove(&id)),
                Event::Discarded(arrival, discard) => {
                    if self.notes.capacity() > NOTES_RESERVED {
                        self.note(Note::Discarded(arrival, discard));
                    } else {
                        self.notes_lost += 1;
                    }
                }
            }
        }
        for link in self.links.values_mut() {
            let view = link.view(&self.speaker);
            // Only when there is something to say: a driver that reads may hold the lock without having a CPU.
            if link.shown.as_ref() != Some(&view) {
                link.wanted.view.send_replace(Some(view.clone()));
                link.shown = Some(view);
            }
        }
        self.count();
    }

    fn changed(&mut self, id: SessionId, transition: Transition) {
        let Some((name, link)) = find(&mut self.links, id) else { return };
        link.since = SystemTime::now();
        self.numbers_due = Instant::now();
        if transition.from == State::Up {
            link.diagnostic = match (transition.is_failure(), transition.remote_diagnostic.0) {
                (true, 0) => transition.diagnostic.to_string(),
                (true, _) => format!("{}: {}", transition.diagnostic, transition.remote_diagnostic),
                (false, _) => "switched off by the router".to_owned(),
            };
        }
        let detection_time = self.speaker.view(id).and_then(|view| view.detection_time);
        let peer = name.clone();
        self.note(Note::State { peer, transition, detection_time });
    }

    fn count(&mut self) {
        let now = Instant::now();
        if now < self.numbers_due {
            return;
        }
        // Whoever reads them may hold the lock without having a CPU: the next turn will do.
        let Ok(mut numbers) = self.numbers.try_lock() else { return };
        self.numbers_due = now + NUMBERS_EVERY;
        numbers.discarded = self.speaker.discarded().collect();
        numbers.notes_lost = self.notes_lost;
        numbers.peers = self
            .links
            .iter()
            .map(|(name, link)| {
                let session = link.session.as_ref().ok().and_then(|open| self.speaker.view(open.id));
                let stats = session.map(|view| view.stats).unwrap_or_default();
                let peer = PeerNumbers {
                    up: session.is_some_and(|view| view.state == State::Up),
                    detection_time: session.and_then(|view| view.detection_time).unwrap_or_default(),
                    failures: link.failures_before + session.map_or(0, |view| view.failures),
                    stats: weir_bfd::Stats {
                        sent: link.before.sent + stats.sent,
                        received: link.before.received + stats.received,
                        ups: link.before.ups + stats.ups,
                    },
                    send_errors: link.send_errors,
                };
                (name.clone(), peer)
            })
            .collect();
    }

    fn note(&mut self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.notes_lost += 1;
        }
    }
}

impl Link {
    fn forget_session(&mut self, speaker: &Speaker, now: Instant) {
        let session = self.session.as_ref().ok().and_then(|open| speaker.view(open.id));
        if let Some(view) = session {
            self.before.sent += view.stats.sent;
            self.before.received += view.stats.received;
            self.before.ups += view.stats.ups;
            self.failures_before += view.failures;
        }
        self.session = Err(Failed { error: String::new(), retry: now });
    }

    fn view(&self, speaker: &Speaker) -> View {
        let session = self.session.as_ref().ok().and_then(|open| speaker.view(open.id));
        View {
            state: session.map_or(State::Down, |view| view.state),
            remote_state: session.map_or(State::Down, |view| view.remote_state),
            since: self.since,
            transmit_interval: session.and_then(|view| view.transmit_interval),
            receive_interval: session.and_then(|view| view.receive_interval),
            detection_time: session.and_then(|view| view.detection_time),
            diagnostic: self.diagnostic.clone(),
            ups: self.before.ups + session.map_or(0, |view| view.stats.ups),
            failures: self.failures_before + session.map_or(0, |view| view.failures),
            error: self.session.as_ref().err().map(|failed| failed.error.clone()).unwrap_or_default(),
        }
    }
}

/// What cannot be changed on a session that runs.
fn identity(plan: &Plan) -> (Option<std::net::IpAddr>, std::net::IpAddr, u32, weir_bfd::Hops) {
    (plan.local, plan.remote, plan.scope_id, plan.hops)
}

fn find(links: &mut BTreeMap<Name, Link>, id: SessionId) -> Option<(&Name, &mut Link)> {
    links.iter_mut().find(|(_, link)| link.session.as_ref().is_ok_and(|open| open.id == id))
}
