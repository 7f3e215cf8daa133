//! The clients: a steady stream of requests in every zone, and the record of each one.
//!
//! Each zone's stream goes in turn through its client addresses and through IPv4 and IPv6, http and https; each
//! request has a connection of its own, so each is routed, balanced and proxied from scratch.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{sync::Semaphore, time::MissedTickBehavior};

use crate::{
    client::{self, Trust},
    netns::{NetNs, Resident},
    topology::{self, CLIENTS, Topology},
};

/// Records kept; at 300 requests per second this is half an hour. At the bound the oldest are forgotten.
const RECORDS_MAX: usize = 500_000;
/// Requests in flight per zone; at the bound the stream waits, so that a dead platform does not fill the memory.
const IN_FLIGHT_MAX: usize = 512;

/// One finished request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When it began.
    pub(crate) began: Instant,
    /// How long it took.
    pub(crate) took: Duration,
    /// The zone of the client.
    pub(crate) zone: u8,
    /// The number of the logical client within its zone; the same number has an IPv4 and an IPv6 address.
    pub(crate) client: IpAddr,
    /// Whether it was encrypted.
    pub(crate) tls: bool,
    /// Who served it, or why nobody did.
    pub(crate) outcome: Result<Served, String>,
}

/// Who served a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// The zone of the backend.
    pub(crate) zone: u8,
    /// The backend.
    pub(crate) server: String,
    /// The proxy's host.
    pub(crate) balancer: String,
    /// The zone of that host.
    pub(crate) through: Option<u8>,
    /// Whether the proxy told the backend the client's address.
    pub(crate) forwarded: bool,
}

/// The streams of all zones.
pub(crate) struct Load {
    journal: Arc<Journal>,
    rate: Arc<AtomicU32>,
    zones: Vec<(u8, Arc<Resident>)>,
}

/// All records, oldest first, numbered from the beginning of the laboratory.
#[derive(Default)]
pub(crate) struct Journal {
    records: Mutex<(u64, VecDeque<Record>)>,
}

impl Journal {
    fn add(&self, record: Record) {
        let mut guard = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.1.len() == RECORDS_MAX {
            guard.1.pop_front();
            guard.0 += 1;
        }
        guard.1.push_back(record);
    }

    /// The number of the next record.
    pub(crate) fn mark(&self) -> u64 {
        let guard = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0 + guard.1.len() as u64
    }

    /// The records from `mark` on, in the order they finished.
    pub(crate) fn since(&self, mark: u64) -> Vec<Record> {
        let guard = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        guard.1.iter().skip(mark.saturating_sub(guard.0) as usize).cloned().collect()
    }
}

impl Load {
    /// Makes the clients ready; nothing is sent until [`Load::start`].
    pub(crate) fn new(clients: impl Iterator<Item = (u8, NetNs)>) -> Result<Self> {
        let zones = clients
            .map(|(zone, netns)| Ok((zone, Arc::new(Resident::start(&netns)?))))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { journal: Arc::default(), rate: Arc::new(AtomicU32::new(0)), zones })
    }

    /// The records.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The thread in the namespace of a zone's client.
    pub(crate) fn resident(&self, zone: u8) -> Option<&Arc<Resident>> {
        self.zones.iter().find(|(number, _)| *number == zone).map(|(_, resident)| resident)
    }

    /// Requests per second and zone wanted.
    pub(crate) fn rate(&self) -> u32 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Starts `rate` requests per second in each zone.
    pub(crate) fn start(&self, topology: Topology, rate: u32, trust: &Trust) {
        debug_assert!(self.zones.len() == usize::from(topology.zones));
        let running = self.rate.swap(rate, Ordering::Relaxed) > 0;
        if running || rate == 0 {
            return;
        }
        for (zone, resident) in &self.zones {
            let stream = stream(*zone, self.rate.clone(), trust.clone(), self.journal.clone());
            resident.spawn(stream);
        }
    }
}

async fn stream(zone: u8, rate: Arc<AtomicU32>, trust: Trust, journal: Arc<Journal>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut turn: u32 = 0;
    let mut ticking = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        let wanted = rate.load(Ordering::Relaxed).clamp(1, 10_000);
        if wanted != ticking {
            ticking = wanted;
            ticks = tokio::time::interval(Duration::from_secs(1) / wanted);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        ticks.tick().await;
        let Ok(place) = places.clone().acquire_owned().await else { return };
        // Four kinds in turn, and the clients in turn below them: each client sends each kind.
        let (v6, tls) = (turn & 1 != 0, turn & 2 != 0);
        let number = 1 + (turn / 4) as u16 % CLIENTS;
        turn = turn.wrapping_add(1);
        let (trust, journal) = (trust.clone(), journal.clone());
        tokio::spawn(async move {
            journal.add(request(zone, number, v6, tls.then_some(&trust)).await);
            drop(place);
        });
    }
}

/// Sends one request as logical client `number` and describes what came of it.
pub(crate) async fn request(zone: u8, number: u16, v6: bool, tls: Option<&Trust>) -> Record {
    let client = topology::client_address(zone, number, v6);
    let began = Instant::now();
    let answer = client::once(SocketAddr::new(client, 0), tls, "/").await;
    let outcome = answer.map_err(|error| format!("{error:#}")).and_then(|greeting| {
        let topology = Topology { zones: topology::ZONES_MAX };
        let balancer = topology.host_at(greeting.peer);
        Ok(Served {
            zone: topology::zone_of_name(&greeting.zone).ok_or("the answer names no zone")?,
            server: greeting.server,
            balancer: balancer.map_or_else(|| greeting.peer.to_string(), |host| host.to_string()),
            through: balancer.map(|host| host.zone),
            forwarded: greeting.client.as_deref() == Some(&client.to_string()),
        })
    });
    Record { began, took: began.elapsed(), zone, client, tls: tls.is_some(), outcome }
}
