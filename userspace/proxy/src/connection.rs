//! One connection of a client: TLS, then HTTP/1.1 or HTTP/2, until it closes or is asked to.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use weir_model::{ListenerProtocol, Name};

use crate::{
    body::ResponseBody,
    exchange::{Exchange, Ledger},
    limits::{
        CLIENT_KEEPALIVE, HANDSHAKE_TIMEOUT, HEAD_LEN_MAX, HEAD_TIMEOUT, HEADERS_MAX, LAST_CALL,
        PING_INTERVAL, SELF_CHECK_LINGER, STREAMS_MAX,
    },
    listen::ListenerState,
    request,
    self_check::Knocks,
    tables::Tables,
    tcp,
    upstream::keep_alive,
};

/// What every connection needs.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) phase: watch::Receiver<Phase>,
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

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) client: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
    /// The proxy itself is the client, to see whether it answers.
    is_own: bool,
    requests: AtomicU64,
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
        Self { proxy, listener, client, local, tls, is_own, requests: AtomicU64::new(0), _alive: alive }
    }

    /// Begins to account for a request.
    pub(crate) fn begin(&self, protocol: &'static str) -> Exchange {
        self.requests.fetch_add(1, Relaxed);
        self.listener.live.requests.fetch_add(1, Relaxed);
        Exchange::begin(&self.proxy.ledger, &self.listener.name, self.client, self.local, protocol, self.tls)
    }

    /// Whether no further request is welcome.
    pub(crate) fn is_ending(&self) -> bool {
        *self.proxy.phase.borrow() != Phase::Running || *self.listener.retired.borrow()
    }

    /// The home zone of everybody who comes by this VIP.
    pub(crate) fn vip_home<'a>(&self, tables: &'a Tables) -> Option<&'a Name> {
        let vip = self.listener.spec.vip.as_ref()?;
        tables.snapshot.vips.get(vip)?.home_zone.as_ref()
    }

    /// Waits until the process stops or the listener is gone.
    pub(crate) async fn asked_to_end(&self) {
        let mut phase = self.proxy.phase.clone();
        let mut retired = self.listener.retired.subscribe();
        // A sender that is gone means the end as well.
        tokio::select! {
            _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {}
            _ = retired.wait_for(|retired| *retired) => {}
        }
    }

    /// Answers a check of our own by telling it that it has arrived; it then ends the connection.
    async fn let_go(&self, mut stream: TcpStream) {
        self.proxy.knocks.arrived(self.client);
        // Whichever way it ends.
        let _ = timeout(SELF_CHECK_LINGER, stream.read(&mut [0])).await;
    }

    /// Answers one request: of a client, or of a check of our own.
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<ResponseBody> {
        if !self.is_own {
            return request::serve(self, request).await;
        }
        self.proxy.knocks.arrived(self.client);
        let mut response = Response::new(ResponseBody::none());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }

    /// Serves until the end.
    pub(crate) async fn run(self, stream: TcpStream) {
        let _best_effort = stream.set_nodelay(true);
        let _best_effort = keep_alive(&stream, CLIENT_KEEPALIVE);
        match (self.listener.spec.protocol, &self.listener.tls) {
            (ListenerProtocol::Tcp, _) if self.is_own => self.let_go(stream).await,
            (ListenerProtocol::Tcp, _) => tcp::relay(&self, stream).await,
            (ListenerProtocol::Https, Some(config)) => {
                let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
                match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                    Ok(Ok(stream)) => {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        let version = if is_http2 { HttpVersion::Two } else { HttpVersion::One };
                        self.serve_http(stream, version).await;
                    }
                    Ok(Err(error)) => {
                        self.listener.live.handshake_failures.add(1);
                        tracing::debug!(client = %self.client, "tls handshake: {error}");
                    }
                    Err(_) => self.listener.live.handshake_failures.add(1),
                }
            }
            (ListenerProtocol::Https | ListenerProtocol::Http, _) => {
                self.serve_http(stream, HttpVersion::ByPreface).await;
            }
        }
    }

    async fn serve_http<S>(self, stream: S, version: HttpVersion)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let this = Arc::new(self);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_LEN_MAX)
            .max_headers(HEADERS_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_LEN_MAX as u32)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_INTERVAL);
        let builder = match version {
            HttpVersion::ByPreface => builder,
            HttpVersion::One => builder.http1_only(),
            HttpVersion::Two => builder.http2_only(),
        };
        let service = {
            let this = Arc::clone(&this);
            service_fn(move |request| {
                let this = Arc::clone(&this);
                async move { Ok::<_, Infallible>(this.answer(request).await) }
            })
        };
        let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(served);
        let began = Instant::now();
        let silent = || this.requests.load(Relaxed) == 0;
        let ending = async {
            this.asked_to_end().await;
            let last_call = Instant::now() + LAST_CALL;
            while silent() && Instant::now() < last_call {
                sleep(LAST_CALL / 10).await;
            }
        };
        tokio::pin!(ending);
        let mut asked = false;
        let mut first_due = true;
        loop {
            tokio::select! {
                result = served.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(client = %this.client, "connection: {error}");
                    }
                    return;
                }
                () = &mut ending, if !asked => {
                    asked = true;
                    // HTTP/1.1: closes after the response under way. HTTP/2: GOAWAY.
                    served.as_mut().graceful_shutdown();
                }
                () = sleep_until(began + HANDSHAKE_TIMEOUT), if first_due => {
                    first_due = false;
                    if silent() {
                        return;
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum HttpVersion {
    ByPreface,
    One,
    Two,
}
