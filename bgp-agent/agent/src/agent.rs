//! The agent: configuration and status in, sessions and routes out. One loop; each turn computes the whole from scratch.

use crate::announce::{Announcer, Verdict, View};
use crate::bfd::{self, Bfd, ViewSender};
use crate::listener::{Guests, Listeners};
use crate::peer::{Peer, Plan, STOP_MAX, Watched};
use crate::report::{Report, Shared};
use crate::routes::routes;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;
use tracing::{info, warn};
use weir_bgp::{Config, Families, RouteSet};
use weir_model::status::{BgpStatus, ConfigStatus, L4Status, ProxyStatus};
use weir_model::{AddressFamily, Name, Node, Snapshot};
use weir_runtime::metrics::Registry;
use weir_runtime::shutdown::Shutdown;
use weir_runtime::status::{Publisher, Seen};

/// A full pass at least this often makes a missed wake-up harmless.
const FULL_PASS: Duration = Duration::from_secs(1);

/// The pause after a lost session, doubled with each failure in a row. Short, because a VIP without its routers serves nobody;
/// the session's own upper bound keeps a quarrel with a router from becoming a storm.
const IDLE_HOLD: Duration = Duration::from_millis(250);

/// What the agent reads.
pub(crate) struct Inputs {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) config: watch::Receiver<ConfigStatus>,
    pub(crate) l4: watch::Receiver<Seen<L4Status>>,
    pub(crate) proxy: watch::Receiver<Seen<ProxyStatus>>,
    pub(crate) shutdown: Shutdown,
}

/// The state between two turns.
pub(crate) struct Agent {
    node: Name,
    announcer: Announcer,
    peers: BTreeMap<Name, Running>,
    listeners: Listeners,
    bfd: Bfd,
    /// BFD sessions as last wanted.
    watched: BTreeMap<Name, bfd::Wanted>,
    /// Sessions that say goodbye: the path is watched until they have.
    leaving: Vec<Leaving>,
    changed: Arc<Notify>,
    report: Report,
    /// Addresses without a next hop that were already complained about.
    complained: Vec<(Name, IpAddr)>,
}

struct Running {
    plan: Plan,
    peer: Peer,
    bfd: ViewSender,
}

struct Leaving {
    name: Name,
    bfd: bfd::Wanted,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    pub(crate) fn new(
        node: Name,
        registry: &Registry,
        publisher: Publisher<BgpStatus>,
        shared: Shared,
    ) -> Self {
        let refused = registry.counter(
            "weir_bgp_connections_refused_total",
            "Connections to the BGP port that belong to no peer, or came too fast.",
            &[],
        );
        Self {
            report: Report::new(node.clone(), publisher, shared),
            node,
            announcer: Announcer::default(),
            peers: BTreeMap::new(),
            listeners: Listeners::new(refused),
            bfd: Bfd::start(registry),
            watched: BTreeMap::new(),
            leaving: Vec::new(),
            changed: Arc::new(Notify::new()),
            complained: Vec::new(),
        }
    }

    /// Run until the shutdown; then withdraw, cease and close within [`STOP_MAX`].
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        loop {
            let snapshot = Arc::clone(&inputs.snapshots.borrow_and_update());
            let config = inputs.config.borrow_and_update().clone();
            let l4 = inputs.l4.borrow_and_update().clone();
            let proxy = inputs.proxy.borrow_and_update().clone();
            let now = Instant::now();
            self.announce(&snapshot, &l4, &proxy, now);
            self.apply(&snapshot);
            self.publish(config, now);

            let next = self.announcer.poll_timeout().into_iter().chain([now + FULL_PASS]).min();
            tokio::select! {
                () = inputs.shutdown.wait() => break,
                _ = inputs.snapshots.changed() => {}
                _ = inputs.config.changed() => {}
                _ = inputs.l4.changed() => {}
                _ = inputs.proxy.changed() => {}
                () = self.changed.notified() => {}
                () = sleep_until(next.unwrap_or(now).into()) => {}
            }
        }
        self.stop().await;
    }

    fn announce(
        &mut self,
        snapshot: &Snapshot,
        l4: &Seen<L4Status>,
        proxy: &Seen<ProxyStatus>,
        now: Instant,
    ) {
        let before = self.announcer.verdicts().clone();
        let view = View {
            snapshot,
            node: &self.node,
            l4: l4.value.as_deref().filter(|_| l4.live),
            proxy: proxy.value.as_deref().filter(|_| proxy.live),
        };
        self.announcer.handle(view, now);
        for (vip, verdict) in self.announcer.verdicts() {
            let was = before.get(vip).is_some_and(|verdict| verdict.announced);
            match (was, verdict.announced) {
                (false, true) => info!(%vip, reason = %verdict.reason, "announced"),
                (true, false) => warn!(%vip, reason = %verdict.reason, "withdrawn"),
                _ => {}
            }
        }
        for vip in before.keys().filter(|vip| !self.announcer.verdicts().contains_key(*vip)) {
            info!(%vip, "withdrawn: no longer a vip of this node");
        }
    }

    /// Sessions, routes and listeners as the snapshot wants them.
    fn apply(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.peers);
        let mut guests: BTreeMap<SocketAddr, Guests> = BTreeMap::new();
        let mut complaints = Vec::new();
        let mut watched = BTreeMap::new();
        for (name, object) in snapshot.peers.iter().filter(|(_, peer)| peer.node == self.node) {
            let Some(node) = snapshot.nodes.get(&self.node) else {
                continue;
            };
            let plan = plan(node, &self.node, object);
            let addresses = self.announcer.addresses(snapshot);
            let strict = object.bfd.as_ref().is_some_and(|bfd| bfd.strict);
            let (routes, without_next_hop) = routes(snapshot, &self.node, object, addresses);
            complaints.extend(without_next_hop.into_iter().map(|address| (name.clone(), address)));
            let running = match before.remove(name) {
                Some(running) if running.plan == plan => {
                    running.set_routes(routes);
                    running
                }
                Some(old) => {
                    info!(peer = %name, "session begins anew: its configuration changed");
                    let after = old.peer.stop("configuration changed");
                    self.start(name, plan, routes, (strict, old.bfd), Some(after))
                }
                None => self.start(name, plan, routes, (strict, ViewSender::default()), None),
            };
            if let Some(plan) = bfd::Plan::new(node, object) {
                watched.insert(name.clone(), bfd::Wanted { plan, view: running.bfd.clone() });
            }
            if object.local_port != 0 {
                let any = match object.address {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
                };
                let local = SocketAddr::new(running.plan.local.unwrap_or(any), object.local_port);
                // Two peers at one address differ only by a port we cannot see in a connection: the first has it.
                guests
                    .entry(local)
                    .or_default()
                    .entry(object.address)
                    .or_insert(running.peer.accepted.clone());
            }
            self.peers.insert(name.clone(), running);
        }
        for (name, old) in before {
            info!(peer = %name, "session stopped: no longer configured");
            let task = old.peer.stop("peer deconfigured");
            if let Some(bfd) = self.watched.remove(&name) {
                self.leaving.push(Leaving { name, bfd, task });
            }
        }
        self.leaving.retain(|leaving| !leaving.task.is_finished() && !watched.contains_key(&leaving.name));
        let leaving = self.leaving.iter().map(|leaving| (leaving.name.clone(), leaving.bfd.clone()));
        self.bfd.apply(watched.clone().into_iter().chain(leaving).collect());
        self.watched = watched;
        self.listeners.apply(guests);
        for (peer, address) in complaints.iter().filter(|complaint| !self.complained.contains(complaint)) {
            warn!(%peer, %address, "not announced: the node has no address of this family to name as next hop");
        }
        self.complained = complaints;
    }

    fn start(
        &self,
        name: &Name,
        plan: Plan,
        routes: RouteSet,
        (strict, bfd): (bool, ViewSender),
        after: Option<tokio::task::JoinHandle<()>>,
    ) -> Running {
        if strict {
            // Before the engine has had its say, nothing is not "nobody watches".
            bfd.send_if_modified(|view| view.is_none() && view.replace(bfd::View::wanted()).is_none());
        }
        let watched = Watched { strict, view: bfd.subscribe() };
        let peer = Peer::start(name.clone(), plan.clone(), routes, watched, Arc::clone(&self.changed), after);
        Running { plan, peer, bfd }
    }

    fn publish(&mut self, config: ConfigStatus, now: Instant) {
        let peers = self.peers.iter().map(|(name, running)| {
            let (view, bfd) = (running.peer.view.borrow().clone(), running.bfd.borrow().clone());
            (name.clone(), running.plan.remote, view, bfd)
        });
        let verdicts: Vec<(&Name, &Verdict)> = self.announcer.verdicts().iter().collect();
        self.report.publish(config, peers.collect(), &verdicts, now);
    }

    async fn stop(self) {
        let text = format!("{} is stopping", self.node);
        let tasks: Vec<_> = self.peers.into_values().map(|running| running.peer.stop(&text)).collect();
        let deadline = tokio::time::Instant::now() + STOP_MAX;
        for task in tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout_at(deadline, task).await.is_err() {
                warn!("a peer did not take the farewell in time");
                abort.abort();
            }
        }
        // Last, so that no router sees BFD go before BGP.
        self.bfd.stop().await;
    }
}

impl Running {
    fn set_routes(&self, routes: RouteSet) {
        self.peer.routes.send_if_modified(|current| {
            let changed = *current != routes;
            if changed {
                *current = routes;
            }
            changed
        });
    }
}

fn plan(node: &Node, name: &Name, peer: &weir_model::Peer) -> Plan {
    let own = match peer.address {
        IpAddr::V4(_) => node.address.map(IpAddr::V4),
        IpAddr::V6(_) => node.address6.map(IpAddr::V6),
    };
    let bgp_id = node.address.unwrap_or_else(|| identifier(name));
    Plan {
        remote: SocketAddr::new(peer.address, peer.port),
        local: peer.local_address.or(own),
        config: Config {
            families: Families {
                ipv4: peer.families.contains(&AddressFamily::Ipv4),
                ipv6: peer.families.contains(&AddressFamily::Ipv6),
            },
            // The model bounds it to 65,535 s.
            hold_time_s: u16::try_from(peer.hold_time.as_secs()).unwrap_or(u16::MAX),
            passive: peer.passive,
            connect_retry: peer.connect_retry,
            idle_hold: IDLE_HOLD,
            ..Config::new(peer.local_asn, bgp_id, peer.asn)
        },
    }
}

/// A BGP identifier for a node without an IPv4 address: FNV-1a of its name, in 240.0.0.0/4, which no address is in.
fn identifier(name: &Name) -> Ipv4Addr {
    let hash = name
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Ipv4Addr::from(hash | 0xf000_0000)
}
