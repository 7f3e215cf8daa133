//! Who may have flows of a VIP: the proxies of its group, or the servers of its pool. One form for both, so that tables,
//! drains and phases are the same.

use weir_abi::{
    Address,
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_LOCAL},
};
use weir_model::{Admin, Name, Node, Server, Spread, Tunnel, Vip, status::Health};

use super::Lowering;

/// One of them, as seen from the node the image is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member<'a> {
    pub(super) name: &'a Name,
    pub(super) weight: u32,
    pub(super) admin: Admin,
    pub(super) health: Health,
    pub(super) quic_id: Option<u16>,
    /// Whether flows stay with it and its like as long as one of them is up.
    pub(super) is_near: bool,
    /// How it is reached; `None` for a family this node has no tunnel address in.
    pub(super) backend: Option<Backend>,
}

impl Member<'_> {
    pub(super) fn is_up(&self) -> bool {
        self.health == Health::Up
    }

    pub(super) fn is_self(&self) -> bool {
        self.backend.is_some_and(|backend| backend.kind == KIND_LOCAL)
    }
}

/// What the members of a VIP are taken from: VIPs with the same have the same table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Basis<'a> {
    /// The nodes of a group.
    Group(&'a Name, Spread),
    /// The servers of a pool.
    Pool(&'a Name, Spread),
}

impl<'a> Basis<'a> {
    pub(super) fn of(vip: &'a Vip) -> Self {
        match &vip.pool {
            Some(pool) => Self::Pool(pool, vip.spread),
            None => Self::Group(&vip.group, vip.spread),
        }
    }
}

/// All that may have flows; those an operator disabled may not.
pub(super) fn of<'a>(input: &Lowering<'a>, here: &'a Node, basis: Basis<'a>) -> Vec<Member<'a>> {
    let snapshot = input.snapshot;
    match basis {
        Basis::Group(group, spread) => {
            let nodes = snapshot.groups.get(group).map_or(&[][..], |group| &group.nodes);
            nodes
                .iter()
                .filter_map(|name| snapshot.nodes.get_key_value(name))
                .filter(|(_, node)| node.admin != Admin::Disabled)
                .filter(|(_, node)| spread == Spread::Group || node.zone == here.zone)
                .map(|(name, node)| Member {
                    name,
                    weight: node.weight,
                    admin: node.admin,
                    quic_id: node.quic_id,
                    health: input.health.get(name).copied().unwrap_or_default(),
                    is_near: true,
                    backend: of_node(here, node, name == input.node),
                })
                .collect()
        }
        Basis::Pool(pool, spread) => {
            let is_checked = snapshot.pools.get(pool).is_some_and(|pool| pool.check.is_some());
            let member = |(name, server): (&'a Name, &'a Server)| Member {
                name,
                weight: server.weight,
                admin: server.admin,
                quic_id: server.quic_id,
                health: if is_checked { input.servers.get(pool, name) } else { Health::Up },
                is_near: !server.backup && (spread == Spread::Group || server.zone == here.zone),
                backend: of_server(here, server),
            };
            let servers = snapshot.servers.iter().filter(|(_, server)| server.pools.contains(pool));
            servers.filter(|(_, server)| server.admin != Admin::Disabled).map(member).collect()
        }
    }
}

/// The members that get new flows: near ones that are up, else any that are; with none up, all that an operator did not
/// take out, as near as there are.
pub(super) fn owners<'a>(members: &[Member<'a>]) -> Vec<Member<'a>> {
    let those = |wanted: &dyn Fn(&Member<'_>) -> bool| -> Option<Vec<Member<'a>>> {
        let those: Vec<_> = members.iter().filter(|member| wanted(member)).copied().collect();
        (!those.is_empty()).then_some(those)
    };
    let takes = |member: &Member<'_>| member.admin == Admin::Active && member.weight > 0;
    those(&|member| takes(member) && member.is_up() && member.is_near)
        .or_else(|| those(&|member| takes(member) && member.is_up()))
        .or_else(|| those(&|member| takes(member) && member.is_near))
        .or_else(|| those(&takes))
        .or_else(|| those(&|member| member.is_near))
        .unwrap_or_else(|| members.to_vec())
}

/// This node itself.
pub(super) fn of_self(here: &Node) -> Option<Backend> {
    of_node(here, here, true)
}

pub(crate) fn of_node(here: &Node, node: &Node, is_self: bool) -> Option<Backend> {
    let v4 = node.address.map(|a| Address::v4(a.octets()));
    let v6 = node.address6.map(|a| Address::v6(a.octets()));
    if is_self {
        return Some(Backend { address: v4.or(v6)?, kind: KIND_LOCAL, _pad: [0; 3] });
    }
    let v4 = v4.filter(|_| here.address.is_some());
    let v6 = v6.filter(|_| here.address6.is_some());
    v4.or(v6).map(|address| tunnel(address, node.tunnel))
}

pub(crate) fn of_server(here: &Node, server: &Server) -> Option<Backend> {
    let address = Address::from(server.address.ip());
    let reached = if address.is_v4() { here.address.is_some() } else { here.address6.is_some() };
    reached.then(|| tunnel(address, server.tunnel))
}

fn tunnel(address: Address, tunnel: Tunnel) -> Backend {
    let kind = match (tunnel, address.is_v4()) {
        (Tunnel::Gue, true) => KIND_GUE4,
        (Tunnel::Gue, false) => KIND_GUE6,
        (Tunnel::Ipip, true) => KIND_IPIP4,
        (Tunnel::Ipip, false) => KIND_IPIP6,
    };
    Backend { address, kind, _pad: [0; 3] }
}
