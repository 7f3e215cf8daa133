//! Sockets of our own making in the runtime's reactor.

use std::io;

use socket2::Socket;
use tokio::io::unix::AsyncFd;

/// The socket, known to the runtime's reactor; it must not block.
#[allow(unsafe_code)]
pub fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor and always returns the same one, and `AsyncFd` owns the `Socket`.
    Ok(unsafe { AsyncFd::register(socket) }?)
}
