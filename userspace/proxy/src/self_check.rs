//! Whether the listeners answer at their VIPs: the proxy asks itself, as a client would that is on this host.
//!
//! A connection from the node's own address to the VIP goes by the route of the VIP to the loopback interface, the steering to the
//! listener's socket, its accept loop, for `https` a handshake, and for HTTP a request. It is known by its source: it
//! reaches no server, and is in no log and no count of requests. What is found goes into the status; `weir-bgp` decides.
//!
//! A listener at its limit of connections is not asked: it is busy, and taking its VIP off the network would make others so.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use weir_core::{
    hash,
    health::{HealthMachine, Outcome, Timing, Transition},
};
use weir_model::{
    Listener, ListenerProtocol, Node,
    status::{Health, ServiceStatus},
    units,
};
use weir_runtime::probe::{self, HttpProbe, ProbeResult};

use crate::{
    checks::{Subject, drive},
    limits::SELF_CHECKS_RATE_MAX,
    listener::ListenerState,
    live::random,
};

/// Checks under way, by their source address. At most one for each socket of a VIP.
#[derive(Debug, Default)]
pub(crate) struct Knocks(Mutex<BTreeMap<SocketAddr, Option<oneshot::Sender<()>>>>);

impl Knocks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Option<oneshot::Sender<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this client is a check of ours.
    pub(crate) fn knows(&self, client: SocketAddr) -> bool {
        self.lock().contains_key(&client)
    }

    /// A check has come as far as clients do that are served.
    pub(crate) fn arrived(&self, client: SocketAddr) {
        let told = self.lock().get_mut(&client).and_then(Option::take);
        // One that has given up meanwhile does not care.
        let _ = told.map(|told| told.send(()));
    }
}

/// One check of [`Knocks`]; ends when dropped.
struct Knock {
    knocks: Arc<Knocks>,
    from: SocketAddr,
}

impl Knock {
    fn begin(knocks: &Arc<Knocks>, from: SocketAddr) -> (Self, oneshot::Receiver<()>) {
        let (arrived, answered) = oneshot::channel();
        knocks.lock().insert(from, Some(arrived));
        (Self { knocks: Arc::clone(knocks), from }, answered)
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.knocks.lock().remove(&self.from);
    }
}

/// What a check has found out of the service at an address of a VIP.
#[derive(Clone, Debug)]
pub(crate) struct ServiceEvent {
    at: SocketAddr,
    health: Health,
    reason: String,
}

/// The running checks, and what is known.
pub(crate) struct SelfChecks {
    running: BTreeMap<SocketAddr, Running>,
    known: BTreeMap<SocketAddr, ServiceStatus>,
    knocks: Arc<Knocks>,
    tls: Option<Arc<ClientConfig>>,
    events: mpsc::Sender<ServiceEvent>,
}

struct Running {
    from: IpAddr,
    state: Arc<ArcSwap<ListenerState>>,
    timing: Timing,
    again: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SelfChecks {
    /// None yet; `knocks` is what connections look at.
    pub(crate) fn new(knocks: Arc<Knocks>, events: mpsc::Sender<ServiceEvent>) -> Self {
        let tls = probe::tls::any_certificate();
        let tls = tls.inspect_err(|error| tracing::error!("no checks of https: {error}")).ok().map(Arc::new);
        Self { running: BTreeMap::new(), known: BTreeMap::new(), knocks, tls, events }
    }

    /// Checks these sockets of VIPs from now on, as often as other nodes probe this one. A family of which the node has no address
    /// is not asked for.
    pub(crate) fn update(
        &mut self,
        node: Option<&Node>,
        sockets: impl Iterator<Item = (SocketAddr, Arc<ArcSwap<ListenerState>>)>,
    ) {
        let mut before = std::mem::take(&mut self.running);
        let Some(node) = node else { return self.known.clear() };
        let sockets: BTreeMap<_, _> = sockets.collect();
        let mut timing = Timing::from(node);
        let gap = Duration::from_secs(1) * sockets.len() as u32 / SELF_CHECKS_RATE_MAX;
        timing.interval = timing.interval.max(gap);
        for (at, state) in sockets {
            let Some(from) = own_address(node, at) else { continue };
            let is_same = |running: &Running| {
                running.from == from && running.timing == timing && Arc::ptr_eq(&running.state, &state)
            };
            let running = before.remove(&at).filter(is_same).unwrap_or_else(|| {
                let again = Arc::new(Notify::new());
                let check = Check {
                    at,
                    from,
                    state: Arc::clone(&state),
                    knocks: Arc::clone(&self.knocks),
                    tls: self.tls.clone(),
                    again: Arc::clone(&again),
                    events: self.events.clone(),
                };
                let seed = random() ^ hash::bytes(at.to_string().as_bytes());
                Running { from, state, timing, again, task: tokio::spawn(drive(check, timing, seed)) }
            });
            self.running.insert(at, running);
        }
        self.known.retain(|at, _| self.running.contains_key(at));
    }

    /// Checks nothing any more.
    pub(crate) fn end(&mut self) {
        self.running.clear();
    }

    /// Notes what a check has found; one that no longer runs has found nothing. Not being able to ask does not change what is known.
    pub(crate) fn note(&mut self, event: ServiceEvent) {
        let ServiceEvent { at, health, reason } = event;
        let Some(running) = self.running.get(&at) else { return };
        let status = ServiceStatus { health, reason };
        let before = self.known.get(&at);
        let was_known = before.is_some_and(|before| before.health != Health::Unknown);
        if before == Some(&status) || was_known && health == Health::Unknown {
            return;
        }
        let listener = &running.state.load().name;
        tracing::info!(%listener, "the service at {at} is {health:?}: {}", status.reason);
        self.known.insert(at, status);
    }

    /// Something about these changed: they are checked at once.
    pub(crate) fn look_now(&self, at: &BTreeSet<SocketAddr>) {
        for (_, running) in self.running.iter().filter(|(socket, _)| at.contains(socket)) {
            running.again.notify_one();
        }
    }

    /// What is known of the service at an address, if anything.
    pub(crate) fn known(&self, at: SocketAddr) -> Option<&ServiceStatus> {
        self.known.get(&at)
    }
}

/// The node's address of the family of a VIP's.
pub(crate) fn own_address(node: &Node, at: SocketAddr) -> Option<IpAddr> {
    if at.is_ipv4() { node.address.map(IpAddr::V4) } else { node.address6.map(IpAddr::V6) }
}

struct Check {
    at: SocketAddr,
    from: IpAddr,
    state: Arc<ArcSwap<ListenerState>>,
    knocks: Arc<Knocks>,
    tls: Option<Arc<ClientConfig>>,
    again: Arc<Notify>,
    events: mpsc::Sender<ServiceEvent>,
}

impl Subject for Check {
    async fn look(&self, limit: Duration) -> Option<Outcome> {
        let state = self.state.load_full();
        if state.is_full() {
            return Some(Outcome::Pass);
        }
        let (socket, from) = match self.socket() {
            Ok(socket) => socket,
            Err(error) => {
                // Says nothing about the listener; whatever it is, it is told once.
                let event = ServiceEvent {
                    at: self.at,
                    health: Health::Unknown,
                    reason: format!("cannot ask from {}: {error}", self.from),
                };
                let _nobody_listens = self.events.send(event).await;
                return None;
            }
        };
        let found = match timeout(limit, self.ask(&state.spec, socket, from)).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer within {}", units::duration::print(limit))),
        };
        match found {
            // It may have become full meanwhile.
            Err(why) if !state.is_full() => Some(Outcome::Fail(format!("from this host: {why}"))),
            _ => Some(Outcome::Pass),
        }
    }

    async fn tell(&self, change: Transition) -> bool {
        let event = ServiceEvent { at: self.at, health: change.to, reason: change.reason };
        self.events.send(event).await.is_ok()
    }

    async fn wake(&self) {
        self.again.notified().await;
    }

    fn woken(&self, machine: &mut HealthMachine) {
        machine.look_now(Instant::now());
    }
}

impl Check {
    async fn ask(&self, listener: &Listener, socket: TcpSocket, from: SocketAddr) -> Result<(), String> {
        let (_knock, mut arrived) = Knock::begin(&self.knocks, from);
        let stream = match socket.connect(self.at).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err("refused: nothing is steered to a listener".into());
            }
            Err(error) => return Err(format!("connect: {error}")),
        };
        let host = host_of(listener);
        match listener.protocol {
            ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough => {
                // Until the other side closes: then somebody else had it, or it had arrived.
                return tokio::select! {
                    biased;
                    Ok(()) = &mut arrived => Ok(()),
                    _closed = closed(&stream) => arrived.try_recv().map_err(|_| SOMEBODY_ELSE.to_owned()),
                };
            }
            ListenerProtocol::Http => self.request(stream, host.as_deref()).await?,
            ListenerProtocol::Https => {
                let Some(tls) = &self.tls else { return Ok(()) };
                let name = host.as_deref().and_then(|host| ServerName::try_from(host.to_owned()).ok());
                // An address is not sent: then the listener's first certificate is served.
                let name = name.unwrap_or_else(|| ServerName::from(self.at.ip()));
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
                let stream = stream.map_err(|error| format!("tls handshake: {error}"))?;
                self.request(stream, host.as_deref()).await?;
            }
        }
        arrived.try_recv().map_err(|_| SOMEBODY_ELSE.to_owned())
    }

    /// A request that the listener answers itself.
    async fn request(
        &self,
        stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
        host: Option<&str>,
    ) -> Result<(), String> {
        let host = host.map_or_else(|| self.at.to_string(), str::to_owned);
        match HttpProbe::new("OPTIONS", "*", host, (204, 204)).ask(stream).await {
            Ok(ProbeResult::Up | ProbeResult::Said(_)) => Ok(()),
            Ok(ProbeResult::Draining) => Err("status 503".into()),
            Ok(ProbeResult::Down(why)) => Err(why),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A socket with its address, which is known before the other side sees it.
    fn socket(&self) -> io::Result<(TcpSocket, SocketAddr)> {
        let domain = Domain::for_address(self.at);
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        // Where the route of the VIP is gone a check bothers nobody behind the first router.
        match self.at {
            SocketAddr::V4(_) => socket.set_ttl_v4(1)?,
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(1)?,
        }
        // Ends by RST on both sides: nothing stays in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&SocketAddr::new(self.from, 0).into())?;
        let socket = TcpSocket::from_std_stream(socket.into());
        let from = socket.local_addr()?;
        Ok((socket, from))
    }
}

const SOMEBODY_ELSE: &str = "answered by another program than this proxy";

/// Waits until the other side has closed or said something.
async fn closed(stream: &TcpStream) {
    // An error is an end, too.
    let _ = stream.readable().await;
}

/// The first host name of a listener's routes, for SNI and the host field; a name below it for a wildcard.
fn host_of(listener: &Listener) -> Option<String> {
    let host = listener.routes.iter().flat_map(|route| &route.hosts).next()?;
    Some(host.to_string().replace('*', "weir-check"))
}
