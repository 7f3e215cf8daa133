//! The `local` routes that make the kernel accept packets for VIPs and answer from them (AnyIP).
//!
//! They carry a routing protocol number of their own: that is how they are found again, and how nobody else's are touched.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    link::{LinkAttribute, LinkXdp},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};
use weir_abi::Address;

/// Our number in `ip route show table local proto 87`; unassigned in iproute2's table.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(87);
/// RT_TABLE_LOCAL.
const TABLE_LOCAL: u32 = 255;

/// Why the routing table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("open netlink: {0}")]
    Open(std::io::Error),
    #[error("no loopback interface in this namespace")]
    NoLoopback,
    #[error("read the routing table: {0}")]
    Read(rtnetlink::Error),
    #[error("local route for {0}: {1}")]
    Change(IpAddr, rtnetlink::Error),
    #[error("interface {0}: {1}")]
    Interface(String, rtnetlink::Error),
}

/// The routing table of this namespace.
pub(crate) struct Routes {
    handle: Handle,
    loopback: u32,
}

impl Routes {
    /// Opens netlink; must be called inside a runtime.
    pub(crate) async fn open() -> Result<Self, RouteError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(RouteError::Open)?;
        tokio::spawn(connection);
        let mut links = handle.link().get().match_name("lo".into()).execute();
        let link = links.try_next().await.map_err(RouteError::Read)?.ok_or(RouteError::NoLoopback)?;
        Ok(Self { handle, loopback: link.header.index })
    }

    /// The MTU of an interface.
    pub(crate) async fn mtu(&self, interface: &str) -> Result<u32, RouteError> {
        let mut links = self.handle.link().get().match_name(interface.to_owned()).execute();
        let failed = |error| RouteError::Interface(interface.to_owned(), error);
        let link = links.try_next().await.map_err(failed)?;
        let attributes = link.map(|link| link.attributes).unwrap_or_default();
        let mtu = attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        Ok(mtu.unwrap_or(0))
    }

    /// The number of the XDP program an interface has.
    pub(crate) async fn xdp(&self, interface: &str) -> Result<Option<u32>, RouteError> {
        let mut links = self.handle.link().get().match_name(interface.to_owned()).execute();
        let failed = |error| RouteError::Interface(interface.to_owned(), error);
        let link = links.try_next().await.map_err(failed)?;
        let attributes = link.map(|link| link.attributes).unwrap_or_default();
        let of_xdp = attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        Ok(of_xdp.flatten().find_map(|xdp| match xdp {
            LinkXdp::ProgId(id) => Some(*id),
            _ => None,
        }))
    }

    /// The VIPs that have our route.
    pub(crate) async fn read(&self) -> Result<BTreeSet<Address>, RouteError> {
        let mut found = BTreeSet::new();
        for message in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut routes = self.handle.route().get(message).execute();
            while let Some(route) = routes.try_next().await.map_err(RouteError::Read)? {
                if route.header.protocol == PROTOCOL && route.header.kind == RouteType::Local {
                    found.extend(destination(&route).map(Address::from));
                }
            }
        }
        Ok(found)
    }

    /// Adds the route of a VIP; one that is there already is fine.
    pub(crate) async fn add(&self, vip: IpAddr) -> Result<(), RouteError> {
        let request = self.handle.route().add(self.message(vip)).replace();
        request.execute().await.map_err(|error| RouteError::Change(vip, error))
    }

    /// Removes the route of a VIP; one that is not there is fine.
    pub(crate) async fn delete(&self, vip: IpAddr) -> Result<(), RouteError> {
        match self.handle.route().del(self.message(vip)).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ESRCH => Ok(()),
            done => done.map_err(|error| RouteError::Change(vip, error)),
        }
    }

    fn message(&self, vip: IpAddr) -> RouteMessage {
        match vip {
            IpAddr::V4(vip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(vip, 32)
                .output_interface(self.loopback)
                .table_id(TABLE_LOCAL)
                .kind(RouteType::Local)
                .scope(RouteScope::Host)
                .protocol(PROTOCOL)
                .build(),
            IpAddr::V6(vip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(vip, 128)
                .output_interface(self.loopback)
                .table_id(TABLE_LOCAL)
                .kind(RouteType::Local)
                .protocol(PROTOCOL)
                .build(),
        }
    }
}

fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}
