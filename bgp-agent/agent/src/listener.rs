//! Listening sockets, one per address and port, shared by the peers that use it. Only configured peers are let in: by address,
//! and where it is asked for by TTL (RFC 5082) and signature (RFC 2385), both checked by the kernel before it answers.

use crate::sockopt::{self, Wishes};
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use weir_model::{Name, Secret};
use weir_runtime::metrics::Counter;

/// Connections the kernel keeps for us; there are a handful of routers.
const BACKLOG: i32 = 64;

/// Between two attempts to bind: an address may come later (a VIP, DHCP, another process leaving).
const BIND_RETRY: Duration = Duration::from_secs(1);

/// After a failed accept (no descriptors left): the cause will not be gone at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may come in.
#[derive(Clone)]
pub(crate) struct Guest {
    /// From where.
    pub(crate) range: IpNet,
    pub(crate) wishes: Wishes,
    pub(crate) door: Door,
}

/// Where a connection goes.
#[derive(Clone)]
pub(crate) enum Door {
    /// To the session there is.
    Session(mpsc::Sender<TcpStream>),
    /// To the agent, which makes one for this peer object.
    Agent(Name, mpsc::Sender<Caller>),
}

/// A connection from a range, or from the other end of an interface.
pub(crate) struct Caller {
    pub(crate) peer: Name,
    pub(crate) from: SocketAddr,
    pub(crate) stream: TcpStream,
}

impl Door {
    /// False when nobody is there, or too many wait.
    fn pass(&self, stream: TcpStream, from: SocketAddr) -> bool {
        match self {
            Self::Session(sender) => sender.try_send(stream).is_ok(),
            Self::Agent(peer, sender) => sender.try_send(Caller { peer: peer.clone(), from, stream }).is_ok(),
        }
    }
}

/// The longest prefix wins; of two alike the first.
fn guest_of(guests: &[Guest], from: SocketAddr) -> Option<&Guest> {
    let ip = from.ip();
    let mut found: Option<&Guest> = None;
    for guest in guests.iter().filter(|guest| guest.range.contains(&ip)) {
        if found.is_none_or(|found| found.range.prefix_len() < guest.range.prefix_len()) {
            found = Some(guest);
        }
    }
    found
}

/// All listening sockets.
pub(crate) struct Listeners {
    running: BTreeMap<SocketAddr, (watch::Sender<Vec<Guest>>, JoinHandle<()>)>,
    refused: Counter,
}

impl Listeners {
    /// None yet. `refused` counts connections of strangers, and of peers with too many waiting.
    pub(crate) fn new(refused: Counter) -> Self {
        Self { running: BTreeMap::new(), refused }
    }

    /// Listen on these and no others; a socket that stays is not closed.
    pub(crate) fn apply(&mut self, desired: BTreeMap<SocketAddr, Vec<Guest>>) {
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

async fn listen(addr: SocketAddr, mut guests: watch::Receiver<Vec<Guest>>, refused: Counter) {
    let mut complained = false;
    let (listener, mut options) = loop {
        // The options first: a socket that listens before it checks answers whom it should not.
        let wanted = Options::of(&guests.borrow_and_update());
        match bind(addr, &wanted) {
            Ok(listener) => break (listener, wanted),
            Err(error) if complained => debug!(%addr, %error, "listen"),
            Err(error) => {
                complained = true;
                warn!(%addr, %error, "cannot listen for peers, trying again every second; sessions we open still work");
            }
        }
        tokio::time::sleep(BIND_RETRY).await;
    };
    info!(%addr, "listening for peers");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = guests.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = Options::of(&guests.borrow_and_update());
                if let Err(error) = wanted.change(&listener, addr, &options) {
                    warn!(%addr, %error, "change the options of the listening socket");
                }
                options = wanted;
                continue;
            }
        };
        match accepted {
            Ok((stream, from)) => {
                let guest = guest_of(&guests.borrow(), from).cloned();
                // A full queue of a peer counts like a stranger: dropping the stream closes it.
                if guest.is_none_or(|guest| !guest.door.pass(stream, from)) {
                    refused.add(1);
                    debug!(%from, "connection refused: no such peer, or too many waiting");
                }
            }
            Err(error) => {
                warn!(%addr, %error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a listening socket has for all its guests together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// By range; the accepted sockets inherit theirs.
    keys: BTreeMap<IpNet, Secret>,
    /// The TTL of the SYN-ACK.
    ttl: Option<u8>,
    /// What the most distant guest may have: a nearer one is checked again on its own connection.
    min_ttl: u8,
}

impl Options {
    fn of(guests: &[Guest]) -> Self {
        let keys = guests.iter().filter_map(|guest| Some((guest.range, guest.wishes.key.clone()?)));
        Self {
            keys: keys.collect(),
            ttl: guests.iter().filter_map(|guest| guest.wishes.ttl).max(),
            min_ttl: guests.iter().map(|guest| guest.wishes.min_ttl.unwrap_or(0)).min().unwrap_or(0),
        }
    }

    /// From what the socket has to this. All of it is tried; the first error is told.
    fn change(&self, socket: &TcpListener, addr: SocketAddr, before: &Self) -> io::Result<()> {
        let mut first = Ok(());
        let mut note = |result: io::Result<()>| {
            if first.is_ok() {
                first = result;
            }
        };
        for range in before.keys.keys().filter(|range| !self.keys.contains_key(range)) {
            note(sockopt::set_md5(socket, *range, None));
        }
        for (range, key) in self.keys.iter().filter(|(range, key)| before.keys.get(range) != Some(key)) {
            note(sockopt::set_md5(socket, *range, Some(key)));
        }
        if self.ttl != before.ttl {
            note(sockopt::set_ttl(socket, addr.is_ipv4(), self.ttl));
        }
        if self.min_ttl != before.min_ttl {
            note(sockopt::set_min_ttl(socket, addr.is_ipv4(), self.min_ttl));
        }
        first
    }
}

fn bind(addr: SocketAddr, options: &Options) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        // IPv4 peers have a socket of their own.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    for (range, key) in &options.keys {
        sockopt::set_md5(&socket, *range, Some(key))?;
    }
    if options.ttl.is_some() {
        sockopt::set_ttl(&socket, addr.is_ipv4(), options.ttl)?;
    }
    if options.min_ttl > 0 {
        sockopt::set_min_ttl(&socket, addr.is_ipv4(), options.min_ttl)?;
    }
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(range: &str, min_ttl: Option<u8>, key: Option<&str>) -> Guest {
        let wishes = Wishes { ttl: min_ttl.map(|_| 255), min_ttl, key: key.map(Secret::new) };
        Guest { range: range.parse().unwrap(), wishes, door: Door::Session(mpsc::channel(1).0) }
    }

    #[test]
    fn the_longest_prefix_says_who_calls() {
        let guests = [
            guest("10.0.0.0/8", None, None),
            guest("10.1.0.1/32", None, None),
            guest("10.1.0.0/16", None, None),
        ];
        let found =
            |from: &str| guest_of(&guests, from.parse().unwrap()).map(|guest| guest.range.to_string());
        assert_eq!(found("10.1.0.1:5").as_deref(), Some("10.1.0.1/32"));
        assert_eq!(found("10.1.0.2:5").as_deref(), Some("10.1.0.0/16"));
        assert_eq!(found("10.2.0.2:5").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(found("11.2.0.2:5"), None);
    }

    #[test]
    fn a_shared_socket_checks_no_more_than_its_most_distant_guest_bears() {
        let near = guest("10.0.0.1/32", Some(255), Some("a"));
        let options = Options::of(&[near.clone(), guest("10.0.0.2/32", Some(253), None)]);
        assert_eq!((options.min_ttl, options.ttl, options.keys.len()), (253, Some(255), 1));
        assert_eq!(Options::of(&[near, guest("10.0.0.3/32", None, None)]).min_ttl, 0);
    }
}
