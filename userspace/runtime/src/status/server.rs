//! The side that answers.

use std::{
    convert::Infallible,
    io,
    marker::PhantomData,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::lines::{self, PROTOCOL};
use crate::{
    inbox::{self, Accept},
    metrics::Registry,
};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Questions of one page that wait for the daemon; more are told so, and ask again.
const QUESTIONS_MAX: usize = 4;
/// How long a client may take to send its question, and the daemon to answer it.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the daemon wants new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Ok,
    /// Not yet: it cannot serve before something else has happened.
    Starting,
    /// No: it finishes what it has.
    Draining,
}

/// Where the daemon puts its status.
pub struct Publisher<T> {
    /// A line of JSON.
    sender: watch::Sender<Bytes>,
    of: PhantomData<fn(T)>,
}

/// Where requests find it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed {
    receiver: watch::Receiver<Bytes>,
}

/// A publisher that has published `initial`, and its feed.
pub fn publisher<T: Serialize>(initial: &T) -> (Publisher<T>, Feed) {
    let (sender, receiver) = watch::channel(render(initial));
    (Publisher { sender, of: PhantomData }, Feed { receiver })
}

impl<T: Serialize> Publisher<T> {
    /// Publishes `status`; followers are woken only when it differs from the last.
    pub fn publish(&self, status: &T) {
        let line = render(status);
        self.sender.send_if_modified(|published| {
            let changed = *published != line;
            if changed {
                *published = line;
            }
            changed
        });
    }
}

fn render<T: Serialize>(status: &T) -> Bytes {
    // Our own status types have string keys and no failing serialisers; an error shows in the answer.
    let mut line = serde_json::to_vec(status)
        .unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()).into());
    line.push(b'\n');
    line.into()
}

/// What was posted to a page, and wants an answer. Only over unix sockets, which file permissions guard.
#[derive(Debug)]
pub struct Question {
    /// What was posted, in bounds.
    pub body: Bytes,
    /// The user who asks, where the kernel knows.
    pub user: Option<u32>,
    responder: oneshot::Sender<Result<Bytes, String>>,
}

impl Question {
    /// Answers with a document, or says why not.
    pub fn answer(self, answer: Result<impl Into<Bytes>, String>) {
        // Whoever is gone needs no answer.
        let _gone = self.responder.send(answer.map(Into::into));
    }
}

/// The two ends of a short queue of questions.
pub fn questions() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(QUESTIONS_MAX)
}

/// A page that takes questions.
#[derive(Clone)]
struct Page {
    path: &'static str,
    len_max_bytes: usize,
    questions: mpsc::Sender<Question>,
    /// One question is received at a time: they may be large.
    receiving: Arc<Semaphore>,
}

/// What a server offers.
#[derive(Clone)]
pub struct Site {
    /// `/status`; absent on sockets that only say whether they are healthy.
    pub feed: Option<Feed>,
    /// `/metrics`.
    pub registry: Option<Registry>,
    /// `/healthz`, given the request's query.
    pub health: Arc<dyn Fn(&str) -> Health + Send + Sync>,
    /// What may be asked of the daemon.
    pages: Vec<Page>,
}

impl Site {
    /// Everything.
    pub fn new(feed: Feed, registry: Registry, health: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        Self { feed: Some(feed), registry: Some(registry), ..Self::health_only(move |_| health()) }
    }

    /// `/healthz`, given the request's query.
    pub fn health_only(health: impl Fn(&str) -> Health + Send + Sync + 'static) -> Self {
        Self { feed: None, registry: None, health: Arc::new(health), pages: Vec::new() }
    }

    /// Takes what is posted to `path`, of so many bytes at most, as questions for the other end of `questions`; over unix sockets
    /// only.
    pub fn ask_at(&mut self, path: &'static str, len_max_bytes: usize, questions: mpsc::Sender<Question>) {
        let receiving = Arc::new(Semaphore::new(1));
        self.pages.push(Page { path, len_max_bytes, questions, receiving });
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        user: Option<u32>,
        follows: &AtomicBool,
    ) -> Response<Full<Bytes>> {
        if request.method() == Method::POST
            && let Some(page) = self.pages.iter().find(|page| page.path == request.uri().path())
        {
            return page.answer(request.into_body(), user).await;
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n");
        }
        match (request.uri().path(), &self.feed, &self.registry) {
            ("/healthz", ..) => match (self.health)(request.uri().query().unwrap_or("")) {
                Health::Ok => plain(StatusCode::OK, "ok\n"),
                Health::Starting => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
                Health::Draining => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            },
            ("/status", Some(_), _)
                if request.headers().get(header::UPGRADE).is_some_and(|to| to == PROTOCOL) =>
            {
                follows.store(true, Relaxed);
                let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, header::HeaderValue::from_static(PROTOCOL));
                response
            }
            ("/status", Some(feed), _) => {
                let mut response = Response::new(Full::new(feed.receiver.borrow().clone()));
                let kind = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            ("/metrics", _, Some(registry)) => {
                let mut response = plain(StatusCode::OK, registry.render());
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            _ => plain(StatusCode::NOT_FOUND, "no such page: /status, /metrics or /healthz\n"),
        }
    }
}

impl Page {
    async fn answer(&self, body: Incoming, user: Option<u32>) -> Response<Full<Bytes>> {
        let receive = async {
            let _turn = self.receiving.acquire().await;
            Limited::new(body, self.len_max_bytes).collect().await
        };
        let Ok(body) = timeout(QUESTION_TIMEOUT, receive).await else {
            return plain(StatusCode::REQUEST_TIMEOUT, "the question took too long to come\n");
        };
        let Ok(body) = body else {
            let what = format!("a question of more than {} bytes, or a broken one\n", self.len_max_bytes);
            return plain(StatusCode::PAYLOAD_TOO_LARGE, what);
        };
        let (responder, answer) = oneshot::channel();
        let question = Question { body: body.to_bytes(), user, responder };
        if self.questions.try_send(question).is_err() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many questions, or nobody to answer them\n");
        }
        match timeout(QUESTION_TIMEOUT, answer).await {
            Ok(Ok(Ok(document))) => Response::new(Full::new(document)),
            Ok(Ok(Err(why))) => plain(StatusCode::CONFLICT, why),
            Ok(Err(_)) | Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "it was not answered\n"),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

/// A status socket; dropping it stops serving and removes the file, if it still is this one's.
pub struct UnixServer {
    path: PathBuf,
    /// Where it is bound until it takes its place.
    beside: Option<PathBuf>,
    file: FileId,
    task: tokio::task::JoinHandle<()>,
}

/// Device and number of a file.
type FileId = Option<(u64, u64)>;

impl UnixServer {
    /// Takes the place of a process that serves there now, and does not notice.
    pub fn take_place(&mut self) -> io::Result<()> {
        if let Some(beside) = &self.beside {
            std::fs::rename(beside, &self.path)?;
            self.beside = None;
        }
        Ok(())
    }
}

impl Drop for UnixServer {
    fn drop(&mut self) {
        self.task.abort();
        let path = self.beside.as_ref().unwrap_or(&self.path);
        // A successor may have taken the place.
        if file_id(path) == self.file {
            let _gone_is_fine = std::fs::remove_file(path);
        }
    }
}

fn file_id(path: &Path) -> FileId {
    let found = std::fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Serves on a unix socket. A file left by a process that died is replaced; one that somebody listens on is an error.
pub async fn serve_unix(path: &Path, site: Site) -> io::Result<UnixServer> {
    let listener = inbox::listen(path).await?;
    let task = tokio::spawn(serve_all(listener, site));
    Ok(UnixServer { path: path.to_owned(), beside: None, file: file_id(path), task })
}

/// The same for the successor of a process that may live: under a name beside it until [`UnixServer::take_place`].
pub async fn serve_unix_next(path: &Path, site: Site) -> io::Result<UnixServer> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(name);
    let listener = inbox::listen(&beside).await?;
    let task = tokio::spawn(serve_all(listener, site));
    Ok(UnixServer { path: path.to_owned(), file: file_id(&beside), beside: Some(beside), task })
}

/// Serves on a TCP socket; connections end when the future is dropped.
pub async fn serve_tcp(listener: TcpListener, mut site: Site) {
    // Whoever reaches an address may look, and no more.
    site.pages.clear();
    serve_all(listener, site).await;
}

async fn serve_all<A>(listener: A, site: Site)
where
    A: Accept<Connection: AsyncRead + AsyncWrite + Unpin>,
{
    inbox::accept_all("status", listener, CONNECTIONS_MAX, |stream| {
        let user = A::user(&stream);
        serve_connection(stream, user, site.clone())
    })
    .await;
}

async fn serve_connection<S>(stream: S, user: Option<u32>, site: Site)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let follows = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request| {
        let (site, follows) = (site.clone(), Arc::clone(&follows));
        async move { Ok::<_, Infallible>(site.answer(request, user, &follows).await) }
    });
    // What a client does wrong on its own connection concerns nobody else.
    let closed = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .without_shutdown()
        .await;
    if let (Ok(parts), true, Some(feed)) = (closed, follows.load(Relaxed), &site.feed) {
        let _gone = lines::write(parts.io.into_inner(), feed.receiver.clone()).await;
    }
}
