//! The BPF maps behind typed handles: one operation of a plan at a time, and reading back what is there.

use std::{collections::BTreeMap, os::fd::AsRawFd, os::fd::OwnedFd, sync::Arc};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, MapData, MapError, SockMap, lpm_trie::Key},
};
use weir_abi::{
    Address, Config,
    guard::{AccessRule, Guard, Source, SourcePrefix},
    hop::{Backend, KIND_NONE},
    limits::{BACKENDS_MAX, FILTER_WORDS, SERVICES_MAX, TABLE_LEN, TABLES_MAX},
    maps as names,
    service::{SERVICE_IN_USE, Service, Table, VipKey, VipRanges},
    tunnel::TunnelSource,
};
use weir_core::{image::Image, plan::Op};

/// Why the kernel did not take or give an entry.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// A map is not there.
    #[error("the object has no map {0} of the right kind: it is of another version of weir")]
    Missing(&'static str),
    /// A map refused.
    #[error("map {0}: {1}")]
    Map(&'static str, MapError),
    /// Somebody else writes here too.
    #[error("{0}: read back otherwise than written")]
    NotConfirmed(String),
}

/// The datapath's maps.
pub struct Maps {
    config: Array<MapData, Config>,
    vips: HashMap<MapData, VipKey, u32>,
    ranges: HashMap<MapData, VipKey, VipRanges>,
    generation: Array<MapData, u32>,
    services: Array<MapData, Service>,
    source_tables: LpmTrie<MapData, Source, u32>,
    access: LpmTrie<MapData, Source, AccessRule>,
    guards: Array<MapData, Guard>,
    filter: Array<MapData, u64>,
    halves: Array<MapData, u32>,
    tables: ArrayOfMaps<MapData, Array<MapData, Table>>,
    backends: Array<MapData, Backend>,
    quic_servers: HashMap<MapData, u32, u32>,
    peers: HashMap<MapData, Address, u32>,
    tunnel_sources: LpmTrie<MapData, Address, u32>,
    sockets: SockMap<MapData>,
}

macro_rules! take {
    ($ebpf:expr, $name:expr) => {
        $ebpf.take_map($name).and_then(|map| map.try_into().ok()).ok_or(MapsError::Missing($name))?
    };
}

fn at(name: &'static str) -> impl Fn(MapError) -> MapsError {
    move |error| MapsError::Map(name, error)
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        Ok(Self {
            config: take!(ebpf, names::CONFIG),
            vips: take!(ebpf, names::VIPS),
            ranges: take!(ebpf, names::VIP_RANGES),
            generation: take!(ebpf, names::GENERATION),
            services: take!(ebpf, names::SERVICES),
            source_tables: take!(ebpf, names::SOURCE_TABLES),
            access: take!(ebpf, names::ACCESS),
            guards: take!(ebpf, names::GUARDS),
            filter: take!(ebpf, names::FILTER),
            halves: take!(ebpf, names::HALVES),
            tables: take!(ebpf, names::TABLES),
            backends: take!(ebpf, names::BACKENDS),
            quic_servers: take!(ebpf, names::QUIC_SERVERS),
            peers: take!(ebpf, names::PEERS),
            tunnel_sources: take!(ebpf, names::TUNNEL_SOURCES),
            sockets: take!(ebpf, names::SOCKETS),
        })
    }

    /// Applies one operation and looks whether it is there. Routes are in no map: for them there is nothing to do.
    pub fn apply(&mut self, op: &Op) -> Result<(), MapsError> {
        match op {
            Op::SetConfig(config) => self.config.set(0, config, 0).map_err(at(names::CONFIG))?,
            Op::PutPeer(peer) => self.peers.insert(peer, 1, 0).map_err(at(names::PEERS))?,
            Op::PutTunnelSource(source, kinds) => {
                self.tunnel_sources.insert(&key(source), kinds, 0).map_err(at(names::TUNNEL_SOURCES))?;
            }
            Op::PutBackend(slot, backend) => {
                self.backends.set(u32::from(*slot), backend, 0).map_err(at(names::BACKENDS))?;
            }
            Op::PutQuicServer(id, slot) => {
                let put = self.quic_servers.insert(u32::from(*id), u32::from(*slot), 0);
                put.map_err(at(names::QUIC_SERVERS))?;
            }
            Op::DeleteQuicServer(id) => {
                absent_is_fine(self.quic_servers.remove(&u32::from(*id))).map_err(at(names::QUIC_SERVERS))?;
            }
            Op::PutTable(index, words) => self.put_table(*index, words)?,
            Op::PutService(index, service) => {
                self.services.set(*index, service, 0).map_err(at(names::SERVICES))?;
            }
            Op::PutSourceTable(prefix, table) => {
                let put = self.source_tables.insert(&access_key(prefix), table, 0);
                put.map_err(at(names::SOURCE_TABLES))?;
            }
            Op::PutAccess(prefix, rule) => {
                self.access.insert(&access_key(prefix), rule, 0).map_err(at(names::ACCESS))?;
            }
            Op::PutGuard(index, guard) => {
                self.guards.set(*index, guard, 0).map_err(at(names::GUARDS))?;
            }
            Op::PutFilter(word, bits) => self.filter.set(*word, bits, 0).map_err(at(names::FILTER))?,
            Op::PutRoute(_) | Op::DeleteRoute(_) => {}
            Op::PutRanges(key, ranges) => {
                self.ranges.insert(key, ranges, 0).map_err(at(names::VIP_RANGES))?
            }
            Op::PutVip(key, index) => self.vips.insert(key, index, 0).map_err(at(names::VIPS))?,
            Op::DeleteVip(key) => absent_is_fine(self.vips.remove(key)).map_err(at(names::VIPS))?,
            Op::DeleteRanges(key) => {
                absent_is_fine(self.ranges.remove(key)).map_err(at(names::VIP_RANGES))?
            }
            Op::DeleteService(index) => {
                // The socket of whoever gets the number next is not the one that had it before.
                let _empty_is_fine = self.sockets.clear_index(index);
                self.services.set(*index, Service::default(), 0).map_err(at(names::SERVICES))?;
            }
            Op::DeleteGuard(index) => {
                self.guards.set(*index, Guard::default(), 0).map_err(at(names::GUARDS))?;
            }
            Op::DeleteSourceTable(prefix) => {
                let removed = self.source_tables.remove(&access_key(prefix));
                absent_is_fine(removed).map_err(at(names::SOURCE_TABLES))?;
            }
            Op::DeleteAccess(prefix) => {
                absent_is_fine(self.access.remove(&access_key(prefix))).map_err(at(names::ACCESS))?;
            }
            Op::DeleteTable(index) => self.put_table(*index, &[0; TABLE_LEN])?,
            Op::DeleteBackend(slot) => {
                self.backends.set(u32::from(*slot), Backend::default(), 0).map_err(at(names::BACKENDS))?;
            }
            Op::DeleteTunnelSource(source) => {
                let removed = self.tunnel_sources.remove(&key(source));
                absent_is_fine(removed).map_err(at(names::TUNNEL_SOURCES))?;
            }
            Op::DeletePeer(peer) => absent_is_fine(self.peers.remove(peer)).map_err(at(names::PEERS))?,
        }
        if matches!(op, Op::PutVip(..) | Op::PutRanges(..) | Op::DeleteVip(_) | Op::DeleteRanges(_)) {
            self.forget_services()?;
        }
        if self.confirms(op)? { Ok(()) } else { Err(MapsError::NotConfirmed(op.to_string())) }
    }

    /// Lets every CPU forget which service a port of a VIP was.
    fn forget_services(&mut self) -> Result<(), MapsError> {
        let generation = self.generation.get(&0, 0).map_err(at(names::GENERATION))?;
        self.generation.set(0, generation.wrapping_add(1), 0).map_err(at(names::GENERATION))
    }

    /// Whether the kernel shows what was written.
    fn confirms(&self, op: &Op) -> Result<bool, MapsError> {
        Ok(match op {
            Op::SetConfig(config) => self.config.get(&0, 0).map_err(at(names::CONFIG))? == *config,
            Op::PutPeer(peer) => self.peers.get(peer, 0).is_ok(),
            // Of the longest prefix that matches, which is this one.
            Op::PutTunnelSource(source, kinds) => {
                self.tunnel_sources.get(&key(source), 0).map_err(at(names::TUNNEL_SOURCES))? == *kinds
            }
            Op::PutBackend(slot, backend) => {
                self.backends.get(&u32::from(*slot), 0).map_err(at(names::BACKENDS))? == *backend
            }
            Op::PutQuicServer(id, slot) => {
                let there = self.quic_servers.get(&u32::from(*id), 0).map_err(at(names::QUIC_SERVERS))?;
                there == u32::from(*slot)
            }
            Op::PutTable(index, words) => match self.read_table(*index)? {
                Some(there) => there == **words,
                None => words.iter().all(|word| *word == 0),
            },
            Op::PutService(index, service) => {
                self.services.get(index, 0).map_err(at(names::SERVICES))? == *service
            }
            Op::PutSourceTable(prefix, table) => {
                let there = self.source_tables.get(&access_key(prefix), 0);
                there.map_err(at(names::SOURCE_TABLES))? == *table
            }
            // A lookup finds the longest prefix, which for a whole one is the one itself.
            Op::PutAccess(prefix, rule) => {
                self.access.get(&access_key(prefix), 0).map_err(at(names::ACCESS))? == *rule
            }
            Op::PutGuard(index, guard) => self.guards.get(index, 0).map_err(at(names::GUARDS))? == *guard,
            Op::PutRanges(key, ranges) => self.ranges.get(key, 0).map_err(at(names::VIP_RANGES))? == *ranges,
            Op::PutVip(key, index) => self.vips.get(key, 0).map_err(at(names::VIPS))? == *index,
            Op::PutFilter(word, bits) => self.filter.get(word, 0).map_err(at(names::FILTER))? == *bits,
            // What goes is nobody's promise.
            Op::PutRoute(_)
            | Op::DeleteVip(_)
            | Op::DeleteRanges(_)
            | Op::DeleteRoute(_)
            | Op::DeleteService(_)
            | Op::DeleteGuard(_)
            | Op::DeleteAccess(_)
            | Op::DeleteSourceTable(_)
            | Op::DeleteTable(_)
            | Op::DeleteQuicServer(_)
            | Op::DeleteBackend(_)
            | Op::DeleteTunnelSource(_)
            | Op::DeletePeer(_) => true,
        })
    }

    /// Each table has two places, one of which is in use: fills the other and exchanges them, so that packets see the whole
    /// old table or the whole new one. A packet that took its place just before the last exchange may find this one's rows
    /// already, each of them whole: those of neighbouring phases, which agree on every flow.
    ///
    /// A place has its map from the first time it is used. Making one costs milliseconds, because the kernel waits for all
    /// programs that run; filling one does not.
    fn put_table(&mut self, index: u32, words: &[u32]) -> Result<(), MapsError> {
        let mut table = Box::new(Table([0; TABLE_LEN]));
        table.0.copy_from_slice(words);
        // By reference: a table on the stack would take a quarter of a megabyte of it.
        let table: &Table = &table;
        let idle = self.half(index)? ^ 1;
        match self.inner(place(index, idle))? {
            Some(mut inner) => inner.set(0, table, 0).map_err(at(names::TABLES))?,
            None => {
                let mut inner: Array<MapData, Table> = Array::create(1, 0).map_err(at(names::TABLES))?;
                inner.set(0, table, 0).map_err(at(names::TABLES))?;
                self.tables.set(place(index, idle), &inner, 0).map_err(at(names::TABLES))?;
            }
        }
        self.halves.set(index, idle, 0).map_err(at(names::HALVES))
    }

    /// Which of a table's places is in use.
    fn half(&self, index: u32) -> Result<u32, MapsError> {
        Ok(self.halves.get(&index, 0).map_err(at(names::HALVES))? & 1)
    }

    /// The map at a place, if there is one.
    fn inner(&self, place: u32) -> Result<Option<Array<MapData, Table>>, MapsError> {
        match self.tables.get(&place, 0) {
            Ok(inner) => Ok(Some(inner)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) =>
            {
                Ok(None)
            }
            Err(error) => Err(at(names::TABLES)(error)),
        }
    }

    /// The words of a table; `None` where there is none. An all-empty table stands for none: entries cannot be emptied.
    fn read_table(&self, index: u32) -> Result<Option<Vec<u32>>, MapsError> {
        let Some(inner) = self.inner(place(index, self.half(index)?))? else { return Ok(None) };
        let table = inner.get(&0, 0).map_err(at(names::TABLES))?;
        Ok(table.0.iter().any(|word| *word != 0).then(|| table.0.to_vec()))
    }

    /// Everything that is there, but routes.
    pub fn read_back(&self) -> Result<Image, MapsError> {
        let config = self.config.get(&0, 0).map_err(at(names::CONFIG))?;
        let mut image = Image { config, ..Image::default() };
        for peer in self.peers.keys() {
            image.peers.insert(peer.map_err(at(names::PEERS))?);
        }
        for pair in self.tunnel_sources.iter() {
            let (key, kinds) = pair.map_err(at(names::TUNNEL_SOURCES))?;
            let source = TunnelSource { len_bits: key.prefix_len(), address: key.data() };
            image.tunnel_sources.insert(source, kinds);
        }
        for slot in 1..BACKENDS_MAX {
            let backend = self.backends.get(&slot, 0).map_err(at(names::BACKENDS))?;
            if backend.kind != KIND_NONE {
                image.backends.insert(slot as u16, backend);
            }
        }
        for pair in self.quic_servers.iter() {
            let (id, slot) = pair.map_err(at(names::QUIC_SERVERS))?;
            image.quic_servers.insert(id as u16, slot as u16);
        }
        for index in 0..TABLES_MAX {
            if let Some(words) = self.read_table(index)? {
                image.tables.insert(index, Arc::new(words));
            }
        }
        for index in 0..SERVICES_MAX {
            let service = self.services.get(&index, 0).map_err(at(names::SERVICES))?;
            if service.flags & SERVICE_IN_USE != 0 {
                image.services.insert(index, service);
            }
            let guard = self.guards.get(&index, 0).map_err(at(names::GUARDS))?;
            if guard != Guard::default() {
                image.guards.insert(index, guard);
            }
        }
        for word in 0..FILTER_WORDS as u32 {
            let bits = self.filter.get(&word, 0).map_err(at(names::FILTER))?;
            if bits != 0 {
                image.filter.insert(word, bits);
            }
        }
        for pair in self.source_tables.iter() {
            let (key, table) = pair.map_err(at(names::SOURCE_TABLES))?;
            let prefix = SourcePrefix { len_bits: key.prefix_len(), source: key.data() };
            image.source_tables.insert(prefix, table);
        }
        for pair in self.access.iter() {
            let (key, rule) = pair.map_err(at(names::ACCESS))?;
            let prefix = SourcePrefix { len_bits: key.prefix_len(), source: key.data() };
            image.access.insert(prefix, rule);
        }
        image.vips = pairs(&self.vips, names::VIPS)?;
        image.ranges = pairs(&self.ranges, names::VIP_RANGES)?;
        Ok(image)
    }

    /// Steers a service to a socket.
    pub fn steer(&mut self, service: u32, socket: &OwnedFd) -> Result<(), MapsError> {
        self.sockets.set(service, &socket.as_raw_fd(), 0).map_err(at(names::SOCKETS))
    }
}

fn access_key(prefix: &SourcePrefix) -> Key<Source> {
    Key::new(prefix.len_bits, prefix.source)
}

/// Where in `TABLES` one of the halves of a table is.
const fn place(index: u32, half: u32) -> u32 {
    index << 1 | half
}

fn pairs<V: aya::Pod>(
    map: &HashMap<MapData, VipKey, V>,
    name: &'static str,
) -> Result<BTreeMap<VipKey, V>, MapsError> {
    map.iter().map(|pair| pair.map_err(at(name))).collect()
}

fn key(source: &TunnelSource) -> Key<Address> {
    Key::new(source.len_bits, source.address)
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        other => other,
    }
}
