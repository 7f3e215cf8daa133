//! The VIPs, services and proxies the packet tables are about.

use std::net::IpAddr;

use weir_abi::{
    Address, Config,
    flow::Flow,
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_LOCAL},
    service::{PROTO_TCP, PROTO_UDP, Slot, VipKey, VipRange, VipRanges},
};

use crate::prog_run::{Balancer, key4};

/// XDP action.
pub const XDP_DROP: u32 = 1;
/// XDP action.
pub const XDP_PASS: u32 = 2;
/// XDP action.
pub const XDP_TX: u32 = 3;

/// The VIP of most services.
pub const VIP: [u8; 4] = [198, 51, 100, 10];
/// Tunnel address of the host under test.
pub const OWN4: [u8; 4] = [10, 1, 1, 2];

/// The same, IPv6.
pub fn own6() -> Address {
    v6("fd00:1:1::2")
}

/// An IPv6 address as maps hold it.
pub fn v6(text: &str) -> Address {
    ip(text).into()
}

/// The balancer with local proxy 1, proxies 2 and 3 by GUE over IPv4, 4 by GUE over IPv6, 5 and 6 by IPIP over IPv4 and IPv6;
/// services by port of the VIP: tcp/90 → 5; tcp/91 → 6; tcp/92 → 2 then 5; tcp/93 → local then 5; tcp/94 → 5 then 3;
/// tcp/95 → 2 then 6; tcp/96 → 4 then 5; [2001:db8::10]:90 → 5, :91 → 6;
/// tcp/80 → 2; tcp/81 → 2 then 3; tcp/82 → local; tcp/83 → local then 3; tcp/84 → 2 then 4; tcp/85 → 4; tcp/86 → 4 then 4;
/// tcp/87 → nobody; udp/53 → 2, fragments too; tcp/1000-2000 → 3; [2001:db8::10]:80 → 2 then 3, udp/53 → 3 then 2.
pub fn balancer() -> Balancer {
    balancer_with_mtu(0)
}

/// The same on links that carry `mtu` bytes.
pub fn balancer_with_mtu(mtu: u32) -> Balancer {
    balancer_with(mtu, 0)
}

/// The same that opens the tunnels `tunnels` says (`TUNNELS_` bits).
pub fn balancer_with(mtu: u32, tunnels: u32) -> Balancer {
    let config = Config {
        abi_version: weir_abi::ABI_VERSION,
        has_v4: 1,
        has_v6: 1,
        address4: OWN4,
        address6: own6(),
        mtu,
        tunnels,
    };
    let mut balancer = Balancer::load(config).expect("load");
    let gue4 = |last| Backend { address: Address::v4([10, 1, last, 2]), kind: KIND_GUE4, _pad: [0; 3] };
    let local = Backend { address: Address::v4(OWN4), kind: KIND_LOCAL, _pad: [0; 3] };
    let gue6 = Backend { address: v6("fd00:1:4::2"), kind: KIND_GUE6, _pad: [0; 3] };
    let ipip4 = Backend { address: Address::v4([10, 1, 5, 2]), kind: KIND_IPIP4, _pad: [0; 3] };
    let ipip6 = Backend { address: v6("fd00:1:6::2"), kind: KIND_IPIP6, _pad: [0; 3] };
    for (slot, backend) in [(1, local), (2, gue4(2)), (3, gue4(3)), (4, gue6), (5, ipip4), (6, ipip6)] {
        balancer.backend(slot, backend).expect("backend");
    }
    let tables = [
        (80, 2, 0),
        (81, 2, 3),
        (82, 1, 0),
        (83, 1, 3),
        (84, 2, 4),
        (85, 4, 0),
        (86, 4, 4),
        (87, 0, 0),
        (88, 2, 1),
        (90, 5, 0),
        (91, 6, 0),
        (92, 2, 5),
        (93, 1, 5),
        (94, 5, 3),
        (95, 2, 6),
        (96, 4, 5),
    ];
    for (port, owner, previous) in tables {
        let service = u32::from(port);
        balancer.service(service, key4(VIP, PROTO_TCP, port), Slot { owner, previous }).expect("service");
    }
    balancer.service(53, key4(VIP, PROTO_UDP, 53), Slot { owner: 2, previous: 0 }).expect("udp");
    let vip6 =
        VipKey { address: v6("2001:db8::10"), port: 80u16.to_be_bytes(), protocol: PROTO_TCP, _pad: 0 };
    balancer.service(6, vip6, Slot { owner: 2, previous: 3 }).expect("v6");
    for (port, owner) in [(90u16, 5), (91, 6)] {
        let key = VipKey { port: port.to_be_bytes(), ..vip6 };
        balancer.service(u32::from(port) + 200, key, Slot { owner, previous: 0 }).expect("v6 ipip");
    }
    let dns6 = VipKey { port: 53u16.to_be_bytes(), protocol: PROTO_UDP, ..vip6 };
    balancer.service(54, dns6, Slot { owner: 3, previous: 2 }).expect("udp6");
    balancer.service(100, key4(VIP, PROTO_TCP, 999), Slot { owner: 3, previous: 0 }).expect("range");
    let mut ranges = VipRanges { count: 1, ..VipRanges::default() };
    ranges.ranges[0] = VipRange { first: 1000, last: 2000, service: 100 };
    balancer.ranges(VipKey { port: [0, 0], ..key4(VIP, PROTO_TCP, 0) }, ranges).expect("ranges");
    for (address, service) in [(Address::v4(VIP), 53), (v6("2001:db8::10"), 54)] {
        let all = VipKey { address, port: [0, 0], protocol: PROTO_UDP, _pad: 0 };
        let fragments = VipRanges { fragments: service + 1, ..VipRanges::default() };
        balancer.ranges(all, fragments).expect("fragments");
    }
    balancer
}

/// The outer source port weir gives the flow of `from` to `to`.
pub fn flow_port(from: &str, to: &str, protocol: u8) -> u16 {
    0xc000 | (flow_hash(from, to, protocol) >> 18) as u16
}

/// The hash of that flow.
pub fn flow_hash(from: &str, to: &str, protocol: u8) -> u32 {
    let (from, to): (std::net::SocketAddr, std::net::SocketAddr) =
        (from.parse().unwrap(), to.parse().unwrap());
    let flow = Flow {
        source: Address::from(from.ip()),
        destination: Address::from(to.ip()),
        source_port: from.port().to_be_bytes(),
        destination_port: to.port().to_be_bytes(),
        protocol,
    };
    flow.hash()
}

/// A client.
pub const CLIENT: &str = "203.0.113.7:40000";
/// A client.
pub const CLIENT6: &str = "[2001:db8:f::7]:40000";

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Tunnel address of the host under test.
pub fn own() -> IpAddr {
    IpAddr::from(OWN4)
}
