//! The exact wished content of every BPF map, and of the routes that make the kernel accept VIPs.
//!
//! [`lower`] computes it from a snapshot; [`crate::plan::diff`] compares it with what is there; `weir-l4` reads what is
//! there back into the same form.

mod guards;
mod lower;
mod members;
pub mod memory;
pub mod mss;
mod phases;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use weir_abi::{
    Address, Config,
    counters::Reason,
    flow::Flow,
    guard::{AccessRule, Guard, Source, SourcePrefix},
    hop::Backend,
    limits::{SERVICES_MAX, TABLE_LEN},
    service::{PROTO_TCP, SERVICE_SOURCES, Service, Slot, VipKey, VipRanges},
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

    /// Whether an address is one of a VIP.
    pub fn is_vip(&self, address: Address) -> bool {
        self.ranges.contains_key(&VipKey { address, port: [0, 0], protocol: PROTO_TCP, _pad: 0 })
    }

    /// Whether an address may be one of a VIP, by the filter alone.
    pub fn may_be_vip(&self, address: Address) -> bool {
        let (word, bit) = weir_abi::filter::place(&address);
        self.filter.get(&word).is_some_and(|bits| bits & bit != 0)
    }

    /// The kinds of tunnels accepted from an address that is no peer's: those of the longest prefix.
    pub fn accepted_from(&self, address: Address) -> u32 {
        let bits = |address: &Address| u128::from_be_bytes(address.octets());
        let matching = self.tunnel_sources.iter().filter(|(source, _)| {
            let differing = bits(&source.address) ^ bits(&address);
            differing.leading_zeros() >= source.len_bits
        });
        matching.max_by_key(|(source, _)| source.len_bits).map_or(0, |(_, kinds)| *kinds)
    }

    /// The service of a port, as the datapath finds it.
    pub fn service_at(&self, address: Address, protocol: u8, port: u16) -> Option<u32> {
        self.find_service(address, protocol, port).ok()
    }

    /// The same, or why there is none: [`Reason::PassNotVip`] or [`Reason::PassNoService`].
    pub fn find_service(&self, address: Address, protocol: u8, port: u16) -> Result<u32, Reason> {
        let key = VipKey { address, port: port.to_be_bytes(), protocol, _pad: 0 };
        if let Some(service) = self.vips.get(&key) {
            return Ok(*service);
        }
        let ranges = self.ranges.get(&VipKey { port: [0, 0], ..key }).ok_or(Reason::PassNotVip)?;
        let mut ranges = ranges.ranges.iter().take(ranges.count as usize);
        let range = ranges.find(|range| (range.first..=range.last).contains(&port));
        range.map(|range| range.service).ok_or(Reason::PassNoService)
    }

    /// The slot of a flow of a service, as the datapath finds it; without it, why.
    pub fn choose(&self, service: u32, flow: &Flow) -> Result<Choice, Reason> {
        if service >= SERVICES_MAX {
            return Err(Reason::DropInternal);
        }
        // What is not there is zero, as in the kernel's arrays.
        let found = self.services.get(&service).copied().unwrap_or_default();
        let of_source = || self.source_table(service, flow.source);
        let has_sources = found.flags & SERVICE_SOURCES != 0;
        let table = has_sources.then(of_source).flatten().unwrap_or(found.table);
        let words = self.tables.get(&table).ok_or(Reason::DropNoBackend)?;
        let hash = flow.hash();
        let bucket = hash % TABLE_LEN as u32;
        let slot = words.get(bucket as usize).map_or(Slot::default(), |word| Slot::unpack(*word));
        Ok(Choice { table, hash, bucket, slot })
    }

    /// The table of the longest prefix that holds a source, of those with a table of their own at a service.
    fn source_table(&self, service: u32, source: Address) -> Option<u32> {
        let source = Source::new(service + 1, source);
        let holding = self.source_tables.iter().filter(|(prefix, _)| prefix.holds(&source));
        holding.max_by_key(|(prefix, _)| prefix.len_bits).map(|(_, table)| *table)
    }

    /// The backend in a slot; of kind `KIND_NONE` where there is none.
    pub fn backend(&self, slot: u16) -> Backend {
        self.backends.get(&slot).copied().unwrap_or_default()
    }
}

/// Where a flow's hash leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The Maglev table of its service.
    pub table: u32,
    /// The hash.
    pub hash: u32,
    /// The place in the table.
    pub bucket: u32,
    /// What stands there.
    pub slot: Slot,
}
