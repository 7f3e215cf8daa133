//! The sockets of one place: one for each worker, which accepts from its own. The kernel spreads connections over them, also
//! those that are steered to the one of them that was handed over.

use std::{convert::Infallible, io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{
    connection::{Connection, Proxy},
    hold::Taken,
    limits::{ACCEPT_PAUSE, BACKLOG, CLIENT_KEEPALIVE},
    listener::ListenerState,
};

/// What a group does about new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Accepts them.
    Open,
    /// Accepts those whose handshake has begun and is deaf to others, who will try again: a socket that closes resets whatever
    /// waits in it.
    Deaf,
    /// None: what the kernel has completed is accepted, then the sockets close.
    Closed,
    /// None: others accept from the same sockets, which stay open.
    Given,
}

/// The open sockets of one place.
pub(crate) struct Group {
    pub(crate) local: SocketAddr,
    /// A duplicate of one for the one who steers.
    pub(crate) handed_over: Arc<OwnedFd>,
    pub(crate) state: Arc<ArcSwap<ListenerState>>,
    /// No longer wanted, but routers, balancers or clients may not know yet: when it closes.
    pub(crate) lingers_until: Option<Instant>,
    /// Somebody else opened the sockets, and listens when we do not.
    is_lent: bool,
    stage: watch::Sender<Stage>,
    tasks: Vec<JoinHandle<()>>,
}

impl Group {
    /// Accepts from sockets that [`listen`], on each worker from one at least.
    pub(crate) fn open(
        Taken { sockets, is_lent }: Taken,
        workers: &[Handle],
        proxy: &Arc<Proxy>,
        state: Arc<ListenerState>,
        alive: &mpsc::Sender<Infallible>,
    ) -> io::Result<Self> {
        let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
        let local = first.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        let handed_over = Arc::new(OwnedFd::from(first.try_clone()?));
        let state = Arc::new(ArcSwap::new(state));
        let (stage, staged) = watch::channel(Stage::Open);
        let accept = |(socket, worker): (Socket, &Handle)| {
            let (proxy, state, alive) = (Arc::clone(proxy), Arc::clone(&state), alive.clone());
            let staged = staged.clone();
            worker.spawn(async move {
                // Here, because a socket belongs to the runtime it is made in.
                match TcpListener::from_std(socket.into()) {
                    Ok(listener) => Accepting { listener, proxy, state, alive, held: None }.run(staged).await,
                    Err(error) => tracing::error!(listener = %state.load().name, "listen: {error}"),
                }
            })
        };
        let tasks = sockets.into_iter().zip(workers.iter().cycle()).map(accept).collect();
        Ok(Self { local, handed_over, state, lingers_until: None, is_lent, stage, tasks })
    }

    /// What is done about new connections from now on.
    pub(crate) fn set_stage(&self, stage: Stage) {
        // To be deaf would be to be deaf for the one who lent them, too.
        let stage = if self.is_lent && stage != Stage::Open { Stage::Given } else { stage };
        self.stage.send_if_modified(|now| std::mem::replace(now, stage) != stage);
    }

    /// Whether it accepts whoever comes.
    pub(crate) fn is_open(&self) -> bool {
        *self.stage.borrow() == Stage::Open
    }

    /// Waits until it accepts no more: [`Stage::Closed`] or [`Stage::Given`].
    pub(crate) async fn ended(self, stage: Stage) {
        self.set_stage(stage);
        drop(self.handed_over);
        for task in self.tasks {
            // It ends at once; a panic in it has been reported.
            let _ended = task.await;
        }
    }
}

struct Accepting {
    listener: TcpListener,
    proxy: Arc<Proxy>,
    state: Arc<ArcSwap<ListenerState>>,
    alive: mpsc::Sender<Infallible>,
    /// Accepted when another thread took the last room.
    held: Option<(TcpStream, SocketAddr)>,
}

impl Accepting {
    async fn run(mut self, mut stage: watch::Receiver<Stage>) {
        let mut now = Stage::Open;
        while !matches!(now, Stage::Closed | Stage::Given) {
            tokio::select! {
                () = self.accept_forever() => {}
                changed = stage.changed() => now = changed.map_or(Stage::Closed, |()| *stage.borrow_and_update()),
            }
            if now != Stage::Given
                && let Err(error) = hear(SockRef::from(&self.listener), now == Stage::Open)
            {
                tracing::debug!(listener = %self.state.load().name, "filter: {error}");
            }
        }
        // Clients whose connection the kernel has completed were promised an answer; by us, unless there is somebody else.
        let mut held = self.held.take();
        loop {
            if let Some((stream, client)) = held.take() {
                self.state.load().live.open_one();
                self.spawn(stream, client);
            }
            if now == Stage::Given {
                return;
            }
            match self.listener.accept().now_or_never() {
                Some(Ok(accepted)) => held = Some(accepted),
                // Of one that has gone meanwhile.
                Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Some(Err(_)) | None => return,
            }
        }
    }

    async fn accept_forever(&mut self) {
        let mut fails = false;
        loop {
            while self.held.is_none() {
                self.room(ListenerState::is_full).await;
                match self.listener.accept().await {
                    Ok(accepted) => self.held = Some(accepted),
                    Err(error) => {
                        // Said once, however long it goes on.
                        if !std::mem::replace(&mut fails, true) {
                            tracing::warn!(listener = %self.state.load().name, "accept: {error}");
                        }
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                }
                if std::mem::take(&mut fails) {
                    tracing::info!(listener = %self.state.load().name, "accepts again");
                }
            }
            // The limit holds for all threads together: who came too many waits here.
            self.room(|state| !state.try_open_one()).await;
            if let Some((stream, client)) = self.held.take() {
                self.spawn(stream, client);
            }
        }
    }

    /// Waits until the listener may have one more connection.
    async fn room(&self, is_full: impl Fn(&ListenerState) -> bool) {
        loop {
            let state = self.state.load_full();
            let (closed, left) = (state.live.closed.notified(), state.live.crowd.left.notified());
            if !is_full(&state) {
                return;
            }
            // Looks again after a while, since the limit may have been raised.
            tokio::select! {
                () = closed => {}
                () = left => {}
                () = sleep(ACCEPT_PAUSE) => {}
            }
        }
    }

    /// Serves a connection that is counted as open.
    fn spawn(&self, stream: TcpStream, client: SocketAddr) {
        let state = self.state.load_full();
        match stream.local_addr() {
            Ok(local) => {
                let connection =
                    Connection::new(Arc::clone(&self.proxy), state, client, local, self.alive.clone());
                connection.serve(stream);
            }
            // The client has gone already.
            Err(_) => state.live.close_one(),
        }
    }
}

/// So many sockets at one address, bound but not listening for anybody yet.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Taken> {
    // Alone at first: an address somebody else has is refused, also one that would be shared.
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let local = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < count {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&local)?;
        sockets.push(socket);
    }
    Ok(Taken { sockets, is_lent: false })
}

/// As many as there are workers of sockets that were here before us: further ones beside them, or more than one ear for some.
pub(crate) fn complete(mut taken: Taken, count: usize) -> io::Result<Taken> {
    let first = taken.sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
    let local = first.local_addr()?;
    let address = local.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    let before = taken.sockets.len();
    for more in before..count {
        let beside = || {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&local)?;
            Ok::<_, io::Error>(socket)
        };
        // Those of another user, or that were never meant to be shared, let nobody beside them.
        let socket = beside().or_else(|_| taken.sockets[more % before].try_clone())?;
        taken.sockets.push(socket);
    }
    Ok(taken)
}

/// Listens, also where somebody left sockets deaf.
pub(crate) fn listen(sockets: &[Socket]) -> io::Result<()> {
    for socket in sockets {
        socket.listen(BACKLOG)?;
        // Usually there is nothing to detach, which is an error.
        let _was_not_deaf = hear(SockRef::from(socket), true);
    }
    Ok(())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections inherit these from the socket they come in by.
    let probes =
        TcpKeepalive::new().with_time(CLIENT_KEEPALIVE).with_interval(CLIENT_KEEPALIVE).with_retries(3);
    let _best_effort = socket.set_tcp_keepalive(&probes);
    let _best_effort = socket.set_tcp_nodelay(true);
    Ok(socket)
}

/// Has the kernel take new connections, or drop their first segments as if they were lost. RFC 9293 §3.5: the client sends them
/// again after a second, and finds who listens then.
fn hear(socket: SockRef<'_>, is_open: bool) -> io::Result<()> {
    /// Of a TCP header: the byte of the flags, those two, and the first segment's.
    const FLAGS_AT: u32 = 13;
    const SYN_AND_ACK: u32 = 0x12;
    const SYN: u32 = 0x02;
    // BPF: load the flags; mask; if they are SYN alone keep 0 bytes of the segment, else all.
    let program = [
        SockFilter::new(0x30, 0, 0, FLAGS_AT),
        SockFilter::new(0x54, 0, 0, SYN_AND_ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    if is_open { socket.detach_filter() } else { socket.attach_filter(&program) }
}
