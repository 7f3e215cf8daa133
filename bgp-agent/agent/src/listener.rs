//! Listening sockets, one per address and port, shared by the peers that use it. Only configured peers are let in.

use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use weir_runtime::metrics::Counter;

/// Connections the kernel keeps for us; there are a handful of routers.
const BACKLOG: i32 = 64;

/// Between two attempts to bind: an address may come later (a VIP, DHCP, another process leaving).
const BIND_RETRY: Duration = Duration::from_secs(1);

/// After a failed accept (no descriptors left): the cause will not be gone at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may come in: the router's address → where its connections go.
pub(crate) type Guests = BTreeMap<IpAddr, mpsc::Sender<TcpStream>>;

/// All listening sockets.
pub(crate) struct Listeners {
    running: BTreeMap<SocketAddr, (watch::Sender<Guests>, JoinHandle<()>)>,
    refused: Counter,
}

impl Listeners {
    /// None yet. `refused` counts connections of strangers, and of peers with too many waiting.
    pub(crate) fn new(refused: Counter) -> Self {
        Self { running: BTreeMap::new(), refused }
    }

    /// Listen on these and no others; a socket that stays is not touched.
    pub(crate) fn apply(&mut self, desired: BTreeMap<SocketAddr, Guests>) {
        let gone: BTreeSet<SocketAddr> =
            self.running.keys().filter(|addr| !desired.contains_key(addr)).copied().collect();
        for addr in gone {
            if let Some((_, task)) = self.running.remove(&addr) {
                task.abort();
            }
        }
        for (addr, guests) in desired {
            match self.running.get(&addr) {
                Some((sender, _)) => drop(sender.send_replace(guests)),
                None => {
                    let (sender, receiver) = watch::channel(guests);
                    let task = tokio::spawn(listen(addr, receiver, self.refused.clone()));
                    self.running.insert(addr, (sender, task));
                }
            }
        }
    }
}

async fn listen(addr: SocketAddr, guests: watch::Receiver<Guests>, refused: Counter) {
    let mut complained = false;
    let listener = loop {
        match bind(addr) {
            Ok(listener) => break listener,
            Err(error) if complained => tracing::debug!(%addr, %error, "listen"),
            Err(error) => {
                complained = true;
                warn!(%addr, %error, "cannot listen for peers, trying again every second; sessions we open still work");
            }
        }
        tokio::time::sleep(BIND_RETRY).await;
    };
    info!(%addr, "listening for peers");
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let guest = guests.borrow().get(&from.ip()).cloned();
                // A full queue of a peer counts like a stranger: dropping the stream closes it.
                if guest.is_none_or(|guest| guest.try_send(stream).is_err()) {
                    refused.add(1);
                    tracing::debug!(%from, "connection refused: no such peer, or too many waiting");
                }
            }
            Err(error) => {
                warn!(%addr, %error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // IPv4 peers have a socket of their own.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
