//! Backends: small HTTP servers that say who they are, and can die and return at the same address.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use socket2::{SockFilter, SockRef};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    task: Option<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// How long an answer to `/slow` takes.
    pub(crate) delay_ms: AtomicU64,
    /// Connections accepted so far.
    pub(crate) accepted: AtomicUsize,
    /// The status of every answer but those to health checks; 0 for 200.
    pub(crate) status: AtomicU16,
    /// What health checks are told, in place of their request.
    pub(crate) health: Mutex<Option<String>>,
    /// Requests other than health checks.
    pub(crate) requests: AtomicUsize,
}

impl Server {
    pub(crate) async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self {
            name: name.into(),
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            task: None,
        };
        server.serve(listener);
        server
    }

    /// Closes the socket and every connection, in the middle of whatever they do.
    pub(crate) async fn kill(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    pub(crate) async fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    /// From now on its host drops what is sent to open connections.
    pub(crate) async fn become_a_black_hole(&mut self) {
        self.kill().await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        // BPF: keep 0 bytes of each segment, that is, none of them.
        SockRef::from(&socket).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]).unwrap();
        let listener = socket.listen(16).unwrap();
        self.task = Some(tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(listener);
        }));
    }

    /// From now on it takes connections and requests, and says nothing.
    pub(crate) async fn fall_silent(&mut self) {
        self.kill().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.task = Some(tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        }));
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(SeqCst)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (name, state) = (self.name.clone(), Arc::clone(&self.state));
        self.task = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                state.accepted.fetch_add(1, SeqCst);
                let (name, state) = (name.clone(), Arc::clone(&state));
                connections.spawn(async move {
                    let service = service_fn(|request| answer(name.clone(), Arc::clone(&state), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        }));
    }
}

/// The head of the request and its body come back as the body of the response.
async fn answer(
    name: String,
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (field, value) in request.headers() {
        text.push_str(&format!("{field}: {}\n", value.to_str().unwrap()));
    }
    let path = request.uri().path().to_owned();
    let mut status = 200;
    if path != "/health" {
        state.requests.fetch_add(1, SeqCst);
        status = state.status.load(SeqCst).max(status);
    } else if let Some(health) = &*state.health.lock().unwrap() {
        text.clone_from(health);
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&body));
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(state.delay_ms.load(SeqCst))).await;
    }
    let response = Response::builder()
        .status(status)
        .header("x-served-by", name)
        .header("connection", "x-internal")
        .header("x-internal", "secret")
        .body(Full::new(text.into()));
    Ok(response.unwrap())
}
