//! Packets and bytes as the kernel counts them, summed over CPUs, for status and metrics.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use weir_abi::{
    counters::REASONS,
    guard::{LIST_DEFAULT, LIST_MOMENT},
    maps as names,
    service::Traffic,
};
use weir_core::image::Image;
use weir_model::Name;
use weir_runtime::metrics::{Registry, Text};

use crate::load::maps_dir;

/// Handles of their own on the pinned counters, so that a scrape never waits for the loop.
pub(crate) struct Counters {
    reasons: PerCpuArray<MapData, u64>,
    services: PerCpuArray<MapData, Traffic>,
    backends: PerCpuArray<MapData, Traffic>,
    access: PerCpuArray<MapData, u64>,
    labels: Mutex<Labels>,
}

/// What the numbers are called; replaced whole after every apply.
#[derive(Default)]
pub(crate) struct Labels {
    /// Service index → VIP.
    pub(crate) services: BTreeMap<u32, Name>,
    /// Backend slot → node or server.
    pub(crate) backends: BTreeMap<u16, String>,
    /// Number of an access list → its name, and what was counted for whoever had the number before.
    pub(crate) lists: BTreeMap<u16, (Name, u64)>,
}

impl Counters {
    /// Opens the counters pinned below `pin_dir`.
    pub(crate) fn open(pin_dir: &Path) -> Result<Arc<Self>, MapError> {
        let dir = maps_dir(pin_dir);
        let map = |name: &str| Map::from_map_data(MapData::from_pin(dir.join(name))?);
        Ok(Arc::new(Self {
            reasons: map(names::REASONS)?.try_into()?,
            services: map(names::SERVICE_TRAFFIC)?.try_into()?,
            backends: map(names::BACKEND_TRAFFIC)?.try_into()?,
            access: map(names::ACCESS_HITS)?.try_into()?,
            labels: Mutex::default(),
        }))
    }

    /// Other names from now on.
    pub(crate) fn set_labels(&self, labels: Labels) {
        let mut there = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = labels;
        let is_first = there.services.is_empty() && there.lists.is_empty();
        for (number, (name, before)) in &mut labels.lists {
            *before = match there.lists.get(number) {
                Some((known, before)) if known == name => *before,
                // After a start, the numbers in the kernel are those the lists have.
                _ if is_first => 0,
                _ => self.hits(*number),
            };
        }
        *there = labels;
    }

    /// Packets blocked under the number of an access list.
    fn hits(&self, list: u16) -> u64 {
        self.access.get(&u32::from(list), 0).map_or(0, |cpus| cpus.iter().sum())
    }

    /// Packets blocked by access list.
    pub(crate) fn access_hits(&self) -> BTreeMap<String, u64> {
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let named = labels
            .lists
            .iter()
            .map(|(number, (name, before))| (name.to_string(), self.hits(*number).saturating_sub(*before)));
        let built_in = [(LIST_DEFAULT, "(default)"), (LIST_MOMENT, "(moment)")];
        let built_in = built_in.map(|(number, name)| (name.to_owned(), self.hits(number)));
        // Those of nobody are left out where there is nothing to guard.
        named.chain(built_in.into_iter().filter(|(_, hits)| *hits > 0)).collect()
    }

    /// Packets by reason.
    pub(crate) fn reasons(&self) -> BTreeMap<String, u64> {
        let count = |reason: u32| self.reasons.get(&reason, 0).map_or(0, |cpus| cpus.iter().sum());
        REASONS.iter().map(|(reason, name)| ((*name).to_owned(), count(*reason as u32))).collect()
    }

    /// Packets and bytes by VIP.
    pub(crate) fn vips(&self) -> BTreeMap<Name, Traffic> {
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut vips: BTreeMap<Name, Traffic> = BTreeMap::new();
        for (index, vip) in &labels.services {
            let traffic = sum(&self.services, *index);
            let total = vips.entry(vip.clone()).or_default();
            total.packets += traffic.packets;
            total.bytes += traffic.bytes;
        }
        vips
    }

    /// Adds the counters to what a scrape shows.
    pub(crate) fn register(self: &Arc<Self>, registry: &Registry) {
        let counters = Arc::clone(self);
        registry.collect(move |text| counters.expose(text));
    }

    fn expose(&self, text: &mut Text) {
        text.family("weir_l4_packets_total", "counter", "Packets by what became of them.");
        for (reason, count) in self.reasons() {
            text.value("weir_l4_packets_total", &[("reason", &reason)], count as f64);
        }
        text.family("weir_l4_access_blocked_total", "counter", "Packets blocked by access list.");
        for (list, count) in self.access_hits() {
            text.value("weir_l4_access_blocked_total", &[("list", &list)], count as f64);
        }
        let vips = self.vips();
        text.family("weir_l4_vip_packets_total", "counter", "Packets forwarded by VIP.");
        for (vip, traffic) in &vips {
            text.value("weir_l4_vip_packets_total", &[("vip", vip.as_str())], traffic.packets as f64);
        }
        text.family("weir_l4_vip_bytes_total", "counter", "Bytes forwarded by VIP.");
        for (vip, traffic) in &vips {
            text.value("weir_l4_vip_bytes_total", &[("vip", vip.as_str())], traffic.bytes as f64);
        }
        let labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        text.family("weir_l4_backend_packets_total", "counter", "Packets sent to a proxy or server.");
        for (slot, node) in &labels.backends {
            let traffic = sum(&self.backends, u32::from(*slot));
            text.value("weir_l4_backend_packets_total", &[("node", node)], traffic.packets as f64);
        }
        text.family("weir_l4_backend_bytes_total", "counter", "Bytes sent to a proxy or server.");
        for (slot, node) in &labels.backends {
            let traffic = sum(&self.backends, u32::from(*slot));
            text.value("weir_l4_backend_bytes_total", &[("node", node)], traffic.bytes as f64);
        }
    }
}

fn sum(map: &PerCpuArray<MapData, Traffic>, index: u32) -> Traffic {
    let Ok(cpus) = map.get(&index, 0) else { return Traffic::default() };
    cpus.iter().fold(Traffic::default(), |total, cpu| Traffic {
        packets: total.packets + cpu.packets,
        bytes: total.bytes + cpu.bytes,
    })
}

/// The names of an image's numbers.
pub(crate) fn labels(snapshot: &weir_model::Snapshot, node: &Name, image: &Image) -> Labels {
    let mut labels = Labels::default();
    let mut name_service = |address, index| {
        if let Some((vip, _)) = snapshot.vip_at(std::net::IpAddr::from(address)) {
            labels.services.insert(index, vip.clone());
        }
    };
    for (key, index) in &image.vips {
        name_service(key.address, *index);
    }
    for (key, ranges) in &image.ranges {
        for range in ranges.ranges.iter().take(ranges.count as usize) {
            name_service(key.address, range.service);
        }
    }
    for (slot, backend) in &image.backends {
        let name = weir_core::explain::name_of(snapshot, node, backend);
        let address = || std::net::IpAddr::from(backend.address).to_string();
        labels.backends.insert(*slot, name.map_or_else(address, |name| name.to_string()));
    }
    labels
}
