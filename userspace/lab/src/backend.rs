//! The backends: HTTP servers that say who they are. They live in this process, their sockets in their namespaces.
//!
//! `GET /` answers with a [`Greeting`]; `/healthz` with 200; `/stream?ms=N` with an endless sequence of numbered lines,
//! one every N ms, for connections that must live long. Anything may be asked with any method.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, StatusCode, body::Frame, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    netns::{NetNs, Resident},
    topology::{BACKEND_PORT, Host, zone_name},
};

/// Connections a backend serves at once; more wait in the listening queue.
const CONNECTIONS_MAX: usize = 4_096;

/// What a backend says of itself and of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// Its name.
    pub(crate) server: String,
    /// Its zone.
    pub(crate) zone: String,
    /// The address the request came from: the proxy's own.
    pub(crate) peer: IpAddr,
    /// The client, as the proxy says.
    pub(crate) client: Option<String>,
    /// The scheme the client used, as the proxy says.
    pub(crate) scheme: Option<String>,
    /// Host field.
    pub(crate) host: Option<String>,
    /// Path and query.
    pub(crate) path: String,
}

/// One backend.
pub(crate) struct Backend {
    host: Host,
    resident: Resident,
    state: Arc<State>,
    serving: Option<(watch::Sender<bool>, tokio::task::JoinHandle<()>)>,
}

struct State {
    host: Host,
    requests: AtomicU64,
    sick: AtomicBool,
}

impl Backend {
    /// Starts it in `namespace`.
    pub(crate) async fn start(host: Host, namespace: &NetNs) -> Result<Self> {
        let state = Arc::new(State { host, requests: AtomicU64::new(0), sick: AtomicBool::new(false) });
        let resident = Resident::start(namespace)?;
        let mut backend = Self { host, resident, state, serving: None };
        backend.serve().await?;
        Ok(backend)
    }

    /// Who it is.
    pub(crate) fn host(&self) -> Host {
        self.host
    }

    /// Whether it listens.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.is_some()
    }

    /// Requests answered, health checks not counted.
    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Makes it answer everything, health checks too, with 500 (a bad rollout), or no longer.
    pub(crate) fn set_sick(&self, sick: bool) {
        self.state.sick.store(sick, Ordering::Relaxed);
    }

    /// Opens its port, unless it is open.
    pub(crate) async fn serve(&mut self) -> Result<()> {
        if self.serving.is_some() {
            return Ok(());
        }
        let (stop, stopped) = watch::channel(false);
        let state = self.state.clone();
        let (ready, listening) = tokio::sync::oneshot::channel();
        let task = self.resident.spawn(async move {
            match listen() {
                Ok(listener) => {
                    let _ = ready.send(Ok(()));
                    accept(listener, state, stopped).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        listening
            .await
            .context("the backend's thread died")?
            .with_context(|| format!("start {}", self.host))?;
        self.serving = Some((stop, task));
        Ok(())
    }

    /// Dies as a process does: its connections end, new ones are refused.
    pub(crate) async fn crash(&mut self) {
        if let Some((stop, task)) = self.serving.take() {
            let _ = stop.send(true);
            let _ = task.await;
        }
    }
}

fn listen() -> Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, BACKEND_PORT)).into())?;
    socket.listen(1024)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn accept(listener: TcpListener, state: Arc<State>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            _ = stopped.changed() => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, peer)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let state = state.clone();
                connections.spawn(async move {
                    let answer = service_fn(|request| answer(request, peer.ip().to_canonical(), &state));
                    // A peer that hangs up ends the connection with an error; that is its right.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<hyper::body::Incoming>,
    peer: IpAddr,
    state: &State,
) -> Result<Response<Body>, Infallible> {
    if state.sick.load(Ordering::Relaxed) {
        return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "sick\n".into()));
    }
    let path = request.uri().path().to_owned();
    if path == "/healthz" {
        return Ok(text(StatusCode::OK, "ok\n".into()));
    }
    state.requests.fetch_add(1, Ordering::Relaxed);
    if path == "/stream" {
        let query = request.uri().query().unwrap_or("");
        let every = query.strip_prefix("ms=").and_then(|ms| ms.parse().ok()).unwrap_or(100);
        return Ok(stream(state.host, Duration::from_millis(every)));
    }
    let field = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).map(std::borrow::ToOwned::to_owned)
    };
    let greeting = Greeting {
        server: state.host.to_string(),
        zone: zone_name(state.host.zone),
        peer,
        client: field("x-forwarded-for"),
        scheme: field("x-forwarded-proto"),
        host: field("host"),
        path: request.uri().to_string(),
    };
    // A body is read to its end: an answer before that would make the proxy close the connection.
    let _ = request.into_body().collect().await;
    let mut response = text(StatusCode::OK, serde_json::to_vec(&greeting).unwrap_or_default().into());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn text(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// Numbered lines, each with the server's name, until the client has enough.
fn stream(host: Host, every: Duration) -> Response<Body> {
    let lines = futures_util::stream::unfold(0u64, move |number| async move {
        if number > 0 {
            tokio::time::sleep(every).await;
        }
        let line = Bytes::from(format!("{number} {host}\n"));
        Some((Ok(Frame::data(line)), number + 1))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
}
