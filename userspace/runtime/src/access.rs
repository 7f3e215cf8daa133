//! Entries of the moment in the access lists of a running `weir-l4`: a prefix is blocked for a while, without a file.
//!
//! One line of JSON for each [`Request`], answered by one for its [`Reply`], on a unix socket in the run directory. Whoever asks
//! is a program that saw too much from somewhere; what an operator wants stands in the configuration. The kernel itself ends
//! an entry, and a restart of `weir-l4` keeps it.

use std::{io, path::Path, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use weir_model::units;

use crate::inbox::{self, Bounds, Inbox};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "access.sock";
/// The longest time something is blocked for; what shall last stands in a file.
pub const BLOCK_MAX: Duration = Duration::from_secs(86_400);
/// Bytes of a reason, and of who gave it.
pub const TEXT_LEN_MAX: usize = 200;

/// Bytes of a message.
const MESSAGE_LEN_MAX: u64 = 1_024;
const BOUNDS: Bounds = Bounds { connections: 16, queue: 64 };
/// How long a connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Packets from a prefix are dropped at all VIPs, for a while. Again: for a while from now.
    Block {
        /// The sources.
        prefix: IpNet,
        /// For how long; at most [`BLOCK_MAX`].
        #[serde(with = "units::duration")]
        ttl: Duration,
        /// Why; at most [`TEXT_LEN_MAX`] bytes, as the next.
        reason: String,
        /// Who asks.
        from: String,
    },
    /// An entry of the moment goes before its time.
    Unblock {
        /// Its prefix.
        prefix: IpNet,
    },
}

impl Request {
    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        let (prefix, ttl, texts) = match self {
            Self::Block { prefix, ttl, reason, from } => (prefix, *ttl, [reason.as_str(), from]),
            Self::Unblock { prefix } => (prefix, BLOCK_MAX, [""; 2]),
        };
        if ttl.is_zero() || ttl > BLOCK_MAX {
            return Some(format!("from 1us to {}", units::duration::print(BLOCK_MAX)));
        }
        if prefix.trunc() != *prefix {
            return Some(format!("{prefix} has bits beyond its length: write {}", prefix.trunc()));
        }
        // One address, or the network of a site; a larger part of the Internet is an operator's decision.
        let shortest = if prefix.addr().is_ipv4() { 16 } else { 32 };
        if prefix.prefix_len() < shortest {
            return Some(format!("{prefix} is too much for the moment: at least /{shortest}"));
        }
        texts
            .iter()
            .any(|text| text.len() > TEXT_LEN_MAX)
            .then(|| format!("a text is longer than {TEXT_LEN_MAX}"))
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is in the kernel.
    Ok,
    /// It is not, and why.
    Error(String),
}

/// A request that wants an answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for; in bounds.
    pub request: Request,
    responder: oneshot::Sender<Reply>,
}

impl Asked {
    /// Answers.
    pub fn answer(self, reply: Reply) {
        // Whoever is gone needs no answer.
        let _gone = self.responder.send(reply);
    }
}

/// The listening side; dropping it stops accepting and removes the file.
pub struct Listener(Inbox<Asked>);

impl Listener {
    /// Listens at `path`, in place of a process that died; one that lives is an error.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        let listener = inbox::listen(path).await?;
        Ok(Self(Inbox::open(path, "access", listener, BOUNDS, serve)))
    }

    /// The next request. Cancel safe.
    pub async fn next(&mut self) -> Asked {
        self.0.next().await
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Asked>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        // Whoever says nothing leaves the connection to others.
        let Some(line) = timeout(IDLE_TIMEOUT, line(&mut stream)).await?? else { return Ok(()) };
        let reply = match serde_json::from_slice::<Request>(&line) {
            Err(error) => Reply::Error(format!("not a request: {error}")),
            Ok(request) => match request.problem() {
                Some(what) => Reply::Error(what),
                None => {
                    let (responder, answer) = oneshot::channel();
                    if requests.send(Asked { request, responder }).await.is_err() {
                        return Ok(());
                    }
                    answer.await.unwrap_or_else(|_| Reply::Error("was not answered".into()))
                }
            },
        };
        say(stream.get_mut(), &reply).await?;
    }
}

/// One line; `None` at the end of the connection.
async fn line(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(MESSAGE_LEN_MAX).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line too long, or cut")),
    }
}

async fn say(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(what).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

/// Asks the `weir-l4` that listens at `path`.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    let exchange = async {
        let mut stream = BufReader::new(UnixStream::connect(path).await?);
        say(stream.get_mut(), request).await?;
        let line = line(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        serde_json::from_slice(&line).map_err(io::Error::other)
    };
    timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(prefix: &str, ttl: Duration) -> Request {
        let prefix = prefix.parse().expect("prefix");
        Request::Block { prefix, ttl, reason: "too many requests".into(), from: "test".into() }
    }

    #[tokio::test]
    async fn requests_in_bounds_are_passed_on_and_others_refused() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join(SOCKET);
        let mut listener = Listener::bind(&path).await.expect("bound");
        assert!(Listener::bind(&path).await.is_err(), "a living socket was taken over");
        let minute = Duration::from_secs(60);
        for bad in [
            block("203.0.113.7/32", Duration::ZERO),
            block("203.0.113.7/32", BLOCK_MAX + minute),
            block("203.0.113.7/24", minute),
            block("0.0.0.0/0", minute),
            block("2001:db8::/31", minute),
            Request::Block {
                prefix: "203.0.113.7/32".parse().expect("prefix"),
                ttl: minute,
                reason: "x".repeat(TEXT_LEN_MAX + 1),
                from: String::new(),
            },
        ] {
            let reply = ask(&path, &bad).await.expect("an answer");
            assert!(matches!(reply, Reply::Error(_)), "{bad:?} was passed on");
        }
        let good = block("203.0.113.7/32", minute);
        let answer = async {
            let asked = listener.next().await;
            let request = asked.request.clone();
            asked.answer(Reply::Ok);
            request
        };
        let (reply, request) = tokio::join!(ask(&path, &good), answer);
        assert_eq!((reply.expect("an answer"), request), (Reply::Ok, good));
    }

    #[tokio::test]
    async fn a_line_too_long_ends_the_connection_and_hurts_nobody() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join(SOCKET);
        let _listener = Listener::bind(&path).await.expect("bound");
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        let _closed_meanwhile = stream.write_all(&[b'x'; 10_000]).await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        let reply = ask(&path, &block("10.0.0.0/8", BLOCK_MAX)).await.expect("an answer");
        assert!(matches!(reply, Reply::Error(_)));
    }
}
