//! The proxy's side: keeps every wanted socket registered, across restarts of `weir-l4`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::{SockAddr, Socket};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::{sleep, timeout},
};

use super::{MESSAGE_LEN_MAX, Registration, Reply, listener::seqpacket};
use crate::{descriptors, reactor::watched};

/// Time between attempts to connect, and to register again what was refused.
const RETRY: Duration = Duration::from_millis(100);
/// How long `weir-l4` may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A socket to register.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is steered to it.
    pub registration: Registration,
    /// A duplicate of its descriptor, held open only as long as the entry is wanted.
    pub socket: Arc<OwnedFd>,
}

/// What became of each registration: `Ok`, or why not (yet).
pub type Registered = BTreeMap<Registration, Result<(), String>>;

/// Keeps sockets registered.
pub struct Client {
    wanted: watch::Sender<Vec<Entry>>,
    registered: watch::Receiver<Registered>,
}

impl Client {
    /// Starts the task that connects to `path`; it ends when the client is dropped.
    pub fn start(path: &Path) -> Self {
        let (wanted, mut entries) = watch::channel(Vec::new());
        let (sender, registered) = watch::channel(Registered::new());
        let path = path.to_owned();
        tokio::spawn(async move {
            let client = async {
                loop {
                    let error = Session { path: &path, entries: &mut entries, sender: &sender }.run().await;
                    let what = format!("{}: {error}", path.display());
                    sender.send_if_modified(|registered| {
                        let mut changed = false;
                        for result in registered.values_mut().filter(|result| result.is_ok()) {
                            (*result, changed) = (Err(what.clone()), true);
                        }
                        if changed {
                            tracing::warn!("steering lost: {what}");
                        }
                        changed
                    });
                    sleep(RETRY).await;
                }
            };
            tokio::select! {
                () = client => {}
                () = sender.closed() => {}
            }
        });
        Self { wanted, registered }
    }

    /// Replaces the sockets that are wanted.
    pub fn want(&self, entries: Vec<Entry>) {
        self.wanted.send_replace(entries);
    }

    /// What became of them.
    pub fn registered(&self) -> watch::Receiver<Registered> {
        self.registered.clone()
    }
}

struct Session<'a> {
    path: &'a PathBuf,
    entries: &'a mut watch::Receiver<Vec<Entry>>,
    sender: &'a watch::Sender<Registered>,
}

impl Session<'_> {
    /// Registers over one connection until it breaks; returns why.
    async fn run(&mut self) -> io::Error {
        let connection = match connect(self.path) {
            Ok(connection) => connection,
            Err(error) => {
                self.note_unreachable(&error);
                return error;
            }
        };
        // Sockets this connection has registered; entries hold their descriptors open, so a number is not reused.
        let mut done = BTreeSet::new();
        loop {
            let entries = self.entries.borrow_and_update().clone();
            let key = |entry: &Entry| (entry.registration.clone(), entry.socket.as_raw_fd());
            done.retain(|known| entries.iter().any(|entry| key(entry) == *known));
            self.forget_unwanted(&entries);
            let (mut refused, mut again) = (false, false);
            for entry in &entries {
                if done.contains(&key(entry)) {
                    continue;
                }
                let (result, is_once_more) = match timeout(ANSWER_TIMEOUT, register(&connection, entry)).await
                {
                    Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "no answer"),
                    Ok(Err(error)) => return error,
                    Ok(Ok(answered)) => answered,
                };
                if result.is_ok() {
                    done.insert(key(entry));
                }
                again |= is_once_more;
                refused |= result.is_err();
                self.note(&entry.registration, result);
            }
            if again {
                done.clear();
                continue;
            }
            tokio::select! {
                changed = self.entries.changed() => {
                    if changed.is_err() {
                        // The client is gone; its task is about to be too.
                        return std::future::pending().await;
                    }
                }
                () = sleep(RETRY), if refused => {}
                unasked = reply(&connection) => match unasked {
                    Ok(Reply::Again) => done.clear(),
                    Ok(_) => return io::Error::other("an answer nobody asked for"),
                    Err(error) => return error,
                },
            }
        }
    }

    fn note(&self, registration: &Registration, result: Result<(), String>) {
        self.sender.send_if_modified(|registered| {
            if registered.get(registration) == Some(&result) {
                return false;
            }
            match &result {
                Ok(()) => tracing::info!("{} {} is steered here", registration.address, registration.service),
                Err(what) => {
                    tracing::warn!(
                        "{} {} is not steered: {what}",
                        registration.address,
                        registration.service
                    );
                }
            }
            registered.insert(registration.clone(), result);
            true
        });
    }

    fn note_unreachable(&self, error: &io::Error) {
        for entry in self.entries.borrow().iter() {
            self.note(&entry.registration, Err(format!("{}: {error}", self.path.display())));
        }
    }

    fn forget_unwanted(&self, entries: &[Entry]) {
        self.sender.send_if_modified(|registered| {
            let before = registered.len();
            registered.retain(|known, _| entries.iter().any(|entry| entry.registration == *known));
            registered.len() != before
        });
    }
}

fn connect(path: &Path) -> io::Result<AsyncFd<Socket>> {
    let socket = seqpacket()?;
    // Connecting a unix socket does not wait: it succeeds, or the queue is full (EAGAIN), or nobody is there.
    socket.connect(&SockAddr::unix(path)?)?;
    watched(socket)
}

/// What became of a registration, and whether meanwhile all were asked for once more.
async fn register(connection: &AsyncFd<Socket>, entry: &Entry) -> io::Result<(Result<(), String>, bool)> {
    let message = serde_json::to_vec(&entry.registration).map_err(io::Error::other)?;
    let send = |socket: &Socket| descriptors::send(socket, &message, &[entry.socket.as_fd()]);
    connection.async_io(Interest::WRITABLE, send).await?;
    let mut again = false;
    loop {
        match reply(connection).await? {
            Reply::Ok => return Ok((Ok(()), again)),
            Reply::Error(what) => return Ok((Err(what), again)),
            Reply::Again => again = true,
        }
    }
}

/// The next message; an error when the other side is gone. Cancel safe.
async fn reply(connection: &AsyncFd<Socket>) -> io::Result<Reply> {
    let mut reply = vec![0; MESSAGE_LEN_MAX];
    let len = connection.async_io(Interest::READABLE, |socket| read(socket, &mut reply)).await?;
    if len == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    serde_json::from_slice(&reply[..len]).map_err(io::Error::other)
}

fn read(socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
    let mut socket = socket;
    io::Read::read(&mut socket, into)
}
