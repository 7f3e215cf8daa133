//! What the agent says of itself: the status document and the metrics.

use crate::announce::Verdict;
use crate::bfd;
use crate::peer::PeerView;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};
use weir_bgp::{StateName, Stats};
use weir_model::status::{AnnounceStatus, BgpStatus, ConfigStatus, PeerStatus};
use weir_model::{Name, Timestamp};
use weir_runtime::metrics::{Registry, Text};
use weir_runtime::status::Publisher;

/// What the metrics are made of when somebody asks.
pub(crate) type Shared = Arc<Mutex<Numbers>>;

#[derive(Debug, Default)]
pub(crate) struct Numbers {
    peers: BTreeMap<Name, (StateName, usize, Stats)>,
    vips: BTreeMap<Name, bool>,
}

/// Renders and publishes.
pub(crate) struct Report {
    node: Name,
    publisher: Publisher<BgpStatus>,
    shared: Shared,
    /// When each VIP turned, as a date: taken once, so that the document does not jitter.
    turned: BTreeMap<Name, (Option<Instant>, Option<Timestamp>)>,
}

impl Report {
    pub(crate) fn new(node: Name, publisher: Publisher<BgpStatus>, shared: Shared) -> Self {
        Self { node, publisher, shared, turned: BTreeMap::new() }
    }

    pub(crate) fn publish(
        &mut self,
        config: ConfigStatus,
        peers: Vec<(Name, SocketAddr, PeerView, Option<bfd::View>)>,
        verdicts: &[(&Name, &Verdict)],
        now: Instant,
    ) {
        let mut status = BgpStatus { config, ..initial(&self.node) };
        let mut numbers = Numbers::default();
        let turned_before = std::mem::take(&mut self.turned);
        for (name, verdict) in verdicts {
            let turned = match turned_before.get(*name) {
                Some(known) if known.0 == verdict.since => *known,
                _ => (verdict.since, verdict.since.map(|at| date(at, now))),
            };
            self.turned.insert((*name).clone(), turned);
            let announce = AnnounceStatus {
                announced: verdict.announced,
                reason: verdict.reason.clone(),
                since: turned.1,
            };
            status.vips.insert((*name).clone(), announce);
            numbers.vips.insert((*name).clone(), verdict.announced);
        }
        for (name, remote, view, bfd) in peers {
            numbers.peers.insert(name.clone(), (view.state, view.announced.len(), view.stats));
            let peer = PeerStatus {
                address: remote.to_string(),
                state: view.state.to_string(),
                since: Some(Timestamp(view.since)),
                announced: view.announced,
                last_error: view.last_error,
                established_count: view.stats.established,
                bfd: bfd.map(|bfd| bfd.status(view.held_by_bfd)),
            };
            status.peers.insert(name, peer);
        }
        self.publisher.publish(&status);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
    }
}

/// The status before the first turn.
pub(crate) fn initial(node: &Name) -> BgpStatus {
    BgpStatus { node: node.to_string(), pid: std::process::id(), ..BgpStatus::default() }
}

fn date(at: Instant, now: Instant) -> Timestamp {
    let wall = SystemTime::now();
    Timestamp(wall.checked_sub(now.saturating_duration_since(at)).unwrap_or(wall))
}

/// Show the numbers among the metrics of the process.
pub(crate) fn register(registry: &Registry, shared: Shared) {
    registry.collect(move |text| {
        render(&shared.lock().unwrap_or_else(PoisonError::into_inner), text);
    });
}

fn render(numbers: &Numbers, text: &mut Text) {
    type PeerValue = fn(&(StateName, usize, Stats)) -> f64;
    let families: [(&str, &str, &str, PeerValue); 8] = [
        ("weir_bgp_peer_up", "gauge", "1 while the session is established.", |peer| {
            f64::from(u8::from(peer.0 == StateName::Established))
        }),
        ("weir_bgp_peer_prefixes_announced", "gauge", "Prefixes the peer has been told.", |peer| {
            peer.1 as f64
        }),
        ("weir_bgp_peer_established_total", "counter", "How often the session came up.", |peer| {
            peer.2.established as f64
        }),
        ("weir_bgp_peer_failures_total", "counter", "Connections and sessions that failed.", |peer| {
            peer.2.failures as f64
        }),
        ("weir_bgp_peer_messages_received_total", "counter", "Messages received.", |peer| {
            peer.2.received as f64
        }),
        ("weir_bgp_peer_messages_sent_total", "counter", "Messages sent.", |peer| peer.2.sent as f64),
        ("weir_bgp_peer_updates_sent_total", "counter", "UPDATE messages sent.", |peer| {
            peer.2.updates_sent as f64
        }),
        (
            "weir_bgp_peer_updates_malformed_total",
            "counter",
            "UPDATE messages received with an error that RFC 7606 forgives.",
            |peer| peer.2.updates_malformed as f64,
        ),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (peer, numbers) in &numbers.peers {
            text.value(name, &[("peer", peer.as_str())], value(numbers));
        }
    }
    text.family("weir_bgp_vip_announced", "gauge", "1 while the VIP is announced.");
    for (vip, announced) in &numbers.vips {
        text.value("weir_bgp_vip_announced", &[("vip", vip.as_str())], f64::from(u8::from(*announced)));
    }
}
