//! One connection of a peer: what waits to be written, and how it ends.

use socket2::SockRef;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;
use weir_bgp::ConnId;

use crate::sockopt::{self, Wishes};

/// A connection and the bytes that wait for it.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) out: Vec<u8>,
    /// The session has closed it: write what is left, then wait for the other side until then.
    pub(super) closing: Option<Instant>,
    pub(super) shut: bool,
}

impl Conn {
    pub(super) fn new(id: ConnId, stream: TcpStream) -> Self {
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

/// What a connection has to say.
pub(super) enum Io {
    Read(usize),
    Wrote,
    Gone(String),
}

/// The next thing any connection has to say, and which. Cancel safe.
pub(super) async fn next_io(conns: &mut [Conn], buffer: &mut [u8]) -> (usize, Io) {
    poll_fn(|cx| {
        for (index, conn) in conns.iter_mut().enumerate() {
            if let Poll::Ready(io) = conn.poll(cx, buffer) {
                return Poll::Ready((index, io));
            }
        }
        Poll::Pending
    })
    .await
}
/// A connection to a peer, from an address of ours if that is said.
pub(super) async fn connect(
    local: Option<IpAddr>,
    remote: SocketAddr,
    wishes: Wishes,
) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    sockopt::apply(&socket, remote.ip(), &wishes)?;
    if let Some(local) = local {
        socket
            .bind(SocketAddr::new(local, 0))
            .map_err(|error| io::Error::new(error.kind(), format!("speak from {local}: {error}")))?;
    }
    socket.connect(remote).await
}
