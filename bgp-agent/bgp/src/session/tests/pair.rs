//! Two sessions, a network that loses and delays, and one virtual clock.
//!
//! For a while connections fail, hang and break at random moments of a seeded sequence; after that the network is good.
//! Then the two must be up within a bounded time, on the same connection, and each must know the routes of the other.
//! The two differ from seed to seed in what they offer, and operators, BFD and full sockets meddle while all goes wrong.
//!
//! `WEIR_BGP_PAIRS` is how many seeds are tried of that; 400 when absent.

use super::*;
use bgpkit_parser::models::{AsnLength, AttributeValue};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// What arrives at one side.
#[derive(Debug, Clone)]
enum Arrival {
    Connected(ConnId),
    ConnectFailed(ConnId),
    Accepted(ConnId),
    Closed(ConnId),
    Bytes(ConnId, Bytes),
}

/// A connection as the network sees it: side, and name at each end.
#[derive(Debug, Clone, Copy)]
struct Wire {
    from: usize,
    ids: [ConnId; 2],
    alive: bool,
    /// When the last thing sent in each direction arrives: the order of a stream is kept.
    last: [Instant; 2],
}

struct Network {
    sides: [Session; 2],
    /// The prefixes each side has learnt, as a router would; cleared when its session goes.
    learnt: [BTreeSet<IpNet>; 2],
    readers: BTreeMap<(usize, ConnId), Reader>,
    wires: Vec<Wire>,
    queue: BTreeMap<(Instant, u64), (usize, Arrival)>,
    now: Instant,
    random: u64,
    count: u64,
    chaos_until: Instant,
}

impl Network {
    fn new(seed: u64, passive: bool) -> Self {
        let a = Config { seed, ..local() };
        let b = Config {
            passive,
            seed: seed.rotate_left(17) ^ 0xb0b,
            ..Config::new(65000, Ipv4Addr::new(10, 0, 0, 1), 65001)
        };
        Self::between([a, b], seed)
    }

    /// Two that offer what the seed says. Roles, where both have one, go together.
    fn of_any_kind(seed: u64) -> Self {
        const ROLES: [[Option<PeeringRole>; 2]; 5] = [
            [None, None],
            [Some(PeeringRole::Customer), None],
            [Some(PeeringRole::Customer), Some(PeeringRole::Provider)],
            [Some(PeeringRole::RouteServer), Some(PeeringRole::RouteServerClient)],
            [Some(PeeringRole::Peer), Some(PeeringRole::Peer)],
        ];
        let mut network = Self::new(seed, false);
        let passive = network.random(4) as usize;
        let roles = ROLES[network.random(ROLES.len() as u64) as usize];
        let configs = [0, 1].map(|side| {
            let hold_time_s = [0, 3, 9, 90][network.random(4) as usize];
            let graceful_restart = [None, Some(false), Some(true)][network.random(3) as usize];
            Config {
                passive: passive == side,
                hold_time_s,
                graceful_restart: graceful_restart.map(|notification| GracefulRestart {
                    restarting: true,
                    notification,
                    restart_time_s: 120,
                    families: Families::BOTH,
                    forwarding_preserved: true,
                }),
                extended_next_hop: network.random(2) == 0,
                role: roles[side],
                role_strict: roles.iter().all(Option::is_some) && network.random(2) == 0,
                send_hold: [None, Some(Duration::from_secs(5))][network.random(2) as usize],
                max_prefixes: [None, Some(1_000)][network.random(2) as usize],
                keep_received: network.random(2) == 0,
                ..network.sides[side].config().clone()
            }
        });
        Self::between(configs, seed)
    }

    fn between(configs: [Config; 2], seed: u64) -> Self {
        let now = Instant::now();
        let mut sides = configs.map(Session::new);
        sides[0].set_routes(routes(20));
        Self {
            sides,
            learnt: Default::default(),
            readers: BTreeMap::new(),
            wires: Vec::new(),
            queue: BTreeMap::new(),
            now,
            random: seed,
            count: 0,
            chaos_until: now,
        }
    }

    /// Somebody does something to one of the two.
    fn meddle(&mut self) {
        let (now, side) = (self.now, self.random(2) as usize);
        let what = self.random(9);
        let routes = routes(self.random(30) as u8);
        let session = &mut self.sides[side];
        let conn = session.established().map(|(conn, _)| conn);
        match (what, conn) {
            (0, _) => session.handle_input(Input::Stop { text: "maintenance" }, now),
            (1 | 2, _) => session.handle_input(Input::Start, now),
            (3, _) => session.handle_input(Input::BfdDown, now),
            (4, _) => session.handle_input(Input::BfdUp, now),
            (5, Some(conn)) => session.handle_input(Input::SendBlocked(conn), now),
            (6, Some(conn)) => session.handle_input(Input::SendProgress(conn), now),
            (7, _) => session.handle_input(Input::Restart { text: "upgrade" }, now),
            _ => _ = self.sides[0].set_routes(routes),
        }
        self.drain();
    }

    /// What was taken away comes back, and this many routes are wanted.
    fn put_right(&mut self, wanted: u8) {
        let now = self.now;
        for session in &mut self.sides {
            session.handle_input(Input::BfdUp, now);
            session.handle_input(Input::Start, now);
            if let Some((conn, _)) = session.established() {
                session.handle_input(Input::SendProgress(conn), now);
            }
        }
        self.sides[0].set_routes(routes(wanted));
        self.drain();
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn chaos(&self) -> bool {
        self.now < self.chaos_until
    }

    fn delay(&mut self) -> Duration {
        let most = if self.chaos() { 3000 } else { 20 };
        Duration::from_millis(1 + self.random(most))
    }

    fn post(&mut self, at: Instant, side: usize, arrival: Arrival) {
        self.count += 1;
        self.queue.insert((at, self.count), (side, arrival));
    }

    fn post_ordered(&mut self, wire: usize, to: usize, arrival: Arrival) {
        let at = (self.now + self.delay()).max(self.wires[wire].last[to]);
        self.wires[wire].last[to] = at;
        self.post(at, to, arrival);
    }

    /// Do what the sessions ask for.
    fn drain(&mut self) {
        for side in 0..2 {
            while let Some(transmit) = self.sides[side].poll_transmit() {
                match transmit {
                    Transmit::Connect(conn) => self.connect(side, conn),
                    Transmit::Bytes(conn, bytes) => self.carry(side, conn, bytes),
                    Transmit::Close(conn) => self.close(side, conn),
                }
            }
            while self.sides[side].poll_event().is_some() {}
            if self.sides[side].state() != StateName::Established {
                self.learnt[side].clear();
            }
        }
    }

    fn connect(&mut self, side: usize, conn: ConnId) {
        let fate = if self.chaos() { self.random(4) } else { 3 };
        let at = self.now + self.delay();
        match fate {
            0 => {}
            1 => self.post(at, side, Arrival::ConnectFailed(conn)),
            _ => {
                self.count += 1;
                let far = ConnId::Incoming(self.count);
                let mut ids = [conn; 2];
                ids[1 - side] = far;
                self.wires.push(Wire { from: side, ids, alive: true, last: [at; 2] });
                let wire = self.wires.len() - 1;
                self.post_ordered(wire, side, Arrival::Connected(conn));
                self.post_ordered(wire, 1 - side, Arrival::Accepted(far));
            }
        }
    }

    fn wire(&self, side: usize, conn: ConnId) -> Option<usize> {
        self.wires.iter().position(|wire| wire.alive && wire.ids[side] == conn)
    }

    fn carry(&mut self, side: usize, conn: ConnId, bytes: Bytes) {
        let Some(wire) = self.wire(side, conn) else { return };
        if self.chaos() && self.random(12) == 0 {
            self.break_wire(wire);
            return;
        }
        // Cut the message in two now and then.
        let cut = self.random(bytes.len() as u64 + 1) as usize;
        let far = self.wires[wire].ids[1 - side];
        for part in [bytes.slice(..cut), bytes.slice(cut..)] {
            if !part.is_empty() {
                self.post_ordered(wire, 1 - side, Arrival::Bytes(far, part));
            }
        }
    }

    fn close(&mut self, side: usize, conn: ConnId) {
        if let Some(wire) = self.wire(side, conn) {
            self.wires[wire].alive = false;
            let far = self.wires[wire].ids[1 - side];
            self.post_ordered(wire, 1 - side, Arrival::Closed(far));
        }
    }

    fn break_wire(&mut self, wire: usize) {
        self.wires[wire].alive = false;
        for side in 0..2 {
            let conn = self.wires[wire].ids[side];
            self.post_ordered(wire, side, Arrival::Closed(conn));
        }
    }

    fn arrive(&mut self, side: usize, arrival: Arrival) {
        let now = self.now;
        let session = &mut self.sides[side];
        match arrival {
            Arrival::Connected(conn) => session.handle_input(Input::Connected(conn), now),
            Arrival::ConnectFailed(conn) => session.handle_input(Input::ConnectFailed(conn, "lost"), now),
            Arrival::Accepted(conn) => session.handle_input(Input::Accepted(conn), now),
            Arrival::Closed(conn) => session.handle_input(Input::Closed(conn, "closed"), now),
            Arrival::Bytes(conn, bytes) => {
                session.handle_input(Input::Bytes(conn, &bytes), now);
                self.learn(side, conn, &bytes);
            }
        }
    }

    fn learn(&mut self, side: usize, conn: ConnId, bytes: &[u8]) {
        let reader = self.readers.entry((side, conn)).or_default();
        reader.push(bytes);
        while let Some(frame) = reader.next_frame().expect("own messages have good headers") {
            if frame.message_type != MessageType::Update {
                continue;
            }
            let update = parse_bgp_update_message(frame.body, false, &AsnLength::Bits32).expect("own update");
            let table = &mut self.learnt[side];
            for prefix in &update.withdrawn_prefixes {
                table.remove(&prefix.prefix);
            }
            table.extend(update.announced_prefixes.iter().map(|prefix| prefix.prefix));
            for value in update.attributes.iter() {
                match value {
                    AttributeValue::MpReachNlri(nlri) => table.extend(nlri.prefixes.iter().map(|p| p.prefix)),
                    AttributeValue::MpUnreachNlri(nlri) => {
                        for prefix in &nlri.prefixes {
                            table.remove(&prefix.prefix);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            self.drain();
            let arrival = self.queue.keys().next().map(|(at, _)| *at);
            let timers = self.sides.iter().filter_map(Session::poll_timeout).min();
            let Some(next) = arrival.into_iter().chain(timers).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = next.max(self.now);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (side, arrival) = entry.remove();
                self.arrive(side, arrival);
                self.drain();
            }
            for session in &mut self.sides {
                session.handle_timeout(self.now);
            }
        }
    }

    fn start(&mut self) {
        let now = self.now;
        for session in &mut self.sides {
            session.handle_input(Input::Start, now);
        }
    }

    fn assert_together(&self, what: &str) {
        for (side, session) in self.sides.iter().enumerate() {
            assert_eq!(session.state(), StateName::Established, "{what}: side {side}");
            assert!(session.rib().is_settled(), "{what}: side {side}");
        }
        let alive: Vec<&Wire> = self.wires.iter().filter(|wire| wire.alive).collect();
        assert_eq!(alive.len(), 1, "{what}: {alive:?}");
        for side in 0..2 {
            let (conn, _) = self.sides[side].established().unwrap();
            assert_eq!(conn, alive[0].ids[side], "{what}: opened by {}", alive[0].from);
        }
    }
}

#[test]
fn two_speakers_that_call_each_other_at_once_end_with_one_session() {
    for seed in 0..50 {
        let mut network = Network::new(seed, false);
        network.start();
        let end = network.now + Duration::from_secs(30);
        network.run_until(end);
        network.assert_together(&format!("seed {seed}"));
    }
}

#[test]
fn after_any_chaos_the_sessions_come_up_and_stay() {
    for seed in 0..200 {
        let mut network = Network::new(seed, seed % 3 == 0);
        let end = network.now + Duration::from_secs(120);
        network.chaos_until = end;
        network.start();
        network.run_until(end);
        // Worst case: the last connection of the chaos hung in OpenSent or Established until its hold timer ran out (240 s),
        // then the longest pause (16 s) and a few collisions.
        let end = network.now + Duration::from_secs(400);
        network.run_until(end);
        network.assert_together(&format!("seed {seed}"));
        let came_up = network.sides[0].stats().established;
        let end = network.now + Duration::from_secs(3600);
        network.run_until(end);
        network.assert_together(&format!("seed {seed}, an hour later"));
        assert_eq!(
            network.sides[0].stats().established,
            came_up,
            "seed {seed}: a good network resets nothing"
        );
    }
}

#[test]
fn the_peer_knows_what_is_desired_after_changes_and_resets() {
    for seed in 0..50 {
        let mut network = Network::new(seed, false);
        network.start();
        for (n, break_first) in [(20, false), (5, true), (0, false), (7, true)] {
            network.sides[0].set_routes(routes(n));
            let end = network.now + Duration::from_secs(60);
            if break_first && let Some(wire) = network.wires.iter().position(|wire| wire.alive) {
                network.break_wire(wire);
            }
            network.run_until(end);
            network.assert_together(&format!("seed {seed}, {n} routes"));
            let desired: BTreeSet<IpNet> = routes(n).into_keys().collect();
            assert_eq!(network.learnt[1], desired, "seed {seed}, {n} routes");
        }
    }
}

#[test]
fn two_of_any_kind_find_together_whatever_was_done_to_them() {
    let pairs = std::env::var("WEIR_BGP_PAIRS").ok().and_then(|text| text.parse().ok());
    for seed in 0..pairs.unwrap_or(400_u64) {
        let mut network = Network::of_any_kind(seed);
        let end = network.now + Duration::from_secs(120);
        network.chaos_until = end;
        network.start();
        while network.now < end {
            let pause = Duration::from_millis(1 + network.random(8_000));
            network.run_until((network.now + pause).min(end));
            network.meddle();
        }
        let wanted = network.random(30) as u8;
        network.put_right(wanted);
        // As above.
        let end = network.now + Duration::from_secs(400);
        network.run_until(end);
        network.assert_together(&format!("seed {seed}"));
        let desired: BTreeSet<IpNet> = routes(wanted).into_keys().collect();
        assert_eq!(network.learnt[1], desired, "seed {seed}");
        let came_up = network.sides.each_ref().map(|session| session.stats().established);
        let end = network.now + Duration::from_secs(3600);
        network.run_until(end);
        network.assert_together(&format!("seed {seed}, an hour later"));
        let still = network.sides.each_ref().map(|session| session.stats().established);
        assert_eq!(still, came_up, "seed {seed}: a good network resets nothing");
    }
}
