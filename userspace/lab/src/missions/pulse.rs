//! Connections that ask again and again, and whose sockets tell whether a packet of theirs was lost.
//!
//! A loss is a segment that was sent again and that the other side did not report to have had already: a busy machine
//! sends some again too early, which is no loss. What clients send goes through the balancers; that direction counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::Trial;
use crate::{
    client::{self, REQUEST_WITHIN},
    lab::Lab,
    sys, topology,
};

/// From one request of a connection to the next.
const EVERY: Duration = Duration::from_millis(50);
/// How long a report of a duplicate may take to arrive.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);

/// Open connections, in all zones.
#[derive(Default)]
pub(super) struct Pulse(Vec<Beat>);

struct Beat {
    source: SocketAddr,
    socket: socket2::Socket,
    answers: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        for beat in &self.0 {
            beat.task.abort();
        }
    }
}

impl Pulse {
    /// Opens `count` connections in each zone, over both families in turn.
    pub(super) async fn open(lab: &Lab, count: u16) -> Result<Self> {
        let mut pulse = Self::default();
        for zone in lab.topology.zones() {
            let resident = lab.load.resident(zone).context("a zone without clients")?;
            for number in 0..count {
                let address = topology::client_address(zone, 1 + number / 2, number % 2 == 1);
                let source = SocketAddr::new(address, 0);
                let opened = resident.spawn(async move {
                    let stream = client::dial(source, 80).await?;
                    let socket = socket2::SockRef::from(&stream).try_clone()?;
                    anyhow::Ok((client::begin(Box::new(stream)).await?, socket))
                });
                let (mut sender, socket) = opened.await.context("the client's thread died")??;
                let answers = Arc::new(AtomicU64::new(0));
                let counter = answers.clone();
                let task = resident.spawn(async move {
                    // Ends with the first request that fails: then nothing is counted any more.
                    while let Ok(Ok(_)) =
                        tokio::time::timeout(REQUEST_WITHIN, client::ask(&mut sender, "/")).await
                    {
                        counter.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(EVERY).await;
                    }
                });
                pulse.0.push(Beat { source, socket, answers, task });
            }
        }
        Ok(pulse)
    }

    /// Checks that no connection ended, and that none lost a packet since it was opened.
    pub(super) async fn check(&self, trial: &mut Trial, what: &str) {
        let ended = self.0.iter().filter(|beat| beat.task.is_finished()).count();
        let answers: u64 = self.0.iter().map(|beat| beat.answers.load(Ordering::Relaxed)).sum();
        let settled = trial
            .until("packets", REPORTED_WITHIN, |_| {
                let lost = self.lost();
                async move {
                    let lost = lost?;
                    ensure!(lost.is_empty(), "{}", lost.join(", "));
                    Ok(())
                }
            })
            .await;
        let lost = settled.map_or_else(|error| format!("{error:#}"), |_| "0 lost".into());
        let passed = ended == 0 && lost == "0 lost" && answers > 0;
        let seen = format!("{lost} in {answers} requests, {ended} of {} connections ended", self.0.len());
        trial.check(what, "0 lost, 0 ended", seen, passed);
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
