//! The cases: loads put on the three proxies in turn, and the median of what each round took.

use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use tokio::time::{sleep, timeout};
use weir_lab::figures::{Asked, Cell, Figure, median, quantile};

use crate::{
    load::{
        Bulk, Done, Handshakes, Http2, KeepAlive, Load, Resumption, TcpConnections, hold_idle, latencies,
    },
    proxies::{Kind, Places, Proxy, Rig, start_all},
    tls,
};

/// Rounds of each proxy, after one that is not counted.
const ROUNDS: usize = 7;
/// Rounds with many idle connections, each with a new proxy: what one has ever used it may keep.
const IDLE_ROUNDS: usize = 5;
/// Idle connections.
const IDLE: usize = 10_000;
/// Requests a proxy has answered before its memory without idle connections is looked at.
const IDLE_WARM_UP: usize = 2_000;
/// Rounds at full load from which the rate at half load is taken.
const RATE_ROUNDS: usize = 3;
/// How long is asked at half load in each round.
const PACED_TIME: Duration = Duration::from_secs(1);
/// A round takes about a second; one that takes so long has failed.
const ROUND_LIMIT: Duration = Duration::from_secs(60);
/// After a round, for what the proxy does when nobody waits: lines of its log, ends of connections.
const SETTLE: Duration = Duration::from_millis(30);
/// The same before its memory is looked at.
const SETTLE_MEMORY: Duration = Duration::from_millis(200);

/// One case of three proxies.
#[derive(Debug)]
pub(crate) struct Row {
    case: &'static str,
    unit: &'static str,
    /// In the order of [`Kind::ALL`]; none where the proxy cannot do it, or failed.
    medians: [Option<f64>; 3],
}

impl Figure for Row {
    fn cells(&self) -> Vec<(&'static str, Cell)> {
        let [ours, haproxy, nginx] = self.medians.map(Cell::Figure);
        vec![
            ("case", Cell::Case(self.case)),
            ("unit", Cell::Unit(self.unit)),
            ("ours", ours),
            ("haproxy", haproxy),
            ("nginx", nginx),
        ]
    }
}

pub(crate) struct Bench<'a> {
    asked: &'a Asked,
    rig: Rig<'a>,
    pub(crate) figures: Vec<Row>,
    /// Whether something went wrong that should not have.
    pub(crate) failed: bool,
}

/// One proxy in one case.
struct Lane<'p, L> {
    proxy: &'p Proxy,
    /// None once it is out of the case.
    load: Option<L>,
    /// What a round gave.
    seen: Vec<f64>,
}

impl<L> Lane<'_, L> {
    fn median(mut self) -> Option<f64> {
        self.load.map(|_| median(&mut self.seen))
    }
}

impl<'a> Bench<'a> {
    pub(crate) fn new(asked: &'a Asked, rig: Rig<'a>) -> Self {
        Self { asked, rig, figures: Vec::new(), failed: false }
    }

    pub(crate) async fn run(&mut self) -> Result<()> {
        let certificate = self.rig.certificate;
        let client = &tls::Client::new(certificate, false)?;
        let proxies = &start_all(self.rig)?;
        self.cpu("h1", proxies, async |to| KeepAlive::plain(to).await).await;
        self.cpu("tls_h1", proxies, async |to| KeepAlive::tls(to, client).await).await;
        let shake = async |to: &Places, how| Handshakes::new(to, certificate, how).await;
        self.cpu("tls_full", proxies, async |to| shake(to, Resumption::Never).await).await;
        self.cpu("tls_resumed", proxies, async |to| shake(to, Resumption::Always).await).await;
        self.cpu("h2", proxies, async |to| Http2::open(to).await).await;
        self.cpu("tcp_conn", proxies, async |to| Ok(TcpConnections::new(to))).await;
        self.cpu("tcp_bulk_mib", proxies, async |to| Bulk::open(to).await).await;
        self.idle().await?;
        self.half_load(proxies).await;
        Ok(())
    }

    /// CPU time per unit, in µs.
    async fn cpu<L: Load>(
        &mut self,
        case: &'static str,
        proxies: &[Proxy],
        open: impl AsyncFn(&Places) -> Result<L>,
    ) {
        if !self.asked.wants(case) {
            return;
        }
        let mut lanes = self.open_all(case, proxies, open).await;
        for round in 0..=ROUNDS {
            for lane in &mut lanes {
                let Some(load) = &mut lane.load else { continue };
                match cpu_round(lane.proxy, load).await {
                    Ok((_, Done::Units(_))) if round == 0 => {}
                    Ok((spent, Done::Units(units))) => lane.seen.push(spent.as_secs_f64() * 1e6 / units),
                    Ok((_, Done::Cannot(why))) => {
                        eprintln!("bench l7: {case}: {} cannot: {why}", lane.proxy.kind.name());
                        lane.load = None;
                    }
                    Err(error) => {
                        self.fail(case, lane.proxy, &error);
                        lane.load = None;
                    }
                }
            }
        }
        self.put(case, "us", lanes.into_iter().map(Lane::median));
    }

    /// Memory per idle connection.
    async fn idle(&mut self) -> Result<()> {
        let case = "idle_bytes";
        if !self.asked.wants(case) {
            return Ok(());
        }
        let mut all = [const { Vec::new() }; 3];
        for _ in 0..IDLE_ROUNDS {
            for (kind, seen) in Kind::ALL.into_iter().zip(&mut all) {
                let proxy = Proxy::start(kind, self.rig)?;
                match limited(idle_bytes(&proxy)).await {
                    Ok(bytes) => seen.push(bytes),
                    Err(error) => self.fail(case, &proxy, &error),
                }
            }
        }
        let medians = all.into_iter().map(|mut seen| (seen.len() == IDLE_ROUNDS).then(|| median(&mut seen)));
        self.put(case, "bytes", medians);
        Ok(())
    }

    /// The 99th percentile of answers, in µs, at half of what the slowest can carry.
    async fn half_load(&mut self, proxies: &[Proxy]) {
        let case = "h1_p99_half_load";
        if !self.asked.wants(case) {
            return;
        }
        let mut lanes = self.open_all(case, proxies, async |to| KeepAlive::plain(to).await).await;
        let mut rate = f64::INFINITY;
        for lane in &mut lanes {
            let Some(load) = &mut lane.load else { continue };
            match limited(rate_of(load)).await {
                Ok(full) => rate = rate.min(full / 2.0),
                Err(error) => {
                    self.fail(case, lane.proxy, &error);
                    lane.load = None;
                }
            }
        }
        let requests = (rate * PACED_TIME.as_secs_f64()) as usize;
        for round in 0..=ROUNDS {
            for lane in &mut lanes {
                let Some(load) = lane.load.take() else { continue };
                match limited(latencies(load, rate, requests)).await {
                    Ok((mut took, load)) => {
                        lane.load = Some(load);
                        if round > 0 {
                            lane.seen.push(quantile(&mut took, 0.99));
                        }
                    }
                    Err(error) => self.fail(case, lane.proxy, &error),
                }
            }
        }
        eprintln!("bench l7: {case}: {rate:.0} requests a second");
        self.put(case, "us", lanes.into_iter().map(Lane::median));
    }

    /// A load on each; without one where it cannot even be opened.
    async fn open_all<'p, L>(
        &mut self,
        case: &str,
        proxies: &'p [Proxy],
        open: impl AsyncFn(&Places) -> Result<L>,
    ) -> Vec<Lane<'p, L>> {
        let mut lanes = Vec::new();
        for proxy in proxies {
            let load = limited(open(&proxy.places)).await;
            let load = load.inspect_err(|error| self.fail(case, proxy, error)).ok();
            lanes.push(Lane { proxy, load, seen: Vec::new() });
        }
        lanes
    }

    /// A proxy that fails is out of the case, and the benchmark has failed; the others go on.
    fn fail(&mut self, case: &str, proxy: &Proxy, error: &Error) {
        eprintln!("bench l7: {case}: FAILED with {}: {error:#}", proxy.kind.name());
        self.failed = true;
    }

    fn put(
        &mut self,
        case: &'static str,
        unit: &'static str,
        mut medians: impl Iterator<Item = Option<f64>>,
    ) {
        self.figures.push(Row { case, unit, medians: [(); 3].map(|()| medians.next().flatten()) });
    }
}

/// What a proxy spent on a round, and what was done.
async fn cpu_round(proxy: &Proxy, load: &mut impl Load) -> Result<(Duration, Done)> {
    let before = proxy.cpu()?;
    let done = limited(load.round()).await?;
    sleep(SETTLE).await;
    Ok((proxy.cpu()? - before, done))
}

async fn idle_bytes(proxy: &Proxy) -> Result<f64> {
    let mut busy = KeepAlive::plain(&proxy.places).await?;
    busy.ask(IDLE_WARM_UP).await?;
    sleep(SETTLE_MEMORY).await;
    let before = proxy.private_bytes()?;
    let mut idle = hold_idle(&proxy.places, IDLE).await?;
    sleep(SETTLE_MEMORY).await;
    let held = proxy.private_bytes()? - before;
    // A proxy that closed some of them would have held less.
    idle.ask_each().await.context("ask on a connection that was idle")?;
    Ok(held / IDLE as f64)
}

/// Requests a second, when as many as possible are made.
async fn rate_of(load: &mut KeepAlive<tokio::net::TcpStream>) -> Result<f64> {
    let mut rates = Vec::new();
    for _ in 0..RATE_ROUNDS {
        let begun = Instant::now();
        if let Done::Units(requests) = load.round().await? {
            rates.push(requests / begun.elapsed().as_secs_f64());
        }
    }
    Ok(median(&mut rates))
}

async fn limited<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(ROUND_LIMIT, work).await.with_context(|| format!("not done after {ROUND_LIMIT:?}"))?
}
