//! Connections that ask again and again: how long each waits for an answer, whether it ends, and, as its socket tells,
//! whether a packet of its was lost.
//!
//! A loss is a segment that was sent again and that the other side did not report to have had already: a busy machine
//! sends some again too early, which is no loss. What clients send goes through the balancers; that direction counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};

use super::Trial;
use crate::{
    client::{self, REQUEST_WITHIN, Sender},
    lab::Lab,
    sys,
    topology::{self, CLIENTS, Host, Topology},
};

/// How long a report of a duplicate may take to arrive.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);
/// Connections of a zone that are being opened at once.
const OPENING_MAX: usize = 32;
/// Answers each connection must get before it counts as alive after what just happened.
const ANSWERS: u64 = 2;
/// How long these may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Open connections.
#[derive(Default)]
pub(super) struct Pulse(Vec<Beat>);

struct Beat {
    source: SocketAddr,
    /// The host of the proxy it goes through.
    through: Option<Host>,
    socket: socket2::Socket,
    told: Arc<Told>,
    task: tokio::task::JoinHandle<()>,
}

/// What a connection says of itself.
#[derive(Default)]
struct Told {
    answers: AtomicU64,
    /// The longest wait for an answer since somebody asked, in microseconds.
    slowest: AtomicU64,
    ended: Mutex<Option<String>>,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        for beat in &self.0 {
            beat.task.abort();
        }
    }
}

impl Pulse {
    /// Opens `count` connections in each of the zones, over both families in turn; each asks `every` so often.
    pub(super) async fn open(
        lab: &Lab,
        zones: impl Iterator<Item = u8>,
        count: u16,
        every: Duration,
    ) -> Result<Self> {
        let mut pulse = Self::default();
        for zone in zones {
            let resident = lab.load.resident(zone).context("a zone without clients")?;
            let opened = resident.spawn(async move {
                // They take turns, not all at once.
                let turn = |number| every * u32::from(number) / u32::from(count);
                let open = |number| Beat::open(zone, number, every, turn(number));
                let beats = futures_util::stream::iter((0..count).map(open));
                beats.buffer_unordered(OPENING_MAX).try_collect::<Vec<Beat>>().await
            });
            pulse.0.append(&mut opened.await.context("the client's thread died")??);
        }
        Ok(pulse)
    }

    /// How many connections there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many go through the proxy of `host`.
    pub(super) fn through(&self, host: Host) -> usize {
        self.0.iter().filter(|beat| beat.through == Some(host)).count()
    }

    /// Ends the connections through the proxy of `host`, as their clients would some day. Returns how many.
    pub(super) fn close(&mut self, host: Host) -> usize {
        let before = self.len();
        self.0.retain(|beat| {
            let stays = beat.through != Some(host);
            if !stays {
                beat.task.abort();
            }
            stays
        });
        before - self.len()
    }

    /// The longest that any waited for an answer since this was last asked.
    pub(super) fn slowest(&self) -> Duration {
        let slowest = self.0.iter().map(|beat| beat.told.slowest.swap(0, Ordering::Relaxed)).max();
        Duration::from_micros(slowest.unwrap_or_default())
    }

    /// Waits until each connection that did not end has had some answers after this.
    pub(super) async fn beat_on(&self) {
        let answers = |beat: &Beat| beat.told.answers.load(Ordering::Relaxed);
        let before: Vec<u64> = self.0.iter().map(answers).collect();
        let waits = |(beat, before): (&Beat, &u64)| !beat.is_over() && answers(beat) < before + ANSWERS;
        let begun = Instant::now();
        while begun.elapsed() < ANSWERS_WITHIN && self.0.iter().zip(&before).any(waits) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks that every connection is answered after what just happened, and that none had to wait longer than `limit`
    /// since the last check.
    pub(super) async fn check_kept(&self, trial: &mut Trial, what: &str, limit: Duration) {
        self.beat_on().await;
        let (ended, text) = self.ended();
        let slowest = self.slowest();
        let seen = format!("{text}, longest wait {} ms", slowest.as_millis());
        let expected = format!("0 ended, at most {} ms", limit.as_millis());
        trial.check(what, expected, seen, ended == 0 && slowest <= limit && self.len() > 0);
    }

    /// Checks that no connection ended, and that none lost a packet since it was opened.
    pub(super) async fn check(&self, trial: &mut Trial, what: &str) {
        let answers: u64 = self.0.iter().map(|beat| beat.told.answers.load(Ordering::Relaxed)).sum();
        let settled = trial
            .until("packets", REPORTED_WITHIN, |_| {
                let lost = self.lost();
                async move {
                    let lost = lost?;
                    let some = lost.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
                    ensure!(lost.is_empty(), "{} connections lost some: {some}", lost.len());
                    Ok(())
                }
            })
            .await;
        let lost = settled.map_or_else(|error| format!("{error:#}"), |_| "0 lost".into());
        let (ended, text) = self.ended();
        let passed = ended == 0 && lost == "0 lost" && answers > 0;
        trial.check(what, "0 lost, 0 ended", format!("{lost} in {answers} requests, {text}"), passed);
    }

    /// How many connections ended, in words with the first reasons.
    fn ended(&self) -> (usize, String) {
        let over: Vec<&Beat> = self.0.iter().filter(|beat| beat.is_over()).collect();
        let why = |beat: &&Beat| {
            let why = beat.told.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let through = beat.through.map_or_else(|| "nobody".into(), |host| host.to_string());
            format!("{} through {through}: {}", beat.source, why.unwrap_or_default())
        };
        let reasons: Vec<String> = over.iter().take(3).map(why).collect();
        let colon = if reasons.is_empty() { "" } else { ": " };
        let text = format!("{} of {} connections ended{colon}{}", over.len(), self.len(), reasons.join("; "));
        (over.len(), text)
    }

    fn lost(&self) -> Result<Vec<String>> {
        let mut lost = Vec::new();
        for beat in &self.0 {
            let (again, needless) = sys::sent_again(&beat.socket)?;
            if again > needless {
                lost.push(format!("{} of {}", again - needless, beat.source.ip()));
            }
        }
        Ok(lost)
    }
}

impl Beat {
    async fn open(zone: u8, number: u16, every: Duration, first: Duration) -> Result<Self> {
        let address = topology::client_address(zone, 1 + number / 2 % CLIENTS, number % 2 == 1);
        let opening = async {
            let stream = client::dial(SocketAddr::new(address, 0), 80).await?;
            let source = stream.local_addr()?;
            let socket = socket2::SockRef::from(&stream).try_clone()?;
            let mut sender = client::begin(Box::new(stream)).await?;
            let greeting = client::ask(&mut sender, "/").await?;
            anyhow::Ok((source, socket, sender, greeting))
        };
        let opened = tokio::time::timeout(REQUEST_WITHIN, opening).await;
        let (source, socket, sender, greeting) = opened
            .context("no answer")
            .flatten()
            .with_context(|| format!("open a connection from {address}"))?;
        let told = Arc::new(Told::default());
        let through = Topology { zones: topology::ZONES_MAX }.host_at(greeting.peer);
        let task = tokio::spawn(beat(sender, every, first, told.clone()));
        Ok(Self { source, through, socket, told, task })
    }

    fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

/// Asks until a request fails, and says why: then nothing is counted any more.
async fn beat(mut sender: Sender, every: Duration, first: Duration, told: Arc<Told>) {
    tokio::time::sleep(first).await;
    let why = loop {
        let asked = Instant::now();
        match tokio::time::timeout(REQUEST_WITHIN, client::ask(&mut sender, "/")).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => break format!("{error:#}"),
            Err(_) => break "no answer".to_owned(),
        }
        told.slowest.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
        told.answers.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(every).await;
    };
    *told.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
}
