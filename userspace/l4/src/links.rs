//! Tells when an interface changes: the kernel says so by netlink, on a socket of its own.

use std::io;

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::{MulticastGroup, new_multicast_connection};

/// Events of interfaces.
pub(crate) struct Links {
    events: Box<dyn Stream<Item = ()> + Send + Unpin>,
}

impl Links {
    /// Begins to listen; must be called inside a runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, _, messages) = new_multicast_connection(&[MulticastGroup::Link])?;
        tokio::spawn(connection);
        Ok(Self { events: Box::new(messages.map(drop)) })
    }

    /// Waits until some interface changed; many changes at once are one. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.events.next().await.is_none() {
            // The socket is gone: whoever looks regularly still sees.
            std::future::pending::<()>().await;
        }
        while self.events.next().now_or_never().flatten().is_some() {}
    }
}
