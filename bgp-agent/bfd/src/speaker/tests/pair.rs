//! Two speakers, a network that loses, delays and reorders, and one virtual clock.
//!
//! `WEIR_BFD_PAIRS` is how many seeds are tried; 2,000 when absent.

use super::*;

const PAIRS_DEFAULT: u64 = 2_000;

struct Network {
    sides: [Speaker; 2],
    ids: [SessionId; 2],
    now: Instant,
    random: u64,
    /// Arrivals by time and order of sending.
    queue: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    count: u64,
    /// Of a hundred packets so many are lost.
    loss: u64,
    delay_max: Duration,
    heard: [Instant; 2],
    /// Of what each side sent.
    last_arrival: [Instant; 2],
    failures: [Vec<Instant>; 2],
    sent: [u64; 2],
}

fn address(side: usize) -> IpAddr {
    [10, 0, 0, 1 + side as u8].into()
}

fn towards(side: usize) -> Endpoint {
    Endpoint { local: address(side), remote: address(1 - side), scope_id: 0, hops: Hops::Single }
}

impl Network {
    fn new(seed: u64, configs: [Config; 2]) -> Self {
        let now = Instant::now();
        let mut sides = [Speaker::new(seed), Speaker::new(!seed)];
        let ids = [0, 1].map(|side| sides[side].add(towards(side), 0, configs[side], now).unwrap());
        Self {
            sides,
            ids,
            now,
            random: seed,
            queue: BTreeMap::new(),
            count: 0,
            loss: 0,
            delay_max: MS,
            heard: [now; 2],
            last_arrival: [now; 2],
            failures: Default::default(),
            sent: [0; 2],
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        random(&mut self.random) % below
    }

    fn view(&self, side: usize) -> View {
        self.sides[side].view(self.ids[side]).unwrap()
    }

    fn both_up(&self) -> bool {
        (0..2).all(|side| self.view(side).state == State::Up)
    }

    fn drain(&mut self) {
        for side in 0..2 {
            while let Some(transmit) = self.sides[side].poll_transmit() {
                self.sent[side] += 1;
                if self.random(100) < self.loss {
                    continue;
                }
                let delay = self.delay_max.mul_f64(self.random(1000) as f64 / 1000.0);
                self.count += 1;
                let mut at = self.now + delay;
                if self.loss == 0 {
                    // A network that is well keeps the order.
                    at = at.max(self.last_arrival[side]);
                    self.last_arrival[side] = at;
                }
                self.queue.insert((at, self.count), (1 - side, transmit.payload.into()));
            }
            while let Some(event) = self.sides[side].poll_event() {
                match event {
                    Event::State(_, transition) => {
                        if transition.is_failure() {
                            self.failures[side].push(self.now);
                        }
                        let expired = transition.diagnostic == Diagnostic::DETECTION_TIME_EXPIRED;
                        if expired && transition.to == State::Down {
                            self.assert_silence(side);
                        }
                    }
                    Event::Discarded(_, Discard::UnknownDiscriminator(_)) | Event::Gone(_) => {}
                    Event::Discarded(_, discard) => panic!("an honest packet was refused: {discard}"),
                }
            }
        }
    }

    /// Nobody is declared dead sooner than its promise of packets allows.
    fn assert_silence(&self, side: usize) {
        let silence = self.now - self.heard[side];
        assert!(silence >= 30 * MS, "dead after {silence:?}");
    }

    /// One step of the clock; false when nothing is left before `end`.
    fn step(&mut self, end: Instant) -> bool {
        self.drain();
        let arrival = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self.sides.iter().filter_map(Speaker::poll_timeout).min();
        let Some(next) = arrival.into_iter().chain(timer).min().filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (side, payload) = entry.remove();
            self.heard[side] = self.now;
            let arrival = Arrival { endpoint: towards(side), ttl: Some(255) };
            self.sides[side].handle_packet(arrival, &payload, self.now);
            self.drain();
        }
        for side in 0..2 {
            self.sides[side].handle_timeout(self.now);
        }
        true
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    fn until_up(&mut self, within: Duration) {
        let end = self.now + within;
        while !(self.both_up() && self.poll_settled()) {
            assert!(self.step(end), "not up within {within:?}: {:?}", [self.view(0), self.view(1)]);
        }
    }

    /// Both send at the agreed rate, so detection takes no longer than it should.
    fn poll_settled(&self) -> bool {
        (0..2).all(|side| self.view(side).detection_time.is_some_and(|time| time < 1000 * MS))
    }
}

fn any_config(network: &mut u64) -> Config {
    let interval = |state: &mut u64| (10 + random(state) % 60) as u32 * MS;
    Config {
        transmit_interval: interval(network),
        receive_interval: interval(network),
        detect_mult: NonZeroU8::new(3 + (random(network) % 3) as u8).unwrap(),
        passive: false,
    }
}

fn seeds() -> std::ops::Range<u64> {
    let pairs = std::env::var("WEIR_BFD_PAIRS").ok().and_then(|text| text.parse().ok());
    0..pairs.unwrap_or(PAIRS_DEFAULT)
}

#[test]
fn two_come_up_within_milliseconds_when_both_speak() {
    for seed in seeds() {
        let mut network = Network::new(seed, [config(10 * MS); 2]);
        let begun = network.now;
        network.until_up(100 * MS);
        assert!(network.now - begun < 20 * MS, "seed {seed}: {:?}", network.now - begun);
    }
}

#[test]
fn whatever_the_network_did_two_are_up_soon_after_it_is_well_and_stay_up() {
    for seed in seeds() {
        let mut state = seed;
        let configs = [any_config(&mut state), Config { passive: seed % 3 == 0, ..any_config(&mut state) }];
        let mut network = Network::new(seed, configs);
        network.loss = 20 + network.random(60);
        network.delay_max = 200 * MS;
        for _ in 0..10 {
            network.run(500 * MS);
            // The operator plays with the timers meanwhile.
            let side = network.random(2) as usize;
            let changed = Config { passive: configs[side].passive, ..any_config(&mut network.random) };
            let (id, now) = (network.ids[side], network.now);
            network.sides[side].configure(id, 0, changed, now);
        }
        (network.loss, network.delay_max) = (0, MS);
        // What is under way still arrives; detection may take three slow intervals, and the next packet another.
        network.run(6000 * MS);
        network.until_up(1000 * MS);
        let before = network.failures.each_ref().map(Vec::len);
        for _ in 0..5 {
            network.run(1000 * MS);
            let side = network.random(2) as usize;
            let changed = Config { passive: configs[side].passive, ..any_config(&mut network.random) };
            let (id, now) = (network.ids[side], network.now);
            network.sides[side].configure(id, 0, changed, now);
        }
        network.run(2000 * MS);
        assert!(network.both_up(), "seed {seed}");
        let after = network.failures.each_ref().map(Vec::len);
        assert_eq!(after, before, "seed {seed}: changed timers, and nothing lost, must not flap");
    }
}

#[test]
fn a_cut_is_noticed_by_both_sides_within_the_detection_time() {
    for seed in seeds() {
        let mut network = Network::new(seed, [config(10 * MS); 2]);
        network.until_up(100 * MS);
        network.run(100 * MS + MS * (seed % 10) as u32);
        assert_eq!([0, 1].map(|side| network.view(side).detection_time), [Some(30 * MS); 2]);
        network.loss = 100;
        network.queue.clear();
        let heard = network.heard;
        network.run(200 * MS);
        for (side, heard) in heard.into_iter().enumerate() {
            assert_eq!(network.failures[side], [heard + 30 * MS], "seed {seed}, side {side}");
        }
        network.loss = 0;
        network.until_up(3000 * MS);
    }
}

#[test]
fn one_packet_of_three_may_be_lost() {
    for seed in seeds() {
        let mut network = Network::new(seed, [config(10 * MS); 2]);
        network.until_up(100 * MS);
        network.run(100 * MS);
        // After two lost ones the third still comes in time: 3 × 10 ms at most, less jitter.
        for _ in 0..50 {
            network.loss = 100;
            network.run(9 * MS);
            network.loss = 0;
            network.run(40 * MS);
        }
        assert_eq!(network.failures, [vec![], vec![]], "seed {seed}");
    }
}

#[test]
fn the_rate_is_the_agreed_one() {
    for seed in seeds() {
        let mut state = seed;
        let mut network = Network::new(seed, [any_config(&mut state), any_config(&mut state)]);
        network.until_up(100 * MS);
        network.run(500 * MS);
        let (before, seconds) = (network.sent, 10);
        network.run(seconds * 1000 * MS);
        for (side, before) in before.into_iter().enumerate() {
            let interval = network.view(side).transmit_interval.unwrap();
            let sent = network.sent[side] - before;
            let most = (seconds * 1000 * MS).as_secs_f64() / (interval.as_secs_f64() * 0.75);
            let least = (seconds * 1000 * MS).as_secs_f64() / interval.as_secs_f64();
            assert!(
                (least - 1.0..=most + 1.0).contains(&(sent as f64)),
                "seed {seed}: {sent} packets of {interval:?}, {least} to {most} were agreed"
            );
        }
    }
}
