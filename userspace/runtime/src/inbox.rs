//! Sockets of a daemon: so many connections at once, and what comes over them in one bounded queue.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use socket2::Socket;
use tokio::{
    io::unix::AsyncFd,
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// Pause after a failed accept: what fails once, for want of descriptors say, fails again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is asked over a socket file; dropping it ends all connections and removes the file.
pub(crate) struct Inbox<R> {
    path: PathBuf,
    asked: mpsc::Receiver<R>,
    task: tokio::task::JoinHandle<()>,
}

/// How much may wait.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections served at once; others wait to be accepted.
    pub(crate) connections: usize,
    /// What has been asked and not taken; those who ask then wait too.
    pub(crate) queue: usize,
}

impl<R: Send + 'static> Inbox<R> {
    /// Serves each connection of a listener at `path`; `serve` passes on what is asked. `what` names the socket in logs.
    pub(crate) fn open<A: Accept, S>(
        path: &Path,
        what: &'static str,
        listener: A,
        bounds: Bounds,
        serve: impl Fn(A::Connection, mpsc::Sender<R>) -> S + Send + 'static,
    ) -> Self
    where
        S: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (sender, asked) = mpsc::channel(bounds.queue);
        let task = tokio::spawn(accept_all(what, listener, bounds.connections, move |connection| {
            let served = serve(connection, sender.clone());
            async move {
                if let Err(error) = served.await {
                    tracing::debug!("{what} connection: {error}");
                }
            }
        }));
        Self { path: path.to_owned(), asked, task }
    }

    /// The next that is asked. Cancel safe.
    pub(crate) async fn next(&mut self) -> R {
        match self.asked.recv().await {
            Some(asked) => asked,
            // The accepting task holds a sender for as long as we live.
            None => std::future::pending().await,
        }
    }
}

impl<R> Drop for Inbox<R> {
    fn drop(&mut self) {
        self.task.abort();
        let _gone_is_fine = std::fs::remove_file(&self.path);
    }
}

/// Serves connections, at most `max` at once; they end when the future is dropped.
pub(crate) async fn accept_all<A: Accept, S>(
    what: &'static str,
    listener: A,
    max: usize,
    serve: impl Fn(A::Connection) -> S,
) where
    S: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(max));
    let mut connections = JoinSet::new();
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept_one().await {
            Ok(connection) => {
                let served = serve(connection);
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("accept on the {what} socket: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Listeners, whatever the socket.
pub(crate) trait Accept: Send + Sync + 'static {
    /// What comes of one.
    type Connection: Send + 'static;

    /// The next connection.
    fn accept_one(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// The user at the other end, where the kernel knows.
    fn user(_: &Self::Connection) -> Option<u32> {
        None
    }
}

impl Accept for UnixListener {
    type Connection = UnixStream;

    async fn accept_one(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }

    fn user(connection: &UnixStream) -> Option<u32> {
        connection.peer_cred().ok().map(|credentials| credentials.uid())
    }
}

impl Accept for TcpListener {
    type Connection = TcpStream;

    async fn accept_one(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

/// Of a kind the runtime has no listener for.
impl Accept for AsyncFd<Socket> {
    type Connection = Socket;

    async fn accept_one(&self) -> io::Result<Socket> {
        let (connection, _) = self.async_io(tokio::io::Interest::READABLE, Socket::accept).await?;
        Ok(connection)
    }
}

/// Listens at `path`, in place of a process that died; one that lives is an error.
pub(crate) async fn listen(path: &Path) -> io::Result<UnixListener> {
    claim(path).await?;
    UnixListener::bind(path)
}

/// Makes `path` free to bind, unless a living process answers on it.
pub(crate) async fn claim(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let in_use = || {
        io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use by another process", path.display()))
    };
    match UnixStream::connect(path).await {
        Ok(_) => Err(in_use()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // EPROTOTYPE: somebody listens with another type of socket.
        Err(error) if error.raw_os_error() == Some(nix::libc::EPROTOTYPE) => Err(in_use()),
        Err(_) => std::fs::remove_file(path),
    }
}
