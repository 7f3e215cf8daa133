//! The way to a server: TCP, and TLS on it where the pool wants that.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use crate::{
    connection::Connection, dial::connect, errors::Failure, live::Slot, tables::PoolTable, tls::ServerTerms,
};

/// A connection to a server.
#[derive(Debug)]
pub(crate) enum ServerStream {
    /// In the clear.
    Plain(TcpStream),
    /// Boxed, since it is large, and most are not.
    Tls(Box<TlsStream<TcpStream>>),
}

impl ServerStream {
    /// Connects to the server of a slot, to speak HTTP or, for a client that does not, whatever it says; TCP and the handshake together
    /// take no longer than `connect_timeout`.
    pub(crate) async fn open(slot: &Slot, pool: &PoolTable, client: &Connection) -> Result<Self, Failure> {
        let deadline = Instant::now() + pool.spec.connect_timeout;
        let stream = connect(slot, &pool.spec, client).await?;
        let Some(tls) = &pool.tls else { return Ok(Self::Plain(stream)) };
        let server = slot.server.address;
        let handshake = async {
            match client.listener.spec.protocol.is_http() {
                true => tls.handshake(stream, server).await,
                false => tls.handshake_for_bytes(stream, server).await,
            }
        };
        match timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => Ok(Self::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(Failure::Tls(error)),
            Err(_) => Err(Failure::ConnectTimeout),
        }
    }

    /// Whether nothing was said unasked, nor the connection closed.
    pub(crate) fn is_silent(&mut self) -> bool {
        match self {
            Self::Plain(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            // What TLS says for itself (tickets) is taken in on the way.
            Self::Tls(stream) => {
                let mut byte = [0];
                let mut room = ReadBuf::new(&mut byte);
                let mut cx = Context::from_waker(Waker::noop());
                Pin::new(&mut **stream).poll_read(&mut cx, &mut room).is_pending()
            }
        }
    }
}

/// Whether a connection made on these terms may still be used on those.
pub(crate) fn same_terms(one: Option<&Arc<ServerTerms>>, other: Option<&Arc<ServerTerms>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
