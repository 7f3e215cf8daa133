//! What the agent says of itself: the status document and the metrics.

use crate::announce::Verdict;
use crate::bfd;
use crate::peer::PeerView;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};
use weir_bgp::{Negotiated, Route, StateName, Stats};
use weir_model::status::{
    AgreedStatus, AnnounceStatus, BgpStatus, ConfigStatus, PeerStatus, RouteStatus, Tier, WithdrawalStatus,
};
use weir_model::{Community, Name, Timestamp};
use weir_runtime::metrics::{Registry, Text};
use weir_runtime::status::Publisher;

/// What the metrics are made of when somebody asks.
pub(crate) type Shared = Arc<Mutex<Numbers>>;

#[derive(Debug, Default)]
pub(crate) struct Numbers {
    peers: BTreeMap<Name, Numbered>,
    vips: BTreeMap<Name, bool>,
    withdrawals: WithdrawalStatus,
}

#[derive(Debug)]
struct Numbered {
    state: StateName,
    announced: usize,
    refused: usize,
    prefixes_received: u64,
    stats: Stats,
}

/// One session, as the agent knows it.
pub(crate) struct PeerReport {
    pub(crate) name: Name,
    /// Where the router is, or is expected.
    pub(crate) address: String,
    pub(crate) asn: u32,
    pub(crate) local_asn: u32,
    pub(crate) view: PeerView,
    pub(crate) bfd: Option<bfd::View>,
    /// What else may be the matter while it is down.
    pub(crate) suspicion: Option<String>,
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
        peers: Vec<PeerReport>,
        verdicts: &[(&Name, &Verdict)],
        addresses: &[(&Name, IpAddr, Tier)],
        withdrawals: WithdrawalStatus,
        now: Instant,
    ) {
        let mut status = BgpStatus { config, withdrawals, ..initial(&self.node) };
        let mut numbers = Numbers { withdrawals, ..Numbers::default() };
        let turned_before = std::mem::take(&mut self.turned);
        let mut of_vip: BTreeMap<&Name, Vec<IpAddr>> = BTreeMap::new();
        for (vip, address, _) in addresses {
            of_vip.entry(vip).or_default().push(*address);
        }
        for (name, verdict) in verdicts {
            let turned = match turned_before.get(*name) {
                Some(known) if known.0 == verdict.since => *known,
                _ => (verdict.since, verdict.since.map(|at| date(at, now))),
            };
            self.turned.insert((*name).clone(), turned);
            let announce = AnnounceStatus {
                announced: verdict.announced,
                reason: verdict.reason.clone(),
                tier: verdict.tier,
                since: turned.1,
                addresses: of_vip.remove(*name).unwrap_or_default(),
            };
            status.vips.insert((*name).clone(), announce);
            numbers.vips.insert((*name).clone(), verdict.announced);
        }
        for report in peers {
            let numbered = Numbered {
                state: report.view.state,
                announced: report.view.routes.len(),
                refused: report.view.refused.len(),
                prefixes_received: report.view.prefixes_received,
                stats: report.view.stats,
            };
            numbers.peers.insert(report.name.clone(), numbered);
            status.peers.insert(report.name.clone(), peer_status(report));
        }
        self.publisher.publish(&status);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = numbers;
    }
}

fn peer_status(report: PeerReport) -> PeerStatus {
    let PeerReport { address, asn, local_asn, view, bfd, suspicion, .. } = report;
    let mut last_error = view.last_error;
    if let Some(suspicion) = suspicion {
        let separator = if last_error.is_empty() { "" } else { "; " };
        last_error = format!("{last_error}{separator}{suspicion}");
    }
    let ibgp = asn == local_asn;
    PeerStatus {
        address,
        state: view.state.to_string(),
        since: Some(Timestamp(view.since)),
        announced: view.routes.keys().map(ToString::to_string).collect(),
        last_error,
        established_count: view.stats.established,
        asn,
        local_asn,
        agreed: view.agreed.as_ref().map(agreed),
        routes: view
            .routes
            .iter()
            .map(|(prefix, sent)| route(prefix.to_string(), sent, local_asn, ibgp))
            .collect(),
        refused: view.refused.iter().map(|(prefix, why)| (prefix.to_string(), (*why).to_owned())).collect(),
        last_sent: view.last_sent,
        last_received: view.last_received,
        messages_sent: view.stats.sent,
        messages_received: view.stats.received,
        updates_sent: view.stats.updates_sent,
        updates_received: view.stats.updates_received,
        updates_malformed: view.stats.updates_malformed,
        prefixes_received: view.prefixes_received,
        received: view.received,
        bfd: bfd.map(|bfd| bfd.status(view.held_by_bfd)),
    }
}

fn agreed(terms: &Negotiated) -> AgreedStatus {
    let families = [(terms.families.ipv4, "ipv4"), (terms.families.ipv6, "ipv6")];
    AgreedStatus {
        router_id: terms.peer_bgp_id.to_string(),
        families: families.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned()).collect(),
        hold_time_s: terms.hold_time.as_secs(),
        capabilities: terms.capabilities().into_iter().map(str::to_owned).collect(),
    }
}

/// As the router sees it.
pub(crate) fn route(prefix: String, sent: &Route, local_asn: u32, ibgp: bool) -> RouteStatus {
    let standard = sent.communities().iter().map(|value| Community::Standard(*value));
    let large = sent.large_communities().iter().map(|(a, b, c)| Community::Large(*a, *b, *c));
    let shutdown = sent.graceful_shutdown().then_some("graceful-shutdown".to_owned());
    let mut communities: Vec<String> = standard.chain(large).map(|community| community.to_string()).collect();
    communities.extend(shutdown.filter(|name| !communities.contains(name)));
    let local_pref = if sent.graceful_shutdown() { 0 } else { sent.local_pref() };
    let path_len = if ibgp { 0 } else { 1 + usize::from(sent.prepend()) };
    RouteStatus {
        prefix,
        next_hop: sent.next_hop().to_string(),
        as_path: vec![local_asn; path_len],
        med: sent.med(),
        local_pref: ibgp.then_some(local_pref),
        communities,
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
    type PeerValue = fn(&Numbered) -> f64;
    let families: [(&str, &str, &str, PeerValue); 10] = [
        ("weir_bgp_peer_up", "gauge", "1 while the session is established.", |peer| {
            f64::from(u8::from(peer.state == StateName::Established))
        }),
        ("weir_bgp_peer_prefixes_announced", "gauge", "Prefixes the peer has been told.", |peer| {
            peer.announced as f64
        }),
        ("weir_bgp_peer_prefixes_refused", "gauge", "Prefixes wanted that the peer is not told.", |peer| {
            peer.refused as f64
        }),
        (
            "weir_bgp_peer_prefixes_received",
            "gauge",
            "Prefixes the peer has announced since the session is up; all are ignored.",
            |peer| peer.prefixes_received as f64,
        ),
        ("weir_bgp_peer_established_total", "counter", "How often the session came up.", |peer| {
            peer.stats.established as f64
        }),
        ("weir_bgp_peer_failures_total", "counter", "Connections and sessions that failed.", |peer| {
            peer.stats.failures as f64
        }),
        ("weir_bgp_peer_messages_received_total", "counter", "Messages received.", |peer| {
            peer.stats.received as f64
        }),
        ("weir_bgp_peer_messages_sent_total", "counter", "Messages sent.", |peer| peer.stats.sent as f64),
        ("weir_bgp_peer_updates_sent_total", "counter", "UPDATE messages sent.", |peer| {
            peer.stats.updates_sent as f64
        }),
        (
            "weir_bgp_peer_updates_malformed_total",
            "counter",
            "UPDATE messages received with an error that RFC 7606 forgives.",
            |peer| peer.stats.updates_malformed as f64,
        ),
    ];
    for (name, kind, help, value) in families {
        text.family(name, kind, help);
        for (peer, numbers) in &numbers.peers {
            text.value(name, &[("peer", peer.as_str())], value(numbers));
        }
    }
    let budget = [
        (
            "weir_bgp_withdrawals_limit",
            "gauge",
            "VIPs that may be withdrawn within a minute because of health.",
            numbers.withdrawals.limit_per_minute,
        ),
        (
            "weir_bgp_withdrawals_last_minute",
            "gauge",
            "VIPs that were within the last minute.",
            numbers.withdrawals.last_minute,
        ),
        (
            "weir_bgp_withdrawals_waiting",
            "gauge",
            "VIPs that stay announced because that is enough for a minute.",
            numbers.withdrawals.waiting,
        ),
        (
            "weir_bgp_withdrawals_deferred_total",
            "counter",
            "How often a VIP stayed announced because of it.",
            numbers.withdrawals.deferred,
        ),
    ];
    for (name, kind, help, value) in budget {
        text.family(name, kind, help);
        text.value(name, &[], value as f64);
    }
    text.family("weir_bgp_vip_announced", "gauge", "1 while the VIP is announced.");
    for (vip, announced) in &numbers.vips {
        text.value("weir_bgp_vip_announced", &[("vip", vip.as_str())], f64::from(u8::from(*announced)));
    }
}
