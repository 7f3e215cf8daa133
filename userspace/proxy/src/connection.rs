//! One connection of a client: TLS, then HTTP/1.1 or HTTP/2, until it closes or is asked to.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use weir_core::{
    proxy_protocol::{Addresses, Tlvs},
    request_id::Names,
};
use weir_model::ListenerProtocol;

use crate::{
    access_log::AccessLog,
    exchange::{Account, Exchange},
    h1, h2,
    ledger::Ledger,
    limits::{PROXY_HEADER_TIMEOUT, SELF_CHECK_LINGER},
    listener::{Crowd, ListenerState},
    live::random,
    passthrough,
    proxy_header::{self, NoHeader},
    self_check::Knocks,
    tables::{Now, Tables},
    tcp,
};

/// What every connection needs.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) tables: Arc<ArcSwap<Tables>>,
    pub(crate) ledger: Ledger,
    pub(crate) log: AccessLog,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) phase: AtomicPhase,
    /// Checks of the listeners that the proxy itself has under way.
    pub(crate) knocks: Arc<Knocks>,
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not at all.
    #[default]
    Running,
    /// Still accepts, but says that it will go.
    Draining,
    /// Accepts no more; connections end with the request they are at.
    Stopping,
}

/// The phase, as all threads see it.
#[derive(Debug, Default)]
pub(crate) struct AtomicPhase(AtomicU8);

impl AtomicPhase {
    pub(crate) fn set(&self, phase: Phase) {
        self.0.store(phase as u8, SeqCst);
    }

    pub(crate) fn get(&self) -> Phase {
        let at = |phase| phase as u8 == self.0.load(SeqCst);
        [Phase::Running, Phase::Draining].into_iter().find(|phase| at(*phase)).unwrap_or(Phase::Stopping)
    }
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
    /// The client has shown a certificate that the listener believes.
    pub(crate) has_certificate: bool,
    /// The proxy itself is the client, to see whether it answers.
    is_own: bool,
    /// What is known of the client beyond its addresses: said in front of the connection, or in its handshake.
    pub(crate) said: Option<Box<Tlvs>>,
    /// A request has come.
    pub(crate) has_asked: AtomicBool,
    /// Held while the connection is open; the one who stops the process waits for all of them.
    _alive: mpsc::Sender<Infallible>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.listener.live.close_one();
    }
}

impl Connection {
    /// The caller has counted the connection as open on the listener.
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        listener: Arc<ListenerState>,
        client: SocketAddr,
        local: SocketAddr,
        alive: mpsc::Sender<Infallible>,
    ) -> Self {
        let tls = listener.spec.protocol == ListenerProtocol::Https;
        let is_own = listener.spec.vip.is_some() && proxy.knocks.knows(client);
        Self {
            proxy,
            listener,
            client,
            local,
            tls,
            has_certificate: false,
            is_own,
            said: None,
            has_asked: AtomicBool::new(false),
            _alive: alive,
        }
    }

    /// Begins to account for a request.
    pub(crate) fn begin(&self, protocol: &'static str) -> Account<&Self> {
        Account::begin(self, protocol)
    }

    /// The tables that a request on it is served by.
    pub(crate) fn tables(&self) -> Now {
        self.listener.tables(Now::load(&self.proxy.tables))
    }

    /// What a request with these fields is called; the exchange is told.
    pub(crate) fn names<'f>(
        &self,
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
        exchange: &mut Exchange,
    ) -> Names {
        let unix_ms = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| since.as_millis() as u64)
        };
        let spec = &self.listener.spec;
        let names = Names::of((spec.request_id, spec.trace), fields, unix_ms, random);
        exchange.id.clone_from(&names.id);
        names
    }

    /// Whether no further request is welcome.
    pub(crate) fn is_ending(&self) -> bool {
        self.proxy.phase.get() != Phase::Running || self.is_stopping()
    }

    /// Whether it must end with the request it is at.
    pub(crate) fn is_stopping(&self) -> bool {
        self.listener.ending.is_asked()
    }

    /// Answers a check of our own by telling it that it has arrived; it then ends the connection.
    async fn let_go(&self, mut stream: TcpStream) {
        self.proxy.knocks.arrived(self.client);
        // Whichever way it ends.
        let _ = timeout(SELF_CHECK_LINGER, stream.read(&mut [0])).await;
    }

    /// Whether the client is a check of our own, which is told that it has arrived.
    pub(crate) fn answers_itself(&self) -> bool {
        if self.is_own {
            self.proxy.knocks.arrived(self.client);
        }
        self.is_own
    }

    /// Serves until the end.
    pub(crate) fn serve(self, stream: TcpStream) {
        let from = &self.listener.spec.proxy_protocol_from;
        if from.is_empty() || self.is_own {
            return self.serve_client(stream);
        }
        let peer = self.client.ip().to_canonical();
        if from.iter().any(|prefix| prefix.contains(&peer)) {
            drop(tokio::spawn(self.serve_introduced(stream)));
        } else {
            self.serve_client(stream);
        }
    }

    /// Serves a client that somebody else speaks for first.
    async fn serve_introduced(mut self, stream: TcpStream) {
        let header = match timeout(PROXY_HEADER_TIMEOUT, proxy_header::read(&stream)).await {
            Ok(Ok(header)) => header,
            Ok(Err(NoHeader::Silent)) => return,
            Ok(Err(why)) => {
                self.listener.live.bad_headers.add(1);
                tracing::debug!(peer = %self.client, "{why}");
                return;
            }
            Err(_) => return self.listener.live.bad_headers.add(1),
        };
        if let Some(Addresses { source, destination }) = header.addresses {
            (self.client, self.local) = (source, destination);
        }
        if header.tlvs != Tlvs::default() {
            self.said = Some(Box::new(header.tlvs));
        }
        self.serve_client(stream);
    }

    /// Serves in a task that is no larger than its protocol needs.
    fn serve_client(self, stream: TcpStream) {
        match (self.listener.spec.protocol, &self.listener.tls) {
            (ListenerProtocol::Tcp | ListenerProtocol::TlsPassthrough, _) => {
                drop(tokio::spawn(self.serve_bytes(stream)));
            }
            (ListenerProtocol::Https, Some(terms)) => {
                // We show ourselves no certificate.
                let config = if self.is_own { &terms.own } else { &terms.clients };
                let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
                drop(tokio::spawn(self.serve_tls(handshake)));
            }
            (ListenerProtocol::Https | ListenerProtocol::Http, _) => self.serve_http1(stream),
        }
    }

    /// Notes what the client has said in its handshake, if there is a server that is told.
    pub(crate) fn note_handshake(&mut self, name: Option<&str>, alpn: Option<&[u8]>) {
        let tables = self.tables();
        if tables.listeners.get(&self.listener.name).is_some_and(|listener| listener.tells_servers) {
            let said = self.said.get_or_insert_default();
            said.authority = name.map(Into::into).or(said.authority.take());
            said.alpn = alpn.map(Into::into).or(said.alpn.take());
        }
    }

    async fn serve_bytes(mut self, stream: TcpStream) {
        match self.listener.spec.protocol {
            _ if self.is_own => self.let_go(stream).await,
            ListenerProtocol::TlsPassthrough => passthrough::relay(&mut self, stream).await,
            _ => tcp::relay(&self, stream).await,
        }
    }

    async fn serve_tls(mut self, handshake: tokio_rustls::Accept<TcpStream>) {
        match timeout(self.listener.spec.header_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let session = stream.get_ref().1;
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                self.has_certificate = session.peer_certificates().is_some();
                self.note_handshake(session.server_name(), session.alpn_protocol());
                if is_http2 {
                    Box::pin(h2::serve(self, h1::Buffer::default(), stream)).await;
                } else {
                    self.serve_http1(stream);
                }
            }
            Ok(Err(error)) => {
                self.listener.live.handshake_failures.add(1);
                tracing::debug!(client = %self.client, "tls handshake: {error}");
            }
            Err(_) => self.listener.live.handshake_failures.add(1),
        }
    }

    /// HTTP/1.1, unless the first bytes say that it is HTTP/2. In a task of its own, without the room a handshake took.
    fn serve_http1<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http1 = h1::Http1::new(self, stream);
        tokio::spawn(async move {
            if let h1::Ended::Http2 = http1.serve().await {
                let (connection, came, stream) = http1.into_parts();
                Box::pin(h2::serve(connection, came, stream)).await;
            }
        });
    }
}
