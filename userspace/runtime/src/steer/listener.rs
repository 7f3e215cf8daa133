//! `weir-l4`'s side: registrations as they come.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, oneshot, watch},
};

use super::{MESSAGE_LEN_MAX, Registration, Reply};
use crate::inbox::{self, Bounds, Inbox};

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
            received = connection.async_io(Interest::READABLE, receive) => received?,
            // The listener is about to go when this fails, and the connection with it.
            Ok(()) = again.changed() => {
                say(&connection, &Reply::Again).await?;
                continue;
            }
        };
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
        say(&connection, &reply).await?;
    }
}

async fn say(connection: &AsyncFd<Socket>, reply: &Reply) -> io::Result<()> {
    let text = serde_json::to_vec(reply).map_err(io::Error::other)?;
    connection.async_io(Interest::WRITABLE, |socket| socket.send(&text)).await?;
    Ok(())
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
