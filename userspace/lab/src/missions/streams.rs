//! Connections that live as long as a mission: each reads numbered lines from a backend, and knows by whom it is served.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::BodyExt;

use super::Trial;
use crate::{
    client::{self, Trust},
    lab::Lab,
    topology::{self, CLIENTS, Topology},
};

/// Lines that must arrive on each stream after a change before it counts as alive; one every 50 ms.
const LINES: u64 = 4;
/// How long they may take: a lost packet is sent again, later and later.
const LINES_WITHIN: Duration = Duration::from_secs(10);
/// How long opening one may take.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// Open streams.
#[derive(Default)]
pub(super) struct Streams(Vec<(Arc<Stream>, tokio::task::JoinHandle<()>)>);

/// One stream.
pub(super) struct Stream {
    client: IpAddr,
    /// The host of the proxy it goes through.
    pub(super) balancer: String,
    lines: AtomicU64,
    broken: Mutex<Option<String>>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        for (_, reader) in &self.0 {
            reader.abort();
        }
    }
}

impl Streams {
    /// Opens `count` more, from clients of `zone`, over both families, every other pair encrypted.
    pub(super) async fn open(&mut self, lab: &Lab, zone: u8, count: u16) -> Result<()> {
        let resident = lab.load.resident(zone).with_context(|| format!("there is no zone {zone}"))?;
        for _ in 0..count {
            let turn = self.0.len() as u16;
            let source = topology::client_address(zone, 1 + turn % CLIENTS, turn % 2 == 1);
            let trust = (turn / 2 % 2 == 1).then(|| lab.trust.clone());
            let opened = resident.spawn(tokio::time::timeout(OPEN_WITHIN, open(source, trust)));
            let (stream, body) = opened
                .await
                .context("the client's thread died")?
                .unwrap_or_else(|_| bail!("no answer"))
                .with_context(|| format!("open a stream from {source}"))?;
            let reader = resident.spawn(read(stream.clone(), body));
            self.0.push((stream, reader));
        }
        Ok(())
    }

    /// How many go through the proxy of `balancer`.
    pub(super) fn through(&self, balancer: &str) -> usize {
        self.0.iter().filter(|(stream, _)| stream.balancer == balancer).count()
    }

    /// Ends the streams through the proxy of `balancer`, as their clients would some day.
    pub(super) fn close(&mut self, balancer: &str) {
        for (stream, reader) in &self.0 {
            if stream.balancer == balancer {
                reader.abort();
            }
        }
        self.0.retain(|(stream, _)| stream.balancer != balancer);
    }

    /// Checks that each stream still delivers lines, in order, after what just happened.
    pub(super) async fn check_alive(&self, trial: &mut Trial, what: &str) {
        let lines = |stream: &Stream| stream.lines.load(Ordering::Relaxed);
        let before: Vec<u64> = self.0.iter().map(|(stream, _)| lines(stream)).collect();
        let moving = || {
            let waiting = self.0.iter().zip(&before).filter(|((stream, _), before)| {
                stream.broken().is_none() && lines(stream) < **before + LINES
            });
            waiting.count()
        };
        let deadline = tokio::time::Instant::now() + LINES_WITHIN;
        while moving() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut broken: Vec<String> = self
            .0
            .iter()
            .zip(&before)
            .filter_map(|((stream, _), before)| {
                let stalled = (lines(stream) < before + LINES).then(|| "no more lines".to_owned());
                let why = stream.broken().or(stalled)?;
                Some(format!("{} through {}: {why}", stream.client, stream.balancer))
            })
            .collect();
        let seen = match broken.len() {
            0 => format!("0 of {}", self.0.len()),
            count => {
                broken.truncate(3);
                format!("{count} of {}: {}", self.0.len(), broken.join("; "))
            }
        };
        trial.check(what, "0 broken", seen, broken.is_empty() && !self.0.is_empty());
    }
}

impl Stream {
    fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn open(source: IpAddr, trust: Option<Trust>) -> Result<(Arc<Stream>, Body)> {
    let mut sender =
        client::begin(client::connect(SocketAddr::new(source, 0), trust.as_ref()).await?).await?;
    let greeting = client::ask(&mut sender, "/").await?;
    sender.ready().await?;
    let response = sender.send_request(client::get("/stream?ms=50")?).await?;
    ensure!(response.status() == hyper::StatusCode::OK, "status {}", response.status());
    let balancer = Topology { zones: topology::ZONES_MAX }.host_at(greeting.peer);
    let balancer = balancer.map_or_else(|| greeting.peer.to_string(), |host| host.to_string());
    let stream = Stream { client: source, balancer, lines: AtomicU64::new(0), broken: Mutex::new(None) };
    Ok((Arc::new(stream), Body { incoming: response.into_body(), _sender: sender }))
}

/// The rest of the answer; the connection ends with its sender.
struct Body {
    incoming: hyper::body::Incoming,
    _sender: client::Sender,
}

/// Reads until something is wrong, and remembers what.
async fn read(stream: Arc<Stream>, mut body: Body) {
    let mut line = Vec::new();
    let broken = loop {
        match body.incoming.frame().await {
            None => break "ended".to_owned(),
            Some(Err(error)) => break format!("{:#}", anyhow::Error::from(error)),
            Some(Ok(frame)) => {
                let Some(data) = frame.data_ref() else { continue };
                if let Some(wrong) = take_lines(&stream, data, &mut line) {
                    break wrong;
                }
            }
        }
    };
    *stream.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(broken);
}

/// Counts whole lines; says what is wrong when one is not the next.
fn take_lines(stream: &Stream, data: &[u8], line: &mut Vec<u8>) -> Option<String> {
    for byte in data {
        if *byte != b'\n' {
            line.push(*byte);
            continue;
        }
        let expected = stream.lines.load(Ordering::Relaxed);
        let text = String::from_utf8_lossy(line).into_owned();
        if !text.starts_with(&format!("{expected} ")) {
            return Some(format!("line {expected} is {text:?}"));
        }
        stream.lines.store(expected + 1, Ordering::Relaxed);
        line.clear();
    }
    None
}
