//! Words to the service manager: datagrams to the socket that `NOTIFY_SOCKET` names. `sd_notify(3)`.

use std::{io, os::fd::BorrowedFd, time::Duration};

use socket2::{Domain, SockAddr, Socket, Type};
use weir_runtime::descriptors;

/// How long its queue may be full.
const FULL_MAX: Duration = Duration::from_secs(1);

/// Where it listens.
#[derive(Clone, Debug)]
pub(crate) struct Notify(SockAddr);

impl Notify {
    /// Where the environment says; `None` when there is no service manager that wants to hear anything.
    pub(crate) fn from_env() -> Option<Self> {
        let name = std::env::var("NOTIFY_SOCKET").ok()?;
        // Abstract names are written with an at sign.
        let name = name.strip_prefix('@').map_or_else(|| name.clone(), |rest| format!("\0{rest}"));
        SockAddr::unix(name).ok().map(Self)
    }

    /// Sends one message, with descriptors beside it.
    pub(crate) fn send(&self, message: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        // A new socket each time: the service manager may have been started anew.
        let socket = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
        socket.set_write_timeout(Some(FULL_MAX))?;
        socket.connect(&self.0)?;
        descriptors::send(&socket, message.as_bytes(), sockets)
    }
}
