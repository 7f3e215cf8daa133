//! Runs the balancer on single packets with `BPF_PROG_TEST_RUN`: packet in, verdict and packet out, reason counted.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{TestRun, TestRunOptions, Xdp},
};
use weir_abi::{
    Address, Config,
    bench::{Bench, TEMPLATE_WORDS},
    counters::{REASONS, Reason},
    fragment::{FirstFragment, FragmentKey},
    guard::{Guard, Source},
    hop::Backend,
    maps,
    path::PathMtu,
    programs,
    service::{SERVICE_IN_USE, Service, Slot, Traffic, VipKey, VipRanges},
    tunnel::TunnelSource,
};
use weir_core::{
    image::Image,
    plan::{self, Op},
};
use weir_l4::maps::Maps;

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
    maps: Maps,
    filter: BTreeMap<u32, u64>,
    config: Config,
    /// Whether the packets of the benchmark are answered.
    pub is_answered: bool,
}

impl Balancer {
    /// Loads the object; this host's tunnel addresses are those of `config`.
    pub fn load(config: Config) -> Result<Self> {
        let path = object_path();
        let mut ebpf = Ebpf::load_file(&path)
            .with_context(|| format!("load {}; `cargo xtask build-ebpf` makes it", path.display()))?;
        let program: &mut Xdp = ebpf.program_mut(programs::BALANCER).context("no balancer")?.try_into()?;
        program.load()?;
        let maps = Maps::new(&mut ebpf)?;
        let mut this = Self { ebpf, maps, filter: BTreeMap::new(), config, is_answered: false };
        this.apply(Op::SetConfig(config))?;
        Ok(this)
    }

    /// Puts something into the maps, as `weir-l4` does.
    pub fn apply(&mut self, op: Op) -> Result<()> {
        Ok(self.maps.apply(&op)?)
    }

    /// Looks at protection: `GUARDED_` bits.
    pub fn guarded(&mut self, guarded: u32) -> Result<()> {
        self.config.guarded = guarded;
        self.apply(Op::SetConfig(self.config))
    }

    /// Protects a service: `SERVICE_` bits, and what they mean. The service has the table of its own number.
    pub fn guard(&mut self, index: u32, flags: u32, guard: Guard) -> Result<()> {
        self.apply(Op::PutGuard(index, guard))?;
        self.apply(Op::PutService(index, Service { table: index, flags: SERVICE_IN_USE | flags }))
    }

    /// Packets blocked by an access list so far.
    pub fn access_hits(&self, list: u16) -> Result<u64> {
        let map: &Map = self.ebpf.map(maps::ACCESS_HITS).context("no hits")?;
        let map: PerCpuArray<_, u64> = map.try_into()?;
        Ok(map.get(&u32::from(list), 0)?.iter().sum())
    }

    /// Puts a whole image into the maps; they are those of a balancer just loaded.
    pub fn put(&mut self, image: &Image) -> Result<()> {
        plan::diff(&Image::default(), image).into_iter().try_for_each(|op| self.apply(op))
    }

    /// Fills a backend slot; tunnels from its address are accepted.
    pub fn backend(&mut self, slot: u16, backend: Backend) -> Result<()> {
        self.apply(Op::PutBackend(slot, backend))?;
        self.apply(Op::PutPeer(backend.address))
    }

    /// A service on one port of a VIP, with a table in which every slot is the same.
    pub fn service(&mut self, index: u32, key: VipKey, slot: Slot) -> Result<()> {
        self.table(index, slot)?;
        self.apply(Op::PutService(index, Service { table: index, flags: SERVICE_IN_USE }))?;
        self.apply(Op::PutVip(key, index))?;
        for protocol in [weir_abi::service::PROTO_TCP, weir_abi::service::PROTO_UDP] {
            self.ranges(VipKey { port: [0, 0], protocol, ..key }, VipRanges::default())?;
        }
        Ok(())
    }

    /// The port ranges of a VIP.
    pub fn ranges(&mut self, key: VipKey, ranges: VipRanges) -> Result<()> {
        let (word, bit) = weir_abi::filter::place(&key.address);
        let bits = self.filter.entry(word).or_default();
        *bits |= bit;
        let bits = *bits;
        self.apply(Op::PutFilter(word, bits))?;
        self.apply(Op::PutRanges(key, ranges))
    }

    /// A table in which every slot is the same.
    pub fn table(&mut self, index: u32, slot: Slot) -> Result<()> {
        self.table_of(index, vec![slot.pack(); weir_abi::limits::TABLE_LEN])
    }

    /// A table of these words.
    pub fn table_of(&mut self, index: u32, words: Vec<u32>) -> Result<()> {
        self.apply(Op::PutTable(index, Arc::new(words)))
    }

    /// Tunnels of these kinds (`ACCEPT_` bits) are accepted from a prefix.
    pub fn tunnel_source(&mut self, source: TunnelSource, kinds: u32) -> Result<()> {
        self.apply(Op::PutTunnelSource(source, kinds))
    }

    /// Sets the flags of a service made by [`service`](Self::service), beside that it is in use.
    pub fn service_flags(&mut self, index: u32, flags: u32) -> Result<()> {
        self.apply(Op::PutService(index, Service { table: index, flags: SERVICE_IN_USE | flags }))
    }

    fn per_cpu<T: aya::Pod>(&self, name: &str) -> Result<PerCpuArray<&MapData, T>> {
        let map: &Map = self.ebpf.map(name).with_context(|| format!("no map {name}"))?;
        Ok(map.try_into()?)
    }

    /// Packets by reason so far, in the order of [`REASONS`].
    pub fn reasons(&self) -> Result<Vec<u64>> {
        REASONS.iter().map(|(reason, _)| self.counted(*reason)).collect()
    }

    /// Packets counted under a reason so far.
    pub fn counted(&self, reason: Reason) -> Result<u64> {
        Ok(self.per_cpu::<u64>(maps::REASONS)?.get(&(reason as u32), 0)?.iter().sum())
    }

    /// Packets counted so far for a service and for a backend slot.
    pub fn traffic(&self, service: u32, backend: u16) -> Result<(u64, u64)> {
        let sum = |name, index| {
            let cpus = self.per_cpu::<Traffic>(name)?.get(&index, 0)?;
            anyhow::Ok(cpus.iter().map(|traffic| traffic.packets).sum())
        };
        Ok((sum(maps::SERVICE_TRAFFIC, service)?, sum(maps::BACKEND_TRAFFIC, u32::from(backend))?))
    }

    /// Fills the bucket of messages to clients whose packets are too big.
    pub fn refill(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("TOO_BIG").context("no bucket")?;
        let mut bucket: PerCpuArray<_, [u64; 2]> = map.try_into()?;
        // Filled in a future so far away that its distance looks endless: a full bucket.
        let full = vec![[0, u64::MAX / 2]; aya::util::nr_cpus().map_err(|(_, error)| error)?];
        Ok(bucket.set(0, aya::maps::PerCpuValues::try_from(full)?, 0)?)
    }

    /// What routers said of paths, by the tunnels' ends; forgets it.
    pub fn take_paths(&mut self) -> Result<BTreeMap<Address, u32>> {
        let paths = self.take::<Address, PathMtu>(maps::PATH_MTUS)?;
        Ok(paths.into_iter().map(|(end, path)| (end, path.mtu)).collect())
    }

    /// Forgets the first fragments of segments.
    pub fn forget_fragments(&mut self) -> Result<()> {
        self.take::<FragmentKey, FirstFragment>(maps::FRAGMENTS).map(drop)
    }

    /// The UDP flows that are remembered, by their wide hash; forgets them.
    pub fn take_udp_flows(&mut self) -> Result<Vec<u64>> {
        let flows = self.take::<u64, u64>(maps::UDP_FLOWS)?;
        Ok(flows.into_iter().map(|(hash, _)| hash).collect())
    }

    /// The sources whose new connections are counted; forgets them.
    pub fn take_sources(&mut self) -> Result<Vec<Source>> {
        let sources = self.take::<Source, u64>(maps::SOURCE_RATES)?;
        Ok(sources.into_iter().map(|(source, _)| source).collect())
    }

    /// Forgets the SYNs of a service, on all CPUs.
    pub fn forget_syns(&mut self, service: u32) -> Result<()> {
        let map = self.ebpf.map_mut(maps::SYN_RATES).context("no rates")?;
        let mut rates: PerCpuArray<_, [u64; 2]> = map.try_into()?;
        let none = vec![[0; 2]; aya::util::nr_cpus().map_err(|(_, error)| error)?];
        Ok(rates.set(service, aya::maps::PerCpuValues::try_from(none)?, 0)?)
    }

    /// Takes everything out of a hash map.
    fn take<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<Vec<(K, V)>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        let mut map: HashMap<_, K, V> = map.try_into()?;
        let all: Vec<_> = map.iter().collect::<Result<_, _>>()?;
        for (key, _) in &all {
            map.remove(key)?;
        }
        Ok(all)
    }

    /// Nanoseconds per packet of a program that puts the packet back (`bench`, `bench_null`): `packet` from `flows` sources
    /// in turn (a power of two), counted at `source_at`. The action must be `action` and the packet as it was.
    pub fn time(
        &mut self,
        name: &str,
        packet: &[u8],
        flows: u64,
        source_at: usize,
        action: u32,
    ) -> Result<f64> {
        const REPEAT: u32 = 1_000_000;
        let mut bench = Bench {
            len_bytes: packet.len() as u32,
            source_at: source_at as u32,
            flows_mask: (flows - 1) as u32,
            first_source: 0x0100_0000,
            is_answered: u32::from(self.is_answered && name == programs::BENCH),
            _pad: 0,
            template: [0; TEMPLATE_WORDS],
        };
        ensure!(packet.len() >= size_of_val(&bench.template), "the packet is shorter than what is put back");
        for (word, bytes) in bench.template.iter_mut().zip(packet.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        let map = self.ebpf.map_mut(maps::BENCH).context("no bench")?;
        Array::<&mut MapData, Bench>::try_from(map)?.set(0, bench, 0)?;
        let program: &mut Xdp = self.ebpf.program_mut(name).context("no such program")?.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let mut out = vec![0; packet.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            repeat: REPEAT,
            ..TestRunOptions::default()
        })?;
        ensure!(result.return_value == action, "{name} returned {} and not {action}", result.return_value);
        ensure!(result.data_size_out as usize == packet.len(), "{name} did not put the packet back");
        Ok(result.duration.as_nanos() as f64)
    }

    /// Instructions the verifier went through for a loaded program; `None` where the kernel does not tell.
    pub fn verified_instructions(&mut self, name: &str) -> Result<Option<u32>> {
        let program: &Xdp = self.ebpf.program(name).context("no such program")?.try_into()?;
        Ok(program.info()?.verified_instruction_count())
    }

    /// Runs a packet that came in on interface `ingress` and writes it to `out` as it became; returns the action.
    pub fn run_on(&self, ingress: u32, packet: &[u8], out: &mut Vec<u8>) -> Result<u32> {
        // struct xdp_md: data, data_end, data_meta, ingress, queue, egress.
        let context = [0, packet.len() as u32, 0, ingress, 0, 0].map(u32::to_ne_bytes).concat();
        self.once(packet, Some(&context), out)
    }

    /// The action for a packet, and nothing else: a hundred times faster than [`run`](Self::run).
    pub fn action(&self, packet: &[u8]) -> Result<u32> {
        self.once(packet, None, &mut Vec::new())
    }

    fn once(&self, packet: &[u8], context: Option<&[u8]>, out: &mut Vec<u8>) -> Result<u32> {
        out.clear();
        out.resize(packet.len() + 256, 0);
        let program: &Xdp = self.ebpf.program(programs::BALANCER).context("no balancer")?.try_into()?;
        let result = program.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(out),
            ctx_in: context,
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(result.return_value)
    }

    /// Runs one packet through; panics unless it was counted under exactly one reason.
    pub fn run(&mut self, packet: &[u8]) -> Result<Seen> {
        let before = self.reasons()?;
        let mut out = Vec::new();
        let action = self.once(packet, None, &mut out)?;
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

/// Runs all packets of the calling thread on one CPU: what the program keeps for each CPU is then kept for all of them. Tests
/// beside each other take different ones.
pub fn stay_on_one_cpu() {
    static TESTS: AtomicUsize = AtomicUsize::new(0);
    let nobody = nix::unistd::Pid::from_raw(0);
    let allowed = nix::sched::sched_getaffinity(nobody).expect("CPUs");
    let cpus: Vec<_> =
        (0..nix::sched::CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let mut one = nix::sched::CpuSet::new();
    one.set(cpus[TESTS.fetch_add(1, Ordering::Relaxed) % cpus.len()]).expect("a CPU");
    nix::sched::sched_setaffinity(nobody, &one).expect("stay on a CPU");
}

/// A key for a port of an IPv4 VIP.
pub fn key4(vip: [u8; 4], protocol: u8, port: u16) -> VipKey {
    VipKey { address: Address::v4(vip), port: port.to_be_bytes(), protocol, _pad: 0 }
}
