//! The cases: loads put on the three proxies in turn, and the median of what each round took.

use std::{fmt::Display, time::Duration};

use anyhow::Result;
use tokio::time::sleep;
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
/// After a round, for what the proxy does when nobody waits: lines of its log, ends of connections.
const SETTLE: Duration = Duration::from_millis(30);
/// The same before its memory is looked at.
const SETTLE_MEMORY: Duration = Duration::from_millis(200);
/// How much is asked at half load.
const PACED_TIME: Duration = Duration::from_secs(1);

/// One case of three proxies.
#[derive(Debug)]
pub(crate) struct Row {
    case: &'static str,
    unit: &'static str,
    /// In the order of [`Kind::ALL`]; none where the proxy cannot do it.
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

pub(crate) struct Figures {
    pub(crate) figures: Vec<Row>,
    /// Whether something went wrong that should not have.
    pub(crate) failed: bool,
}

pub(crate) struct Bench<'a> {
    asked: &'a Asked,
    rig: Rig<'a>,
    figures: Vec<Row>,
    failed: bool,
}

/// What became of one proxy in one case.
enum Seen<L> {
    /// Its load, and what a unit took in each round.
    Going(L, Vec<f64>),
    Out,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(asked: &'a Asked, rig: Rig<'a>) -> Self {
        Self { asked, rig, figures: Vec::new(), failed: false }
    }

    pub(crate) async fn run(mut self) -> Result<Figures> {
        let certificate = self.rig.certificate;
        let client = &tls::Client::new(certificate, false)?;
        let proxies = &start_all(self.rig)?;
        self.cpu("h1", proxies, async |to| KeepAlive::plain(to).await).await?;
        self.cpu("tls_h1", proxies, async |to| KeepAlive::tls(to, client).await).await?;
        let shake = async |to: &Places, how| Handshakes::new(to, certificate, how).await;
        self.cpu("tls_full", proxies, async |to| shake(to, Resumption::Never).await).await?;
        self.cpu("tls_resumed", proxies, async |to| shake(to, Resumption::Always).await).await?;
        self.cpu("h2", proxies, async |to| Http2::open(to).await).await?;
        self.cpu("tcp_conn", proxies, async |to| Ok(TcpConnections::new(to))).await?;
        self.cpu("tcp_bulk_mib", proxies, async |to| Bulk::open(to).await).await?;
        self.idle().await?;
        self.half_load(proxies).await?;
        Ok(Figures { figures: self.figures, failed: self.failed })
    }

    /// CPU time per unit, in µs.
    async fn cpu<L: Load>(
        &mut self,
        case: &'static str,
        proxies: &[Proxy],
        open: impl AsyncFn(&Places) -> Result<L>,
    ) -> Result<()> {
        if !self.asked.wants(case) {
            return Ok(());
        }
        let mut all = Vec::new();
        for proxy in proxies {
            let opened = open(&proxy.places).await;
            all.push(match opened {
                Ok(load) => Seen::Going(load, Vec::new()),
                Err(error) => self.fail(case, proxy, &error),
            });
        }
        for round in 0..=ROUNDS {
            for (proxy, seen) in proxies.iter().zip(&mut all) {
                let Seen::Going(load, took) = seen else { continue };
                let before = proxy.cpu()?;
                let done = load.round().await;
                sleep(SETTLE).await;
                let spent = proxy.cpu()? - before;
                match done {
                    Ok(Done::Units(_)) if round == 0 => {}
                    Ok(Done::Units(units)) => took.push(spent.as_secs_f64() * 1e6 / units),
                    Ok(Done::Cannot(why)) => {
                        eprintln!("bench l7: {case}: {} cannot: {why}", proxy.kind.name());
                        *seen = Seen::Out;
                    }
                    Err(error) => *seen = self.fail(case, proxy, &error),
                }
            }
        }
        let mut medians = all.into_iter().map(|seen| match seen {
            Seen::Going(_, mut took) => Some(median(&mut took)),
            Seen::Out => None,
        });
        let medians = [(); 3].map(|()| medians.next().flatten());
        self.figures.push(Row { case, unit: "us", medians });
        Ok(())
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
                match idle_bytes(&proxy).await {
                    Ok(bytes) => seen.push(bytes),
                    Err(error) => drop(self.fail::<()>(case, &proxy, &error)),
                }
            }
        }
        let medians = all.map(|mut seen| (seen.len() == IDLE_ROUNDS).then(|| median(&mut seen)));
        self.figures.push(Row { case, unit: "bytes", medians });
        Ok(())
    }

    /// The 99th percentile of answers, in µs, at half of what the slowest can carry.
    async fn half_load(&mut self, proxies: &[Proxy]) -> Result<()> {
        let case = "h1_p99_half_load";
        if !self.asked.wants(case) {
            return Ok(());
        }
        let mut loads = Vec::new();
        let mut rate = f64::INFINITY;
        for proxy in proxies {
            let mut load = KeepAlive::plain(&proxy.places).await?;
            let mut rates = Vec::new();
            for _ in 0..3 {
                let begun = std::time::Instant::now();
                let Done::Units(requests) = load.round().await? else { continue };
                rates.push(requests / begun.elapsed().as_secs_f64());
            }
            rate = rate.min(median(&mut rates) / 2.0);
            loads.push(load.into_connections());
        }
        let requests = (rate * PACED_TIME.as_secs_f64()) as usize;
        let mut all = [const { Vec::new() }; 3];
        for round in 0..=ROUNDS {
            for (connections, seen) in loads.iter_mut().zip(&mut all) {
                let (mut took, kept) = latencies(std::mem::take(connections), rate, requests).await?;
                *connections = kept;
                if round > 0 {
                    seen.push(quantile(&mut took, 0.99));
                }
            }
        }
        eprintln!("bench l7: {case}: {rate:.0} requests a second");
        self.figures.push(Row { case, unit: "us", medians: all.map(|mut seen| Some(median(&mut seen))) });
        Ok(())
    }

    /// A proxy that fails is out of the case, and the benchmark has failed; the others go on.
    fn fail<L>(&mut self, case: &str, proxy: &Proxy, error: &dyn Display) -> Seen<L> {
        eprintln!("bench l7: {case}: FAILED with {}: {error:#}", proxy.kind.name());
        self.failed = true;
        Seen::Out
    }
}

async fn idle_bytes(proxy: &Proxy) -> Result<f64> {
    let mut busy = KeepAlive::plain(&proxy.places).await?;
    busy.ask(IDLE_WARM_UP).await?;
    sleep(SETTLE_MEMORY).await;
    let before = proxy.private_bytes()?;
    let held = hold_idle(&proxy.places, IDLE).await?;
    sleep(SETTLE_MEMORY).await;
    Ok((proxy.private_bytes()? - before) / held.len() as f64)
}
