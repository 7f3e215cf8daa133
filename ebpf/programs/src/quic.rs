//! QUIC: packets of a connection go to the server their connection id names, wherever the client has moved.

use aya_ebpf::programs::XdpContext;
use weir_abi::{
    headers::Udp,
    quic::{LOOKED_AT_LEN, server_id},
    service::{SERVICE_QUIC, Service},
};

use crate::{
    maps, packet,
    work::{Kind, Parsed},
};

/// The backend slot of the server a packet names; 0 when it names none, or one that is not there.
#[inline(always)]
pub(crate) fn server(ctx: &XdpContext, service: &Service, parsed: &Parsed) -> u16 {
    if service.flags & SERVICE_QUIC == 0 || parsed.kind != Kind::Datagram {
        return 0;
    }
    let start = packet::read::<[u8; LOOKED_AT_LEN]>(ctx, parsed.at() + size_of::<Udp>());
    start.ok().and_then(|start| server_id(&start)).map_or(0, maps::quic_server)
}
