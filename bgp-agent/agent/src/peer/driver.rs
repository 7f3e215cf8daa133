//! What drives a session: it turns what sockets, the timer and the agent say into inputs, and does what comes out.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};
use weir_bgp::{ConnId, Event, Finding, Input, Session, StateName, Transmit, mrt};
use weir_model::Name;

use super::conn::{Conn, Io, connect, next_io};
use super::{Farewell, Orders, PeerView, Plan, not_carried};
use crate::bfd::{self, Gate};
use crate::mrt::Recorder;
use crate::sockopt;

/// Bytes waiting for a socket. A full RIB is larger; the session makes the next UPDATE only when there is room.
const OUT_MAX_BYTES: usize = 64 << 10;

/// Bytes taken from a socket at once: four of the longest messages.
const IN_CHUNK_BYTES: usize = 16 << 10;

/// Connections of one peer at a time: two lanes, and some that are on their way out. More are dropped at once.
const CONNS_MAX: usize = 8;

/// How long a closed connection may take to deliver its last bytes (the NOTIFICATION) before it is cut.
const LINGER: Duration = Duration::from_secs(1);

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// A session with its sockets; runs until its farewell is said.
pub(super) struct Driver {
    pub(super) name: Name,
    pub(super) gate: Gate,
    pub(super) held_by_bfd: bool,
    pub(super) plan: Plan,
    pub(super) session: Session,
    pub(super) conns: Vec<Conn>,
    pub(super) connecting: Option<(ConnId, Connecting)>,
    pub(super) incoming_count: u64,
    pub(super) refused: BTreeMap<IpNet, &'static str>,
    /// The malformed UPDATE that was logged last.
    pub(super) complained: Option<Finding>,
    pub(super) recorder: Option<Recorder>,
    /// Why a connection ended, until it is shown.
    pub(super) last_error: Option<String>,
    pub(super) view: watch::Sender<PeerView>,
    pub(super) changed: Arc<Notify>,
}

/// Where a driver hears from the agent.
pub(super) struct Doors {
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) bfd: watch::Receiver<Option<bfd::View>>,
    pub(super) accepted: mpsc::Receiver<TcpStream>,
    pub(super) copies: mpsc::Receiver<oneshot::Sender<Session>>,
    pub(super) stop: oneshot::Receiver<Farewell>,
    /// It has heard the last.
    pub(super) stopping: bool,
}

/// What woke the driver.
enum Wake {
    Orders,
    Bfd,
    Accepted(TcpStream),
    Copy(oneshot::Sender<Session>),
    Stop(Farewell),
    Connected(io::Result<TcpStream>),
    Read(usize, usize),
    Wrote(usize),
    Gone(usize, String),
    Timer,
}

impl Driver {
    pub(super) async fn run(mut self, mut doors: Doors) {
        let mut buffer = vec![0; IN_CHUNK_BYTES];
        self.obey(doors.orders.borrow_and_update().clone());
        self.follow_bfd(doors.bfd.borrow_and_update().as_ref(), Instant::now());
        self.session.handle_input(Input::Start, Instant::now());
        loop {
            self.pump();
            self.drain_events();
            if doors.stopping && self.conns.is_empty() {
                self.report();
                return;
            }
            // What is ready comes first, above all what is to be written: the router hears before it is told that it has. The
            // runtime makes the busiest socket pause now and then, so that this comes.
            let wake = match ready(self.wake(&mut doors, &mut buffer)).await {
                Some(wake) => wake,
                None => {
                    self.report();
                    self.wake(&mut doors, &mut buffer).await
                }
            };
            let now = Instant::now();
            match wake {
                Wake::Orders => self.obey(doors.orders.borrow_and_update().clone()),
                Wake::Bfd => {
                    self.follow_bfd(doors.bfd.borrow_and_update().as_ref(), now);
                    // The status shows it, whatever it means for the session.
                    self.changed.notify_one();
                }
                Wake::Stop(farewell) => {
                    doors.stopping = true;
                    self.session.handle_input(farewell.input(), now);
                }
                Wake::Accepted(stream) => self.accept(stream, now),
                Wake::Copy(copy) => {
                    // Whoever is gone needs none.
                    let _gone = copy.send(self.session.clone());
                }
                Wake::Connected(result) => self.connected(result, now),
                Wake::Read(index, len) => {
                    if let Some(conn) = self.conns.get(index).filter(|conn| conn.closing.is_none()) {
                        self.session.handle_input(Input::Bytes(conn.id, &buffer[..len]), now);
                    }
                }
                Wake::Wrote(index) => {
                    if let Some(conn) = self.conns.get(index) {
                        self.session.handle_input(Input::SendProgress(conn.id), now);
                        if !conn.out.is_empty() {
                            self.session.handle_input(Input::SendBlocked(conn.id), now);
                        }
                    }
                }
                Wake::Gone(index, why) => {
                    let conn = self.conns.swap_remove(index);
                    if conn.closing.is_none() {
                        self.session.handle_input(Input::Closed(conn.id, &why), now);
                    }
                }
                Wake::Timer => {}
            }
            // Also after other wakes: a busy socket must not starve the timers.
            self.session.handle_timeout(now);
            self.drop_late(now);
        }
    }

    /// The next thing that happens. Cancel safe.
    async fn wake(&mut self, doors: &mut Doors, buffer: &mut [u8]) -> Wake {
        let deadline = self.deadline();
        let timer = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let connected = async {
            match &mut self.connecting {
                Some((_, attempt)) => attempt.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            farewell = &mut doors.stop, if !doors.stopping => {
                Wake::Stop(farewell.unwrap_or_else(|_| Farewell::Stop(String::new())))
            }
            // Whoever stops drops its end too: the stop says so, and with which text.
            Ok(()) = doors.orders.changed(), if !doors.stopping => Wake::Orders,
            Ok(()) = doors.bfd.changed(), if !doors.stopping => Wake::Bfd,
            Some(stream) = doors.accepted.recv(), if !doors.stopping => Wake::Accepted(stream),
            Some(copy) = doors.copies.recv(), if !doors.stopping => Wake::Copy(copy),
            result = connected => Wake::Connected(result),
            (index, io) = next_io(&mut self.conns, buffer) => match io {
                Io::Read(len) => Wake::Read(index, len),
                Io::Wrote => Wake::Wrote(index),
                Io::Gone(why) => Wake::Gone(index, why),
            },
            () = timer => Wake::Timer,
        }
    }

    fn follow_bfd(&mut self, view: Option<&bfd::View>, now: Instant) {
        let verdict = self.gate.look(view);
        if verdict.end || verdict.hold {
            self.session.handle_input(Input::BfdDown, now);
        }
        if !verdict.hold {
            self.session.handle_input(Input::BfdUp, now);
        }
        self.held_by_bfd = verdict.hold;
    }

    fn drop_late(&mut self, now: Instant) {
        self.conns.retain(|conn| conn.closing.is_none_or(|until| until > now));
    }

    fn obey(&mut self, orders: Orders) {
        let refused = orders.give_to(&mut self.session);
        for (prefix, why) in refused.iter().filter(|(prefix, _)| !self.refused.contains_key(prefix)) {
            warn!(peer = %self.name, %prefix, why, "route refused");
        }
        self.refused = refused;
    }

    fn accept(&mut self, stream: TcpStream, now: Instant) {
        if self.conns.len() >= CONNS_MAX {
            return;
        }
        if let Err(error) = sockopt::apply(&stream, self.plan.remote.ip(), &self.plan.wishes) {
            warn!(peer = %self.name, %error, "connection of the peer refused");
            return;
        }
        self.incoming_count += 1;
        let id = ConnId::Incoming(self.incoming_count);
        self.conns.push(Conn::new(id, stream));
        self.session.handle_input(Input::Accepted(id), now);
    }

    fn connected(&mut self, result: io::Result<TcpStream>, now: Instant) {
        let Some((id, _)) = self.connecting.take() else {
            return;
        };
        match result {
            Ok(stream) => {
                self.conns.push(Conn::new(id, stream));
                self.session.handle_input(Input::Connected(id), now);
            }
            Err(error) => self.session.handle_input(Input::ConnectFailed(id, &error.to_string()), now),
        }
    }

    /// Do what the session wants, as far as the sockets have room. Once it is no longer established it wants only a few bounded
    /// things, and those must come through: the Close of a connection whose buffer is full among them.
    fn pump(&mut self) {
        while self.session.state() != StateName::Established
            || self.conns.iter().all(|conn| conn.closing.is_some() || conn.out.len() < OUT_MAX_BYTES)
        {
            match self.session.poll_transmit() {
                None => break,
                Some(Transmit::Connect(id)) => {
                    debug!(peer = %self.name, remote = %self.plan.remote, "connecting");
                    let attempt = connect(self.plan.local, self.plan.remote, self.plan.wishes.clone());
                    self.connecting = Some((id, Box::pin(attempt)));
                }
                Some(Transmit::Bytes(id, bytes)) => {
                    if let Some(conn) = self.conns.iter_mut().find(|conn| conn.id == id) {
                        conn.out.extend_from_slice(&bytes);
                        self.session.handle_input(Input::SendBlocked(id), Instant::now());
                        self.record(id, &bytes);
                    }
                }
                Some(Transmit::Close(id)) => {
                    self.connecting.take_if(|(connecting, _)| *connecting == id);
                    if let Some(conn) = self.conns.iter_mut().find(|conn| conn.id == id) {
                        conn.closing = Some(Instant::now() + LINGER);
                    }
                }
            }
        }
    }

    fn record(&self, id: ConnId, message: &[u8]) {
        let Some(recorder) = &self.recorder else { return };
        let Some(conn) = self.conns.iter().find(|conn| conn.id == id) else { return };
        let local = conn.stream.local_addr().unwrap_or(SocketAddr::new(self.plan.remote.ip(), 0));
        let agreed = self.session.negotiated();
        let session = mrt::Session {
            peer_asn: self.plan.config.remote_asn,
            local_asn: self.plan.config.local_asn,
            peer: self.plan.remote,
            local,
            four_octet_as: agreed.is_none_or(|agreed| agreed.update_context.four_octet_as),
        };
        // A clock before 1970 is written as 1970.
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        recorder.record(mrt::record(&session, message, true, at));
    }

    fn deadline(&self) -> Option<Instant> {
        let lingering = self.conns.iter().filter_map(|conn| conn.closing);
        lingering.chain(self.session.poll_timeout()).min()
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            if let Some(error) = self.log(event) {
                self.last_error = Some(error);
            }
        }
    }

    fn report(&mut self) {
        let last_error = self.last_error.take();
        let state = self.session.state();
        let rib = self.session.rib();
        let stats = self.session.stats();
        let refused = self.refused_now();
        let notification =
            |last: Option<&weir_bgp::Notification>| last.map(ToString::to_string).unwrap_or_default();
        let mut matters = false;
        self.view.send_if_modified(|view| {
            matters = view.state != state
                || view.routes != *rib.advertised()
                || view.refused != refused
                || view.held_by_bfd != self.held_by_bfd
                || last_error.is_some();
            if !matters && view.stats == stats {
                return false;
            }
            if view.state != state {
                (view.state, view.since) = (state, SystemTime::now());
            }
            if matters {
                view.routes.clone_from(rib.advertised());
                view.refused = refused;
                view.agreed = self.session.negotiated();
                view.last_sent = notification(self.session.last_sent());
                view.last_received = notification(self.session.last_received());
            }
            view.stats = stats;
            view.held_by_bfd = self.held_by_bfd;
            let received = self.session.received();
            view.prefixes_received = received.announcements();
            let sign = |announced| if announced { "" } else { "-" };
            view.received = received
                .samples()
                .map(|(prefix, announced)| format!("{}{prefix}", sign(announced)))
                .collect();
            if let Some(error) = last_error {
                view.last_error = error;
            }
            true
        });
        // Numbers alone are shown with the agent's next turn: a full table of the peer must not make it turn for each chunk.
        if matters {
            self.changed.notify_one();
        }
    }

    /// What was not taken, and, while the session is up, what it cannot carry.
    fn refused_now(&self) -> BTreeMap<IpNet, &'static str> {
        let mut refused = self.refused.clone();
        refused.extend(not_carried(&self.session));
        refused
    }

    /// Returns why a connection ended, if that is what happened.
    fn log(&mut self, event: Event) -> Option<String> {
        let peer = self.name.clone();
        match event {
            Event::State { from, to } => debug!(%peer, %from, %to, "state"),
            Event::Established(terms) => info!(
                %peer,
                remote = %self.plan.remote,
                router_id = %terms.peer_bgp_id,
                hold_s = terms.hold_time.as_secs(),
                ipv4 = terms.families.ipv4,
                ipv6 = terms.families.ipv6,
                "session established"
            ),
            Event::Ended { reason, was_established: true, .. } => {
                warn!(%peer, remote = %self.plan.remote, %reason, "session ended");
                return Some(reason);
            }
            Event::Ended { reason, was_established: false, .. } => {
                // The same failure every second is one line.
                if self.view.borrow().last_error == reason {
                    debug!(%peer, %reason, "no session");
                } else {
                    info!(%peer, remote = %self.plan.remote, %reason, "no session");
                }
                return Some(reason);
            }
            Event::Collision { lost } => debug!(%peer, ?lost, "connection collision"),
            Event::RefreshRequested => info!(%peer, "peer asked for the routes again"),
            // A router that errs once errs with every route: the same again is counted, and not a line each.
            Event::MalformedUpdate(finding) if self.complained == Some(finding) => {
                debug!(%peer, %finding, "malformed update");
            }
            Event::MalformedUpdate(finding) => {
                self.complained = Some(finding);
                warn!(%peer, %finding, "malformed update");
            }
            Event::EncodeFailed(error) => warn!(%peer, %error, "route skipped"),
        }
        None
    }
}

/// What a cancel-safe future has now; `None` where it would wait.
async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
