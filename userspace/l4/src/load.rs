//! Loads the programs on pinned maps: those of an earlier run when they speak the same ABI, new ones otherwise.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfLoader, maps::Array, maps::MapData, programs::ProgramError};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use weir_abi::{ABI_VERSION, Config, maps as names, programs};

/// Every map that outlives a program, in the order of their declaration.
const MAPS: [&str; 25] = [
    names::CONFIG,
    names::VIPS,
    names::VIP_RANGES,
    names::GENERATION,
    names::SERVICES,
    names::FILTER,
    names::HALVES,
    names::TABLES,
    names::BACKENDS,
    names::PEERS,
    names::TUNNEL_SOURCES,
    names::SOURCE_TABLES,
    names::ACCESS,
    names::ACCESS_HITS,
    names::GUARDS,
    names::SOURCE_RATES,
    names::SYN_RATES,
    names::SOCKETS,
    names::FRAGMENTS,
    names::PATH_MTUS,
    names::UDP_FLOWS,
    names::QUIC_SERVERS,
    names::REASONS,
    names::SERVICE_TRAFFIC,
    names::BACKEND_TRAFFIC,
];

/// Why the datapath could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{0}: {1}")]
    PinDirectory(PathBuf, io::Error),
    #[error("the directory for pins, {0}, is not on a bpf file system")]
    NotBpf(PathBuf),
    #[error("mount the bpf file system at {BPF_DIR}: {0}")]
    Mount(io::Error),
    #[error("read the kernel programs {0}: {1} (cargo xtask build-ebpf makes them)")]
    Read(PathBuf, io::Error),
    #[error("load the maps of {0}: {1}")]
    Maps(PathBuf, Box<aya::EbpfError>),
    #[error("{0} has no program {1}: it is of another version of weir")]
    NoProgram(PathBuf, &'static str),
    #[error("load program {0}: {1}")]
    Program(&'static str, Box<ProgramError>),
}

/// Where the bpf file system belongs.
const BPF_DIR: &str = "/sys/fs/bpf";

/// Programs in the kernel, attached nowhere by us yet, on pinned maps.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    /// Whether the maps are those of an earlier run.
    pub(crate) adopted: bool,
}

/// Where the maps are pinned.
pub(crate) fn maps_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("maps")
}

/// Loads `object` on the maps pinned below `pin_dir`.
pub(crate) fn load(object: &Path, pin_dir: &Path) -> Result<Loaded, LoadError> {
    let data = std::fs::read(object).map_err(|error| LoadError::Read(object.to_owned(), error))?;
    ensure_bpffs(pin_dir)?;
    let dir = maps_dir(pin_dir);
    let adopted = is_adoptable(&dir);
    if !adopted {
        // Programs that still run on these maps keep them until they are replaced.
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LoadError::PinDirectory(dir, error));
            }
            _ => {}
        }
    }
    std::fs::create_dir_all(&dir).map_err(|error| LoadError::PinDirectory(dir.clone(), error))?;
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, dir.join(name));
    }
    let mut ebpf = loader.load(&data).map_err(|error| LoadError::Maps(object.to_owned(), error.into()))?;
    let missing = |name| LoadError::NoProgram(object.to_owned(), name);
    let balancer = ebpf.program_mut(programs::BALANCER).ok_or_else(|| missing(programs::BALANCER))?;
    let failed = |error: ProgramError| LoadError::Program(programs::BALANCER, error.into());
    <&mut aya::programs::Xdp>::try_from(balancer).map_err(failed)?.load().map_err(failed)?;
    let steer = ebpf.program_mut(programs::STEER).ok_or_else(|| missing(programs::STEER))?;
    let failed = |error: ProgramError| LoadError::Program(programs::STEER, error.into());
    <&mut aya::programs::SkLookup>::try_from(steer).map_err(failed)?.load().map_err(failed)?;
    Ok(Loaded { ebpf, adopted })
}

/// Sees to it that pins can be made below `pin_dir`: where no service manager mounted the bpf file system, this does.
fn ensure_bpffs(pin_dir: &Path) -> Result<(), LoadError> {
    let there = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_bpf = |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if is_bpf(there) {
        return Ok(());
    }
    if !pin_dir.starts_with(BPF_DIR) {
        return Err(LoadError::NotBpf(pin_dir.to_owned()));
    }
    // One at a time: a second mount would hide what was pinned on the first.
    let directory = File::open(BPF_DIR).map_err(LoadError::Mount)?;
    let _lock = Flock::lock(directory, FlockArg::LockExclusive)
        .map_err(|(_, error)| LoadError::Mount(error.into()))?;
    if is_bpf(Path::new(BPF_DIR)) {
        return Ok(());
    }
    mount(Some("bpf"), BPF_DIR, Some("bpf"), MsFlags::empty(), None::<&str>)
        .map_err(|error| LoadError::Mount(error.into()))
}

/// Whether the pinned maps are complete and of our ABI; a run that died before its first apply leaves version 0.
fn is_adoptable(dir: &Path) -> bool {
    if !MAPS.iter().all(|name| dir.join(name).exists()) {
        return false;
    }
    let config = MapData::from_pin(dir.join(names::CONFIG)).ok().and_then(|data| {
        let map: Array<MapData, Config> = aya::maps::Map::from_map_data(data).ok()?.try_into().ok()?;
        map.get(&0, 0).ok()
    });
    let found = config.map(|config| config.abi_version);
    if found.is_some_and(|version| version != ABI_VERSION && version != 0) {
        tracing::warn!("pinned maps are of ABI {found:?}, this is {ABI_VERSION}: they are replaced");
    }
    found == Some(ABI_VERSION)
}
