//! Which server of a zone takes a request.
//!
//! What is hashed ([`key`]) goes by weighted rendezvous: of the servers' scores for the key the greatest wins, so that a server that
//! leaves moves its own keys and no others, one that comes takes its share of all, and shares are as weights are. A decision looks
//! at the hash of every server of the zone. With a bound on load (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads",
//! SODA 2018) it is the greatest among those that have room:
//!
//! ```text
//!  room of a server = ⌈ factor × (requests in flight + 1) × its weight / all weight ⌉
//! ```
//!
//! [`Candidates`] is immutable and made anew when health or configuration changes; [`Balancer`] is the little that must
//! survive that, and is shared by all threads (`&self`, one relaxed atomic). Load and limits stay with the caller.

use std::{
    cmp::Ordering,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use weir_model::{Balance, Name, Pool};

use crate::hash::{self, ClientKey};

pub mod key;
pub mod slow_start;

/// The longest schedule of a round-robin, in turns (2 bytes each): beyond it weights are scaled down, and a server's
/// share is off by less than one turn in as many.
pub const SCHEDULE_LEN_MAX: usize = 16_384;
/// Servers with room that are compared for the least loaded. Of more, it is the least loaded of these, and others have their turn
/// with the next request: whoever picks the best of two does as well as he who knows all, but for a constant (Mitzenmacher: "The
/// Power of Two Choices in Randomized Load Balancing", IEEE TPDS 2001), and time must not grow with the pool.
pub const LOOKED_AT_MAX: usize = 256;

/// A server that may serve.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub name: Name,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share relative to the others; at least 1.
    pub weight: u32,
    /// Its place among [`Candidates::servers`].
    pub index: usize,
}

/// The servers of one zone that may serve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    servers: Vec<Candidate>,
    /// `ends[n]`: sum of the weights of servers 0 to n.
    ends: Vec<u64>,
    /// Whether all weights are equal: then a rendezvous needs no logarithms.
    is_even: bool,
    /// Round-robin turns, as indices into `servers`.
    schedule: Vec<u16>,
    /// What each is hashed by, side by side: a decision by hash looks at all of them.
    seeds: Vec<u64>,
}

/// What the choice may depend on besides the servers.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client.
    pub client: ClientKey,
    /// What it is hashed by, where it has that: [`key::of`].
    pub key: Option<ClientKey>,
    /// A fresh random number.
    pub random: u64,
    /// Servers this request has already tried.
    pub tried: &'a [Name],
}

/// How a pool chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    balance: Balance,
    /// Servers drawn at random.
    draws: u32,
    /// How far above its share of the load a hashed server may be; none for any load.
    load_factor: Option<f64>,
}

impl From<&Pool> for Method {
    fn from(pool: &Pool) -> Self {
        Self {
            balance: pool.balance,
            draws: pool.random_of,
            load_factor: pool.bounded_load.map(weir_model::Percent::as_factor),
        }
    }
}

impl From<Balance> for Method {
    fn from(balance: Balance) -> Self {
        Self { balance, draws: 2, load_factor: None }
    }
}

/// The choice among candidates by one method; one per pool and zone, for all threads.
#[derive(Debug)]
pub struct Balancer {
    method: Method,
    turn: AtomicUsize,
}

impl Candidates {
    /// Servers by name, address and weight; those of weight 0 are left out. The order does not matter.
    pub fn new(servers: impl IntoIterator<Item = (Name, SocketAddr, u32)>) -> Self {
        let mut servers: Vec<_> = servers
            .into_iter()
            .filter(|(_, _, weight)| *weight > 0)
            .map(|(name, address, weight)| Candidate { name, address, weight, index: 0 })
            .collect();
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        servers.iter_mut().enumerate().for_each(|(index, server)| server.index = index);
        let seeds = servers.iter().map(|server| hash::bytes(server.name.as_str().as_bytes())).collect();
        let mut end = 0;
        let ends = servers.iter().map(|server| {
            end += u64::from(server.weight);
            end
        });
        let is_even = servers.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { is_even, ends: ends.collect(), schedule: schedule(&servers), seeds, servers }
    }

    /// The servers, by name.
    pub fn servers(&self) -> &[Candidate] {
        &self.servers
    }

    /// Whether nobody may serve.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// A server drawn by weight.
    fn draw(&self, random: u64) -> Option<&Candidate> {
        let total = *self.ends.last()?;
        // Multiply and shift: the bias of at most total/2^64 is far below anything observable.
        let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        self.servers.get(self.ends.partition_point(|end| *end <= point))
    }
}

impl Balancer {
    /// A balancer by `method`; `seed` sets where the round begins, so that many proxies do not begin alike.
    pub fn new(method: impl Into<Method>, seed: u64) -> Self {
        Self { method: method.into(), turn: AtomicUsize::new(seed as usize) }
    }

    /// Chooses a server. `load` gives the requests in flight at a server, or `None` when it can take no more.
    ///
    /// `None` when every candidate was tried or is full.
    pub fn choose<'c>(
        &self,
        candidates: &'c Candidates,
        request: Request<'_>,
        load: impl Fn(&Candidate) -> Option<u64>,
    ) -> Option<&'c Candidate> {
        let load =
            |server: &Candidate| if request.tried.contains(&server.name) { None } else { load(server) };
        match self.method.balance {
            Balance::RoundRobin => self.in_turn(candidates, load),
            Balance::LeastConnections => self.least_loaded(candidates, load),
            Balance::Random => {
                let draw = |n| candidates.draw(hash::mix(request.random ^ hash::mix(n)));
                (0..u64::from(self.method.draws))
                    .filter_map(|n| draw(n).and_then(|server| Some((server, load(server)?))))
                    .min_by(|a, b| less_loaded(*a, *b))
                    .map(|(server, _)| server)
                    // All unlucky: rather look at all than give up while one is free.
                    .or_else(|| self.least_loaded(candidates, load))
            }
            Balance::Source => self.by_hash(candidates, request.client, load),
            Balance::Hash => self.by_hash(candidates, request.key.unwrap_or(request.client), load),
        }
    }

    fn by_hash<'c>(
        &self,
        candidates: &'c Candidates,
        key: ClientKey,
        load: impl Fn(&Candidate) -> Option<u64>,
    ) -> Option<&'c Candidate> {
        let seed = |server: &Candidate| candidates.seeds.get(server.index).copied().unwrap_or_default();
        // Most of the time the first by hash is free, and nobody else's load needs to be known.
        if candidates.is_even && self.method.load_factor.is_none() {
            let first = (0..).zip(&candidates.seeds).max_by_key(|(_, seed)| key.rank(**seed));
            let first = first.and_then(|(index, _): (usize, _)| candidates.servers.get(index));
            if let Some(server) = first.filter(|server| load(server).is_some()) {
                return Some(server);
            }
        }
        let best = |has_room: &dyn Fn(&Candidate, u64) -> bool| {
            let has_room = |server: &&Candidate| load(server).is_some_and(|load| has_room(server, load));
            let free = candidates.servers.iter().filter(has_room);
            if candidates.is_even {
                return free.max_by_key(|server| key.rank(seed(server)));
            }
            let scored = free.map(|server| (key.score(seed(server), f64::from(server.weight)), server));
            scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, server)| server)
        };
        let Some(factor) = self.method.load_factor else { return best(&|_, _| true) };
        let loads = candidates.servers.iter().filter_map(|server| Some((server.weight, load(server)?)));
        let (weight, in_flight) =
            loads.fold((0, 0), |sum, (weight, load)| (sum.0 + u64::from(weight), sum.1 + load));
        let fair = factor * (in_flight + 1) as f64 / weight as f64;
        best(&|server, load| (load as f64) < (fair * f64::from(server.weight)).ceil())
            // By the arithmetic one has room; by the loads, which move meanwhile, perhaps none.
            .or_else(|| best(&|_, _| true))
    }

    fn in_turn<'c>(
        &self,
        candidates: &'c Candidates,
        load: impl Fn(&Candidate) -> Option<u64>,
    ) -> Option<&'c Candidate> {
        let schedule = &candidates.schedule;
        if schedule.is_empty() {
            return None;
        }
        let start = self.turn.fetch_add(1, Relaxed) % schedule.len();
        let (before, from) = schedule.split_at(start);
        from.iter()
            .chain(before)
            .filter_map(|index| candidates.servers.get(usize::from(*index)))
            .find(|server| load(server).is_some())
    }

    fn least_loaded<'c>(
        &self,
        candidates: &'c Candidates,
        load: impl Fn(&Candidate) -> Option<u64>,
    ) -> Option<&'c Candidate> {
        let servers = &candidates.servers;
        // Idle servers are all alike: where the search begins rotates, or the first by name would take everything.
        let start = self.turn.fetch_add(1, Relaxed) % servers.len().max(1);
        let (before, from) = servers.split_at(start);
        let mut free = from.iter().chain(before).filter_map(|server| Some((server, load(server)?)));
        let least = free.by_ref().take(LOOKED_AT_MAX).min_by(|a, b| less_loaded(*a, *b));
        least.map(|(server, _)| server)
    }
}

/// Orders by requests per weight, counting the one to come: an idle server of weight 1 is not better than an idle one of 100.
fn less_loaded(a: (&Candidate, u64), b: (&Candidate, u64)) -> Ordering {
    let cross = |x: (&Candidate, u64), y: (&Candidate, u64)| (u128::from(x.1) + 1) * u128::from(y.0.weight);
    cross(a, b).cmp(&cross(b, a))
}

/// Spreads every server's turns evenly over the round: turn k of weight w stands at (k + ½) / w.
fn schedule(servers: &[Candidate]) -> Vec<u16> {
    let divisor = servers.iter().fold(0, |g, server| gcd(g, server.weight)).max(1);
    let total: u64 = servers.iter().map(|server| u64::from(server.weight / divisor)).sum();
    let scale = |weight: u32| {
        let turns = u64::from(weight / divisor);
        if total > SCHEDULE_LEN_MAX as u64 { (turns * SCHEDULE_LEN_MAX as u64 / total).max(1) } else { turns }
    };
    let mut turns = Vec::new();
    // A zone with more servers than indices gives the rest no turn of their own; they remain for the other methods.
    for (server, index) in servers.iter().zip(0..=u16::MAX) {
        let weight = scale(server.weight);
        turns.extend((0..weight).map(|k| (((2 * k + 1) << 32) / (2 * weight), index)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, index)| index).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
