//! One request, from one of a zone's many client addresses. The thread that awaits it decides the namespace.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    backend::Greeting,
    topology::{HOST_NAME, VIP4, VIP6},
};

/// How long a request may take, from connecting to the last byte; then it counts as failed. A lost SYN costs 1 s, a
/// second one 3 s: longer than that a user does not wait.
pub(crate) const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer read, in bytes.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// How requests are encrypted, shared by all clients.
#[derive(Clone)]
pub(crate) struct Trust(TlsConnector);

impl Trust {
    /// Trusts exactly this certificate.
    pub(crate) fn only(certificate: CertificateDer<'static>) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Every request proves the whole handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// Byte streams with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open HTTP/1.1 connection.
pub(crate) type Sender = http1::SendRequest<Empty<Bytes>>;

/// Connects from `source` (port 0 for any) to the VIP of its family.
pub(crate) async fn connect(source: SocketAddr, tls: Option<&Trust>) -> Result<Box<dyn Stream>> {
    let stream = dial(source, if tls.is_some() { 443 } else { 80 }).await?;
    Ok(match tls {
        None => Box::new(stream),
        Some(trust) => {
            let name = ServerName::try_from(HOST_NAME).context("server name")?;
            Box::new(trust.0.connect(name, stream).await.context("TLS handshake")?)
        }
    })
}

/// A TCP connection from `source` to a port of the VIP of its family.
pub(crate) async fn dial(source: SocketAddr, port: u16) -> Result<TcpStream> {
    let vip = if source.is_ipv4() { IpAddr::V4(VIP4) } else { IpAddr::V6(VIP6) };
    let to = SocketAddr::new(vip, port);
    let domain = if source.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // The local route makes the whole prefix ours; IPv6 wants to be told so at the bind.
    if source.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    if source.port() != 0 {
        // A flow that is opened again and again: a reset at the end leaves no TIME-WAIT in the way.
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.bind(&source.into()).with_context(|| format!("bind {source}"))?;
    socket.set_tcp_nodelay(true)?;
    TcpSocket::from_std_stream(socket.into()).connect(to).await.with_context(|| format!("connect {to}"))
}

/// Begins HTTP/1.1 on a stream.
pub(crate) async fn begin(stream: Box<dyn Stream>) -> Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
    // Ends with the sender; an error reaches the request that waits.
    tokio::spawn(connection);
    Ok(sender)
}

/// A GET of `path`.
pub(crate) fn get(path: &str) -> Result<Request<Empty<Bytes>>> {
    Ok(Request::get(path).header(header::HOST, HOST_NAME).body(Empty::new())?)
}

/// Sends one GET and reads the greeting; any other answer is an error that says what came.
pub(crate) async fn ask(sender: &mut Sender, path: &str) -> Result<Greeting> {
    let response = sender.send_request(get(path)?).await.context("request")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("answer: {error}"))?.to_bytes();
    if status != hyper::StatusCode::OK {
        let said = String::from_utf8_lossy(&body[..body.len().min(80)]).trim().to_owned();
        bail!("status {} {said}", status.as_u16());
    }
    serde_json::from_slice(&body).context("answer is no greeting")
}

/// One request on a connection of its own.
pub(crate) async fn once(source: SocketAddr, tls: Option<&Trust>, path: &str) -> Result<Greeting> {
    let exchange = async {
        let mut sender = begin(connect(source, tls).await?).await?;
        ask(&mut sender, path).await
    };
    timeout(REQUEST_WITHIN, exchange)
        .await
        .unwrap_or_else(|_| bail!("no answer within {} s", REQUEST_WITHIN.as_secs()))
}
