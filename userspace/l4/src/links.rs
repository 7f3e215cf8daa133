//! The interfaces: what their MTUs mean for tunnels, and when they change. The kernel says so by netlink, on a socket of its
//! own.

use std::io;

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use weir_abi::gue::OVERHEAD_V4_LEN_BYTES;
use weir_model::status::InterfaceStatus;

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

/// What tunnels have to fit into where the routing table does not say: the smallest MTU. Generic XDP sees packets the kernel
/// has put together, larger than any MTU and cut up again later: there it is 0, and not looked at.
pub(crate) fn tunnel_mtu(interfaces: &[InterfaceStatus]) -> u32 {
    let is_generic = interfaces.iter().any(|interface| interface.mode == "generic");
    let smallest = interfaces.iter().map(|interface| interface.mtu).min().unwrap_or_default();
    if is_generic { 0 } else { smallest }
}

/// Says it aloud where full-size packets do not fit.
pub(crate) fn warn_of_mtu(interface: &InterfaceStatus) {
    // Clients send up to 1,500 bytes; the tunnel must fit in front of them.
    let needed = 1500 + OVERHEAD_V4_LEN_BYTES;
    if interface.mtu < needed {
        tracing::warn!(
            interface = interface.name,
            mtu = interface.mtu,
            "MTU is below {needed}: full-size packets cannot be tunnelled to other proxies"
        );
    }
}
