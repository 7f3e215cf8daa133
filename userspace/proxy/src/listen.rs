//! Sockets: which the snapshot wants, which are open, and the difference.
//!
//! A socket belongs to a place (an address, or a port of a VIP's address), not to a listener: whoever renames a listener
//! or changes its certificates or pools keeps the socket and every connection waiting in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use weir_core::image::VIP_LINGER;
use weir_model::{Listener, Name, PortRange, Problem, Service, Snapshot};
use weir_runtime::{
    metrics::{Counter, Registry},
    steer::{Entry, Registration},
};

use crate::{
    connection::{Connection, Proxy},
    limits::{ACCEPT_PAUSE, BACKLOG},
    tables::Tables,
    tls,
};

/// Where connections come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// An address of this host.
    Bind(SocketAddr),
    /// A port of a VIP's address, steered to a socket on the loopback address.
    Vip(IpAddr, u16),
}

/// A listener as its connections see it.
#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) name: Name,
    pub(crate) spec: Listener,
    pub(crate) tls: Option<tls::Terms>,
    /// Set when its connections must end: the listener is gone, or speaks something else now.
    pub(crate) retired: watch::Sender<bool>,
    pub(crate) live: Arc<ListenerLive>,
}

/// Counters of a listener, across changes of it.
#[derive(Debug)]
pub(crate) struct ListenerLive {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) handshake_failures: Counter,
    closed: Notify,
    /// The tables of the last configuration that had this listener: for requests already on their way when it goes.
    last_tables: ArcSwap<Tables>,
}

impl ListenerState {
    /// Whether it has as many connections as it may; then no more are accepted.
    pub(crate) fn is_full(&self) -> bool {
        self.live.connections.load(Relaxed) >= u64::from(self.spec.max_connections)
    }

    /// The tables now, or the last that knew this listener.
    pub(crate) fn tables(&self, proxy: &Proxy) -> Arc<Tables> {
        let now = proxy.tables.load_full();
        if now.snapshot.listeners.contains_key(&self.name) { now } else { self.live.last_tables.load_full() }
    }
}

impl ListenerLive {
    fn open_one(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn close_one(&self) {
        self.connections.fetch_sub(1, Relaxed);
        self.closed.notify_one();
    }
}

/// All open sockets and the listeners behind them.
pub(crate) struct Listeners {
    proxy: Arc<Proxy>,
    registry: Registry,
    states: BTreeMap<Name, Arc<ListenerState>>,
    sockets: BTreeMap<Place, OpenSocket>,
    alive: mpsc::Sender<Infallible>,
    /// VIP listeners need a node; without one they are not served.
    node: Option<Name>,
}

struct OpenSocket {
    local: SocketAddr,
    /// A duplicate for the one who steers.
    handed_over: Arc<OwnedFd>,
    state: Arc<ArcSwap<ListenerState>>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    /// No longer wanted, but routers and balancers may not know yet: when it closes.
    lingers_until: Option<Instant>,
}

/// New sockets, bound but not listening for anybody yet.
pub(crate) struct Prepared {
    wanted: BTreeMap<Place, Name>,
    new: BTreeMap<Place, Socket>,
}

impl Listeners {
    /// None yet. `alive` is held by every connection.
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        registry: Registry,
        alive: mpsc::Sender<Infallible>,
        node: Option<Name>,
    ) -> Self {
        Self { proxy, registry, states: BTreeMap::new(), sockets: BTreeMap::new(), alive, node }
    }

    /// Binds what `snapshot` wants and is not open yet; all problems at once, and then nothing has changed.
    pub(crate) fn prepare(&self, snapshot: &Snapshot) -> Result<Prepared, Vec<Problem>> {
        let wanted = self.wanted(snapshot);
        let mut new = BTreeMap::new();
        let mut problems = Vec::new();
        for (place, name) in wanted.iter().filter(|(place, _)| !self.sockets.contains_key(place)) {
            match bind(*place) {
                Ok(socket) => drop(new.insert(*place, socket)),
                Err(error) => problems.push(Problem {
                    file: "weir-proxy".into(),
                    line: 0,
                    path: format!("listener.{name}"),
                    what: format!("cannot listen at {place}: {error}"),
                    hint: String::new(),
                }),
            }
        }
        if problems.is_empty() { Ok(Prepared { wanted, new }) } else { Err(problems) }
    }

    /// Puts a prepared change in force.
    pub(crate) fn commit(&mut self, snapshot: &Snapshot, prepared: Prepared, tls: &tls::Configs) {
        let Prepared { wanted, new } = prepared;
        self.update_states(snapshot, tls);
        let now = Instant::now();
        for (place, socket) in &mut self.sockets {
            // A plain address is nobody's but ours: it closes at once.
            let grace = if place.registration().is_some() { VIP_LINGER } else { Duration::ZERO };
            socket.lingers_until = match socket.lingers_until {
                _ if wanted.contains_key(place) => None,
                None => Some(now + grace),
                since => since,
            };
        }
        self.sweep(now);
        for (place, name) in &wanted {
            if let (Some(socket), Some(state)) = (self.sockets.get(place), self.states.get(name)) {
                socket.state.store(Arc::clone(state));
            }
        }
        for (place, socket) in new {
            let Some(state) = wanted.get(&place).and_then(|name| self.states.get(name)) else { continue };
            match self.open(socket, Arc::clone(state)) {
                Ok(open) => {
                    tracing::info!(listener = %state.name, "listening at {place}");
                    self.sockets.insert(place, open);
                }
                Err(error) => tracing::error!(listener = %state.name, "listen at {place}: {error}"),
            }
        }
    }

    /// Closes the sockets that have lingered.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.sockets.retain(|place, socket| {
            let keep = socket.lingers_until.is_none_or(|until| until > now);
            if !keep {
                tracing::info!("no longer listening at {place}");
                socket.stop.send_replace(true);
            }
            keep
        });
    }

    /// New certificates for the same listeners.
    pub(crate) fn renew_tls(&mut self, snapshot: &Snapshot, tls: &tls::Configs) {
        self.update_states(snapshot, tls);
        for socket in self.sockets.values() {
            if let Some(state) = self.states.get(&socket.state.load().name) {
                socket.state.store(Arc::clone(state));
            }
        }
    }

    fn update_states(&mut self, snapshot: &Snapshot, tls: &tls::Configs) {
        let mut old = std::mem::take(&mut self.states);
        for (name, spec) in &snapshot.listeners {
            let tls = tls.get(name).cloned();
            let before = old.remove(name);
            let speaks_another = before.as_ref().is_some_and(|before| before.spec.protocol != spec.protocol);
            let live = before.as_ref().map_or_else(|| self.new_live(name), |before| Arc::clone(&before.live));
            live.last_tables.store(self.proxy.tables.load_full());
            // Connections that stay follow the same retirement as new ones.
            let retired = match &before {
                Some(before) if !speaks_another => before.retired.clone(),
                _ => watch::Sender::new(false),
            };
            if let Some(before) = before.filter(|_| speaks_another) {
                before.retired.send_replace(true);
            }
            let state = ListenerState { name: name.clone(), spec: spec.clone(), tls, retired, live };
            self.states.insert(name.clone(), Arc::new(state));
        }
        for gone in old.values() {
            gone.retired.send_replace(true);
        }
    }

    fn new_live(&self, name: &Name) -> Arc<ListenerLive> {
        let help = "TLS handshakes that failed.";
        let labels = [("listener", name.as_str())];
        let handshake_failures =
            self.registry.counter("weir_proxy_tls_handshake_failures_total", help, &labels);
        Arc::new(ListenerLive {
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            handshake_failures,
            closed: Notify::new(),
            last_tables: ArcSwap::new(self.proxy.tables.load_full()),
        })
    }

    /// What the one who steers should know.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entry = |(place, socket): (&Place, &OpenSocket)| {
            let registration = place.registration()?;
            Some(Entry { registration, socket: Arc::clone(&socket.handed_over) })
        };
        self.sockets.iter().filter(|(_, socket)| socket.lingers_until.is_none()).filter_map(entry).collect()
    }

    /// The sockets of VIPs, by the address of the VIP.
    pub(crate) fn of_vips(
        &self,
    ) -> impl Iterator<Item = (SocketAddr, Registration, Arc<ArcSwap<ListenerState>>)> + '_ {
        self.sockets.iter().filter(|(_, socket)| socket.lingers_until.is_none()).filter_map(
            |(place, socket)| {
                let Place::Vip(address, port) = *place else { return None };
                Some((SocketAddr::new(address, port), place.registration()?, Arc::clone(&socket.state)))
            },
        )
    }

    /// Listeners by name.
    pub(crate) fn states(&self) -> &BTreeMap<Name, Arc<ListenerState>> {
        &self.states
    }

    /// The open places of a listener and the addresses of their sockets.
    pub(crate) fn places_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (Place, SocketAddr)> + 'a {
        let of_listener = move |socket: &OpenSocket| socket.state.load().name == *name;
        self.sockets.iter().filter(move |(_, s)| of_listener(s)).map(|(place, socket)| (*place, socket.local))
    }

    /// Accepts no more, after what the kernel has already completed.
    pub(crate) async fn close(&mut self) {
        for (_, socket) in std::mem::take(&mut self.sockets) {
            socket.stop.send_replace(true);
            drop(socket.handed_over);
            // It ends at once; a panic in it has been reported.
            let _ended = socket.task.await;
        }
        self.alive = mpsc::channel(1).0;
    }

    fn wanted(&self, snapshot: &Snapshot) -> BTreeMap<Place, Name> {
        let mine: BTreeSet<&Name> =
            self.node.iter().flat_map(|node| snapshot.vips_served_by(node)).map(|(name, _)| name).collect();
        let mut wanted = BTreeMap::new();
        for (name, listener) in &snapshot.listeners {
            if let Some(bind) = listener.bind {
                wanted.insert(Place::Bind(bind), name.clone());
            }
            if let (Some(vip), Some(port)) = (&listener.vip, listener.port)
                && mine.contains(vip)
                && let Some(vip) = snapshot.vips.get(vip)
            {
                wanted.extend(vip.addresses.iter().map(|address| (Place::Vip(*address, port), name.clone())));
            }
        }
        wanted
    }

    fn open(&self, socket: Socket, state: Arc<ListenerState>) -> io::Result<OpenSocket> {
        socket.listen(BACKLOG)?;
        let listener: std::net::TcpListener = socket.into();
        let local = listener.local_addr()?;
        let handed_over = Arc::new(OwnedFd::from(listener.try_clone()?));
        let listener = TcpListener::from_std(listener)?;
        let state = Arc::new(ArcSwap::new(state));
        let (stop, stopped) = watch::channel(false);
        let accepting = Accepting {
            listener,
            proxy: Arc::clone(&self.proxy),
            state: Arc::clone(&state),
            alive: self.alive.clone(),
        };
        let task = tokio::spawn(accepting.run(stopped));
        Ok(OpenSocket { local, handed_over, state, stop, task, lingers_until: None })
    }
}

struct Accepting {
    listener: TcpListener,
    proxy: Arc<Proxy>,
    state: Arc<ArcSwap<ListenerState>>,
    alive: mpsc::Sender<Infallible>,
}

impl Accepting {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            () = self.accept_forever() => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        // Clients whose connection the kernel has completed were promised an answer.
        while let Some(accepted) = self.listener.accept().now_or_never() {
            if let Ok((stream, client)) = accepted {
                self.spawn(stream, client);
            }
        }
    }

    async fn accept_forever(&self) {
        loop {
            self.room().await;
            match self.listener.accept().await {
                Ok((stream, client)) => self.spawn(stream, client),
                Err(error) => {
                    tracing::warn!(listener = %self.state.load().name, "accept: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until the listener may have one more connection. A listener with several sockets may exceed its limit by
    /// one for each further socket.
    async fn room(&self) {
        loop {
            let state = self.state.load_full();
            if !state.is_full() {
                return;
            }
            // Looks again after a while, since the limit may have been raised.
            tokio::select! {
                () = state.live.closed.notified() => {}
                () = sleep(ACCEPT_PAUSE) => {}
            }
        }
    }

    fn spawn(&self, stream: tokio::net::TcpStream, client: SocketAddr) {
        // Without a local address the client has gone already.
        let Ok(local) = stream.local_addr() else { return };
        let state = self.state.load_full();
        state.live.open_one();
        let connection = Connection::new(Arc::clone(&self.proxy), state, client, local, self.alive.clone());
        tokio::spawn(connection.run(stream));
    }
}

impl Place {
    /// What must be registered for connections to come in here.
    pub(crate) fn registration(self) -> Option<Registration> {
        let Self::Vip(address, port) = self else { return None };
        let ports = PortRange { first: port, last: port };
        Some(Registration { address, service: Service { protocol: weir_model::Protocol::Tcp, ports } })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(address) => write!(f, "{address}"),
            Self::Vip(address, port) => write!(f, "VIP {}", SocketAddr::new(*address, *port)),
        }
    }
}

fn bind(place: Place) -> io::Result<Socket> {
    let address = match place {
        Place::Bind(address) => address,
        // Any free port: the datapath steers to the socket, not to its address.
        Place::Vip(IpAddr::V4(_), _) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
        Place::Vip(IpAddr::V6(_), _) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
