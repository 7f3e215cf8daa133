//! `weir-l4`'s side: registrations as they come.

use std::{io, os::fd::OwnedFd, path::Path};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot, watch},
};

use super::{MESSAGE_LEN_MAX, Registration, Reply};
use crate::{
    descriptors::{self, Received},
    inbox::{self, Bounds, Inbox},
    reactor::watched,
};

/// The running proxy, its successor, and tests.
const BOUNDS: Bounds = Bounds { connections: 16, queue: 16 };

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
    requests: Inbox<Request>,
    again: watch::Sender<()>,
}

impl Listener {
    /// Listens at `path`, in place of a process that died; one that lives is an error.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        inbox::claim(path).await?;
        let socket = seqpacket()?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(BOUNDS.connections as i32)?;
        let (again, asked) = watch::channel(());
        let serve = move |connection, requests| serve(connection, requests, asked.clone());
        let requests = Inbox::open(path, "steering", watched(socket)?, BOUNDS, serve);
        Ok(Self { requests, again })
    }

    /// Asks for all registrations once more.
    pub fn again(&self) {
        self.again.send_replace(());
    }

    /// The next registration. Cancel safe.
    pub async fn next(&mut self) -> Request {
        self.requests.next().await
    }
}

pub(super) fn seqpacket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn serve(
    connection: Socket,
    requests: mpsc::Sender<Request>,
    mut again: watch::Receiver<()>,
) -> io::Result<()> {
    connection.set_nonblocking(true)?;
    let connection = watched(connection)?;
    // Who comes now registers everything anyway.
    again.mark_unchanged();
    loop {
        let received = tokio::select! {
            received = connection.async_io(Interest::READABLE, |socket| descriptors::receive(socket, MESSAGE_LEN_MAX)) => {
                received?
            }
            // The listener is about to go when this fails, and the connection with it.
            Ok(()) = again.changed() => {
                say(&connection, &Reply::Again).await?;
                continue;
            }
        };
        let Some(Received { message, descriptors, .. }) = received else { return Ok(()) };
        let reply = match (serde_json::from_slice(&message), descriptors.into_iter().next()) {
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
        say(&connection, &reply).await?;
    }
}

async fn say(connection: &AsyncFd<Socket>, reply: &Reply) -> io::Result<()> {
    let text = serde_json::to_vec(reply).map_err(io::Error::other)?;
    connection.async_io(Interest::WRITABLE, |socket| socket.send(&text)).await?;
    Ok(())
}
