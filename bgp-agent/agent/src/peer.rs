//! The driver of one BGP peer: sockets and a timer around a [`weir_bgp::Session`]. No protocol in here.

use crate::bfd::{self, Gate};
use socket2::SockRef;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};
use weir_bgp::{Config, ConnId, Event, Input, RouteSet, Session, StateName, Stats, Transmit};
use weir_model::Name;

/// Bytes waiting for a socket. A full RIB is larger; the session makes the next UPDATE only when there is room.
const OUT_MAX_BYTES: usize = 64 << 10;

/// Bytes taken from a socket at once: four of the longest messages.
const IN_CHUNK_BYTES: usize = 16 << 10;

/// Connections handed over by the listener and not yet taken; more are dropped, and the router tries again.
const ACCEPTED_MAX: usize = 4;

/// Connections of one peer at a time: two lanes, and some that are on their way out. More are dropped at once.
const CONNS_MAX: usize = 8;

/// How long a peer may leave our bytes unread, although it sends its own, before the session is given up. RFC 9687 §3.1.
const SEND_HOLD: Duration = Duration::from_secs(8 * 60);

/// How long a closed connection may take to deliver its last bytes (the NOTIFICATION) before it is cut.
const LINGER: Duration = Duration::from_secs(1);

/// How long a stopped session may take, its connection included.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(2);

/// What makes a session: if it changes, the session must begin anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) remote: SocketAddr,
    /// The address to speak from; the kernel's choice when absent.
    pub(crate) local: Option<IpAddr>,
    pub(crate) config: Config,
}

/// Whether the path is alive, where anybody watches it.
pub(crate) struct Watched {
    /// BGP waits for the first word that it is.
    pub(crate) strict: bool,
    pub(crate) view: watch::Receiver<Option<bfd::View>>,
}

/// What the agent shows of a peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerView {
    pub(crate) state: StateName,
    pub(crate) since: SystemTime,
    pub(crate) announced: Vec<String>,
    pub(crate) last_error: String,
    pub(crate) stats: Stats,
    /// BFD lets no session begin.
    pub(crate) held_by_bfd: bool,
}

/// A running driver.
pub(crate) struct Peer {
    pub(crate) routes: watch::Sender<RouteSet>,
    pub(crate) accepted: mpsc::Sender<TcpStream>,
    pub(crate) view: watch::Receiver<PeerView>,
    stop: oneshot::Sender<String>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Start a session; `after` is the task of the one it replaces, which gets [`STOP_MAX`] to leave.
    pub(crate) fn start(
        name: Name,
        plan: Plan,
        routes: RouteSet,
        watched: Watched,
        changed: Arc<Notify>,
        after: Option<JoinHandle<()>>,
    ) -> Self {
        let (routes, routes_in) = watch::channel(routes);
        let (accepted, accepted_in) = mpsc::channel(ACCEPTED_MAX);
        let (stop, stop_in) = oneshot::channel();
        let (view_out, view) = watch::channel(PeerView {
            state: StateName::Idle,
            since: SystemTime::now(),
            announced: Vec::new(),
            last_error: String::new(),
            stats: Stats::default(),
            held_by_bfd: false,
        });
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
            view: view_out,
            changed,
        };
        let task = tokio::spawn(async move {
            if let Some(after) = after {
                let _gone_or_late = tokio::time::timeout(STOP_MAX, after).await;
            }
            driver.run(routes_in, watched.view, accepted_in, stop_in).await;
        });
        Self { routes, accepted, view, stop, task }
    }

    /// Withdraw, Cease with `text`, close. The returned task ends when all that was written has gone out, or soon after.
    pub(crate) fn stop(self, text: &str) -> JoinHandle<()> {
        let _ended_already = self.stop.send(text.to_owned());
        self.task
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
    view: watch::Sender<PeerView>,
    changed: Arc<Notify>,
}

struct Conn {
    id: ConnId,
    stream: TcpStream,
    out: Vec<u8>,
    /// Since when `out` waits without progress.
    stuck_since: Option<Instant>,
    /// The session has closed it: write what is left, then wait for the other side until then.
    closing: Option<Instant>,
    shut: bool,
}

/// What woke the driver.
enum Wake {
    Routes,
    Bfd,
    Accepted(TcpStream),
    Stop(String),
    Connected(io::Result<TcpStream>),
    Read(usize, usize),
    Wrote(usize),
    Gone(usize, String),
    Timer,
}

impl Driver {
    async fn run(
        mut self,
        mut routes: watch::Receiver<RouteSet>,
        mut bfd: watch::Receiver<Option<bfd::View>>,
        mut accepted: mpsc::Receiver<TcpStream>,
        mut stop: oneshot::Receiver<String>,
    ) {
        let mut buffer = vec![0; IN_CHUNK_BYTES];
        let mut stopping = false;
        self.session.set_routes(routes.borrow_and_update().clone());
        self.follow_bfd(bfd.borrow_and_update().as_ref(), Instant::now());
        self.session.handle_input(Input::Start, Instant::now());
        loop {
            self.pump();
            self.report();
            if stopping && self.conns.is_empty() {
                return;
            }
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
            let wake = tokio::select! {
                text = &mut stop, if !stopping => Wake::Stop(text.unwrap_or_default()),
                // Whoever stops drops its end too: the stop says so, and with which text.
                Ok(()) = routes.changed(), if !stopping => Wake::Routes,
                Ok(()) = bfd.changed(), if !stopping => Wake::Bfd,
                Some(stream) = accepted.recv(), if !stopping => Wake::Accepted(stream),
                result = connected => Wake::Connected(result),
                wake = next_io(&mut self.conns, &mut buffer) => wake,
                () = timer => Wake::Timer,
            };
            let now = Instant::now();
            match wake {
                Wake::Routes => {
                    let left_out = self.session.set_routes(routes.borrow_and_update().clone());
                    if left_out > 0 {
                        warn!(peer = %self.name, left_out, "routes with a next hop of the other family");
                    }
                }
                Wake::Bfd => {
                    self.follow_bfd(bfd.borrow_and_update().as_ref(), now);
                    // The status shows it, whatever it means for the session.
                    self.changed.notify_one();
                }
                Wake::Stop(text) => {
                    stopping = true;
                    self.session.handle_input(Input::Stop { text: &text }, now);
                }
                Wake::Accepted(stream) => self.accept(stream, now),
                Wake::Connected(result) => self.connected(result, now),
                Wake::Read(index, len) => {
                    if let Some(conn) = self.conns.get(index).filter(|conn| conn.closing.is_none()) {
                        self.session.handle_input(Input::Bytes(conn.id, &buffer[..len]), now);
                    }
                }
                Wake::Wrote(index) => {
                    if let Some(conn) = self.conns.get_mut(index) {
                        conn.stuck_since = (!conn.out.is_empty()).then_some(now);
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
        self.conns.retain(|conn| {
            let stuck =
                conn.closing.is_none() && conn.stuck_since.is_some_and(|since| since + SEND_HOLD <= now);
            if stuck {
                self.session.handle_input(
                    Input::Closed(conn.id, "send hold timer expired: the peer does not read"),
                    now,
                );
            }
            !stuck && conn.closing.is_none_or(|until| until > now)
        });
    }

    fn accept(&mut self, stream: TcpStream, now: Instant) {
        if self.conns.len() >= CONNS_MAX {
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
                    self.connecting = Some((id, Box::pin(connect(self.plan.local, self.plan.remote))));
                }
                Some(Transmit::Bytes(id, bytes)) => {
                    if let Some(conn) = self.conns.iter_mut().find(|conn| conn.id == id) {
                        conn.out.extend_from_slice(&bytes);
                        conn.stuck_since.get_or_insert_with(Instant::now);
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

    fn deadline(&self) -> Option<Instant> {
        let lingering = self.conns.iter().filter_map(|conn| conn.closing);
        let stuck =
            self.conns.iter().filter(|conn| conn.closing.is_none()).filter_map(|conn| conn.stuck_since);
        lingering.chain(stuck.map(|since| since + SEND_HOLD)).chain(self.session.poll_timeout()).min()
    }

    fn report(&mut self) {
        let mut last_error = None;
        while let Some(event) = self.session.poll_event() {
            if let Some(error) = self.log(event) {
                last_error = Some(error);
            }
        }
        let state = self.session.state();
        let rib = self.session.rib();
        let stats = self.session.stats();
        let changed = self.view.send_if_modified(|view| {
            let same = view.state == state
                && view.stats == stats
                && view.held_by_bfd == self.held_by_bfd
                && view.announced.len() == rib.advertised().len()
                && last_error.is_none();
            if same {
                return false;
            }
            if view.state != state {
                (view.state, view.since) = (state, SystemTime::now());
            }
            view.announced = rib.advertised().keys().map(ToString::to_string).collect();
            view.stats = stats;
            view.held_by_bfd = self.held_by_bfd;
            if let Some(error) = last_error {
                view.last_error = error;
            }
            true
        });
        if changed {
            self.changed.notify_one();
        }
    }

    /// Returns why a connection ended, if that is what happened.
    fn log(&self, event: Event) -> Option<String> {
        let peer = &self.name;
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
            Event::MalformedUpdate => warn!(%peer, "malformed update ignored"),
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
        Self { id, stream, out: Vec::new(), stuck_since: None, closing: None, shut: false }
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

async fn connect(local: Option<IpAddr>, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket
            .bind(SocketAddr::new(local, 0))
            .map_err(|error| io::Error::new(error.kind(), format!("speak from {local}: {error}")))?;
    }
    socket.connect(remote).await
}
