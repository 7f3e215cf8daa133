//! Captures: which packets the datapath shows, and showing them to the one who asked.
//!
//! One at a time. What is captured ends by itself a few seconds after the last word of this process, so that nothing stays
//! on when it dies; when the client leaves, it ends at once.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aya::{
    Ebpf,
    maps::{
        Array, MapData, PerfEventArray,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    util::online_cpus,
};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{Mutex, OwnedMutexGuard},
    time::{sleep, timeout},
};
use weir_abi::{
    Address,
    capture::{CAME, Capture, LEFT},
    counters::REASONS,
    maps as names,
};
use weir_core::{
    capture::{Assembler, Shown},
    pcap::{Record, Writer},
};
use weir_runtime::inspect::Filter;

use weir_l4::maps::MapsError;

/// Pages of a CPU's ring: 256 KiB, made by the first capture and kept. At the bound events are lost and counted.
const RING_PAGES: usize = 64;
/// How often the rings are emptied: 256 KiB in this time are 50 MB/s for each CPU.
const ROUND: Duration = Duration::from_millis(5);
/// How long the datapath goes on without a word of ours.
const LEASE: Duration = Duration::from_secs(5);
/// How often it gets one.
const RENEWAL: Duration = Duration::from_secs(1);
/// A client that takes nothing for so long has ended its capture.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// What a perf event can carry, less its headers; more than any frame that is not put together by the kernel.
const SNAP_LEN_BYTES_MAX: u32 = 60_000;

/// The maps of captures; whoever holds the lock captures.
#[derive(Clone)]
pub(crate) struct Tap(Arc<Mutex<Rings>>);

struct Rings {
    settings: Array<MapData, Capture>,
    events: PerfEventArray<MapData>,
    /// By CPU; empty before the first capture.
    buffers: Vec<(u32, PerfEventArrayBuffer<MapData>)>,
}

impl Tap {
    /// Takes the maps out of a loaded object.
    pub(crate) fn new(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        let settings = ebpf.take_map(names::CAPTURE).and_then(|map| map.try_into().ok());
        let events = ebpf.take_map(names::CAPTURE_EVENTS).and_then(|map| map.try_into().ok());
        let rings = Rings {
            settings: settings.ok_or(MapsError::Missing(names::CAPTURE))?,
            events: events.ok_or(MapsError::Missing(names::CAPTURE_EVENTS))?,
            buffers: Vec::new(),
        };
        Ok(Self(Arc::new(Mutex::new(rings))))
    }

    /// Begins a capture, or says why not.
    pub(crate) fn begin(&self, filter: &Filter) -> Result<Session, String> {
        let wanted = wanted(filter)?;
        let rings = Arc::clone(&self.0).try_lock_owned();
        let mut rings = rings.map_err(|_| "another capture is running; one at a time".to_owned())?;
        rings.open().map_err(|error| format!("open the rings: {error}"))?;
        let mut session = Session {
            rings,
            wanted,
            assembler: Assembler::new(wanted.directions),
            interfaces: Vec::new(),
            unix_less_kernel_ns: unix_ns().saturating_sub(kernel_ns()),
            left: filter.count.unwrap_or(u64::MAX),
            until: filter.for_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
            shown: 0,
            lost: 0,
        };
        session.renew().map_err(|error| error.to_string())?;
        Ok(session)
    }
}

impl Rings {
    fn open(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.buffers.is_empty() {
            for cpu in online_cpus().map_err(|(what, error)| format!("{what}: {error}"))? {
                self.buffers.push((cpu, self.events.open(cpu, Some(RING_PAGES))?));
            }
        }
        for (_, buffer) in &mut self.buffers {
            buffer.for_each(|_left_by_the_last_capture| {});
        }
        Ok(())
    }
}

/// What the datapath is told, but for how long.
fn wanted(filter: &Filter) -> Result<Capture, String> {
    let mut reasons = 0_u64;
    for wanted in &filter.reasons {
        let known = REASONS.iter().find(|(_, name)| name == wanted);
        let (reason, _) = known.ok_or_else(|| {
            let names: Vec<_> = REASONS.iter().map(|(_, name)| *name).collect();
            format!("there is no reason {wanted:?}; there are {}", names.join(", "))
        })?;
        reasons |= 1 << *reason as u32;
    }
    let (client, client_mask) = match filter.client {
        None => (Address::default(), Address::default()),
        Some((ip, len)) => prefix(ip, len).ok_or_else(|| format!("{ip}/{len} is no prefix"))?,
    };
    let directions = if filter.came { CAME } else { 0 } | if filter.left { LEFT } else { 0 };
    if directions == 0 {
        return Err("neither packets as they came nor as they left are wanted".into());
    }
    Ok(Capture {
        until_ns: 0,
        reasons: if filter.reasons.is_empty() { u64::MAX } else { reasons },
        vip: filter.vip.map_or(Address::default(), Address::from),
        client,
        client_mask,
        directions,
        snap_len_bytes: filter.snap_len_bytes.min(SNAP_LEN_BYTES_MAX),
    })
}

/// An address and a mask in the form in which the datapath holds addresses.
fn prefix(ip: IpAddr, len: u8) -> Option<(Address, Address)> {
    let (bits, skipped) = if ip.is_ipv4() { (32, 96) } else { (128, 0) };
    if len > bits {
        return None;
    }
    let len = u32::from(len) + skipped;
    let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
    Some((Address::from(ip), Address::v6(mask.to_be_bytes())))
}

/// A capture that runs; dropping it switches it off.
pub(crate) struct Session {
    rings: OwnedMutexGuard<Rings>,
    wanted: Capture,
    assembler: Assembler,
    /// Interfaces written so far, by index.
    interfaces: Vec<u32>,
    unix_less_kernel_ns: u64,
    /// Packets that may still be shown.
    left: u64,
    until: Option<Instant>,
    shown: u64,
    lost: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.rings.settings.set(0, Capture::default(), 0) {
            tracing::warn!("switch the capture off (it ends by itself): {error}");
        }
    }
}

impl Session {
    fn renew(&mut self) -> Result<(), aya::maps::MapError> {
        let until_ns = kernel_ns() + LEASE.as_nanos() as u64;
        self.rings.settings.set(0, Capture { until_ns, ..self.wanted }, 0)
    }

    /// Shows packets until there are enough, the time is over or the client has gone.
    pub(crate) async fn serve(mut self, mut client: UnixStream) {
        let mut out = Writer.section();
        let mut renewed = Instant::now();
        loop {
            self.drain(&mut out);
            if !out.is_empty() {
                match timeout(CLIENT_PATIENCE, client.write_all(&out)).await {
                    Ok(Ok(())) => out.clear(),
                    Ok(Err(_)) | Err(_) => return,
                }
            }
            let is_over = self.until.is_some_and(|until| until <= Instant::now());
            if is_over || self.left == 0 {
                break;
            }
            // Nothing more is expected of the client: what comes is its end.
            match client.try_read(&mut [0; 16]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => return,
            }
            if renewed.elapsed() >= RENEWAL {
                renewed = Instant::now();
                if let Err(error) = self.renew() {
                    tracing::error!("capture: {error}");
                    return;
                }
            }
            sleep(ROUND).await;
        }
        let lost = self.lost + self.assembler.torn;
        if self.interfaces.is_empty() {
            out.extend(Writer.interface("none", self.wanted.snap_len_bytes));
        }
        out.extend(Writer.statistics(unix_ns(), self.shown + lost, lost));
        let _gone = timeout(CLIENT_PATIENCE, client.write_all(&out)).await;
    }

    /// Empties the rings into blocks of the file.
    fn drain(&mut self, out: &mut Vec<u8>) {
        let mut shown = Vec::new();
        let (assembler, lost) = (&mut self.assembler, &mut self.lost);
        for (cpu, buffer) in &mut self.rings.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Sample { head, tail: [] } => shown.extend(assembler.push(*cpu, head)),
                PerfEvent::Sample { head, tail } => {
                    shown.extend(assembler.push(*cpu, &[head, tail].concat()));
                }
                PerfEvent::Lost { count } => *lost += count,
            });
        }
        // Of one round, in the order in which they came, whatever their CPU.
        shown.sort_by_key(|shown| shown.event.at_ns);
        for shown in shown {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.shown += 1;
            self.write(&shown, out);
        }
    }

    fn write(&mut self, shown: &Shown, out: &mut Vec<u8>) {
        let ingress = shown.event.ingress;
        let known = self.interfaces.iter().position(|index| *index == ingress);
        let interface = known.unwrap_or_else(|| {
            let name = nix::net::if_::if_indextoname(ingress);
            let name = name.ok().and_then(|name| name.into_string().ok());
            let name = name.unwrap_or_else(|| format!("interface {ingress}"));
            out.extend(Writer.interface(&name, self.wanted.snap_len_bytes));
            self.interfaces.push(ingress);
            self.interfaces.len() - 1
        });
        let came_in = shown.event.direction == CAME;
        let as_it = if came_in { "as it came" } else { "as it left" };
        out.extend(Writer.packet(&Record {
            interface: interface as u32,
            at_unix_ns: shown.event.at_ns + self.unix_less_kernel_ns,
            len_bytes: shown.event.len_bytes,
            bytes: &shown.bytes,
            came_in,
            comment: &format!("{}, {as_it}", shown.reason),
        }));
    }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The kernel's monotonic clock, as `bpf_ktime_get_ns` tells it.
#[allow(unsafe_code)]
fn kernel_ns() -> u64 {
    let mut now = nix::libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time to a local of the right type; this clock always exists.
    unsafe { nix::libc::clock_gettime(nix::libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use weir_abi::counters::Reason;

    use super::*;

    #[test]
    fn a_prefix_is_an_address_with_a_mask_as_long_as_it_is() {
        let mask = |text: &str, len| prefix(text.parse().expect("ip"), len).map(|(_, mask)| mask);
        assert_eq!(mask("203.0.113.0", 24), Some(Address([u32::MAX, u32::MAX, u32::MAX, 0x00ff_ffff])));
        assert_eq!(mask("203.0.113.0", 0), Some(Address([u32::MAX, u32::MAX, u32::MAX, 0])));
        assert_eq!(mask("203.0.113.0", 33), None);
        assert_eq!(mask("2001:db8::", 32), Some(Address([u32::MAX, 0, 0, 0])));
        assert_eq!(mask("::", 0), Some(Address([0; 4])));
        assert_eq!(mask("::", 129), None);
    }

    #[test]
    fn reasons_are_asked_for_by_name() {
        let filter = |reasons: &[&str]| Filter {
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            came: true,
            ..Filter::default()
        };
        assert_eq!(wanted(&filter(&[])).expect("any").reasons, u64::MAX);
        assert_eq!(
            wanted(&filter(&["pass_not_vip", "encap"])).expect("two").reasons,
            1 | 1 << Reason::Encap as u32
        );
        assert!(wanted(&filter(&["drop_everything"])).expect_err("refused").contains("drop_ttl"));
        assert!(wanted(&Filter::default()).is_err(), "no direction");
    }
}
