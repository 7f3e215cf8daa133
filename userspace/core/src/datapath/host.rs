//! What the datapath asks its kernel and what it remembers, as values: the model's caller says what the answers are.

use std::collections::{BTreeMap, HashMap, HashSet};

use weir_abi::{
    Address,
    flow::Flow,
    fragment::{FirstFragment, FragmentKey},
    guard::Source,
};

/// The kernel around the datapath.
#[derive(Clone, Debug)]
pub struct Host {
    /// Sockets of single flows, by whether they are IPv4: established connections, request sockets, TIME_WAIT.
    pub flows: HashMap<(bool, Flow), Socket>,
    /// What is found for the other flows to a port: by family (whether it is IPv4), protocol and port.
    pub ports: BTreeMap<(bool, u8, u16), Socket>,
    /// What is found for all others.
    pub otherwise: Option<Socket>,
    /// Routes and neighbours of tunnel ends and clients; where nothing stands, [`Way::Back`].
    pub ways: BTreeMap<Address, Way>,
    /// What the paths to tunnel ends carry, where routers said so and are still believed.
    pub paths: BTreeMap<Address, u32>,
    /// First fragments of TCP segments, as they came.
    pub fragments: HashMap<FragmentKey, FirstFragment>,
    /// UDP flows this host has, by their wide hash.
    pub udp_flows: HashSet<u64>,
    /// Whether it has all others too.
    pub has_other_udp_flows: bool,
    /// When new connections are due.
    pub rates: Rates,
    /// What the kernel gives for a SYN to a listener, when it sends cookies itself.
    pub cookie: Option<u32>,
    /// The clock rates are counted by.
    pub now_ns: u64,
    /// Seconds since the host booted, by which entries of access lists end.
    pub boot_s: u32,
    /// Whether this CPU may tell a client now that its packet is too big.
    pub may_tell: bool,
    /// Bytes the kernel would put in front of a frame.
    pub headroom: usize,
}

impl Default for Host {
    /// No sockets, no routes, nothing remembered, and XDP's usual room: 256 bytes less the 40 of the kernel's own.
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            ports: BTreeMap::new(),
            otherwise: None,
            ways: BTreeMap::new(),
            paths: BTreeMap::new(),
            fragments: HashMap::new(),
            udp_flows: HashSet::new(),
            has_other_udp_flows: false,
            rates: Rates::default(),
            cookie: None,
            now_ns: 0,
            boot_s: 0,
            may_tell: true,
            headroom: 256 - 40,
        }
    }
}

/// When new connections are due, as `weir_abi::rate` counts.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Of a source towards a VIP.
    pub sources: HashMap<Source, u64>,
    /// Of a service on this CPU: without a cookie, and at all.
    pub services: HashMap<u32, [u64; 2]>,
    /// Of sources not seen yet.
    pub other_sources: u64,
    /// Of services not seen yet.
    pub other_services: [u64; 2],
}

impl Rates {
    pub(super) fn source(&mut self, source: Source) -> &mut u64 {
        self.sources.entry(source).or_insert(self.other_sources)
    }

    pub(super) fn syns(&mut self, service: u32) -> &mut [u64; 2] {
        self.services.entry(service).or_insert(self.other_services)
    }
}

/// What a socket lookup finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// One that takes this very flow's packets.
    Own,
    /// A TCP listener, which is found for everything that has none of its own.
    Listener,
    /// A TCP listener that takes an acknowledgement for the answer to a SYN cookie of its own.
    AwaitsCookie,
}

/// What the routing and neighbour tables say of a tunnel's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of an interface with these MAC addresses.
    Forward {
        /// Index of the interface, or `None` for the one the packet came in on.
        egress: Option<u32>,
        /// Source MAC address.
        source: [u8; 6],
        /// Destination MAC address.
        destination: [u8; 6],
        /// What link and route carry; 0 where the kernel does not say.
        mtu: u32,
    },
    /// They do not say: back to the router the packet came from.
    Back,
    /// They forbid it.
    Forbidden,
}

impl Host {
    /// The socket the kernel finds for a flow.
    pub fn socket(&self, flow: &Flow, is_v4: bool) -> Option<Socket> {
        let port = u16::from_be_bytes(flow.destination_port);
        self.flows
            .get(&(is_v4, *flow))
            .or_else(|| self.ports.get(&(is_v4, flow.protocol, port)))
            .copied()
            .or(self.otherwise)
    }

    /// Whether this host has the UDP flow of this wide hash.
    pub fn knows_udp_flow(&self, hash: u64) -> bool {
        self.has_other_udp_flows || self.udp_flows.contains(&hash)
    }

    /// The way to a tunnel's end, or to a client.
    pub fn way(&self, to: &Address) -> Way {
        self.ways.get(to).copied().unwrap_or(Way::Back)
    }
}
