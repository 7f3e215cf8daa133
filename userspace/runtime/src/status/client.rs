//! The side that asks: once, or following every change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, Parts},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::lines::{self, Lines};

/// Bytes of one answer.
const ANSWER_LEN_MAX: usize = lines::LEN_MAX;
/// How long an answer may take beyond the time it was asked to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question may take, with its answer: both limits of the other side, and a little.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(21);

/// Why a status could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody listens.
    #[error("connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The exchange broke off.
    #[error("ask {path}: {source}")]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It took too long.
    #[error("{path} did not answer in time")]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// Another status code than 200.
    #[error("{path} answered {status}")]
    Status {
        /// The socket.
        path: PathBuf,
        /// The code.
        status: StatusCode,
    },
    /// It answers, and the answer is no.
    #[error("{what}")]
    Refused {
        /// Why.
        what: String,
    },
    /// The answer is not what it should be.
    #[error("{path} answered something else than expected: {source}")]
    Decode {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// What a follower has seen.
#[derive(Debug)]
pub struct Seen<T> {
    /// The last status, also when the daemon is gone; `None` before the first.
    pub value: Option<Arc<T>>,
    /// Whether the daemon answers now.
    pub live: bool,
    /// Since when it does or does not.
    pub since: Instant,
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), live: self.live, since: self.since }
    }
}

/// The status of the daemon that listens at `path`.
pub async fn fetch<T: DeserializeOwned>(path: &Path) -> Result<T, FetchError> {
    let body = get(path, "/status").await?;
    serde_json::from_slice(&body).map_err(|source| FetchError::Decode { path: path.to_owned(), source })
}

/// The body of any page of the daemon that listens at `path`.
pub async fn get(path: &Path, page: &str) -> Result<Bytes, FetchError> {
    let exchange = async { Connection::open(path).await?.get(page).await };
    let answer = timeout(ANSWER_TIMEOUT, exchange).await;
    let (status, body) = answer.map_err(|_| FetchError::Timeout { path: path.to_owned() })??;
    if status == StatusCode::OK {
        Ok(body)
    } else {
        Err(FetchError::Status { path: path.to_owned(), status })
    }
}

/// Posts a question to a page of the daemon that listens at `path`; [`FetchError::Refused`] is its no.
pub async fn ask(path: &Path, page: &str, question: impl Into<Bytes>) -> Result<Bytes, FetchError> {
    let request = Request::post(page).body(Full::new(question.into()));
    let exchange = async { Connection::open(path).await?.send(request).await };
    let answer = timeout(QUESTION_TIMEOUT, exchange).await;
    let (status, body) = answer.map_err(|_| FetchError::Timeout { path: path.to_owned() })??;
    match status {
        StatusCode::OK => Ok(body),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            Err(FetchError::Status { path: path.to_owned(), status })
        }
        _ => Err(FetchError::Refused { what: String::from_utf8_lossy(&body).trim_end().to_owned() }),
    }
}

/// Follows a daemon's status: each change arrives within milliseconds; while it is gone, tries again every `retry`.
///
/// Ends when the receiver is dropped.
pub fn follow<T>(path: &Path, retry: Duration) -> watch::Receiver<Seen<T>>
where
    T: DeserializeOwned + Send + Sync + 'static,
{
    let path = path.to_owned();
    let (sender, receiver) = watch::channel(Seen { value: None, live: false, since: Instant::now() });
    tokio::spawn(async move {
        let rounds = async {
            loop {
                let error = follow_once(&path, &sender).await;
                sender.send_if_modified(|seen| {
                    let was_live = seen.live;
                    if was_live {
                        tracing::warn!("status lost: {error}");
                        (seen.live, seen.since) = (false, Instant::now());
                    }
                    was_live
                });
                sleep(retry).await;
            }
        };
        tokio::select! {
            () = rounds => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// Follows over one connection until it breaks; returns why.
async fn follow_once<T: DeserializeOwned>(path: &Path, sender: &watch::Sender<Seen<T>>) -> FetchError {
    let late = || FetchError::Timeout { path: path.to_owned() };
    let begin = async { Connection::open(path).await?.follow().await };
    let mut lines = match timeout(ANSWER_TIMEOUT, begin).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(error)) => return error,
        Err(_) => return late(),
    };
    loop {
        let line = match timeout(lines::BEAT + ANSWER_TIMEOUT, lines.newest()).await {
            Ok(Ok(line)) => line,
            Ok(Err(source)) => return FetchError::Exchange { path: path.to_owned(), source: source.into() },
            Err(_) => return late(),
        };
        if line.is_empty() {
            continue;
        }
        let value = match serde_json::from_slice(&line) {
            Ok(value) => Arc::new(value),
            Err(source) => return FetchError::Decode { path: path.to_owned(), source },
        };
        sender.send_modify(|seen| {
            let since = if seen.live { seen.since } else { Instant::now() };
            *seen = Seen { value: Some(value), live: true, since };
        });
    }
}

struct Connection {
    path: PathBuf,
    sender: http1::SendRequest<Full<Bytes>>,
    /// Ends with the socket, when that speaks HTTP no more.
    task: JoinHandle<hyper::Result<Parts<TokioIo<UnixStream>>>>,
}

impl Connection {
    async fn open(path: &Path) -> Result<Self, FetchError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| FetchError::Connect { path: path.to_owned(), source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| FetchError::Exchange { path: path.to_owned(), source: source.into() })?;
        let task = tokio::spawn(connection.without_shutdown());
        Ok(Self { path: path.to_owned(), sender, task })
    }

    async fn get(&mut self, page: &str) -> Result<(StatusCode, Bytes), FetchError> {
        self.send(Request::get(page).body(Full::default())).await
    }

    /// Asks for every status from now on.
    async fn follow(mut self) -> Result<Lines<UnixStream>, FetchError> {
        let request = Request::get("/status")
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, lines::PROTOCOL)
            .body(Full::default());
        let (status, _) = self.send(request).await?;
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(FetchError::Status { path: self.path, status });
        }
        let ended = self.task.await.map_err(Into::into).and_then(|parts| parts.map_err(Into::into));
        let parts = ended.map_err(|source| FetchError::Exchange { path: self.path, source })?;
        Ok(Lines::new(parts.io.into_inner(), parts.read_buf))
    }

    async fn send(
        &mut self,
        request: Result<Request<Full<Bytes>>, hyper::http::Error>,
    ) -> Result<(StatusCode, Bytes), FetchError> {
        let path = self.path.clone();
        let exchange = async {
            let mut request = request?;
            request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LEN_MAX).collect().await?.to_bytes();
            Ok((status, body))
        };
        exchange.await.map_err(|source| FetchError::Exchange { path, source })
    }
}
