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
    Request { client: ClientKey::of_session(&n.to_le_bytes()), random: hash::mix(n), tried: &[] }
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

fn methods() -> impl Strategy<Value = Balance> {
    prop::sample::select(vec![
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::Random,
        Balance::Source,
    ])
}

proptest! {
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
