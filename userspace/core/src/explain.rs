//! Every decision about one request, in order and in words, by the same code that decides in the proxy.

mod balancer;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weir_model::{
    Admin, Balance, Failover, HashOn, ListenerProtocol, Name, Pool, Protocol, Server, Snapshot, Spread, Vip,
    status::Health,
};

use crate::{
    balance::{Balancer, Request, key},
    hash::ClientKey,
    health::HealthView,
    l7::{RouteTable, RoutedBy, normal_host},
    routing::{HomeTable, Mode, PoolAssessment, ZoneAssessment, assess},
    sticky,
};

pub use balancer::{Balanced, balance, image, name_of, names};

/// A request to explain.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Where it is sent.
    pub to: Destination,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub source: IpAddr,
    /// Host field; empty for none.
    pub host: &'a str,
    /// Path, with or without query.
    pub path: &'a str,
    /// Value of the zone cookie.
    pub cookie: Option<&'a str>,
    /// The zone of the proxy that receives it.
    pub zone: Option<&'a Name>,
    /// What the balancer decides, when the caller knows: see [`balance`].
    pub balancer: Option<Balanced>,
    /// For the cookie's end, Unix seconds.
    pub now_unix: u64,
}

/// Where a request is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A port of a VIP by name.
    Vip(Name, u16),
    /// An address: of a VIP, or one that a listener binds.
    Address(SocketAddr),
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The decisions, in order.
    pub steps: Vec<Step>,
    /// Whether the request reaches a server, or a layer that weir does not look into.
    pub delivered: bool,
    /// The pool.
    pub pool: Option<Name>,
    /// The home zone.
    pub home: Option<Name>,
    /// The zone that serves.
    pub zone: Option<Name>,
    /// The servers that may serve; one when the choice is fixed.
    pub servers: Vec<Name>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Who decides.
    pub stage: Stage,
    /// What is decided.
    pub decision: String,
    /// Why.
    pub reason: String,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Which VIP the address belongs to.
    Vip,
    /// Which of its services the port is.
    Service,
    /// Which proxy gets the flow.
    Balancer,
    /// Which listener accepts it.
    Listener,
    /// Which rule applies.
    Route,
    /// Which pool, and how well it is.
    Pool,
    /// Which zone is home.
    Home,
    /// How the home zone's traffic is shared.
    Shares,
    /// Which zone serves this client.
    Zone,
    /// Which server.
    Server,
}

/// Explains a request under `health` and the failovers in force.
pub fn explain(
    snapshot: &Snapshot,
    health: &HealthView,
    failovers: &[&Failover],
    question: &Question<'_>,
) -> Explanation {
    let mut answer = Explanation::default();
    answer.walk(snapshot, health, failovers, question);
    answer
}

impl Explanation {
    fn step(&mut self, stage: Stage, decision: impl Into<String>, reason: impl Into<String>) {
        self.steps.push(Step { stage, decision: decision.into(), reason: reason.into() });
    }

    /// Adds steps until the request is delivered or stops; `None` is only the short way out.
    fn walk(
        &mut self,
        snapshot: &Snapshot,
        health: &HealthView,
        failovers: &[&Failover],
        question: &Question<'_>,
    ) -> Option<()> {
        let (listener_name, vip) = self.arrive(snapshot, health, question)?;
        let listener = snapshot.listeners.get(&listener_name)?;
        let table = RouteTable::build(snapshot);
        let has_hosts = listener.protocol != ListenerProtocol::Tcp;
        let is_http = listener.protocol.is_http();
        let pool_name = self.route(&table, &listener_name, has_hosts, question)?;
        let pool = snapshot.pools.get(&pool_name)?;
        self.pool = Some(pool_name.clone());
        let assessment = assess(snapshot, &pool_name, health, failovers)?;
        self.describe_pool(&pool_name, &assessment)?;

        let cookie = match (question.cookie, &pool.sticky) {
            (Some(value), Some(sticky)) if is_http => {
                let zone = sticky::decode(value, question.now_unix, sticky.key.as_bytes());
                if zone.is_none() {
                    self.step(Stage::Home, "cookie ignored", "it is forged, stale or damaged");
                }
                zone
            }
            (Some(_), _) => {
                self.step(Stage::Home, "cookie ignored", format!("pool {pool_name} has no zone cookie"));
                None
            }
            (None, _) => None,
        };
        let homes = HomeTable::build(snapshot);
        let vip_home = vip.and_then(|vip| vip.home_zone.as_ref());
        let home = homes.home(cookie.as_ref(), vip_home, question.source, question.zone);
        match home {
            Some((zone, reason)) => self.step(Stage::Home, zone.as_str(), reason.to_string()),
            None => self.step(Stage::Home, "none", "no cookie, VIP, client prefix or receiving zone says"),
        }
        let home = home.map(|(zone, _)| zone);
        self.home = home.cloned();

        let client = ClientKey::of_address(question.source);
        let zone = assessment.pick_zone(home, client)?;
        self.describe_choice(home, client, &assessment, zone);
        self.zone = Some(zone.zone.clone());
        self.describe_servers(pool, question.path, client, zone);
        self.delivered = true;
        Some(())
    }

    /// From the address to the listener.
    fn arrive<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        health: &HealthView,
        question: &Question<'_>,
    ) -> Option<(Name, Option<&'s Vip>)> {
        let (vip, port) = match &question.to {
            Destination::Vip(name, port) => match snapshot.vips.get_key_value(name) {
                Some(vip) => (vip, *port),
                None => {
                    self.step(Stage::Vip, "none", format!("there is no vip {name}"));
                    return None;
                }
            },
            Destination::Address(address) => match snapshot.vip_at(address.ip()) {
                Some(vip) => (vip, address.port()),
                None => return Some((self.arrive_plainly(snapshot, *address)?, None)),
            },
        };
        let (name, vip) = vip;
        let addresses: Vec<String> = vip.addresses.iter().map(IpAddr::to_string).collect();
        self.step(Stage::Vip, name.as_str(), format!("{}, group {}", addresses.join(", "), vip.group));
        let service = vip.services.iter().find(|s| s.protocol == question.protocol && s.ports.contains(port));
        match service {
            Some(service) => {
                self.step(Stage::Service, service.to_string(), format!("port {port} lies in it"));
            }
            None => {
                let served: Vec<String> = vip.services.iter().map(ToString::to_string).collect();
                let reason = format!("port {port} is not among {}", served.join(", "));
                self.step(Stage::Service, "none: the balancer passes the packet on untouched", reason);
                return None;
            }
        }
        if let Some(pool) = &vip.pool {
            self.arrive_at_server(snapshot, health, question, vip, pool);
            return None;
        }
        match (&question.balancer, vip.spread) {
            (Some(Balanced { owner, slot }), _) => self.step(
                Stage::Balancer,
                format!("the proxy of {owner}"),
                format!("it owns Maglev slot {slot}, the hash of the flow"),
            ),
            (None, Spread::Zone) => self.step(
                Stage::Balancer,
                "a proxy of the balancer's own zone",
                "spread = \"zone\"; the source port decides which",
            ),
            (None, Spread::Group) => self.step(
                Stage::Balancer,
                format!("any proxy of group {}", vip.group),
                "spread = \"group\"; the source port decides which",
            ),
        }
        if question.protocol == Protocol::Udp {
            self.step(Stage::Listener, "none", "UDP is delivered to the proxy host's own sockets");
            self.delivered = true;
            return None;
        }
        match snapshot.listener_at(name, port) {
            Some((listener, _)) => {
                self.step(Stage::Listener, listener.as_str(), format!("serves {name} port {port}"));
                Some((listener.clone(), Some(vip)))
            }
            None => {
                self.step(Stage::Listener, "none", format!("no listener has vip {name} and port {port}"));
                None
            }
        }
    }

    /// A VIP that points straight at servers: the balancer's choice is all there is.
    fn arrive_at_server(
        &mut self,
        snapshot: &Snapshot,
        health: &HealthView,
        question: &Question<'_>,
        vip: &Vip,
        pool: &Name,
    ) {
        let is_checked = snapshot.pools.get(pool).is_some_and(|pool| pool.check.is_some());
        let serves = |(name, server): &(&Name, &Server)| {
            let is_up = !is_checked || health.get(pool, name) == Health::Up;
            server.admin == Admin::Active && server.weight > 0 && is_up
        };
        let up: Vec<Name> = snapshot.servers_of(pool).filter(serves).map(|(name, _)| name.clone()).collect();
        let (decision, reason) = match &question.balancer {
            Some(Balanced { owner, slot }) => {
                self.servers = vec![owner.clone()];
                (format!("server {owner}"), format!("it owns Maglev slot {slot}, the hash of the flow"))
            }
            None => {
                let zone = if vip.spread == Spread::Zone {
                    ", of the balancer's own zone while it has one"
                } else {
                    ""
                };
                let decision = format!("a healthy server of pool {pool}{zone}");
                self.servers = up.clone();
                (decision, "the source port decides which".into())
            }
        };
        let count = format!("{} of {} servers take new flows", up.len(), snapshot.servers_of(pool).count());
        self.step(Stage::Pool, pool.as_str(), format!("the vip points straight at its servers; {count}"));
        self.step(Stage::Balancer, decision, reason);
        (self.pool, self.delivered) = (Some(pool.clone()), !self.servers.is_empty());
    }

    fn arrive_plainly(&mut self, snapshot: &Snapshot, address: SocketAddr) -> Option<Name> {
        self.step(Stage::Vip, "none", format!("{} is not an address of a vip", address.ip()));
        let binds = |bind: SocketAddr| {
            bind == address || (bind.port() == address.port() && bind.ip().is_unspecified())
        };
        let listener = snapshot.listeners.iter().find(|(_, l)| l.bind.is_some_and(binds));
        match listener {
            Some((name, _)) => {
                self.step(Stage::Listener, name.as_str(), format!("binds {address}"));
                Some(name.clone())
            }
            None => {
                self.step(Stage::Listener, "none", format!("no listener binds {address}"));
                None
            }
        }
    }

    fn route(
        &mut self,
        table: &RouteTable,
        listener: &Name,
        is_http: bool,
        question: &Question<'_>,
    ) -> Option<Name> {
        if !is_http {
            let pool = table.default_pool(listener);
            match pool {
                Some(pool) => {
                    self.step(Stage::Route, pool.as_str(), "protocol = \"tcp\": the listener's pool")
                }
                None => self.step(Stage::Route, "connection closed", "the listener has no pool"),
            }
            return pool.cloned();
        }
        let host = normal_host(question.host);
        let path = question.path.split('?').next().unwrap_or_default();
        match table.route(listener, &host, path) {
            Some(routed) => {
                let reason = match routed.by {
                    RoutedBy::Route(_) => format!("{} matches host {host:?} and path {path:?}", routed.by),
                    RoutedBy::Default => format!("no route matches host {host:?} and path {path:?}"),
                };
                self.step(Stage::Route, routed.pool.as_str(), reason);
                Some(routed.pool.clone())
            }
            None => {
                let reason =
                    format!("no route matches host {host:?} and path {path:?}, and there is no pool");
                self.step(Stage::Route, "404 not found", reason);
                None
            }
        }
    }

    fn describe_pool(&mut self, pool: &Name, assessment: &PoolAssessment) -> Option<()> {
        let zones: Vec<String> = assessment.zones().iter().map(describe_zone).collect();
        let reason = if zones.is_empty() { "it has no servers".to_owned() } else { zones.join("; ") };
        let decision = match assessment.mode() {
            Mode::Healthy => pool.to_string(),
            Mode::Backup => format!("{pool}: only backups are healthy, they serve"),
            Mode::LastResort => format!("{pool}: last resort, draining servers serve"),
            Mode::FailStatic => format!("{pool}: fail-static, no server is known to be alive"),
            Mode::Empty => format!("{pool}: 503, no server may serve"),
        };
        self.step(Stage::Pool, decision, reason);
        (assessment.mode() != Mode::Empty).then_some(())
    }

    fn describe_choice(
        &mut self,
        home: Option<&Name>,
        client: ClientKey,
        assessment: &PoolAssessment,
        zone: &ZoneAssessment,
    ) {
        let shares = assessment.shares(home);
        let shares: Vec<String> =
            shares.iter().map(|(zone, share)| format!("{zone} {:.1}%", share * 100.0)).collect();
        let home_share = home.map_or(0.0, |home| assessment.home_share(home));
        let home_zone = home.and_then(|home| assessment.zone(home));
        let reason = match (home, home_zone) {
            (None, _) => "without a home, every zone by spill weight".to_owned(),
            (Some(home), None) => format!("{home} has no server of this pool"),
            (Some(home), Some(z)) if z.capacity == 0.0 => format!("{home} has no healthy server"),
            (Some(home), Some(z)) if z.failover > 0.0 && home_share >= z.carries() => {
                format!("{home} is under failover, but no other zone can take its traffic")
            }
            (Some(home), Some(z)) if z.failover > 0.0 => {
                format!("a failover moves {:.1}% away from {home}", z.failover * 100.0)
            }
            (Some(home), Some(z)) if home_share > z.carries() => {
                format!(
                    "{home} can carry {:.1}% of its traffic, but nobody has room for the rest",
                    z.carries() * 100.0
                )
            }
            (Some(home), Some(z)) => format!("{home} can carry {:.1}% of its traffic", z.carries() * 100.0),
        };
        self.step(Stage::Shares, shares.join(", "), reason);
        let position = client.position();
        let reason = if Some(&zone.zone) == home {
            format!("client position {position:.4} is below the home share {home_share:.4}")
        } else if home_share > 0.0 {
            format!("client position {position:.4} is not below the home share {home_share:.4}; rendezvous")
        } else {
            "rendezvous over the zones that take the traffic".to_owned()
        };
        self.step(Stage::Zone, zone.zone.as_str(), reason);
    }

    fn describe_servers(&mut self, pool: &Pool, path: &str, client: ClientKey, zone: &ZoneAssessment) {
        let all = || zone.candidates.servers().iter().map(|server| server.name.clone());
        // Fields and cookies are not asked for.
        let key = pool.hash_on.as_ref().and_then(|on| key::of(on, path, std::iter::empty()));
        let is_known = match (pool.balance, &pool.hash_on) {
            (Balance::Source, _) | (Balance::Hash, Some(HashOn::Source)) => true,
            (Balance::Hash, _) => key.is_some(),
            (Balance::RoundRobin | Balance::LeastConnections | Balance::Random, _) => false,
        };
        self.servers = match is_known {
            true => Balancer::new(pool, 0)
                .choose(&zone.candidates, Request { client, key, random: 0, tried: &[] }, |_| Some(0))
                .map(|server| server.name.clone())
                .into_iter()
                .collect(),
            false => all().collect(),
        };
        let mut reason = match (pool.balance, &pool.hash_on) {
            (Balance::RoundRobin, _) => "in turn, by weight".to_owned(),
            (Balance::LeastConnections, _) => "the one with the fewest requests in flight".to_owned(),
            (Balance::Random, _) => match pool.random_of {
                2 => "the less loaded of two drawn at random".to_owned(),
                n => format!("the least loaded of {n} drawn at random"),
            },
            (Balance::Hash, Some(on)) if *on != HashOn::Source => format!("by hash of {on}"),
            (Balance::Source | Balance::Hash, _) => "by hash of the client address".to_owned(),
        };
        if let Some(bound) = pool.bounded_load {
            reason.push_str(&format!(", the next one when it has more than {bound} of its share"));
        }
        let passed_over: Vec<String> = zone
            .servers
            .iter()
            .filter(|server| !server.candidate)
            .map(|server| format!("{} {}", server.name, server.reason))
            .collect();
        if !passed_over.is_empty() {
            reason.push_str(&format!("; not {}", passed_over.join(", ")));
        }
        let names: Vec<&str> = self.servers.iter().map(Name::as_str).collect();
        let decision = names.join(" or ");
        self.step(Stage::Server, decision, reason);
    }
}

fn describe_zone(zone: &ZoneAssessment) -> String {
    let mut text = format!(
        "{}: {} of {} servers, capacity {:.2}",
        zone.zone,
        zone.candidates.servers().len(),
        zone.servers.len(),
        zone.capacity
    );
    if zone.failover > 0.0 {
        text.push_str(&format!(", failover {:.1}%", zone.failover * 100.0));
    }
    text
}

#[cfg(test)]
mod tests;
