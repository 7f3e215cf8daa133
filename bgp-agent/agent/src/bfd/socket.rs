//! UDP sockets of BFD, and waiting for them. No protocol in here.

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use weir_bfd::{Arrival, Endpoint, Hops, MULTIHOP_PORT, SINGLE_HOP_PORT, SOURCE_PORTS, TTL};

/// Octets taken of a datagram: the length field of a packet cannot say more than 255.
const DATAGRAM_MAX: usize = 512;

/// CS6, network control: RFC 2474; routers that drop anything drop this last.
const TRAFFIC_CLASS: u32 = 0xc0;

/// Source ports that are tried for a session; in 16,384 a free one is found sooner.
const PORT_TRIES: u32 = 64;

/// Where packets for us arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Local {
    pub(crate) address: IpAddr,
    pub(crate) scope_id: u32,
    pub(crate) hops: Hops,
}

impl Local {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self { address: endpoint.local, scope_id: endpoint.scope_id, hops: endpoint.hops }
    }
}

pub(crate) fn port(hops: Hops) -> u16 {
    match hops {
        Hops::Single => SINGLE_HOP_PORT,
        Hops::Multi => MULTIHOP_PORT,
    }
}

pub(crate) fn socket_addr(address: IpAddr, port: u16, scope_id: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(address) => SocketAddrV6::new(address, port, 0, scope_id).into(),
    }
}

/// A socket that takes the packets of all sessions of one address and port.
#[derive(Debug)]
pub(crate) struct Receiver {
    local: Local,
    socket: UdpSocket,
    control: Vec<u8>,
}

impl Receiver {
    pub(crate) fn open(local: Local) -> io::Result<Self> {
        let addr = socket_addr(local.address, port(local.hops), local.scope_id);
        let socket = open(addr)?;
        if addr.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        }
        socket.bind(&addr.into())?;
        Ok(Self { local, socket: socket.into(), control: cmsg_space!(i32) })
    }

    /// The next packet; `None` when none waits. An error of the socket counts as none: it is that of an earlier packet.
    pub(crate) fn receive(&mut self) -> Option<(Arrival, Vec<u8>)> {
        let mut buffer = [0; DATAGRAM_MAX];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let (len, from, ttl) = {
            let message = recvmsg::<SockaddrStorage>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut self.control),
                MsgFlags::MSG_DONTWAIT,
            )
            .ok()?;
            let ttl = message.cmsgs().ok().and_then(|mut messages| {
                messages.find_map(|message| match message {
                    ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                        u8::try_from(ttl).ok()
                    }
                    _ => None,
                })
            });
            (message.bytes, message.address?, ttl)
        };
        let (remote, scope_id) = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
            (Some(from), _) => (IpAddr::V4(from.ip()), 0),
            (_, Some(from)) => (IpAddr::V6(from.ip()), from.scope_id()),
            (None, None) => return None,
        };
        let endpoint = Endpoint { local: self.local.address, remote, scope_id, hops: self.local.hops };
        Some((Arrival { endpoint, ttl }, buffer[..len].to_vec()))
    }
}

/// The sending side of one session. RFC 5881 §4: "The same UDP source port number MUST be used for all BFD Control packets
/// associated with a particular session."
#[derive(Debug)]
pub(crate) struct Sender {
    socket: UdpSocket,
    remote: SocketAddr,
    /// The source port; no other session has it.
    pub(crate) port: u16,
}

impl Sender {
    /// `random` chooses the source port; those in `taken` are left alone.
    pub(crate) fn open(endpoint: &Endpoint, taken: &BTreeSet<u16>, random: u32) -> io::Result<Self> {
        let remote = socket_addr(endpoint.remote, port(endpoint.hops), endpoint.scope_id);
        let socket = open(remote)?;
        if remote.is_ipv4() {
            socket.set_ttl_v4(TTL.into())?;
            socket.set_tos_v4(TRAFFIC_CLASS)?;
        } else {
            socket.set_unicast_hops_v6(TTL.into())?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
        }
        let span = u32::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
        let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..PORT_TRIES {
            // Fits: it is less than the span.
            let port = SOURCE_PORTS.start() + (random.wrapping_add(attempt) % span) as u16;
            if taken.contains(&port) {
                continue;
            }
            match socket.bind(&socket_addr(endpoint.local, port, endpoint.scope_id).into()) {
                Ok(()) => return Ok(Self { socket: socket.into(), remote, port }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    pub(crate) fn send(&self, payload: &[u8]) -> io::Result<()> {
        self.socket.send_to(payload, self.remote).map(drop)
    }
}

/// The address the kernel would speak from.
pub(crate) fn local_towards(remote: IpAddr, scope_id: u32) -> io::Result<IpAddr> {
    let addr = socket_addr(remote, SINGLE_HOP_PORT, scope_id);
    let socket: UdpSocket = open(addr)?.into();
    socket.connect(addr)?;
    Ok(socket.local_addr()?.ip())
}

fn open(like: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(like), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if like.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Wakes the engine from another thread.
#[derive(Debug)]
pub(crate) struct Wake(Option<EventFd>);

impl Wake {
    /// Without a descriptor left the engine looks every second.
    pub(crate) fn new() -> Self {
        Self(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).ok())
    }

    pub(crate) fn wake(&self) {
        if let Some(event) = &self.0 {
            let _full_is_awake = event.write(1);
        }
    }

    fn clear(&self) {
        if let Some(event) = &self.0 {
            let _empty_is_fine = event.read();
        }
    }
}

/// Wait until a receiver has a packet, somebody wakes us, or the time is over.
pub(crate) fn wait<'a>(wake: &Wake, receivers: impl Iterator<Item = &'a Receiver>, timeout: Duration) {
    let mut fds: Vec<PollFd<'_>> =
        receivers.map(|receiver| PollFd::new(receiver.socket.as_fd(), PollFlags::POLLIN)).collect();
    if let Some(event) = &wake.0 {
        fds.push(PollFd::new(event.as_fd(), PollFlags::POLLIN));
    }
    // Milliseconds, as poll(2) has them, would be a tenth of the fastest interval.
    let _interrupted_is_awake = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None);
    wake.clear();
}
