//! The exact wished content of every BPF map, and of the routes that make the kernel accept VIPs.
//!
//! [`lower`] computes it from a snapshot; [`crate::plan::diff`] compares it with what is there; `weir-l4` reads what is
//! there back into the same form.

mod guards;
mod lower;
mod members;
pub mod memory;
mod phases;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weir_abi::{
    Address, Config,
    guard::{AccessRule, Guard, SourcePrefix},
    hop::Backend,
    service::{Service, VipKey, VipRanges},
    tunnel::TunnelSource,
};

pub use guards::{AccessRefusal, LISTED_MAX, MOMENT_MAX, block, guards, moment, net, unblock};
pub use lower::{LowerError, Lowered, Lowering, lower};
pub use phases::{FLIP_CALM, FLIP_DRAIN, YOUNG};
pub use rows::TableHistory;

/// Words of a Maglev table as `weir_abi::service::Slot` packs them; shared, because a table is 256 KiB.
pub type TableWords = Arc<Vec<u32>>;

/// How long a VIP taken from a node stays in its datapath, and its proxy's sockets open: the withdrawal must reach every
/// router, and the other nodes must have read the same configuration. Long for both, and short for an operator.
pub const VIP_LINGER: Duration = Duration::from_secs(5);

/// Content of the datapath. Numbers are stable: what stays keeps its number, what comes takes the lowest that is free.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// What this host is called.
    pub config: Config,
    /// Hosts whose tunnels are accepted.
    pub peers: BTreeSet<Address>,
    /// Prefixes of others whose tunnels are accepted → of which kinds, as `weir_abi::tunnel` numbers them.
    pub tunnel_sources: BTreeMap<TunnelSource, u32>,
    /// Backend slots; never slot 0.
    pub backends: BTreeMap<u16, Backend>,
    /// QUIC server ids → backend slot.
    pub quic_servers: BTreeMap<u16, u16>,
    /// Maglev tables.
    pub tables: BTreeMap<u32, TableWords>,
    /// Services.
    pub services: BTreeMap<u32, Service>,
    /// Services with prefixes of sources → the table of their own; the number in a key is one more than the service's.
    pub source_tables: BTreeMap<SourcePrefix, u32>,
    /// How services are protected.
    pub guards: BTreeMap<u32, Guard>,
    /// Prefixes of sources that may come or may not, those of the moment among them.
    pub access: BTreeMap<SourcePrefix, AccessRule>,
    /// Words of the filter that lets packets for no VIP pass early, those without bits left out; see [`filter_of`].
    pub filter: BTreeMap<u32, u64>,
    /// Single ports of VIPs → service.
    pub vips: BTreeMap<VipKey, u32>,
    /// Port ranges of VIPs; an entry, if only an empty one, for every VIP address and protocol.
    pub ranges: BTreeMap<VipKey, VipRanges>,
    /// VIPs the kernel accepts by a local route.
    pub routes: BTreeSet<Address>,
}

/// The filter that knows these VIPs.
pub fn filter_of(vips: impl IntoIterator<Item = Address>) -> BTreeMap<u32, u64> {
    let mut filter = BTreeMap::new();
    for (word, bit) in vips.into_iter().map(|vip| weir_abi::filter::place(&vip)) {
        *filter.entry(word).or_default() |= bit;
    }
    filter
}

impl Image {
    /// The addresses that are VIPs here.
    pub fn vip_addresses(&self) -> BTreeSet<Address> {
        self.ranges.keys().map(|key| key.address).collect()
    }

    /// The service of a port, as the datapath finds it.
    pub fn service_at(&self, address: Address, protocol: u8, port: u16) -> Option<u32> {
        let key = VipKey { address, port: port.to_be_bytes(), protocol, _pad: 0 };
        self.vips.get(&key).copied().or_else(|| {
            let ranges = self.ranges.get(&VipKey { port: [0, 0], ..key })?;
            let ranges = ranges.ranges.get(..ranges.count as usize)?;
            ranges.iter().find(|range| (range.first..=range.last).contains(&port)).map(|range| range.service)
        })
    }
}
