//! Connections to servers: from which address, with which options, and which words before the first.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};
use weir_core::proxy_protocol::{self, Addresses};
use weir_model::{Pool, Problem, SendProxy, Snapshot, Source};

use crate::{
    alarm::timeout, connection::Connection, errors::Failure, limits::UNACKNOWLEDGED_FACTOR, live::Slot,
};

/// A TCP connection to the server of a slot on behalf of a client, of whom the server is told if the pool wants that.
pub(crate) async fn connect(slot: &Slot, pool: &Pool, client: &Connection) -> Result<TcpStream, Failure> {
    let connecting = async {
        let server = slot.server.address;
        let mut stream = socket(server, pool, client.client.ip())?.connect(server).await?;
        if let Some(version) = pool.send_proxy {
            stream.write_all(&header(version, client)).await?;
        }
        Ok(stream)
    };
    match timeout(pool.connect_timeout, connecting).await {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => Err(Failure::Connect(error)),
        None => Err(Failure::ConnectTimeout),
    }
}

/// A socket that may connect to `server`.
fn socket(server: SocketAddr, pool: &Pool, client: IpAddr) -> io::Result<TcpSocket> {
    let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let client = client.to_canonical();
    match pool.source {
        Some(Source::Address(from)) if from.is_ipv4() == server.is_ipv4() => bind(&socket, from)?,
        Some(Source::Client) if client.is_ipv4() == server.is_ipv4() => {
            be_transparent(&socket, client)?;
            bind(&socket, client)?;
        }
        _ => {}
    }
    // None of these is worth a connection.
    let _best_effort = set_options(&socket, pool);
    Ok(socket)
}

/// To an address, and to a port only when it is known to whom: then as many connections as there are ports go to each server, and
/// not to all of them together.
fn bind(socket: &TcpSocket, from: IpAddr) -> io::Result<()> {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(from, 0))
}

/// Lets a socket have an address that is not the host's.
fn be_transparent(socket: &TcpSocket, address: IpAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if address.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

fn set_options(socket: &TcpSocket, pool: &Pool) -> io::Result<()> {
    // Small writes (the head of a request, then its body) must not wait for each other.
    socket.set_nodelay(true)?;
    let limit = pool.tcp.user_timeout.unwrap_or(pool.connect_timeout * UNACKNOWLEDGED_FACTOR);
    let socket_ref = SockRef::from(socket);
    socket_ref.set_tcp_user_timeout(Some(limit))?;
    // How many probes may be lost need not be said: with the option above, it is time that ends a connection.
    let interval = pool.tcp.keep_alive;
    socket_ref.set_tcp_keepalive(&TcpKeepalive::new().with_time(interval).with_interval(interval))?;
    if pool.tcp.fast_open {
        setsockopt(socket, sockopt::TcpFastOpenConnect, &true)?;
    }
    Ok(())
}

/// Says who the client is.
fn header(version: SendProxy, client: &Connection) -> Vec<u8> {
    let mut tlvs = client.said.as_deref().cloned().unwrap_or_default();
    tlvs.is_tls |= client.tls;
    let mut header = Vec::new();
    let addresses = Addresses { source: client.client, destination: client.local };
    proxy_protocol::write(&mut header, version.into(), Some(addresses), &tlvs);
    header
}

/// What of the sources of connections this host does not allow.
pub(crate) fn problems(snapshot: &Snapshot) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, pool) in &snapshot.pools {
        let (tried, hint) = match pool.source {
            None => continue,
            Some(Source::Client) => {
                (try_transparent(), "give the process CAP_NET_ADMIN, or name an address of the host")
            }
            Some(Source::Address(address)) => (try_address(address), "name an address of this host"),
        };
        if let Err(error) = tried {
            problems.push(Problem {
                file: "weir-proxy".into(),
                line: 0,
                path: format!("pool.{name}.source"),
                what: format!("connections cannot come from there: {error}"),
                hint: hint.into(),
            });
        }
    }
    problems
}

fn try_transparent() -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    SockRef::from(&socket).set_ip_transparent_v4(true)
}

fn try_address(address: IpAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    bind(&socket, address)
}
