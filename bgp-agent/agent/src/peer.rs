//! The driver of one BGP peer: sockets and a timer around a [`weir_bgp::Session`]. No protocol in here.

use ipnet::IpNet;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};
use weir_bgp::{
    Config, ConnId, Event, Finding, Input, Negotiated, RouteSet, Session, StateName, Stats, Transmit, mrt,
};
use weir_model::Name;

use crate::bfd::{self, Gate};
use crate::mrt::Recorder;
use crate::sockopt::{self, Wishes};

/// Bytes waiting for a socket. A full RIB is larger; the session makes the next UPDATE only when there is room.
const OUT_MAX_BYTES: usize = 64 << 10;

/// Bytes taken from a socket at once: four of the longest messages.
const IN_CHUNK_BYTES: usize = 16 << 10;

/// Connections handed over by the listener and not yet taken; more are dropped, and the router tries again.
const ACCEPTED_MAX: usize = 4;

/// Copies of the session that are asked for and not yet given.
const COPIES_MAX: usize = 4;

/// Connections of one peer at a time: two lanes, and some that are on their way out. More are dropped at once.
const CONNS_MAX: usize = 8;

/// How long a closed connection may take to deliver its last bytes (the NOTIFICATION) before it is cut.
const LINGER: Duration = Duration::from_secs(1);

/// How long a stopped session may take, its connection included.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(2);

/// What makes a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) remote: SocketAddr,
    /// The address to speak from; the kernel's choice when absent.
    pub(crate) local: Option<IpAddr>,
    pub(crate) wishes: Wishes,
    pub(crate) config: Config,
}

impl Plan {
    /// Only what is in the OPEN or in the options of the socket needs a new session; the rest is changed while it is up.
    pub(crate) fn is_same_session(&self, other: &Self) -> bool {
        let hard = |plan: &Self| Self {
            config: Config {
                connect_retry: Duration::ZERO,
                idle_hold: Duration::ZERO,
                idle_hold_max: Duration::ZERO,
                send_hold: None,
                max_prefixes: None,
                max_prefixes_pause: Duration::ZERO,
                keep_received: false,
                // Said once, at the start.
                graceful_restart: plan
                    .config
                    .graceful_restart
                    .map(|ours| weir_bgp::GracefulRestart { restarting: false, ..ours }),
                ..plan.config.clone()
            },
            ..plan.clone()
        };
        hard(self) == hard(other)
    }
}

/// Whether the path is alive, where anybody watches it.
pub(crate) struct Watched {
    /// BGP waits for the first word that it is.
    pub(crate) strict: bool,
    pub(crate) view: watch::Receiver<Option<bfd::View>>,
}

/// What changes while a session is up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Orders {
    pub(crate) routes: RouteSet,
    pub(crate) max_routes: Option<usize>,
    /// The routes may be fewer than those before our restart: nothing is said to be all.
    pub(crate) hold_end_of_rib: bool,
    /// Of which only [`Session::set_soft`]'s part counts.
    pub(crate) config: Config,
}

impl Orders {
    /// Tells a session; returns what it does not take of the routes.
    pub(crate) fn give_to(self, session: &mut Session) -> BTreeMap<IpNet, &'static str> {
        session.set_soft(&self.config);
        session.set_max_routes(self.max_routes);
        session.hold_end_of_rib(self.hold_end_of_rib);
        let refused = session.set_routes(self.routes);
        let next_hop =
            refused.next_hop.into_iter().map(|prefix| (prefix, "its next hop is of the other family"));
        let over_max = refused.over_max.into_iter().map(|prefix| (prefix, "more routes than max_routes"));
        next_hop.chain(over_max).collect()
    }
}

/// What a session that is up and has nothing left to say has not been told, beside what it refused.
pub(crate) fn not_carried(session: &Session) -> impl Iterator<Item = (IpNet, &'static str)> {
    let rib = session.rib();
    let is_settled = session.state() == StateName::Established && rib.is_settled();
    rib.desired()
        .keys()
        .filter(move |prefix| is_settled && !rib.advertised().contains_key(prefix))
        .map(|prefix| (*prefix, "the router has not agreed to this family, or to its next hop"))
}

/// What the agent shows of a peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerView {
    pub(crate) state: StateName,
    pub(crate) since: SystemTime,
    pub(crate) agreed: Option<Negotiated>,
    /// What the peer has been told.
    pub(crate) routes: RouteSet,
    /// What it has not, and why.
    pub(crate) refused: BTreeMap<IpNet, &'static str>,
    pub(crate) last_error: String,
    pub(crate) last_sent: String,
    pub(crate) last_received: String,
    pub(crate) stats: Stats,
    pub(crate) prefixes_received: u64,
    pub(crate) received: Vec<String>,
    /// BFD lets no session begin.
    pub(crate) held_by_bfd: bool,
}

/// How a session ends.
#[derive(Debug, Clone)]
pub(crate) enum Farewell {
    /// Withdraw everything, then Cease with this text.
    Stop(String),
    /// We come back: the router may keep the routes, if it agreed to. Else like a stop.
    Restart(String),
}

impl Farewell {
    /// The peer object is gone, or its router.
    pub(crate) fn deconfigured() -> Self {
        Self::Stop("peer deconfigured".to_owned())
    }

    /// The session begins anew.
    pub(crate) fn reconfigured() -> Self {
        Self::Restart("configuration changed".to_owned())
    }

    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Stop(text) => Input::Stop { text },
            Self::Restart(text) => Input::Restart { text },
        }
    }
}

/// A running driver.
pub(crate) struct Peer {
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) accepted: mpsc::Sender<TcpStream>,
    pub(crate) view: watch::Receiver<PeerView>,
    copies: mpsc::Sender<oneshot::Sender<Session>>,
    stop: oneshot::Sender<Farewell>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Start a session; `after` is the task of the one it replaces, which gets [`STOP_MAX`] to leave.
    pub(crate) fn start(
        name: Name,
        plan: Plan,
        orders: Orders,
        watched: Watched,
        changed: Arc<Notify>,
        recorder: Option<Recorder>,
        after: Option<JoinHandle<()>>,
    ) -> Self {
        let (orders, orders_in) = watch::channel(orders);
        let (accepted, accepted_in) = mpsc::channel(ACCEPTED_MAX);
        let (stop, stop_in) = oneshot::channel();
        let (copies, copies_in) = mpsc::channel(COPIES_MAX);
        let (view_out, view) = watch::channel(PeerView::new());
        let gate = Gate::new(watched.strict, watched.view.borrow().as_ref());
        let driver = Driver {
            name,
            gate,
            held_by_bfd: false,
            session: Session::new(plan.config.clone()),
            plan,
            conns: Vec::new(),
            connecting: None,
            incoming_count: 0,
            refused: BTreeMap::new(),
            complained: None,
            recorder,
            last_error: None,
            view: view_out,
            changed,
        };
        let doors = Doors {
            orders: orders_in,
            bfd: watched.view,
            accepted: accepted_in,
            copies: copies_in,
            stop: stop_in,
            stopping: false,
        };
        let task = tokio::spawn(async move {
            if let Some(after) = after {
                let _gone_or_late = tokio::time::timeout(STOP_MAX, after).await;
            }
            driver.run(doors).await;
        });
        Self { orders, accepted, view, copies, stop, task }
    }

    /// A copy of the session, to look ahead with; it does not come from a driver that ends meanwhile.
    pub(crate) fn copy(&self) -> oneshot::Receiver<Session> {
        let (copy, receiver) = oneshot::channel();
        // Whoever asks more often than it is answered gets no copy.
        let _dropped = self.copies.try_send(copy);
        receiver
    }

    /// Say farewell and close. The returned task ends when all that was written has gone out, or soon after.
    pub(crate) fn stop(self, farewell: Farewell) -> JoinHandle<()> {
        let _ended_already = self.stop.send(farewell);
        self.task
    }
}

impl PeerView {
    /// Of a session that has not begun.
    pub(crate) fn new() -> Self {
        Self {
            state: StateName::Idle,
            since: SystemTime::now(),
            agreed: None,
            routes: RouteSet::new(),
            refused: BTreeMap::new(),
            last_error: String::new(),
            last_sent: String::new(),
            last_received: String::new(),
            stats: Stats::default(),
            prefixes_received: 0,
            received: Vec::new(),
            held_by_bfd: false,
        }
    }
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

struct Driver {
    name: Name,
    gate: Gate,
    held_by_bfd: bool,
    plan: Plan,
    session: Session,
    conns: Vec<Conn>,
    connecting: Option<(ConnId, Connecting)>,
    incoming_count: u64,
    refused: BTreeMap<IpNet, &'static str>,
    /// The malformed UPDATE that was logged last.
    complained: Option<Finding>,
    recorder: Option<Recorder>,
    /// Why a connection ended, until it is shown.
    last_error: Option<String>,
    view: watch::Sender<PeerView>,
    changed: Arc<Notify>,
}

struct Conn {
    id: ConnId,
    stream: TcpStream,
    out: Vec<u8>,
    /// The session has closed it: write what is left, then wait for the other side until then.
    closing: Option<Instant>,
    shut: bool,
}

/// Where a driver hears from the agent.
struct Doors {
    orders: watch::Receiver<Orders>,
    bfd: watch::Receiver<Option<bfd::View>>,
    accepted: mpsc::Receiver<TcpStream>,
    copies: mpsc::Receiver<oneshot::Sender<Session>>,
    stop: oneshot::Receiver<Farewell>,
    /// It has heard the last.
    stopping: bool,
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
    async fn run(mut self, mut doors: Doors) {
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
            wake = next_io(&mut self.conns, buffer) => wake,
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

impl Conn {
    fn new(id: ConnId, stream: TcpStream) -> Self {
        // Keepalives and withdrawals must not wait for an acknowledgement; without it they are late, not wrong.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "set TCP_NODELAY");
        }
        Self { id, stream, out: Vec::new(), closing: None, shut: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Io> {
        while !self.out.is_empty() && !self.shut {
            match self.stream.poll_write_ready(cx) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Io::Gone(error.to_string())),
                Poll::Ready(Ok(())) => match self.stream.try_write(&self.out) {
                    Ok(len) => {
                        self.out.drain(..len);
                        return Poll::Ready(Io::Wrote);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Io::Gone(error.to_string())),
                },
            }
        }
        if self.closing.is_some() && self.out.is_empty() && !self.shut {
            // Half-close, and wait for the other half: a full close with unread bytes would be a reset, and a reset may
            // overtake the NOTIFICATION.
            self.shut = true;
            if SockRef::from(&self.stream).shutdown(Shutdown::Write).is_err() {
                return Poll::Ready(Io::Gone(String::new()));
            }
        }
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Io::Gone(error.to_string())),
                Poll::Ready(Ok(())) => match self.stream.try_read(buffer) {
                    Ok(0) => return Poll::Ready(Io::Gone("closed by peer".to_owned())),
                    Ok(len) => return Poll::Ready(Io::Read(len)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Io::Gone(error.to_string())),
                },
            }
        }
    }
}

enum Io {
    Read(usize),
    Wrote,
    Gone(String),
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

/// The next thing any connection has to say.
async fn next_io(conns: &mut [Conn], buffer: &mut [u8]) -> Wake {
    poll_fn(|cx| {
        for (index, conn) in conns.iter_mut().enumerate() {
            match conn.poll(cx, buffer) {
                Poll::Pending => {}
                Poll::Ready(Io::Read(len)) => return Poll::Ready(Wake::Read(index, len)),
                Poll::Ready(Io::Wrote) => return Poll::Ready(Wake::Wrote(index)),
                Poll::Ready(Io::Gone(why)) => return Poll::Ready(Wake::Gone(index, why)),
            }
        }
        Poll::Pending
    })
    .await
}

async fn connect(local: Option<IpAddr>, remote: SocketAddr, wishes: Wishes) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    sockopt::apply(&socket, remote.ip(), &wishes)?;
    if let Some(local) = local {
        socket
            .bind(SocketAddr::new(local, 0))
            .map_err(|error| io::Error::new(error.kind(), format!("speak from {local}: {error}")))?;
    }
    socket.connect(remote).await
}
