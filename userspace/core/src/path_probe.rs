//! Health of hosts judged by the way packets take: a SYN to a service of a VIP, in the tunnel the balancer would use, that must
//! be answered from the VIP.
//!
//! ```text
//!  this host ── GUE or IPIP [ SYN, own address → VIP ] ──► host: opens the tunnel, trusts us, has the VIP and its route,
//!      ▲                                                    │    steers it to a socket that listens
//!      └───────────────── SYN-ACK, VIP → own address ───────┘   then an RST by the tunnel: nobody accepts a connection
//! ```
//!
//! Sans-IO: packets and the time go in; packets to send, and changes of health, come out. The shell sends and hears them. What
//! a proxy says of itself (draining, not ready) is not known here: that is asked directly, and [`health::both`] joins the two.
//!
//! A round asks a host for a few of its services, in turn, those that failed last time among them. A service that answers at no
//! host says nothing about hosts: a round fails for a service that another host answers for, or when nothing on the host
//! answers. So a VIP whose listener is broken everywhere takes no host away from the other VIPs. What is known of each service by
//! itself, for whoever announces the VIP, is in `services`.
//!
//! This host is probed through its own datapath: the tunnel runs through the loaded program (the shell does that, by
//! [`Transmit::own_tunnel`]), and the SYN enters by the loopback interface, where the route of the VIP and the steering are.
//!
//! [`health::both`]: crate::health::both

mod services;
mod targets;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    ops::Bound,
    time::Instant,
};

use weir_abi::{
    Config,
    headers::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    hop::{Backend, KIND_LOCAL},
};
use weir_model::{status::Health, units};

use crate::{
    datapath::Carried,
    hash,
    health::{HealthMachine, Outcome, Transition},
};
use services::Seen;
use wire::Answer;

pub use targets::{Path, Paths, Whom, paths};

/// Services asked for in one round: those in turn, and of those that failed last time as many as there is room for.
pub const ROUND_MAX: usize = 4;
/// Of these, in turn.
const IN_TURN: usize = 2;
/// SYNs a second from one balancer at most; with more hosts each is probed less often.
pub const RATE_MAX: u32 = 2_000;
/// Source ports of probes begin here, above Linux' own range for outgoing connections (32768 to 60999).
pub const PORT_FIRST: u16 = 0xf000;
/// So many probes may be under way at once; one more fails at once. At the largest rate they last for two seconds.
pub const OPEN_MAX: usize = (u16::MAX - PORT_FIRST) as usize + 1;

/// A packet for the shell to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Names the probe it belongs to, should it fail to leave.
    pub port: u16,
    /// Where it goes.
    pub to: IpAddr,
    /// The whole IP packet.
    pub wire: Vec<u8>,
    /// For this host itself: a frame the loaded program must deliver first; then `wire` goes by the loopback interface.
    pub own_tunnel: Option<Vec<u8>>,
}

/// The probes of all paths of a balancer.
#[derive(Debug)]
pub struct PathProbes {
    config: Config,
    hosts: BTreeMap<Whom, Host>,
    open: BTreeMap<u16, Open>,
    next_port: u16,
    random: u64,
    transmits: VecDeque<Transmit>,
    services_changed: bool,
}

#[derive(Debug)]
struct Host {
    path: Path,
    machine: HealthMachine,
    /// What is known of each service that was asked for.
    seen: BTreeMap<SocketAddr, Seen>,
    /// The service asked for last in turn.
    turn: Option<SocketAddr>,
    /// The round under way, and how many of its services are still open.
    round: Option<(u64, usize)>,
}

/// A SYN that waits for its answer.
#[derive(Debug)]
struct Open {
    whom: Whom,
    round: u64,
    source: SocketAddr,
    service: SocketAddr,
    sequence: u32,
    started: Instant,
    deadline: Instant,
}

impl PathProbes {
    /// Probes nobody yet; `seed` spreads the probes of many balancers.
    pub fn new(seed: u64) -> Self {
        let random = hash::mix(seed);
        Self {
            config: Config::default(),
            hosts: BTreeMap::new(),
            open: BTreeMap::new(),
            next_port: PORT_FIRST | random as u16,
            random,
            transmits: VecDeque::new(),
            services_changed: false,
        }
    }

    /// Probes these from now on; what is known of those whose tunnel stays is kept.
    pub fn set_paths(&mut self, paths: Paths, now: Instant) {
        let is_other = paths.config != self.config;
        self.config = paths.config;
        let mut before = std::mem::take(&mut self.hosts);
        for (whom, path) in paths.of {
            let kept = before.remove(&whom).filter(|host| !is_other && host.path.backend == path.backend);
            let host = match kept {
                Some(mut host) => {
                    host.machine.set_timing(path.timing, now);
                    host.seen.retain(|service, _| path.services.contains_key(service));
                    Host { path, ..host }
                }
                None => {
                    let seed = self.random ^ hash::bytes(whom.to_string().as_bytes());
                    let machine = HealthMachine::new(path.timing, seed, now);
                    Host { path, machine, seen: BTreeMap::new(), turn: None, round: None }
                }
            };
            self.hosts.insert(whom, host);
        }
        let hosts = &self.hosts;
        let is_going_on = |open: &Open| {
            let round = hosts.get(&open.whom).and_then(|host| host.round);
            round.is_some_and(|(id, _)| id == open.round)
        };
        self.open.retain(|_, open| is_going_on(open));
    }

    /// What is known of a host's path; `None` when it is not probed.
    pub fn health(&self, whom: &Whom) -> Option<Health> {
        self.hosts.get(whom).map(|host| host.machine.health())
    }

    /// Everything that is probed, with what is known of it and why.
    pub fn all(&self) -> impl Iterator<Item = (&Whom, Health, String)> {
        self.hosts.iter().map(|(whom, host)| {
            let mut reason = host.machine.reason().to_owned();
            // A host is not to blame for what answers nowhere, but somebody should know.
            if host.machine.health() == Health::Up
                && let Some(why) = host.seen.values().find_map(Seen::failure)
            {
                reason += &format!("; but {why}");
            }
            (whom, host.machine.health(), reason)
        })
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.hosts.values().filter_map(|host| host.machine.poll_timeout()).min()
    }

    /// Gives up what waited for too long, and starts rounds that are due. Does nothing when called too early.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late: Vec<u16> =
            self.open.iter().filter(|(_, open)| open.deadline <= now).map(|(port, _)| *port).collect();
        for port in late {
            let Some(open) = self.open.remove(&port) else { continue };
            // It may have come, and its answer not.
            self.reset(port, &open);
            let timeout = units::duration::print(open.deadline - open.started);
            self.finish(&open, Err(format!("no answer within {timeout}")), now);
        }
        let is_due = |host: &Host| host.machine.poll_timeout().is_none_or(|due| due <= now);
        let due = self.hosts.iter().filter(|(_, host)| is_due(host)).map(|(whom, _)| whom.clone());
        for whom in due.collect::<Vec<_>>() {
            self.start(&whom, now);
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// A packet of the probe of `port` could not be sent.
    pub fn handle_unsent(&mut self, port: u16, why: String, now: Instant) {
        if let Some(open) = self.open.remove(&port) {
            self.finish(&open, Err(why), now);
        }
    }

    /// An IP packet that came in; whatever answers no probe is ignored.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        let Some(answer) = Answer::read(packet) else { return };
        let port = answer.destination.port();
        let answers = |open: &&Open| {
            (answer.source, answer.destination) == (open.service, open.source)
                && answer.flags & Carried::ACK != 0
                && answer.acknowledgement == open.sequence.wrapping_add(1)
        };
        if self.open.get(&port).filter(answers).is_none() {
            return;
        }
        let result = match answer.flags & (Carried::SYN | Carried::RST) {
            Carried::SYN => Ok(()),
            flags if flags & Carried::RST != 0 => Err("refused: nothing is steered to a listener".to_owned()),
            _ => return,
        };
        if let Some(open) = self.open.remove(&port) {
            if result.is_ok() {
                self.reset(port, &open);
            }
            self.finish(&open, result, now);
        }
    }

    /// The latest change of health of some host, once.
    pub fn poll_event(&mut self) -> Option<(Whom, Transition)> {
        self.hosts.iter_mut().find_map(|(whom, host)| Some((whom.clone(), host.machine.poll_event()?)))
    }

    /// Starts a host's round if it is due.
    fn start(&mut self, whom: &Whom, now: Instant) {
        let Some(host) = self.hosts.get_mut(whom) else { return };
        host.machine.handle_timeout(now);
        let Some(probe) = host.machine.poll_probe(now) else { return };
        let asked = host.choose();
        host.round = Some((probe.id, asked.len()));
        let backend = host.path.backend;
        for service in asked {
            let (port, sequence) = self.name();
            let source = SocketAddr::new(self.own(service), port);
            let (whom, round, started, deadline) = (whom.clone(), probe.id, now, now + probe.timeout);
            let open = Open { whom, round, source, service, sequence, started, deadline };
            if self.open.contains_key(&port) {
                self.finish(&open, Err(format!("more than {OPEN_MAX} probes are under way")), now);
                continue;
            }
            self.send(port, &open, backend, Carried::SYN, sequence);
            self.open.insert(port, open);
        }
    }

    /// A free source port, if there is one, and a number nobody can guess from the last.
    fn name(&mut self) -> (u16, u32) {
        for _ in 0..OPEN_MAX {
            self.next_port = PORT_FIRST | self.next_port.wrapping_add(1);
            if !self.open.contains_key(&self.next_port) {
                break;
            }
        }
        self.random = hash::mix(self.random);
        (self.next_port, self.random as u32)
    }

    /// This host's address of a service's family.
    fn own(&self, service: SocketAddr) -> IpAddr {
        match service {
            SocketAddr::V4(_) => self.config.address4.into(),
            SocketAddr::V6(_) => self.config.address6.octets().into(),
        }
    }

    /// Ends what the SYN opened at the host, by the way it came. At this host the kernel does it: nothing is at the port.
    fn reset(&mut self, port: u16, open: &Open) {
        let Some(host) = self.hosts.get(&open.whom) else { return };
        let backend = host.path.backend;
        if backend.kind != KIND_LOCAL {
            self.send(port, open, backend, Carried::RST, open.sequence.wrapping_add(1));
        }
    }

    fn send(&mut self, port: u16, open: &Open, to: Backend, flags: u8, sequence: u32) {
        let (source, service) = (open.source, open.service);
        // Services without an address of their family on this host are no part of a path.
        let Some(inner) = wire::segment(source, service, flags, sequence) else { return };
        let tunnel = wire::tunnelled(&self.config, &to, (source, service), &inner);
        let transmit = if to.kind == KIND_LOCAL {
            let ethertype = if to.address.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
            let frame = [&[0; 12], ethertype.as_slice(), &tunnel].concat();
            Transmit { port, to: service.ip(), wire: inner, own_tunnel: Some(frame) }
        } else {
            Transmit { port, to: to.address.into(), wire: tunnel, own_tunnel: None }
        };
        self.transmits.push_back(transmit);
    }

    /// Notes the end of a probe; with the last of a round the host is judged.
    fn finish(&mut self, open: &Open, result: Result<(), String>, now: Instant) {
        let Some(host) = self.hosts.get_mut(&open.whom) else { return };
        let Some((id, left)) = host.round.filter(|(id, _)| *id == open.round) else { return };
        if let Some(vip) = host.path.services.get(&open.service) {
            let way = host.path.way();
            let what = format!("tcp {} (vip {vip}) by {way}", open.service);
            let seen = host.seen.entry(open.service).or_default();
            self.services_changed |= seen.note(result, &what, &way, host.path.timing);
        }
        host.round = (left > 1).then_some((id, left - 1));
        if host.round.is_none() {
            let outcome = self.judge(&open.whom);
            if let Some(host) = self.hosts.get_mut(&open.whom) {
                host.machine.handle_result(id, outcome, now);
            }
        }
    }

    /// What the last answers of a host mean beside those of the others.
    fn judge(&self, whom: &Whom) -> Outcome {
        let Some(host) = self.hosts.get(whom) else { return Outcome::Pass };
        let elsewhere = |service: &SocketAddr| {
            let mut others = self.hosts.iter().filter(|(other, _)| *other != whom);
            others.any(|(_, other)| other.seen.get(service).is_some_and(|seen| seen.failure().is_none()))
        };
        let mut failed = host.seen.iter().filter_map(|(service, seen)| Some((service, seen.failure()?)));
        let is_mute = host.seen.values().all(|seen| seen.failure().is_some());
        match failed.find(|(service, _)| is_mute || elsewhere(service)) {
            Some((_, why)) => Outcome::Fail(why.to_owned()),
            None => Outcome::Pass,
        }
    }
}

impl Host {
    /// The services to ask for now.
    fn choose(&mut self) -> BTreeSet<SocketAddr> {
        let services = &self.path.services;
        let mut asked = BTreeSet::new();
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let in_turn = services.range((after, Bound::Unbounded)).chain(services);
        for (service, _) in in_turn.take(IN_TURN) {
            self.turn = Some(*service);
            asked.insert(*service);
        }
        let failed = self.seen.iter().filter(|(_, seen)| seen.failure().is_some());
        for (service, _) in failed {
            if asked.len() < ROUND_MAX {
                asked.insert(*service);
            }
        }
        asked
    }
}

impl Path {
    /// In words.
    fn way(&self) -> String {
        let to = IpAddr::from(self.backend.address);
        match self.backend.kind {
            KIND_LOCAL => "this host's own datapath".into(),
            _ if self.backend.is_ipip() => format!("IPIP to {to}"),
            _ => format!("GUE to {to}"),
        }
    }
}

#[cfg(test)]
mod tests;
