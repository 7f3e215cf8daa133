use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn candidates(weights: &[u32]) -> Candidates {
    let server = |(n, weight): (usize, &u32)| {
        (name(&format!("s{n}")), ([10, 0, 0, 1], 1_000 + n as u16).into(), *weight)
    };
    Candidates::new(weights.iter().enumerate().map(server))
}

fn request(n: u64) -> Request<'static> {
    Request { client: ClientKey::of_session(&n.to_le_bytes()), key: None, random: hash::mix(n), tried: &[] }
}

fn count(method: Balance, weights: &[u32], requests: u64) -> BTreeMap<String, u64> {
    let (balancer, candidates) = (Balancer::new(method, 0), candidates(weights));
    let mut counts = BTreeMap::new();
    for n in 0..requests {
        let server = balancer.choose(&candidates, request(n), |_| Some(0)).unwrap();
        *counts.entry(server.name.to_string()).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_visits_equals_in_turn_and_weights_exactly() {
    let (balancer, equals) = (Balancer::new(Balance::RoundRobin, 0), candidates(&[100, 100, 100]));
    let names: Vec<_> =
        (0..6).map(|n| balancer.choose(&equals, request(n), |_| Some(0)).unwrap().name.to_string()).collect();
    assert_eq!(names, ["s0", "s1", "s2", "s0", "s1", "s2"]);
    let counts = count(Balance::RoundRobin, &[50, 20, 10], 800);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [500, 200, 100]);
}

#[test]
fn a_heavy_server_does_not_get_its_turns_in_one_burst() {
    let c = candidates(&[4, 4]);
    assert_eq!(c.schedule, [0, 1]);
    let c = candidates(&[6, 2]);
    let longest_run = c.schedule.chunk_by(|a, b| a == b).map(<[u16]>::len).max();
    assert!(longest_run <= Some(3), "{:?}", c.schedule);
}

#[test]
fn a_schedule_is_bounded_and_forgets_nobody() {
    let weights: Vec<u32> = (0..300).map(|n| if n % 2 == 0 { 997 } else { 1 }).collect();
    let c = candidates(&weights);
    assert!(c.schedule.len() <= SCHEDULE_LEN_MAX + weights.len());
    assert!((0..300).all(|n| c.schedule.contains(&n)));
}

#[test]
fn least_connections_fills_by_weight_and_rotates_among_idle_ones() {
    let (balancer, c) = (Balancer::new(Balance::LeastConnections, 0), candidates(&[100, 300]));
    let mut active = BTreeMap::from([(name("s0"), 0u64), (name("s1"), 0)]);
    for n in 0..40 {
        let chosen = balancer.choose(&c, request(n), |s| Some(active[&s.name])).unwrap().name.clone();
        *active.get_mut(&chosen).unwrap() += 1;
    }
    assert_eq!(active[&name("s0")], 10);
    let idle = count(Balance::LeastConnections, &[1, 1, 1], 300);
    assert!(idle.values().all(|n| *n == 100), "{idle:?}");
}

#[test]
fn of_very_many_servers_each_is_looked_at_in_turn_and_no_idle_one_is_left_out() {
    let c = candidates(&[100; 2_000]);
    let balancer = Balancer::new(Balance::LeastConnections, 0);
    let mut active = vec![0_u64; c.servers().len()];
    let looked_at = std::cell::Cell::new(0);
    for n in 0..20_000 {
        let load = |server: &Candidate| {
            looked_at.set(looked_at.get() + 1);
            Some(active[server.index])
        };
        let index = balancer.choose(&c, request(n), load).unwrap().index;
        active[index] += 1;
    }
    assert_eq!(looked_at.get(), 20_000 * LOOKED_AT_MAX);
    // Ten each, by all knowledge.
    assert!(active.iter().all(|active| (9..=11).contains(active)), "{active:?}");
}

#[test]
fn random_follows_the_weights_and_prefers_the_less_loaded() {
    let counts = count(Balance::Random, &[100, 100, 100, 100], 10_000);
    assert!(counts.values().all(|n| (2_200..=2_800).contains(n)), "{counts:?}");
    let (balancer, c) = (Balancer::new(Balance::Random, 0), candidates(&[1, 1]));
    let busy = |s: &Candidate| Some(if s.name == "s0" { 100 } else { 0 });
    let to_busy = (0..1_000).filter(|n| balancer.choose(&c, request(*n), busy).unwrap().name == "s0").count();
    assert!((200..300).contains(&to_busy), "only when both draws hit it: {to_busy} of 1000");
}

#[test]
fn a_client_keeps_its_server_and_a_leaving_server_moves_only_its_own() {
    let (balancer, five, four) =
        (Balancer::new(Balance::Source, 0), candidates(&[1, 1, 1, 1, 1]), candidates(&[1, 1, 1, 1, 0]));
    let pick = |c: &Candidates, n: u64| balancer.choose(c, request(n), |_| Some(0)).unwrap().name.clone();
    for n in 0..1_000 {
        let (before, after) = (pick(&five, n), pick(&four, n));
        assert_eq!(before, pick(&five, n));
        assert!(before == after || before == "s4");
    }
    let counts = count(Balance::Source, &[100, 300], 10_000);
    assert!((2_200..=2_800).contains(&counts["s0"]), "{counts:?}");
}

fn methods() -> impl Strategy<Value = Method> {
    let all =
        [Balance::RoundRobin, Balance::LeastConnections, Balance::Random, Balance::Source, Balance::Hash];
    (prop::sample::select(all.to_vec()), 1u32..5, prop::option::of(1.01..10.0))
        .prop_map(|(balance, draws, load_factor)| Method { balance, draws, load_factor })
}

/// Hashing with room for a quarter more than the fair share.
const BOUNDED: Method = Method { balance: Balance::Hash, draws: 2, load_factor: Some(1.25) };

/// A request that is hashed by a key of its own, whoever sends it.
fn keyed(n: u64) -> Request<'static> {
    Request { key: Some(ClientKey::of_session(&n.to_le_bytes())), ..request(0) }
}

fn place(candidates: &Candidates, n: u64) -> String {
    let balancer = Balancer::new(Balance::Hash, n);
    balancer.choose(candidates, keyed(n), |_| Some(n)).unwrap().name.to_string()
}

#[test]
fn equal_weights_need_no_logarithms_to_come_to_the_same() {
    let even = candidates(&[7; 9]);
    let scored = Candidates { is_even: false, ..even.clone() };
    assert!(even.is_even && !candidates(&[7, 8]).is_even);
    assert!((0..5_000).all(|n| place(&even, n) == place(&scored, n)));
}

#[test]
fn a_hash_goes_by_its_key_and_without_one_by_the_client() {
    let (balancer, c) = (Balancer::new(Balance::Hash, 0), candidates(&[1; 8]));
    let pick = |request| balancer.choose(&c, request, |_| Some(0)).unwrap().name.clone();
    let source = Balancer::new(Balance::Source, 0);
    for n in 0..100 {
        assert_eq!(pick(keyed(n)), pick(Request { client: ClientKey(n), ..keyed(n) }));
        assert_eq!(pick(request(n)), *source.choose(&c, request(n), |_| Some(0)).unwrap().name.as_str());
    }
}

#[test]
fn more_draws_avoid_a_busy_server_more_often() {
    let to_busy = |draws| {
        let balancer = Balancer::new(Method { draws, ..Balance::Random.into() }, 0);
        let c = candidates(&[1, 1]);
        let busy = |s: &Candidate| Some(if s.name == "s0" { 100 } else { 0 });
        (0..4_000).filter(|n| balancer.choose(&c, request(*n), busy).unwrap().name == "s0").count()
    };
    // One half to the power of the draws.
    for (draws, expected) in [(1, 2_000), (2, 1_000), (4, 250)] {
        let seen = to_busy(draws);
        assert!(seen.abs_diff(expected) < 150, "{draws} draws: {seen} of 4,000");
    }
}

#[test]
fn a_hot_key_is_spread_as_far_as_the_bound_wants_and_comes_back() {
    let (balancer, c) = (Balancer::new(BOUNDED, 0), candidates(&[1, 1, 2]));
    let mut active = BTreeMap::from([(name("s0"), 0u64), (name("s1"), 0), (name("s2"), 0)]);
    let home = place(&c, 7);
    for n in 1..=400u64 {
        let chosen = balancer.choose(&c, keyed(7), |s| Some(active[&s.name])).unwrap();
        *active.get_mut(&chosen.name).unwrap() += 1;
        for server in c.servers() {
            let fair = 1.25 * n as f64 * f64::from(server.weight) / 4.0;
            assert!(active[&server.name] as f64 <= fair.ceil(), "{n} requests: {active:?}");
        }
    }
    assert!(active.values().all(|n| *n > 0), "{active:?}");
    let idle = balancer.choose(&c, keyed(7), |_| Some(0)).unwrap();
    assert_eq!(idle.name.as_str(), home);
}

#[test]
fn without_a_crowd_a_bound_moves_nothing() {
    let (bounded, c) = (Balancer::new(BOUNDED, 0), candidates(&[3, 1, 2, 5]));
    for n in 0..1_000 {
        assert_eq!(bounded.choose(&c, keyed(n), |_| Some(0)).unwrap().name.as_str(), place(&c, n));
    }
}

proptest! {
    #[test]
    fn a_server_that_leaves_moves_its_own_keys_and_one_that_comes_takes_its_share(
        weights in proptest::collection::vec(1u32..10, 2..12),
        gone in any::<prop::sample::Index>(),
        keys in any::<u32>(),
    ) {
        const KEYS: u64 = 2_000;
        let gone = gone.index(weights.len());
        let mut fewer = weights.clone();
        fewer[gone] = 0;
        let (all, rest) = (candidates(&weights), candidates(&fewer));
        let mut moved = 0;
        for n in (u64::from(keys)..).take(KEYS as usize) {
            let (before, after) = (place(&all, n), place(&rest, n));
            if before == format!("s{gone}") {
                moved += 1;
            } else {
                prop_assert_eq!(before, after);
            }
        }
        // What moves is what the server had, and that is its share by weight: within five standard deviations.
        let share = f64::from(weights[gone]) / f64::from(weights.iter().sum::<u32>());
        let tolerance = 5.0 * (KEYS as f64 * share * (1.0 - share)).sqrt() + 1.0;
        prop_assert!((f64::from(moved) - KEYS as f64 * share).abs() <= tolerance, "{} of {}", moved, KEYS);
    }

    #[test]
    fn nobody_gets_more_than_the_bound_whatever_the_keys(
        weights in proptest::collection::vec(1u32..10, 1..10),
        factor in 1.01..3.0f64,
        keys in proptest::collection::vec(0u64..5, 1..200),
    ) {
        let c = candidates(&weights);
        let balancer = Balancer::new(Method { load_factor: Some(factor), ..BOUNDED }, 0);
        let total: u32 = weights.iter().sum();
        let mut active: BTreeMap<Name, u64> = c.servers().iter().map(|s| (s.name.clone(), 0)).collect();
        for (n, key) in (1..).zip(keys) {
            let server = balancer.choose(&c, keyed(key), |s| Some(active[&s.name])).unwrap();
            let bound = (factor * f64::from(n) * f64::from(server.weight) / f64::from(total)).ceil();
            *active.get_mut(&server.name).unwrap() += 1;
            prop_assert!(active[&server.name] as f64 <= bound + 1e-6);
        }
    }

    #[test]
    fn a_free_untried_server_is_always_found(
        method in methods(),
        servers in proptest::collection::vec((0u32..1_000, any::<bool>(), any::<bool>()), 0..20),
        n in any::<u64>(),
    ) {
        let weights: Vec<u32> = servers.iter().map(|(weight, ..)| *weight).collect();
        let c = candidates(&weights);
        let index = |s: &Name| s.as_str()[1..].parse::<usize>().unwrap();
        let tried: Vec<Name> =
            servers.iter().enumerate().filter(|(_, s)| s.1).map(|(n, _)| name(&format!("s{n}"))).collect();
        let load = |s: &Candidate| (!servers[index(&s.name)].2).then_some(u64::from(s.weight));
        let chosen = Balancer::new(method, n).choose(&c, Request { tried: &tried, ..request(n) }, load);
        let may = |(weight, tried, full): &(u32, bool, bool)| *weight > 0 && !tried && !full;
        match chosen {
            Some(server) => prop_assert!(may(&servers[index(&server.name)])),
            None => prop_assert!(!servers.iter().any(may)),
        }
    }
}
