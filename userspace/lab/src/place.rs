//! One place of a network: a namespace, configured by netlink. Which places there are is the fabric's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, anyhow};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::{
    link::{InfoData, InfoVeth},
    route::{RouteScope, RouteType},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns::NetNs;

/// A namespace with the netlink socket that configures it.
pub struct Place {
    /// The namespace.
    pub netns: NetNs,
    netlink: Handle,
}

impl Place {
    /// Makes the namespace; must be called inside a runtime.
    pub fn create(name: &str) -> Result<Self> {
        let netns = NetNs::create(name)?;
        let runtime = tokio::runtime::Handle::current();
        let netlink = netns.run(|| {
            let _guard = runtime.enter();
            let (connection, netlink, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            Ok(netlink)
        })?;
        Ok(Self { netns, netlink })
    }

    /// Makes a veth from here to `peer`; both ends up. Returns the index of this end.
    pub async fn veth(&self, here: &str, peer: &Place, there: &str, mtu: u32) -> Result<u32> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(there.into())
            .mtu(mtu)
            .setns_by_fd(peer.netns.fd())
            .build();
        let message =
            LinkVeth::new(here, there).mtu(mtu).set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
        self.netlink
            .link()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("make link {here} of {}", self.netns.name()))?;
        // An end cannot come up before the other exists.
        self.set_up(here).await?;
        peer.set_up(there).await?;
        self.index(here).await
    }

    /// The index of an interface.
    pub async fn index(&self, link: &str) -> Result<u32> {
        let mut links = self.netlink.link().get().match_name(link.into()).execute();
        let found =
            links.try_next().await.with_context(|| format!("find {link} of {}", self.netns.name()))?;
        Ok(found.ok_or_else(|| anyhow!("{} has no {link}", self.netns.name()))?.header.index)
    }

    /// Takes an interface up.
    pub async fn set_up(&self, link: &str) -> Result<()> {
        self.set_link(link, true).await
    }

    /// Takes an interface up or down.
    pub async fn set_link(&self, link: &str, up: bool) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link).await?);
        let message = if up { message.up() } else { message.down() };
        self.netlink.link().set(message.build()).execute().await.with_context(|| {
            format!("set {link} of {} {}", self.netns.name(), if up { "up" } else { "down" })
        })
    }

    /// Gives an interface another MTU.
    pub async fn set_mtu(&self, link: &str, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(link).await?).mtu(mtu).build();
        let done = self.netlink.link().set(message).execute().await;
        done.with_context(|| format!("MTU {mtu} for {link} of {}", self.netns.name()))
    }

    /// Gives addresses, with their prefix lengths, to an interface.
    pub async fn address(&self, link: &str, addresses: &[(IpAddr, u8)]) -> Result<()> {
        let index = self.index(link).await?;
        for &(address, length) in addresses {
            self.netlink
                .address()
                .add(index, address, length)
                .replace()
                .execute()
                .await
                .with_context(|| format!("give {address} to {link} of {}", self.netns.name()))?;
        }
        Ok(())
    }

    /// Routes everything else over these gateways.
    pub async fn default_routes(&self, gateway4: Ipv4Addr, gateway6: Ipv6Addr) -> Result<()> {
        self.route("0.0.0.0/0".parse()?, gateway4.into()).await?;
        self.route("::/0".parse()?, gateway6.into()).await
    }

    /// Routes a prefix over a gateway.
    pub async fn route(&self, prefix: IpNet, gateway: IpAddr) -> Result<()> {
        let message = match (prefix, gateway) {
            (IpNet::V4(prefix), IpAddr::V4(gateway)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(prefix.network(), prefix.prefix_len())
                .gateway(gateway)
                .build(),
            (IpNet::V6(prefix), IpAddr::V6(gateway)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(prefix.network(), prefix.prefix_len())
                .gateway(gateway)
                .build(),
            _ => anyhow::bail!("route to {prefix} has a gateway of another family: {gateway}"),
        };
        self.netlink
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .with_context(|| format!("route {prefix} via {gateway} in {}", self.netns.name()))
    }

    /// Makes every address of `prefix` this namespace's own.
    pub async fn local_route(&self, prefix: IpNet) -> Result<()> {
        let index = self.index("lo").await?;
        const LOCAL_TABLE: u32 = 255;
        let message = match prefix {
            IpNet::V4(prefix) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(prefix.network(), prefix.prefix_len())
                .output_interface(index)
                .kind(RouteType::Local)
                .scope(RouteScope::Host)
                .table_id(LOCAL_TABLE)
                .build(),
            IpNet::V6(prefix) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(prefix.network(), prefix.prefix_len())
                .output_interface(index)
                .kind(RouteType::Local)
                .table_id(LOCAL_TABLE)
                .build(),
        };
        self.netlink
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .with_context(|| format!("local route {prefix} in {}", self.netns.name()))
    }
}
