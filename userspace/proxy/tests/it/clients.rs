//! Clients: one request per connection, or many on one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::subject::LIMIT;

pub(crate) type Answer = Response<Bytes>;

/// What went wrong, in words.
pub(crate) type Wrong = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct Client(http1::SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Result<Self, Wrong> {
        Self::over(TcpStream::connect(to).await?).await
    }

    /// From another loopback address, which makes it another client.
    pub(crate) async fn connect_from(from: IpAddr, to: SocketAddr) -> Result<Self, Wrong> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        Self::over(socket.connect(to).await?).await
    }

    pub(crate) async fn over<S>(stream: S) -> Result<Self, Wrong>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Wrong> {
        let exchange = async {
            self.0.ready().await?;
            let (parts, body) = self.0.send_request(request).await?.into_parts();
            Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
        };
        timeout(LIMIT, exchange).await?
    }

    pub(crate) async fn get(&mut self, target: &str) -> Result<Answer, Wrong> {
        self.send(get_request(target)).await
    }
}

pub(crate) fn get_request(target: &str) -> Request<Full<Bytes>> {
    Request::get(target).header("host", "test.example").body(Full::default()).unwrap()
}

/// One GET on a connection of its own.
pub(crate) async fn get(to: SocketAddr, target: &str) -> Answer {
    Client::connect(to).await.unwrap().get(target).await.unwrap()
}

/// One GET from another loopback address.
pub(crate) async fn get_from(from: IpAddr, to: SocketAddr, target: &str) -> Answer {
    Client::connect_from(from, to).await.unwrap().get(target).await.unwrap()
}

pub(crate) fn field<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

pub(crate) fn text(answer: &Answer) -> &str {
    std::str::from_utf8(answer.body()).unwrap()
}

/// Requests without end, on kept and on fresh connections, until told to stop; every answer but 200 is a failure.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Tally>>,
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) good: usize,
    pub(crate) failures: Vec<String>,
    /// The longest that an answer took.
    pub(crate) slowest: Duration,
}

impl Load {
    pub(crate) fn start(to: SocketAddr, workers: usize) -> Self {
        Self::of(to, "/", workers)
    }

    pub(crate) fn of(to: SocketAddr, target: &'static str, workers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let work = |worker: usize| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut tally = Tally::default();
                let mut kept: Option<Client> = None;
                while !stop.load(SeqCst) {
                    let began = Instant::now();
                    match one(&mut kept, to, target).await {
                        Ok(()) => tally.good += 1,
                        Err(error) => tally.failures.push(error.to_string()),
                    }
                    tally.slowest = tally.slowest.max(began.elapsed());
                    if worker.is_multiple_of(2) {
                        kept = None;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tally
            })
        };
        Self { workers: (0..workers).map(work).collect(), stop }
    }

    pub(crate) async fn finish(self) -> Tally {
        self.stop.store(true, SeqCst);
        let mut all = Tally::default();
        for worker in self.workers {
            let tally = worker.await.unwrap();
            all.good += tally.good;
            all.failures.extend(tally.failures);
            all.slowest = all.slowest.max(tally.slowest);
        }
        all
    }
}

async fn one(kept: &mut Option<Client>, to: SocketAddr, target: &str) -> Result<(), Wrong> {
    let mut client = match kept.take() {
        Some(client) => client,
        None => Client::connect(to).await?,
    };
    let answer = client.get(target).await?;
    if answer.status() != 200 {
        return Err(format!("{} {}", answer.status(), field(&answer, "weir-cause")).into());
    }
    // What a client that reads the response does: it does not use a connection that is about to be closed.
    if field(&answer, "connection") != "close" {
        *kept = Some(client);
    }
    Ok(())
}
