//! Runs the balancer on single packets with `BPF_PROG_TEST_RUN`: packet in, verdict and packet out, reason counted.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{TestRun, TestRunOptions, Xdp},
};
use weir_abi::{
    Address, Config,
    counters::{REASONS, Reason},
    hop::Backend,
    maps, programs,
    service::{Service, Slot, Table, VipKey, VipRanges},
};

/// Where `cargo xtask build-ebpf` puts the object; `WEIR_EBPF` overrides it.
pub fn object_path() -> PathBuf {
    std::env::var_os("WEIR_EBPF").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/weir")),
        PathBuf::from,
    )
}

/// What the balancer did with a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// XDP action.
    pub action: u32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// The reason it was counted under.
    pub reason: Reason,
}

/// The balancer, loaded but attached nowhere.
pub struct Balancer {
    ebpf: Ebpf,
}

impl Balancer {
    /// Loads the object; this host's tunnel addresses are those of `config`.
    pub fn load(config: Config) -> Result<Self> {
        let path = object_path();
        let mut ebpf = Ebpf::load_file(&path)
            .with_context(|| format!("load {}; `cargo xtask build-ebpf` makes it", path.display()))?;
        let program: &mut Xdp = ebpf.program_mut(programs::BALANCER).context("no balancer")?.try_into()?;
        program.load()?;
        let mut this = Self { ebpf };
        this.array::<Config>(maps::CONFIG)?.set(0, config, 0)?;
        Ok(this)
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?.try_into()?)
    }

    /// Fills a backend slot; tunnels from its address are accepted.
    pub fn backend(&mut self, slot: u16, backend: Backend) -> Result<()> {
        self.array::<Backend>(maps::BACKENDS)?.set(u32::from(slot), backend, 0)?;
        let map = self.ebpf.map_mut(maps::PEERS).context("no peers")?;
        HashMap::<_, Address, u32>::try_from(map)?.insert(backend.address, 1, 0)?;
        Ok(())
    }

    /// A service on one port of a VIP, with a table in which every slot is the same.
    pub fn service(&mut self, index: u32, key: VipKey, slot: Slot) -> Result<()> {
        self.table(index, slot)?;
        self.array::<Service>(maps::SERVICES)?.set(index, Service { table: index, in_use: 1 }, 0)?;
        let map = self.ebpf.map_mut(maps::VIPS).context("no vips")?;
        HashMap::<_, VipKey, u32>::try_from(map)?.insert(key, index, 0)?;
        for protocol in [weir_abi::service::PROTO_TCP, weir_abi::service::PROTO_UDP] {
            self.ranges(VipKey { port: [0, 0], protocol, ..key }, VipRanges::default())?;
        }
        Ok(())
    }

    /// The port ranges of a VIP.
    pub fn ranges(&mut self, key: VipKey, ranges: VipRanges) -> Result<()> {
        let map = self.ebpf.map_mut(maps::VIP_RANGES).context("no ranges")?;
        HashMap::<_, VipKey, VipRanges>::try_from(map)?.insert(key, ranges, 0)?;
        Ok(())
    }

    /// A table in which every slot is the same.
    pub fn table(&mut self, index: u32, slot: Slot) -> Result<()> {
        self.table_of(index, &[slot.pack(); weir_abi::limits::TABLE_LEN])
    }

    /// A table of these words.
    pub fn table_of(&mut self, index: u32, words: &[u32]) -> Result<()> {
        let mut inner: Array<MapData, Table> = Array::create(1, 0)?;
        let mut table = Box::new(Table([0; weir_abi::limits::TABLE_LEN]));
        table.0.copy_from_slice(words);
        inner.set(0, *table, 0)?;
        let map = self.ebpf.map_mut(maps::TABLES).context("no tables")?;
        let mut outer: aya::maps::ArrayOfMaps<_, Array<MapData, Table>> = map.try_into()?;
        outer.set(index, &inner, 0)?;
        Ok(())
    }

    fn reasons(&mut self) -> Result<Vec<u64>> {
        let map: &Map = self.ebpf.map(maps::REASONS).context("no reasons")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        REASONS.iter().map(|(reason, _)| Ok(map.get(&(*reason as u32), 0)?.iter().sum())).collect()
    }

    /// Nanoseconds the balancer takes for `packet`, over `repeat` runs; only for packets it leaves as they are.
    pub fn time(&mut self, packet: &[u8], repeat: u32) -> Result<f64> {
        self.time_program(programs::BALANCER, packet, repeat)
    }

    /// The same for the program that passes everything.
    pub fn time_pass(&mut self, packet: &[u8], repeat: u32) -> Result<f64> {
        let program: &mut Xdp = self.ebpf.program_mut(programs::PASS).context("no pass")?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        self.time_program(programs::PASS, packet, repeat)
    }

    fn time_program(&mut self, name: &str, packet: &[u8], repeat: u32) -> Result<f64> {
        let program: &Xdp = self.ebpf.program(name).context("no such program")?.try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(packet),
            repeat,
            ..TestRunOptions::default()
        })?;
        Ok(result.duration.as_nanos() as f64)
    }

    /// How many instructions the verifier went through to accept the balancer; kernels before 5.16 do not say.
    pub fn verified_instructions(&mut self) -> Result<Option<u32>> {
        let program: &Xdp = self.ebpf.program(programs::BALANCER).context("no balancer")?.try_into()?;
        Ok(program.info()?.verified_instruction_count())
    }

    /// Runs one packet through; panics unless it was counted under exactly one reason.
    pub fn run(&mut self, packet: &[u8]) -> Result<Seen> {
        let before = self.reasons()?;
        let program: &Xdp = self.ebpf.program(programs::BALANCER).context("no balancer")?.try_into()?;
        let mut out = vec![0; packet.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        let (action, len) = (result.return_value, result.data_size_out as usize);
        out.truncate(len);
        let after = self.reasons()?;
        let counted: Vec<Reason> = REASONS
            .iter()
            .zip(before.iter().zip(&after))
            .flat_map(|((reason, _), (before, after))| (0..after - before).map(|_| *reason))
            .collect();
        assert_eq!(counted.len(), 1, "a packet is counted under exactly one reason, not {counted:?}");
        Ok(Seen { action, packet: out, reason: counted[0] })
    }
}

/// A key for a port of an IPv4 VIP.
pub fn key4(vip: [u8; 4], protocol: u8, port: u16) -> VipKey {
    VipKey { address: Address::v4(vip), port: port.to_be_bytes(), protocol, _pad: 0 }
}
