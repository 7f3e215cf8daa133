//! Sockets: which the snapshot wants, which are open, and the difference.
//!
//! A socket belongs to a place (an address, or a port of a VIP's address), not to a listener: whoever renames a listener
//! or changes its certificates or pools keeps the socket and every connection waiting in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{runtime::Handle, sync::mpsc, time::sleep};
use weir_core::image::VIP_LINGER;
use weir_model::{Name, PortRange, Problem, Service, Snapshot};
use weir_runtime::{
    metrics::Registry,
    steer::{Entry, Registration},
};

use crate::{
    accept::{self, Group, Stage},
    connection::Proxy,
    hold::{Door, Holder, Taken},
    limits::HANDSHAKES_END,
    listener::{ListenerLive, ListenerState},
    tls,
};

/// Where connections come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// An address of this host.
    Bind(SocketAddr),
    /// A port of a VIP's address, steered to a socket on the loopback address.
    Vip(IpAddr, u16),
}

/// All open sockets and the listeners behind them.
pub(crate) struct Listeners {
    proxy: Arc<Proxy>,
    registry: Registry,
    holder: Arc<Holder>,
    states: BTreeMap<Name, Arc<ListenerState>>,
    groups: BTreeMap<Place, Group>,
    workers: Vec<Handle>,
    alive: mpsc::Sender<Infallible>,
    /// VIP listeners need a node; without one they are not served.
    node: Option<Name>,
}

/// New sockets, bound but not listening for anybody yet.
pub(crate) struct Prepared {
    wanted: BTreeMap<Place, Name>,
    new: BTreeMap<Place, Taken>,
}

impl Listeners {
    /// None yet. Each place gets a socket on each of the `workers`; `alive` is held by every connection.
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        registry: Registry,
        holder: Arc<Holder>,
        workers: Vec<Handle>,
        alive: mpsc::Sender<Infallible>,
        node: Option<Name>,
    ) -> Self {
        let (states, groups) = (BTreeMap::new(), BTreeMap::new());
        Self { proxy, registry, holder, states, groups, workers, alive, node }
    }

    /// Binds what `snapshot` wants and is not open yet, as far as it was not given to us; all problems at once, and then nothing has changed.
    pub(crate) fn prepare(&self, snapshot: &Snapshot) -> Result<Prepared, Vec<Problem>> {
        let wanted = self.wanted(snapshot);
        let mut new = BTreeMap::new();
        let mut problems = Vec::new();
        for (place, name) in wanted.iter().filter(|(place, _)| !self.groups.contains_key(place)) {
            let given = self.holder.take(place.door());
            let sockets = match given.sockets.is_empty() {
                true => accept::bind(place.address(), self.workers.len()),
                false => accept::complete(given, self.workers.len()),
            };
            match sockets {
                Ok(sockets) => drop(new.insert(*place, sockets)),
                Err(error) => problems.push(Problem {
                    file: "weir-proxy".into(),
                    line: 0,
                    path: format!("listener.{name}"),
                    what: format!("cannot listen at {place}: {error}"),
                    hint: String::new(),
                }),
            }
        }
        if problems.is_empty() { Ok(Prepared { wanted, new }) } else { Err(problems) }
    }

    /// Puts a prepared change in force.
    pub(crate) fn commit(&mut self, snapshot: &Snapshot, prepared: Prepared, tls: &tls::Configs) {
        let Prepared { wanted, new } = prepared;
        self.update_states(snapshot, tls);
        let now = Instant::now();
        for (place, group) in &mut self.groups {
            group.lingers_until = match (wanted.contains_key(place), group.lingers_until) {
                (true, _) => {
                    group.set_stage(Stage::Open);
                    None
                }
                (false, None) => Some(now + place.grace()),
                (false, since) => since,
            };
        }
        self.sweep(now);
        for (place, name) in &wanted {
            if let (Some(group), Some(state)) = (self.groups.get(place), self.states.get(name)) {
                group.state.store(Arc::clone(state));
            }
        }
        for (place, sockets) in new {
            let Some(state) = wanted.get(&place).and_then(|name| self.states.get(name)) else { continue };
            let opened = accept::listen(&sockets.sockets).and_then(|()| {
                if !sockets.is_lent {
                    self.holder.store(place.door(), &sockets.sockets);
                }
                Group::open(sockets, &self.workers, &self.proxy, Arc::clone(state), &self.alive)
            });
            match opened {
                Ok(group) => {
                    tracing::info!(listener = %state.name, "listening at {place}");
                    self.groups.insert(place, group);
                }
                Err(error) => tracing::error!(listener = %state.name, "listen at {place}: {error}"),
            }
        }
    }

    /// Closes the sockets that have lingered, as gently as a socket can be closed.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.groups.retain(|place, group| {
            let Some(until) = group.lingers_until else { return true };
            if until <= now {
                tracing::info!("no longer listening at {place}");
                group.set_stage(Stage::Closed);
                self.holder.remove(place.door());
                return false;
            }
            if until <= now + HANDSHAKES_END {
                group.set_stage(Stage::Deaf);
            }
            true
        });
    }

    /// When [`Self::sweep`] has something to do next.
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        let due = |group: &Group| {
            let until = group.lingers_until?;
            Some(if group.is_open() { until - HANDSHAKES_END } else { until })
        };
        self.groups.values().filter_map(due).min()
    }

    /// New certificates for the same listeners.
    pub(crate) fn renew_tls(&mut self, snapshot: &Snapshot, tls: &tls::Configs) {
        self.update_states(snapshot, tls);
        for group in self.groups.values() {
            if let Some(state) = self.states.get(&group.state.load().name) {
                group.state.store(Arc::clone(state));
            }
        }
    }

    fn update_states(&mut self, snapshot: &Snapshot, tls: &tls::Configs) {
        let mut old = std::mem::take(&mut self.states);
        for (name, spec) in &snapshot.listeners {
            let tls = tls.get(name).cloned();
            let before = old.remove(name);
            let speaks_another = before.as_ref().is_some_and(|before| before.spec.protocol != spec.protocol);
            let live = before.as_ref().map_or_else(|| self.new_live(name), |before| Arc::clone(&before.live));
            live.set_last_tables(self.proxy.tables.load_full());
            // Connections that stay follow the same ending as new ones.
            let ending = match &before {
                Some(before) if !speaks_another => Arc::clone(&before.ending),
                _ => Arc::default(),
            };
            if let Some(before) = before.filter(|_| speaks_another) {
                before.ending.ask();
            }
            let state = ListenerState { name: name.clone(), spec: spec.clone(), tls, ending, live };
            self.states.insert(name.clone(), Arc::new(state));
        }
        for gone in old.values() {
            gone.ending.ask();
        }
    }

    fn new_live(&self, name: &Name) -> Arc<ListenerLive> {
        let counters = [
            ("weir_proxy_tls_handshake_failures_total", "TLS handshakes that failed."),
            ("weir_proxy_http2_floods_total", "Connections cut for a flood of HTTP/2 frames without work."),
            (
                "weir_proxy_bad_proxy_headers_total",
                "Connections cut for want of a whole and correct header of the PROXY protocol.",
            ),
        ]
        .map(|(counter, help)| self.registry.counter(counter, help, &[("listener", name.as_str())]));
        let unrouted = self.proxy.ledger.series(name, None);
        let crowd = Arc::clone(&self.proxy.crowd);
        Arc::new(ListenerLive::new(counters, unrouted, self.proxy.tables.load_full(), crowd))
    }

    /// What the one who steers should know.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entry = |(place, group): (&Place, &Group)| {
            let registration = place.registration()?;
            Some(Entry { registration, socket: Arc::clone(&group.handed_over) })
        };
        self.groups.iter().filter(|(_, group)| group.lingers_until.is_none()).filter_map(entry).collect()
    }

    /// The sockets of VIPs, by the address of the VIP.
    pub(crate) fn of_vips(
        &self,
    ) -> impl Iterator<Item = (SocketAddr, Registration, Arc<ArcSwap<ListenerState>>)> + '_ {
        self.groups.iter().filter(|(_, group)| group.lingers_until.is_none()).filter_map(|(place, group)| {
            let Place::Vip(address, port) = *place else { return None };
            Some((SocketAddr::new(address, port), place.registration()?, Arc::clone(&group.state)))
        })
    }

    /// Listeners by name.
    pub(crate) fn states(&self) -> &BTreeMap<Name, Arc<ListenerState>> {
        &self.states
    }

    /// The open places of a listener and the addresses of their sockets.
    pub(crate) fn places_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (Place, SocketAddr)> + 'a {
        let of_listener = move |group: &Group| group.state.load().name == *name;
        self.groups.iter().filter(move |(_, g)| of_listener(g)).map(|(place, group)| (*place, group.local))
    }

    /// Has every connection end with the request it is at.
    pub(crate) fn end_connections(&self) {
        for state in self.states.values() {
            state.ending.ask();
        }
    }

    /// Accepts no more, after what the kernel has already begun.
    pub(crate) async fn close(&mut self) {
        for group in self.groups.values() {
            group.set_stage(Stage::Deaf);
        }
        sleep(HANDSHAKES_END).await;
        for (_, group) in std::mem::take(&mut self.groups) {
            group.ended(Stage::Closed).await;
        }
        self.alive = mpsc::channel(1).0;
    }

    /// Accepts no more and leaves the sockets to others.
    pub(crate) async fn hand_over(&mut self) {
        for (_, group) in std::mem::take(&mut self.groups) {
            group.ended(Stage::Given).await;
        }
        self.alive = mpsc::channel(1).0;
    }

    /// How many places are open.
    pub(crate) fn places(&self) -> usize {
        self.groups.len()
    }

    fn wanted(&self, snapshot: &Snapshot) -> BTreeMap<Place, Name> {
        let mine: BTreeSet<&Name> =
            self.node.iter().flat_map(|node| snapshot.vips_served_by(node)).map(|(name, _)| name).collect();
        let mut wanted = BTreeMap::new();
        for (name, listener) in &snapshot.listeners {
            if let Some(bind) = listener.bind {
                wanted.insert(Place::Bind(bind), name.clone());
            }
            if let (Some(vip), Some(port)) = (&listener.vip, listener.port)
                && mine.contains(vip)
                && let Some(vip) = snapshot.vips.get(vip)
            {
                wanted.extend(vip.addresses.iter().map(|address| (Place::Vip(*address, port), name.clone())));
            }
        }
        wanted
    }
}

impl Place {
    /// Where its sockets are bound.
    fn address(self) -> SocketAddr {
        match self {
            Self::Bind(address) => address,
            // Any free port: the datapath steers to the socket, not to its address.
            Self::Vip(IpAddr::V4(_), _) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            Self::Vip(IpAddr::V6(_), _) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
        }
    }

    /// What its sockets are held as.
    fn door(self) -> Door {
        match self {
            Self::Bind(address) => Door::Bind(address),
            Self::Vip(address, port) => Door::Vip(SocketAddr::new(address, port)),
        }
    }

    /// How long it stays open when it is no longer wanted. A plain address is nobody's but ours.
    fn grace(self) -> Duration {
        match self {
            Self::Bind(_) => HANDSHAKES_END,
            Self::Vip(..) => VIP_LINGER,
        }
    }

    /// What must be registered for connections to come in here.
    pub(crate) fn registration(self) -> Option<Registration> {
        let Self::Vip(address, port) = self else { return None };
        let ports = PortRange { first: port, last: port };
        Some(Registration { address, service: Service { protocol: weir_model::Protocol::Tcp, ports } })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(address) => write!(f, "{address}"),
            Self::Vip(address, port) => write!(f, "VIP {}", SocketAddr::new(*address, *port)),
        }
    }
}
