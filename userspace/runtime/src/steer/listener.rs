//! `weir-l4`'s side: registrations as they come.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::unix::AsyncFd,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};

use super::{MESSAGE_LEN_MAX, Registration, Reply};

/// Proxies connected at once: the running one, its successor, and tests.
const CONNECTIONS_MAX: usize = 16;
/// Registrations that wait for the daemon; the proxies then wait too.
const QUEUE_MAX: usize = 16;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A registration that wants an answer.
#[derive(Debug)]
pub struct Request {
    /// What is to be steered.
    pub registration: Registration,
    /// The listening (or UDP) socket to steer to.
    pub socket: OwnedFd,
    responder: oneshot::Sender<Reply>,
}

impl Request {
    /// Tells the proxy.
    pub fn answer(self, reply: Reply) {
        // A proxy that is gone needs no answer.
        let _gone = self.responder.send(reply);
    }
}

/// The listening side; dropping it stops accepting and removes the file.
pub struct Listener {
    path: PathBuf,
    requests: mpsc::Receiver<Request>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        let _gone_is_fine = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Listens at `path`, in place of a process that died; one that lives is an error.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let address = SockAddr::unix(path)?;
        let alive = seqpacket()?.connect(&address);
        match alive {
            Ok(()) => {
                let what = format!("{} is in use by another process", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => std::fs::remove_file(path)?,
        }
        let socket = seqpacket()?;
        socket.bind(&address)?;
        socket.listen(CONNECTIONS_MAX as i32)?;
        let socket = watched(socket)?;
        let (sender, requests) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            // Connections end with the listener.
            let mut connections = JoinSet::new();
            while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                let accepted = socket.async_io(tokio::io::Interest::READABLE, |socket| socket.accept()).await;
                let connection = accepted.and_then(|(connection, _)| {
                    connection.set_nonblocking(true)?;
                    watched(connection)
                });
                while connections.try_join_next().is_some() {}
                match connection {
                    Ok(connection) => {
                        let sender = sender.clone();
                        connections.spawn(async move {
                            if let Err(error) = serve(&connection, &sender).await {
                                tracing::debug!("steer connection: {error}");
                            }
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!("accept on the steer socket: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(Self { path: path.to_owned(), requests, task })
    }

    /// The next registration. Cancel safe.
    pub async fn next(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            // The accepting task holds a sender for as long as we live.
            None => std::future::pending().await,
        }
    }
}

pub(super) fn seqpacket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn serve(connection: &AsyncFd<Socket>, requests: &mpsc::Sender<Request>) -> io::Result<()> {
    loop {
        let received = connection.async_io(tokio::io::Interest::READABLE, receive).await?;
        let Some((message, socket)) = received else { return Ok(()) };
        let reply = match (serde_json::from_slice(&message), socket) {
            (Err(error), _) => Reply::Error(format!("not a registration: {error}")),
            (Ok(_), None) => Reply::Error("no socket came along".into()),
            (Ok(registration), Some(socket)) => {
                let (responder, answer) = oneshot::channel();
                if requests.send(Request { registration, socket, responder }).await.is_err() {
                    return Ok(());
                }
                answer.await.unwrap_or_else(|_| Reply::Error("was not answered".into()))
            }
        };
        let text = serde_json::to_vec(&reply).map_err(io::Error::other)?;
        connection.async_io(tokio::io::Interest::WRITABLE, |socket| socket.send(&text)).await?;
    }
}

/// One message with the first descriptor that came along; `None` at the end of the connection.
fn receive(socket: &Socket) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut message = vec![0; MESSAGE_LEN_MAX];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let (len, sockets) = {
        let mut parts = [IoSliceMut::new(&mut message)];
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut sockets = Vec::new();
        for part in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                sockets.extend(raw.into_iter().map(own));
            }
        }
        (received.bytes, sockets)
    };
    if len == 0 {
        return Ok(None);
    }
    message.truncate(len);
    Ok(Some((message, sockets.into_iter().next())))
}

/// The socket, known to the runtime's reactor.
#[allow(unsafe_code)]
pub(super) fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor and always returns the same one, and `AsyncFd` owns the `Socket`.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

#[allow(unsafe_code)]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us by SCM_RIGHTS; nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
