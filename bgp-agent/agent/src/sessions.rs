//! The sessions of this node: which there should be, with which socket and which routes. One per peer object; of an object with
//! a range, one per router that calls.

mod cast;
mod terms;

use crate::bfd::{self, ViewSender};
use crate::listener::{Caller, Door, Guest};
use crate::md5::{self, Md5Counters};
use crate::mrt::Recorder;
use crate::neighbour::Neighbours;
use crate::peer::{Farewell, Orders, Peer, PeerView, Plan, Watched};
use crate::report::PeerReport;
use crate::routes::routes;
use crate::secrets::Secrets;
use crate::sockopt::Wishes;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use weir_bgp::StateName;
use weir_model::status::Tier;
use weir_model::{Name, Node, PeerAddress, Snapshot};
use weir_runtime::metrics::Counter;

pub(crate) use cast::{Actor, Cast};
pub(crate) use terms::orders;
use terms::{
    LINK_LOCAL, Link, config, kept_of_range, listening_address, own_address, remote, session_name, wishes,
};

/// How old the kernel's counters may be while all is well.
const MD5_PAUSE: Duration = Duration::from_secs(1);

/// What a turn leads to outside.
pub(crate) struct Apply {
    /// Who may come in, by listening socket.
    pub(crate) guests: BTreeMap<SocketAddr, Vec<Guest>>,
    /// Addresses a peer is not told for want of a next hop.
    pub(crate) complaints: Vec<(Name, IpAddr)>,
    /// Paths to watch, those of sessions that say goodbye among them.
    pub(crate) watched: BTreeMap<Name, bfd::Wanted>,
}

struct Running {
    /// The peer object it belongs to.
    object: Name,
    plan: Plan,
    peer: Peer,
    bfd: ViewSender,
    /// The counters when it was last up, or begun.
    md5_before: Md5Counters,
}

/// A session that says goodbye: its path is watched until it has, so that no router sees BFD go before BGP.
struct Leaving {
    name: Name,
    bfd: bfd::Wanted,
    task: JoinHandle<()>,
}

/// All sessions.
pub(crate) struct Sessions {
    node: Name,
    running: BTreeMap<Name, Running>,
    /// Paths as last wanted.
    watched: BTreeMap<Name, bfd::Wanted>,
    leaving: Vec<Leaving>,
    /// Peer objects without a session, and why.
    idle: BTreeMap<Name, PeerReport>,
    neighbours: Neighbours,
    /// Link-local routers that called before they were heard, by peer object.
    called: BTreeMap<Name, Ipv6Addr>,
    secrets: Secrets,
    /// The routes are known: sessions that begin from now on have not restarted.
    settled: bool,
    orders: BTreeMap<Name, Orders>,
    /// When the kernel's counters were read, and what they were.
    md5: Option<(Instant, Md5Counters)>,
    changed: Arc<Notify>,
    recorder: Option<Recorder>,
    door: mpsc::Sender<Caller>,
    refused: Counter,
}

impl Sessions {
    pub(crate) fn new(
        node: Name,
        changed: Arc<Notify>,
        recorder: Option<Recorder>,
        door: mpsc::Sender<Caller>,
        refused: Counter,
    ) -> Self {
        Self {
            node,
            running: BTreeMap::new(),
            watched: BTreeMap::new(),
            leaving: Vec::new(),
            idle: BTreeMap::new(),
            neighbours: Neighbours::new(Arc::clone(&changed)),
            called: BTreeMap::new(),
            secrets: Secrets::default(),
            settled: false,
            orders: BTreeMap::new(),
            md5: None,
            changed,
            recorder,
            door,
            refused,
        }
    }

    /// Sessions as the snapshot wants them, each with `addresses` as its routes. `settled`: these are all there will be for now.
    pub(crate) fn apply(
        &mut self,
        snapshot: &Snapshot,
        addresses: &[(&Name, IpAddr, Tier)],
        settled: bool,
    ) -> Apply {
        self.settled = settled;
        let of_node = || snapshot.peers.iter().filter(|(_, peer)| peer.node == self.node);
        self.secrets.read(of_node().map(|(_, peer)| peer));
        let mut interfaces: Vec<String> = of_node()
            .filter(|(_, peer)| peer.is_link_local())
            .filter_map(|(_, peer)| peer.interface.clone())
            .collect();
        interfaces.sort();
        interfaces.dedup();
        self.neighbours.apply(&interfaces);
        let mut before = std::mem::take(&mut self.running);
        self.idle.clear();
        self.orders.clear();
        let mut turn = Apply { guests: BTreeMap::new(), complaints: Vec::new(), watched: BTreeMap::new() };
        if let Some(node) = snapshot.nodes.get(&self.node) {
            // Their places first: what follows changes what they are found by.
            for peer in of_node().collect::<Vec<_>>() {
                self.object(snapshot, node, peer, addresses, &mut before, &mut turn);
            }
        }
        for (name, old) in before {
            info!(peer = %name, "session stopped: no longer configured, or its router has gone");
            let task = old.peer.stop(Farewell::deconfigured());
            if let Some(bfd) = self.watched.remove(&name) {
                self.leaving.push(Leaving { name, bfd, task });
            }
        }
        self.watched.clone_from(&turn.watched);
        self.leaving
            .retain(|leaving| !leaving.task.is_finished() && !turn.watched.contains_key(&leaving.name));
        let leaving = self.leaving.iter().map(|leaving| (leaving.name.clone(), leaving.bfd.clone()));
        turn.watched.extend(leaving);
        turn
    }

    fn object(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        (name, object): (&Name, &weir_model::Peer),
        addresses: &[(&Name, IpAddr, Tier)],
        before: &mut BTreeMap<Name, Running>,
        turn: &mut Apply,
    ) {
        let key = match self.secrets.of(object) {
            Ok(key) => key,
            Err(why) => return self.wait(name, object, why),
        };
        let wishes = wishes(object, key);
        let link = match Link::of(object) {
            Ok(link) => link,
            Err(why) => return self.wait(name, object, why),
        };
        let own = link.as_ref().map(|link| link.own);
        let (routes, without) = routes(snapshot, &self.node, object, own, addresses.iter().copied());
        turn.complaints.extend(without.into_iter().map(|address| (name.clone(), address)));
        let local = listening_address(node, object, link.as_ref());
        let mut guest = |range: IpNet, door: Door| {
            if object.local_port != 0 {
                let at = match (local, &link) {
                    (IpAddr::V6(ip), Some(link)) => {
                        SocketAddrV6::new(ip, object.local_port, 0, link.index).into()
                    }
                    (ip, _) => SocketAddr::new(ip, object.local_port),
                };
                turn.guests.entry(at).or_default().push(Guest { range, wishes: wishes.clone(), door });
            }
        };
        let agents = Door::Agent(name.clone(), self.door.clone());
        match object.address {
            PeerAddress::Host(_) => {}
            PeerAddress::Unnumbered => guest(LINK_LOCAL.into(), agents),
            PeerAddress::Range(range) => guest(range, agents),
        }
        let remotes = match self.remotes(name, object, link.as_ref(), before) {
            Ok(remotes) => remotes,
            Err(why) => {
                self.wait(name, object, why);
                Vec::new()
            }
        };
        for (session, remote) in remotes {
            let plan = self.plan(node, object, link.as_ref(), remote, wishes.clone());
            let orders = orders(object, &plan.config, routes.clone(), self.settled);
            let running = match before.remove(&session) {
                Some(mut running) if running.plan.is_same_session(&plan) => {
                    running.plan.config = plan.config;
                    running.obey(orders);
                    running
                }
                Some(old) => {
                    info!(peer = %session, "session begins anew: its configuration changed");
                    // It comes back at once: a router with graceful restart keeps the routes meanwhile.
                    let after = old.peer.stop(Farewell::reconfigured());
                    self.begin((name, object), &session, plan, orders, old.bfd, Some(after))
                }
                None => self.begin((name, object), &session, plan, orders, ViewSender::default(), None),
            };
            if let Some(bfd) = &object.bfd {
                let plan = bfd::Plan::new(remote, running.plan.local, bfd);
                turn.watched.insert(session.clone(), bfd::Wanted { plan, view: running.bfd.clone() });
            }
            if !matches!(object.address, PeerAddress::Unnumbered) {
                // Of two peers at one address the first has it: a connection does not say for which it is.
                guest(remote.ip().into(), Door::Session(running.peer.accepted.clone()));
            }
            self.running.insert(session, running);
        }
        if matches!(object.address, PeerAddress::Range(_)) {
            // What a session of the range begins with when its router calls.
            let config = config(node, &self.node, object, !self.settled);
            self.orders.insert(name.clone(), orders(object, &config, routes, self.settled));
        }
    }

    /// The sessions of an object and their routers, or why it has none.
    fn remotes(
        &self,
        name: &Name,
        object: &weir_model::Peer,
        link: Option<&Link>,
        before: &BTreeMap<Name, Running>,
    ) -> Result<Vec<(Name, SocketAddr)>, String> {
        match object.address {
            PeerAddress::Host(address) => Ok(vec![(name.clone(), remote(address, object, link))]),
            PeerAddress::Unnumbered => {
                let interface = object.interface.as_deref().unwrap_or_default();
                // A session that is up keeps its router, whoever else is heard.
                let kept = before
                    .get(name)
                    .filter(|running| running.peer.view.borrow().state >= StateName::OpenSent);
                let router = match kept.map(|running| running.plan.remote.ip()) {
                    Some(IpAddr::V6(address)) => Some(address),
                    _ => self.neighbours.router(interface).or_else(|| self.called.get(name).copied()),
                };
                let router =
                    router.ok_or_else(|| format!("no router advertisement was heard on {interface} yet"))?;
                Ok(vec![(name.clone(), remote(router.into(), object, link))])
            }
            PeerAddress::Range(_) => Ok(kept_of_range(name, before)),
        }
    }

    fn plan(
        &self,
        node: &Node,
        object: &weir_model::Peer,
        link: Option<&Link>,
        remote: SocketAddr,
        wishes: Wishes,
    ) -> Plan {
        Plan {
            remote,
            local: object.local_address.or(match link {
                Some(_) => None,
                None => own_address(node, remote.ip()),
            }),
            wishes,
            config: config(node, &self.node, object, !self.settled),
        }
    }

    /// A connection from a range or over an interface: to the session it belongs to, or to a new one.
    pub(crate) fn call(&mut self, snapshot: &Snapshot, caller: Caller) {
        let Some(object) = snapshot.peers.get(&caller.peer).filter(|peer| peer.node == self.node) else {
            return;
        };
        let refuse = |sessions: &Self, why: &str| {
            sessions.refused.add(1);
            debug!(peer = %caller.peer, from = %caller.from, why, "connection refused");
        };
        let session = match (&object.address, caller.from.ip()) {
            (PeerAddress::Unnumbered, IpAddr::V6(address)) => {
                match self.running.get(&caller.peer) {
                    Some(running) if running.plan.remote.ip() == address => {}
                    // The next turn makes the session; the router calls again.
                    _ => {
                        self.called.insert(caller.peer.clone(), address);
                        self.changed.notify_one();
                        return refuse(self, "the router was not known");
                    }
                }
                caller.peer.clone()
            }
            (PeerAddress::Range(_), from) => {
                let Some(session) = session_name(&caller.peer, from) else {
                    return refuse(self, "no name for the session");
                };
                let count = self.running.values().filter(|running| running.object == caller.peer).count();
                if !self.running.contains_key(&session) {
                    if count >= object.sessions_max as usize {
                        warn!(peer = %caller.peer, from = %caller.from, max = object.sessions_max, "too many sessions of a range");
                        return refuse(self, "too many sessions of the range");
                    }
                    let (Some(orders), Some(node), Ok(key)) = (
                        self.orders.get(&caller.peer).cloned(),
                        snapshot.nodes.get(&self.node),
                        self.secrets.of(object),
                    ) else {
                        return refuse(self, "not ready");
                    };
                    let remote = SocketAddr::new(from, object.port);
                    let plan = Plan {
                        remote,
                        local: object.local_address.or(own_address(node, from)),
                        wishes: wishes(object, key),
                        config: orders.config.clone(),
                    };
                    info!(peer = %session, %from, "a router of the range calls");
                    let view = ViewSender::default();
                    let running = self.begin((&caller.peer, object), &session, plan, orders, view, None);
                    // The next turn has the path watched.
                    self.changed.notify_one();
                    self.running.insert(session.clone(), running);
                }
                session
            }
            _ => return,
        };
        if let Some(running) = self.running.get(&session)
            && running.peer.accepted.try_send(caller.stream).is_err()
        {
            self.refused.add(1);
        }
    }

    /// The kernel's counters; while all sessions stand, those of a moment ago: to read them costs as much as a verdict.
    fn md5_counters(&mut self) -> Md5Counters {
        let stands = |running: &Running| {
            let view = running.peer.view.borrow();
            view.state == StateName::Established && view.since.elapsed().is_ok_and(|since| since >= MD5_PAUSE)
        };
        match self.md5 {
            Some((at, counters)) if at.elapsed() < MD5_PAUSE && self.running.values().all(stands) => counters,
            _ => {
                let counters = Md5Counters::read();
                self.md5 = Some((Instant::now(), counters));
                counters
            }
        }
    }

    /// What there is to say of each session, and of each object that has none.
    pub(crate) fn reports(&mut self) -> Vec<PeerReport> {
        let counters = self.md5_counters();
        let mut reports = Vec::new();
        for (name, running) in &mut self.running {
            let view = running.peer.view.borrow().clone();
            if view.state == StateName::Established {
                running.md5_before = counters;
            }
            // A session that has just begun needs a moment before its silence means anything.
            let silent = view.since.elapsed().is_ok_and(|since| since >= Duration::from_secs(2));
            let suspicious = view.state < StateName::OpenSent && (silent || !view.last_error.is_empty());
            let has_key = running.plan.wishes.key.is_some();
            let suspicion =
                if suspicious { md5::suspicion(has_key, running.md5_before, counters) } else { None };
            reports.push(PeerReport {
                name: name.clone(),
                address: running.plan.remote.to_string(),
                asn: running.plan.config.remote_asn,
                local_asn: running.plan.config.local_asn,
                view,
                bfd: running.bfd.borrow().clone(),
                suspicion,
            });
        }
        reports.extend(std::mem::take(&mut self.idle).into_values());
        reports
    }

    /// Tells every router these addresses while the agent ends, but those that would keep the routes over a restart (`may_return`).
    /// Returns whether any session that is up was told.
    pub(crate) fn take_leave(
        &self,
        snapshot: &Snapshot,
        addresses: &[(&Name, IpAddr, Tier)],
        may_return: bool,
    ) -> bool {
        let mut is_told = false;
        for running in self.running.values().filter(|running| !(may_return && running.keeps_routes())) {
            let Some(object) = snapshot.peers.get(&running.object) else { continue };
            let own = Link::of(object).ok().flatten().map(|link| link.own);
            let (routes, _) = routes(snapshot, &self.node, object, own, addresses.iter().copied());
            is_told |= running.peer.view.borrow().state == StateName::Established;
            // Not in one expression: what is borrowed cannot be changed.
            let before = running.peer.orders.borrow().clone();
            running.obey(Orders { routes, ..before });
        }
        is_told
    }

    /// Whether a router would keep the routes over a restart.
    pub(crate) fn any_keeps_routes(&self) -> bool {
        self.running.values().any(Running::keeps_routes)
    }

    /// Say farewell to every router.
    pub(crate) fn stop(self, farewell: &Farewell) -> Vec<JoinHandle<()>> {
        self.running.into_values().map(|running| running.peer.stop(farewell.clone())).collect()
    }

    fn begin(
        &self,
        (name, object): (&Name, &weir_model::Peer),
        session: &Name,
        plan: Plan,
        orders: Orders,
        bfd: ViewSender,
        after: Option<JoinHandle<()>>,
    ) -> Running {
        let strict = object.bfd.as_ref().is_some_and(|bfd| bfd.strict);
        if strict {
            // Before the engine has had its say, nothing is not "nobody watches".
            bfd.send_if_modified(|view| view.is_none() && view.replace(bfd::View::wanted()).is_none());
        }
        let watched = Watched { strict, view: bfd.subscribe() };
        let peer = Peer::start(
            session.clone(),
            plan.clone(),
            orders,
            watched,
            Arc::clone(&self.changed),
            self.recorder.clone(),
            after,
        );
        Running { object: name.clone(), plan, peer, bfd, md5_before: Md5Counters::read() }
    }

    /// A peer object that cannot have a session now.
    fn wait(&mut self, name: &Name, object: &weir_model::Peer, why: String) {
        let report = PeerReport {
            name: name.clone(),
            address: match &object.interface {
                Some(interface) => format!("{} on {interface}", object.address),
                None => object.address.to_string(),
            },
            asn: object.asn,
            local_asn: object.local_asn,
            view: PeerView { last_error: why, ..PeerView::new() },
            bfd: None,
            suspicion: None,
        };
        self.idle.insert(name.clone(), report);
    }
}

impl Running {
    /// Graceful restart was agreed with the router.
    fn keeps_routes(&self) -> bool {
        self.peer.view.borrow().agreed.as_ref().is_some_and(|agreed| agreed.graceful_restart)
    }

    fn obey(&self, orders: Orders) {
        self.peer.orders.send_if_modified(|current| {
            let changed = *current != orders;
            if changed {
                *current = orders;
            }
            changed
        });
    }
}
