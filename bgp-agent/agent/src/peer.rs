//! A BGP peer as the agent has it: what makes a session, what it is told, what it shows; [`driver`] is what runs it. No protocol
//! in here.

mod conn;
mod driver;

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use weir_bgp::{Config, Input, Negotiated, RouteSet, Session, StateName, Stats};
use weir_model::Name;

use crate::bfd::{self, Gate};
use crate::mrt::Recorder;
use crate::sockopt::Wishes;
use driver::{Doors, Driver};

/// Connections handed over by the listener and not yet taken; more are dropped, and the router tries again.
const ACCEPTED_MAX: usize = 4;

/// Copies of the session that are asked for and not yet given.
const COPIES_MAX: usize = 4;

/// How long a stopped session may take, its connection included.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(2);

/// What makes a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) remote: SocketAddr,
    /// The address to speak from; the kernel's choice when absent.
    pub(crate) local: Option<IpAddr>,
    pub(crate) wishes: Wishes,
    pub(crate) config: Config,
}

impl Plan {
    /// Only what is in the OPEN or in the options of the socket needs a new session; the rest is changed while it is up.
    pub(crate) fn is_same_session(&self, other: &Self) -> bool {
        let hard = |plan: &Self| Self {
            config: Config {
                connect_retry: Duration::ZERO,
                idle_hold: Duration::ZERO,
                idle_hold_max: Duration::ZERO,
                send_hold: None,
                max_prefixes: None,
                max_prefixes_pause: Duration::ZERO,
                keep_received: false,
                // Said once, at the start.
                graceful_restart: plan
                    .config
                    .graceful_restart
                    .map(|ours| weir_bgp::GracefulRestart { restarting: false, ..ours }),
                ..plan.config.clone()
            },
            ..plan.clone()
        };
        hard(self) == hard(other)
    }
}

/// Whether the path is alive, where anybody watches it.
pub(crate) struct Watched {
    /// BGP waits for the first word that it is.
    pub(crate) strict: bool,
    pub(crate) view: watch::Receiver<Option<bfd::View>>,
}

/// What changes while a session is up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Orders {
    pub(crate) routes: RouteSet,
    pub(crate) max_routes: Option<usize>,
    /// The routes may be fewer than those before our restart: nothing is said to be all.
    pub(crate) hold_end_of_rib: bool,
    /// Of which only [`Session::set_soft`]'s part counts.
    pub(crate) config: Config,
}

impl Orders {
    /// Tells a session; returns what it does not take of the routes.
    pub(crate) fn give_to(self, session: &mut Session) -> BTreeMap<IpNet, &'static str> {
        session.set_soft(&self.config);
        session.set_max_routes(self.max_routes);
        session.hold_end_of_rib(self.hold_end_of_rib);
        let refused = session.set_routes(self.routes);
        let next_hop =
            refused.next_hop.into_iter().map(|prefix| (prefix, "its next hop is of the other family"));
        let over_max = refused.over_max.into_iter().map(|prefix| (prefix, "more routes than max_routes"));
        next_hop.chain(over_max).collect()
    }
}

/// What a session that is up and has nothing left to say has not been told, beside what it refused.
pub(crate) fn not_carried(session: &Session) -> impl Iterator<Item = (IpNet, &'static str)> {
    let rib = session.rib();
    let is_settled = session.state() == StateName::Established && rib.is_settled();
    rib.desired()
        .keys()
        .filter(move |prefix| is_settled && !rib.advertised().contains_key(prefix))
        .map(|prefix| (*prefix, "the router has not agreed to this family, or to its next hop"))
}

/// What the agent shows of a peer.
#[derive(Debug, Clone)]
pub(crate) struct PeerView {
    pub(crate) state: StateName,
    pub(crate) since: SystemTime,
    pub(crate) agreed: Option<Negotiated>,
    /// What the peer has been told.
    pub(crate) routes: RouteSet,
    /// What it has not, and why.
    pub(crate) refused: BTreeMap<IpNet, &'static str>,
    pub(crate) last_error: String,
    pub(crate) last_sent: String,
    pub(crate) last_received: String,
    pub(crate) stats: Stats,
    pub(crate) prefixes_received: u64,
    pub(crate) received: Vec<String>,
    /// BFD lets no session begin.
    pub(crate) held_by_bfd: bool,
}

/// How a session ends.
#[derive(Debug, Clone)]
pub(crate) enum Farewell {
    /// Withdraw everything, then Cease with this text.
    Stop(String),
    /// We come back: the router may keep the routes, if it agreed to. Else like a stop.
    Restart(String),
}

impl Farewell {
    /// The peer object is gone, or its router.
    pub(crate) fn deconfigured() -> Self {
        Self::Stop("peer deconfigured".to_owned())
    }

    /// The session begins anew.
    pub(crate) fn reconfigured() -> Self {
        Self::Restart("configuration changed".to_owned())
    }

    pub(crate) fn input(&self) -> Input<'_> {
        match self {
            Self::Stop(text) => Input::Stop { text },
            Self::Restart(text) => Input::Restart { text },
        }
    }
}

/// A running driver.
pub(crate) struct Peer {
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) accepted: mpsc::Sender<TcpStream>,
    pub(crate) view: watch::Receiver<PeerView>,
    copies: mpsc::Sender<oneshot::Sender<Session>>,
    stop: oneshot::Sender<Farewell>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Start a session; `after` is the task of the one it replaces, which gets [`STOP_MAX`] to leave.
    pub(crate) fn start(
        name: Name,
        plan: Plan,
        orders: Orders,
        watched: Watched,
        changed: Arc<Notify>,
        recorder: Option<Recorder>,
        after: Option<JoinHandle<()>>,
    ) -> Self {
        let (orders, orders_in) = watch::channel(orders);
        let (accepted, accepted_in) = mpsc::channel(ACCEPTED_MAX);
        let (stop, stop_in) = oneshot::channel();
        let (copies, copies_in) = mpsc::channel(COPIES_MAX);
        let (view_out, view) = watch::channel(PeerView::new());
        let gate = Gate::new(watched.strict, watched.view.borrow().as_ref());
        let driver = Driver {
            name,
            gate,
            held_by_bfd: false,
            session: Session::new(plan.config.clone()),
            plan,
            conns: Vec::new(),
            connecting: None,
            incoming_count: 0,
            refused: BTreeMap::new(),
            complained: None,
            recorder,
            last_error: None,
            view: view_out,
            changed,
        };
        let doors = Doors {
            orders: orders_in,
            bfd: watched.view,
            accepted: accepted_in,
            copies: copies_in,
            stop: stop_in,
            stopping: false,
        };
        let task = tokio::spawn(async move {
            if let Some(after) = after {
                let _gone_or_late = tokio::time::timeout(STOP_MAX, after).await;
            }
            driver.run(doors).await;
        });
        Self { orders, accepted, view, copies, stop, task }
    }

    /// A copy of the session, to look ahead with; it does not come from a driver that ends meanwhile.
    pub(crate) fn copy(&self) -> oneshot::Receiver<Session> {
        let (copy, receiver) = oneshot::channel();
        // Whoever asks more often than it is answered gets no copy.
        let _dropped = self.copies.try_send(copy);
        receiver
    }

    /// Say farewell and close. The returned task ends when all that was written has gone out, or soon after.
    pub(crate) fn stop(self, farewell: Farewell) -> JoinHandle<()> {
        let _ended_already = self.stop.send(farewell);
        self.task
    }
}

impl PeerView {
    /// Of a session that has not begun.
    pub(crate) fn new() -> Self {
        Self {
            state: StateName::Idle,
            since: SystemTime::now(),
            agreed: None,
            routes: RouteSet::new(),
            refused: BTreeMap::new(),
            last_error: String::new(),
            last_sent: String::new(),
            last_received: String::new(),
            stats: Stats::default(),
            prefixes_received: 0,
            received: Vec::new(),
            held_by_bfd: false,
        }
    }
}
