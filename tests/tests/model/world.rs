//! What the packets meet: images of several nodes, and a kernel with routes, neighbours and sockets of which the model is told
//! the same.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket as Socket2, Type};
use weir_abi::{
    Address, Config,
    flow::Flow,
    hop::{Backend, KIND_GUE4, KIND_GUE6, KIND_IPIP4, KIND_IPIP6, KIND_LOCAL},
    limits::TABLE_LEN,
    service::{
        PROTO_TCP, PROTO_UDP, SERVICE_ACCESS, SERVICE_DIRECT, SERVICE_IN_USE, SERVICE_QUIC,
        SERVICE_SOURCE_LIMIT, SERVICE_SYN_COOKIES, SERVICE_SYN_RATE, SERVICE_UDP_FLOWS, Service, Slot,
        VipKey, VipRange, VipRanges,
    },
    tunnel::{ACCEPT_GUE, ACCEPT_IPIP, TUNNELS_IPIP_OF_PEERS, TUNNELS_OF_OTHERS, TunnelSource},
};
use weir_core::{
    datapath::{Host, Socket, Way},
    image::{Image, filter_of},
};
use weir_tests::{
    prog_run,
    vips::{ip, own6},
};

use crate::guards::{self, BOOT_S};

/// VIPs: the first has services on single ports and a range, the second all TCP ports and nothing for UDP.
pub(crate) const VIP4: &str = "198.51.100.10";
pub(crate) const VIP6: &str = "2001:db8::10";
pub(crate) const ALL4: &str = "198.51.100.20";
pub(crate) const ALL6: &str = "2001:db8::20";
/// Clients; the first two have connections.
pub(crate) const CLIENT4: &str = "203.0.113.7";
pub(crate) const CLIENT6: &str = "2001:db8:f::7";
/// The host under test.
pub(crate) const OWN4: &str = "10.1.1.2";
/// Other hosts: by way of the interface packets come in on, of another one, back to the router, forbidden.
pub(crate) const PEERS4: [&str; 4] = ["10.1.2.2", "10.1.3.2", "10.1.4.2", "10.1.5.2"];
pub(crate) const PEERS6: [&str; 4] = ["fd00:1:2::2", "fd00:1:3::2", "fd00:1:4::2", "fd00:1:5::2"];
/// Others whose tunnels some nodes open: of both kinds, and of one.
pub(crate) const OTHERS4: [&str; 2] = ["192.0.2.9", "192.0.2.200"];
pub(crate) const OTHERS6: [&str; 2] = ["2001:db8:ffff::9", "2001:db8:ffff:1::9"];
/// No host of ours.
pub(crate) const STRANGER4: &str = "10.9.9.9";
pub(crate) const STRANGER6: &str = "fd00:9::9";

/// Numbers of QUIC servers and their backends: by GUE over IPv4 and IPv6, this host, by IPIP, none.
pub(crate) const QUIC_SERVERS: [(u16, u16); 5] =
    [(0x0102, 3), (0x0103, 7), (0x0104, 1), (0x0105, 12), (0x0106, 10)];

/// MTUs of the two interfaces.
const MTUS: [u32; 2] = [1_500, 1_380];

/// Services whose flows have a listener here, and where two clients are connected.
const LISTENS: u16 = 83;
/// A service whose datagrams somebody here takes.
const RECEIVES: u16 = 53;
/// The source port of the clients that are connected.
pub(crate) const CONNECTED: u16 = 40_000;

/// The namespace: what the program's helpers find in it, and the same for the model.
pub(crate) struct Kernel {
    pub(crate) ingress: u32,
    pub(crate) host: Host,
    _sockets: Vec<Socket2>,
    _streams: Vec<TcpStream>,
}

impl Kernel {
    /// Makes it for the calling thread, which stays in it.
    pub(crate) fn enter() -> Self {
        // Each CPU counts SYNs for itself.
        prog_run::stay_on_one_cpu();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace of its own (root)");
        configure();
        let mut host = Host::default();
        let index = |name: &str| nix::net::if_::if_nametoindex(name).expect("interface");
        for peers in [PEERS4, PEERS6] {
            let [here, there, _, forbidden] = peers.map(|peer| Address::from(ip(peer)));
            let forward = |number, egress| Way::Forward {
                egress,
                source: [2, 0, 0, 0, 0, number],
                destination: [2, 0, 0, 0, 1, number],
                mtu: MTUS[usize::from(number) - 1],
            };
            host.ways.insert(here, forward(1, None));
            host.ways.insert(there, forward(2, Some(index("out0"))));
            host.ways.insert(forbidden, Way::Forbidden);
        }
        let (mut sockets, mut streams) = (Vec::new(), Vec::new());
        for (any, vip, client) in [("0.0.0.0", VIP4, CLIENT4), ("::", VIP6, CLIENT6)] {
            let is_v4 = ip(any).is_ipv4();
            let listener = bound(ip(any), LISTENS, Type::STREAM);
            listener.listen(16).expect("listen");
            sockets.push(bound(ip(any), RECEIVES, Type::DGRAM));
            host.ports.insert((is_v4, PROTO_TCP, LISTENS), Socket::Listener);
            host.ports.insert((is_v4, PROTO_UDP, RECEIVES), Socket::Own);
            let connected = bound(ip(client), CONNECTED, Type::STREAM);
            connect(&connected, SocketAddr::new(ip(vip), LISTENS));
            let listener = TcpListener::from(listener);
            streams.push(listener.accept().expect("accept").0);
            sockets.extend([connected, listener.into()]);
            let flow = Flow {
                source: ip(client).into(),
                destination: ip(vip).into(),
                source_port: CONNECTED.to_be_bytes(),
                destination_port: LISTENS.to_be_bytes(),
                protocol: PROTO_TCP,
            };
            host.flows.insert((is_v4, flow), Socket::Own);
        }
        // From now on the kernel gives a cookie for every SYN to a listener.
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").expect("cookies");
        host.boot_s = BOOT_S;
        Self { ingress: index("in0"), host, _sockets: sockets, _streams: streams }
    }
}

/// Interfaces, routes and neighbours.
fn configure() {
    for family in ["ipv4", "ipv6"] {
        fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1").expect("forwarding");
    }
    let _no_ipv6_waits = fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
    let mut batch = String::from("link set lo up\n");
    for (link, number) in [("in", 1), ("out", 2)] {
        let (v4, v6) = (PEERS4[number - 1], PEERS6[number - 1]);
        let mac = format!("02:00:00:00:01:0{number}");
        batch += &format!("link add {link}0 address 02:00:00:00:00:0{number} type veth peer name {link}1\n");
        let mtu = MTUS[number - 1];
        batch += &format!("link set {link}0 mtu {mtu} up\nlink set {link}1 mtu {mtu} up\n");
        batch += &format!(
            "neigh add {v4} lladdr {mac} dev {link}0 nud permanent\nroute add {v4}/32 dev {link}0\n"
        );
        batch += &format!(
            "neigh add {v6} lladdr {mac} dev {link}0 nud permanent\nroute add {v6}/128 dev {link}0\n"
        );
    }
    batch += &format!("route add prohibit {}/32\nroute add prohibit {}/128\n", PEERS4[3], PEERS6[3]);
    // Without `nodad` an IPv6 address is tentative until the kernel finds the time, even here, and nobody may bind to it.
    for (address, len) in [(VIP4, "32"), (CLIENT4, "32"), (VIP6, "128 nodad"), (CLIENT6, "128 nodad")] {
        batch += &format!("addr add {address}/{len} dev lo\n");
    }
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
    child.stdin.take().expect("stdin").write_all(batch.as_bytes()).expect("write");
    assert!(child.wait().expect("ip").success(), "{batch}");
}

fn bound(address: IpAddr, port: u16, kind: Type) -> Socket2 {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket =
        Socket2::new(Domain::for_address(SocketAddr::new(address, 0)), kind, Some(protocol)).expect("socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("only IPv6");
    }
    socket.set_reuse_address(true).expect("reuse");
    socket.bind(&SocketAddr::new(address, port).into()).expect("bind");
    socket
}

/// Connects, once the kernel knows the way to its own address: it learns that of a new IPv6 address when it finds the time.
fn connect(socket: &Socket2, to: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = socket.connect(&to.into()) {
        let is_early = error.kind() == ErrorKind::NetworkUnreachable && Instant::now() < deadline;
        assert!(is_early, "connect to {to}: {error}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a node is.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) has_v4: bool,
    pub(crate) has_v6: bool,
    pub(crate) mtu: u32,
    /// Whose tunnels it opens besides the peers' GUE.
    tunnels: u32,
    /// Which of its services' flags it sets: `SERVICE_` bits.
    features: u32,
    /// Kinds of slots in its tables: owners and second hops by number of the backend.
    slots: &'static [(u16, u16)],
}

/// Backends: 1 is this host; 2 to 5 the IPv4 peers, 6 to 9 the IPv6 ones, 12 to 15 and 16 to 19 the same by IPIP; 10 is none,
/// though slots name it.
pub(crate) const NODES: [Node; 5] = [
    Node {
        name: "settled",
        has_v4: true,
        has_v6: true,
        mtu: 1400,
        tunnels: TUNNELS_IPIP_OF_PEERS,
        features: 0,
        slots: &[(1, 0), (2, 0), (3, 0), (4, 0), (6, 0), (12, 0), (17, 0)],
    },
    Node {
        name: "changing",
        has_v4: true,
        has_v6: true,
        mtu: 0,
        tunnels: TUNNELS_IPIP_OF_PEERS | TUNNELS_OF_OTHERS,
        features: SERVICE_UDP_FLOWS | SERVICE_QUIC | SERVICE_ACCESS | SERVICE_SYN_COOKIES,
        slots: &[
            (1, 4),
            (2, 3),
            (4, 1),
            (3, 8),
            (7, 2),
            (8, 8),
            (6, 1),
            (1, 8),
            (5, 4),
            (9, 0),
            (10, 2),
            (2, 10),
            (1, 10),
            (0, 0),
            (12, 0),
            (14, 3),
            (3, 14),
            (18, 0),
            (8, 18),
            (1, 16),
        ],
    },
    Node {
        name: "v4",
        has_v4: true,
        has_v6: false,
        mtu: 1500,
        tunnels: TUNNELS_OF_OTHERS,
        features: SERVICE_ACCESS | SERVICE_SOURCE_LIMIT | SERVICE_SYN_RATE | SERVICE_SYN_COOKIES,
        slots: &[(1, 0), (1, 2), (2, 1), (4, 3), (3, 0), (4, 0), (5, 0), (14, 0)],
    },
    Node {
        name: "v6",
        has_v4: false,
        has_v6: true,
        mtu: 1500,
        tunnels: TUNNELS_IPIP_OF_PEERS | TUNNELS_OF_OTHERS,
        features: SERVICE_UDP_FLOWS | SERVICE_ACCESS | SERVICE_SYN_RATE | SERVICE_SYN_COOKIES,
        slots: &[(1, 0), (1, 7), (6, 1), (8, 7), (7, 0), (8, 0), (9, 0), (18, 0)],
    },
    Node {
        name: "narrow",
        has_v4: true,
        has_v6: true,
        mtu: 1300,
        tunnels: 0,
        features: SERVICE_UDP_FLOWS | SERVICE_QUIC | SERVICE_SOURCE_LIMIT,
        slots: &[(4, 0), (4, 8), (8, 0), (8, 4), (4, 3), (0, 2), (14, 0), (18, 0), (13, 0)],
    },
];

impl Node {
    /// Its image.
    pub(crate) fn image(&self) -> Image {
        let config = Config {
            abi_version: weir_abi::ABI_VERSION,
            has_v4: self.has_v4.into(),
            has_v6: self.has_v6.into(),
            address4: Address::from(ip(OWN4)).v4_octets(),
            address6: own6(),
            mtu: self.mtu,
            guarded: guards::guarded(self.features),
            tunnels: self.tunnels,
        };
        let own = if self.has_v4 { Address::from(ip(OWN4)) } else { own6() };
        let hop = |address: Address, kind| Backend { address, kind, _pad: [0; 3] };
        let mut backends = BTreeMap::from([(1, hop(own, KIND_LOCAL))]);
        for number in 0..4_usize {
            backends.insert(2 + number as u16, hop(ip(PEERS4[number]).into(), KIND_GUE4));
            backends.insert(6 + number as u16, hop(ip(PEERS6[number]).into(), KIND_GUE6));
            backends.insert(12 + number as u16, hop(ip(PEERS4[number]).into(), KIND_IPIP4));
            backends.insert(16 + number as u16, hop(ip(PEERS6[number]).into(), KIND_IPIP6));
        }
        let mut image = Image { config, backends, ..Image::default() };
        image.peers = PEERS4.iter().chain(&PEERS6).map(|peer| ip(peer).into()).collect();
        image.peers.insert(own);
        for (prefix, len_bits, kinds) in [
            ("192.0.2.0", 96 + 24, ACCEPT_GUE | ACCEPT_IPIP),
            ("192.0.2.128", 96 + 25, ACCEPT_IPIP),
            ("2001:db8:ffff::", 48, ACCEPT_GUE | ACCEPT_IPIP),
            ("2001:db8:ffff:1::", 64, ACCEPT_GUE),
        ] {
            image.tunnel_sources.insert(TunnelSource { len_bits, address: ip(prefix).into() }, kinds);
        }
        // Neighbouring buckets differ: a wrong hash does not stay unnoticed.
        let pack = |(owner, previous)| Slot { owner, previous }.pack();
        let words = |slots: &[(u16, u16)]| (0..TABLE_LEN).map(|row| pack(slots[row % slots.len()])).collect();
        image.tables.insert(0, Arc::new(words(self.slots)));
        image.tables.insert(1, Arc::new(words(&[(1, 4), (1, 8)])));
        for (first, last) in [(VIP4, ALL4), (VIP6, ALL6)] {
            let (first, last) = (Address::from(ip(first)), Address::from(ip(last)));
            let mut next = image.services.len() as u32;
            let mut service = |image: &mut Image, table, features| {
                let features = features & self.features;
                // Every third goes straight to servers.
                let direct = if next % 3 == 1 { SERVICE_DIRECT } else { 0 };
                image.services.insert(next, Service { table, flags: SERVICE_IN_USE | direct | features });
                next += 1;
                next - 1
            };
            let key = |address, protocol, port: u16| VipKey {
                address,
                port: port.to_be_bytes(),
                protocol,
                _pad: 0,
            };
            // A table of its own where the sockets are; one that is not there for port 87.
            for (port, table, features) in [
                (80, 0, SERVICE_SOURCE_LIMIT),
                (81, 0, 0),
                (LISTENS, 1, SERVICE_SYN_COOKIES),
                (84, 1, SERVICE_ACCESS | SERVICE_SYN_RATE),
                (87, 7, 0),
            ] {
                let index = service(&mut image, table, features);
                image.vips.insert(key(first, PROTO_TCP, port), index);
            }
            for (port, table, features) in [
                (RECEIVES, 1, SERVICE_UDP_FLOWS | SERVICE_ACCESS),
                (5_353, 1, 0),
                (443, 0, SERVICE_QUIC),
                (8_443, 0, SERVICE_UDP_FLOWS | SERVICE_QUIC),
            ] {
                let index = service(&mut image, table, features);
                image.vips.insert(key(first, PROTO_UDP, port), index);
            }
            let mut tcp = VipRanges { count: 2, ..VipRanges::default() };
            tcp.ranges[0] = VipRange {
                first: 1_000,
                last: 2_000,
                service: service(&mut image, 0, SERVICE_SYN_RATE | SERVICE_SOURCE_LIMIT),
            };
            tcp.ranges[1] =
                VipRange { first: 3_000, last: 3_001, service: service(&mut image, 1, SERVICE_SYN_COOKIES) };
            let udp = VipRanges {
                fragments: image.vips[&key(first, PROTO_UDP, RECEIVES)] + 1,
                ..VipRanges::default()
            };
            let mut all = VipRanges { count: 1, ..VipRanges::default() };
            all.ranges[0] =
                VipRange { first: 1, last: u16::MAX, service: service(&mut image, 0, SERVICE_ACCESS) };
            image.ranges.insert(key(first, PROTO_TCP, 0), tcp);
            image.ranges.insert(key(first, PROTO_UDP, 0), udp);
            image.ranges.insert(key(last, PROTO_TCP, 0), all);
            image.ranges.insert(key(last, PROTO_UDP, 0), VipRanges::default());
        }
        guards::put(self.features, &mut image);
        image.quic_servers = QUIC_SERVERS.into_iter().collect();
        image.filter = filter_of(image.vip_addresses());
        image
    }
}
