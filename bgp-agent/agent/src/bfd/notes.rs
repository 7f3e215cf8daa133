//! What the engine has to say, written to the log by the agent: a log that is slow must not delay a packet.

use super::priority::Priority;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};
use weir_bfd::{Arrival, Discard, State, Transition};
use weir_model::Name;

/// The same refusal of the same sender is a warning once in so long; the counter has them all.
const REPEAT: Duration = Duration::from_secs(60);

/// Senders whose refusals are remembered; at the bound all are forgotten, and warned of once more.
const SENDERS_MAX: usize = 256;

#[derive(Debug)]
pub(crate) enum Note {
    /// How the thread runs.
    Priority(Priority),
    /// A session is there.
    Begun { peer: Name, local: IpAddr, remote: IpAddr, port: u16 },
    /// It cannot be, for now.
    NotBegun { peer: Name, error: String },
    /// The state of a session changed.
    State { peer: Name, transition: Transition, detection_time: Option<Duration> },
    /// A packet was thrown away.
    Discarded(Arrival, Discard),
}

/// Write notes until the engine is gone.
pub(crate) async fn write(mut notes: mpsc::Receiver<Note>) {
    let mut warned: BTreeMap<(IpAddr, &'static str), Instant> = BTreeMap::new();
    while let Some(note) = notes.recv().await {
        match note {
            Note::Priority(Priority::RealTime) => debug!("BFD runs in real time"),
            Note::Priority(Priority::Nice(error)) => {
                info!(%error, "BFD may not run in real time (CAP_SYS_NICE), only with nice -20");
            }
            Note::Priority(Priority::Ordinary(error)) => {
                warn!(%error, "BFD runs with ordinary priority (CAP_SYS_NICE is missing): a busy host may flap");
            }
            Note::Begun { peer, local, remote, port } => {
                info!(%peer, %local, %remote, port, "bfd session begins");
            }
            Note::NotBegun { peer, error } => {
                warn!(%peer, %error, "no bfd session, trying again every second");
            }
            Note::State { peer, transition, detection_time } => state(&peer, transition, detection_time),
            Note::Discarded(arrival, discard) => {
                let remote = arrival.endpoint.remote;
                let now = Instant::now();
                let last = warned.get(&(remote, discard.label()));
                if last.is_some_and(|last| now.saturating_duration_since(*last) < REPEAT) {
                    debug!(%remote, reason = %discard, "bfd packet discarded");
                } else {
                    if warned.len() >= SENDERS_MAX {
                        warned.clear();
                    }
                    warned.insert((remote, discard.label()), now);
                    warn!(%remote, reason = %discard, "bfd packet discarded");
                }
            }
        }
    }
}

fn state(peer: &Name, transition: Transition, detection_time: Option<Duration>) {
    let Transition { from, to, diagnostic, remote_state, remote_diagnostic } = transition;
    match to {
        State::Up => info!(%peer, ?detection_time, "bfd session up"),
        State::Down if transition.is_failure() => warn!(
            %peer, %diagnostic, %remote_state, %remote_diagnostic, "bfd session down: the path to the router is dead"
        ),
        State::Down if from == State::Up => info!(%peer, "bfd session down: the router has switched it off"),
        State::AdminDown => info!(%peer, "bfd session switched off"),
        State::Down | State::Init => {
            debug!(%peer, %from, %to, %diagnostic, %remote_state, "bfd state");
        }
    }
}
