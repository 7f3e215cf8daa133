use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_model::{Admin, FailoverScope, Name, Snapshot, status::Health};

use super::{
    testing::{failover, name, three_zones, zones},
    *,
};

fn clients(count: u64) -> impl Iterator<Item = ClientKey> {
    (0..count).map(|n| ClientKey::of_session(&n.to_le_bytes()))
}

fn web(snapshot: &Snapshot, health: &HealthView, failovers: &[&Failover]) -> PoolAssessment {
    assess(snapshot, &name("web"), health, failovers).unwrap()
}

fn down(health: &mut HealthView, servers: &[&str]) {
    for server in servers {
        health.set(&name("web"), &name(server), Health::Down);
    }
}

fn shares(assessment: &PoolAssessment, home: &str) -> Vec<(String, f64)> {
    let shares = assessment.shares(Some(&name(home)));
    shares.into_iter().map(|(zone, share)| (zone.to_string(), (share * 1e6).round() / 1e6)).collect()
}

fn picks(assessment: &PoolAssessment, home: &str, count: u64) -> Vec<Option<String>> {
    let home = name(home);
    clients(count).map(|c| assessment.pick_zone(Some(&home), c).map(|z| z.zone.to_string())).collect()
}

fn owned(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
    expected.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect()
}

#[test]
fn who_carries_what_in_every_kind_of_trouble() {
    let s = three_zones(7);
    let all = |zone: &str| (0..7).map(|n| format!("{zone}{n}")).collect::<Vec<_>>();
    let dead = |zones: &[&str]| zones.iter().flat_map(|z| all(z)).collect::<Vec<_>>();
    let full = |zone: &str| failover(zone, "100%");
    type Case<'a> = (&'a str, Vec<String>, Vec<Failover>, &'a [(&'a str, f64)]);
    let cases: Vec<Case<'_>> = vec![
        ("all well", vec![], vec![], &[("a", 1.0)]),
        ("five of seven suffice", vec!["a0".into(), "a1".into()], vec![], &[("a", 1.0)]),
        (
            "four of seven carry 80 %",
            (0..3).map(|n| format!("a{n}")).collect(),
            vec![],
            &[("a", 0.8), ("b", 0.1), ("c", 0.1)],
        ),
        ("home dead: evenly", dead(&["a"]), vec![], &[("b", 0.5), ("c", 0.5)]),
        ("home and one more dead", dead(&["a", "b"]), vec![], &[("c", 1.0)]),
        ("failover: evenly", vec![], vec![full("a")], &[("b", 0.5), ("c", 0.5)]),
        ("part of a failover", vec![], vec![failover("a", "40%")], &[("a", 0.6), ("b", 0.2), ("c", 0.2)]),
        ("a zone under failover takes no spill", dead(&["a"]), vec![full("b")], &[("c", 1.0)]),
        (
            "every zone under failover: it is ignored",
            vec![],
            vec![full("a"), full("b"), full("c")],
            &[("a", 1.0)],
        ),
        ("the only living zone is under failover", dead(&["b", "c"]), vec![full("a")], &[("a", 1.0)]),
        (
            "home dead, all others under failover",
            dead(&["a"]),
            vec![full("b"), full("c")],
            &[("b", 0.5), ("c", 0.5)],
        ),
        (
            "nobody has room: traffic stays",
            ["a", "b", "c"].iter().flat_map(|z| (0..4).map(move |n| format!("{z}{n}"))).collect(),
            vec![],
            &[("a", 1.0)],
        ),
        (
            "home dead, nobody has room: by what they carry",
            dead(&["a"]).into_iter().chain(["b0", "b1", "b2", "c0", "c1", "c2"].map(String::from)).collect(),
            vec![],
            &[("b", 0.5), ("c", 0.5)],
        ),
        ("everything dead: as if everything lived", dead(&["a", "b", "c"]), vec![], &[("a", 1.0)]),
    ];
    for (what, dead, failovers, expected) in cases {
        let mut health = HealthView::all_up(&s);
        down(&mut health, &dead.iter().map(String::as_str).collect::<Vec<_>>());
        let assessment = web(&s, &health, &failovers.iter().collect::<Vec<_>>());
        assert_eq!(shares(&assessment, "a"), owned(expected), "{what}");
    }
}

#[test]
fn spill_weights_of_the_pool_outrank_those_of_the_zones() {
    let mut s = three_zones(3);
    s.zones.get_mut("b").unwrap().spill_weight = 3;
    let mut health = HealthView::all_up(&s);
    down(&mut health, &["a0", "a1", "a2"]);
    assert_eq!(shares(&web(&s, &health, &[]), "a"), owned(&[("b", 0.75), ("c", 0.25)]));
    s.pools.get_mut("web").unwrap().spill_weights = BTreeMap::from([(name("b"), 0)]);
    assert_eq!(shares(&web(&s, &health, &[]), "a"), owned(&[("c", 1.0)]));
    // Weight 0 keeps spill away only while somebody else can take it.
    down(&mut health, &["c0", "c1", "c2"]);
    assert_eq!(shares(&web(&s, &health, &[]), "a"), owned(&[("b", 1.0)]));
}

#[test]
fn distance_never_favours_a_zone() {
    let mut s = three_zones(3);
    s.zones.get_mut("b").unwrap().distance = BTreeMap::from([(name("a"), 1)]);
    s.zones.get_mut("c").unwrap().distance = BTreeMap::from([(name("a"), 1_000)]);
    let mut health = HealthView::all_up(&s);
    down(&mut health, &["a0", "a1", "a2"]);
    assert_eq!(shares(&web(&s, &health, &[]), "a"), owned(&[("b", 0.5), ("c", 0.5)]));
}

#[test]
fn a_failover_of_one_pool_leaves_the_others_alone() {
    let s = three_zones(3);
    let mut f = failover("a", "100%");
    f.scope = FailoverScope::Pool(name("other"));
    assert_eq!(shares(&web(&s, &HealthView::all_up(&s), &[&f]), "a"), owned(&[("a", 1.0)]));
    f.scope = FailoverScope::Pool(name("web"));
    assert_eq!(web(&s, &HealthView::all_up(&s), &[&f]).home_share(&name("a")), 0.0);
}

#[test]
fn drained_disabled_and_weightless_servers_do_not_count() {
    let mut s = three_zones(4);
    s.servers.get_mut("a0").unwrap().admin = Admin::Drain;
    s.servers.get_mut("a1").unwrap().admin = Admin::Disabled;
    s.servers.get_mut("a2").unwrap().weight = 0;
    let assessment = web(&s, &HealthView::all_up(&s), &[]);
    let zone = assessment.zone(&name("a")).unwrap();
    assert_eq!((zone.total_weight, zone.healthy_weight), (100, 100));
    let names: Vec<_> = zone.candidates.servers().iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["a3"]);
    let reasons: Vec<_> = zone.servers.iter().map(|v| v.reason.as_str()).collect();
    assert_eq!(reasons, ["drained by the operator", "disabled", "weight 0", "up"]);
}

#[test]
fn the_last_resort_is_what_is_alive_and_then_whatever_is_not_disabled() {
    let mut s = zones(&["a"], 3);
    s.servers.get_mut("a0").unwrap().admin = Admin::Drain;
    s.servers.get_mut("a2").unwrap().admin = Admin::Disabled;
    let mut health = HealthView::all_up(&s);
    let serving = |health: &HealthView, s: &Snapshot| {
        let assessment = web(s, health, &[]);
        let names =
            assessment.zones().iter().flat_map(|z| z.candidates.servers().iter().map(|c| c.name.to_string()));
        (assessment.mode(), assessment.is_deliverable(), names.collect::<Vec<_>>())
    };
    assert_eq!(serving(&health, &s), (Mode::Healthy, true, vec!["a1".into()]));
    down(&mut health, &["a1"]);
    assert_eq!(serving(&health, &s), (Mode::LastResort, true, vec!["a0".into()]));
    down(&mut health, &["a0"]);
    assert_eq!(serving(&health, &s), (Mode::FailStatic, false, vec!["a0".into(), "a1".into()]));
    for server in s.servers.values_mut() {
        server.admin = Admin::Disabled;
    }
    assert_eq!(serving(&health, &s), (Mode::Empty, false, vec![]));
    assert!(web(&s, &health, &[]).pick_zone(Some(&name("a")), ClientKey(1)).is_none());
}

#[test]
fn an_unchecked_pool_is_up_and_a_checked_one_waits_for_its_first_result() {
    let mut s = three_zones(2);
    assert_eq!(web(&s, &HealthView::default(), &[]).mode(), Mode::FailStatic);
    s.pools.get_mut("web").unwrap().check = None;
    assert_eq!(web(&s, &HealthView::default(), &[]).mode(), Mode::Healthy);
}

#[test]
fn a_client_without_a_home_is_spread_over_all_zones() {
    let s = three_zones(2);
    let assessment = web(&s, &HealthView::all_up(&s), &[]);
    let nowhere = name("nowhere");
    for home in [None, Some(&nowhere)] {
        let shares = assessment.shares(home);
        assert!(shares.len() == 3 && shares.values().all(|share| (share - 1.0 / 3.0).abs() < 1e-9));
    }
}

#[test]
fn spilled_clients_are_spread_evenly() {
    let s = zones(&["a", "b", "c", "d", "e"], 2);
    let mut health = HealthView::all_up(&s);
    down(&mut health, &["a0", "a1"]);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for zone in picks(&web(&s, &health, &[]), "a", 40_000).into_iter().flatten() {
        *counts.entry(zone).or_default() += 1;
    }
    assert_eq!(counts.len(), 4);
    for (zone, count) in counts {
        assert!((9_700..=10_300).contains(&count), "{zone} got {count} of 40000");
    }
}

#[test]
fn a_retry_tries_every_living_zone_once_and_those_under_failover_last() {
    let s = zones(&["a", "b", "c", "d"], 2);
    let mut health = HealthView::all_up(&s);
    down(&mut health, &["d0", "d1"]);
    let f = failover("b", "100%");
    let assessment = web(&s, &health, &[&f]);
    for client in clients(200) {
        let order: Vec<_> =
            assessment.zone_order(Some(&name("a")), client).iter().map(|z| z.zone.to_string()).collect();
        assert_eq!(order, ["a", "c", "b"]);
    }
}

#[test]
fn one_pool_and_all_pools_are_assessed_alike() {
    let s = three_zones(3);
    let health = HealthView::all_up(&s);
    let all = assess_all(&s, &health, &[]);
    assert_eq!(picks(&all["web"], "b", 100), picks(&web(&s, &health, &[]), "b", 100));
    assert!(assess(&s, &name("nope"), &health, &[]).is_none());
}

/// What can be wrong with each of up to five zones of four servers, and which zones are under which failover.
fn trouble() -> impl Strategy<Value = (Vec<[u8; 4]>, Vec<u32>)> {
    (2usize..=5).prop_flat_map(|count| {
        (
            proptest::collection::vec(proptest::array::uniform4(0u8..6), count),
            proptest::collection::vec(prop_oneof![3 => Just(0u32), 1 => 1u32..=100], count),
        )
    })
}

fn troubled(servers: &[[u8; 4]], percents: &[u32]) -> (Snapshot, HealthView, Vec<Failover>) {
    let names: Vec<&str> = ["a", "b", "c", "d", "e"][..servers.len()].to_vec();
    let mut s = zones(&names, 4);
    let mut health = HealthView::all_up(&s);
    for (zone, states) in names.iter().zip(servers) {
        for (n, state) in states.iter().enumerate() {
            let server = name(&format!("{zone}{n}"));
            match state {
                0 => health.set(&name("web"), &server, Health::Down),
                1 => health.set(&name("web"), &server, Health::Draining),
                2 => s.servers.get_mut(&server).unwrap().admin = Admin::Drain,
                3 => s.servers.get_mut(&server).unwrap().weight = 37,
                _ => {}
            }
        }
    }
    let failovers = names.iter().zip(percents).filter(|(_, p)| **p > 0);
    (s, health, failovers.map(|(z, p)| failover(z, &format!("{p}%"))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whoever_can_be_served_is_served_by_a_candidate((servers, percents) in trouble()) {
        let (s, health, failovers) = troubled(&servers, &percents);
        let assessment = web(&s, &health, &failovers.iter().collect::<Vec<_>>());
        // Nothing is disabled, so something can always be tried.
        prop_assert_ne!(assessment.mode(), Mode::Empty);
        for home in s.zones.keys().map(Some).chain([None]) {
            let total: f64 = assessment.shares(home).values().sum();
            prop_assert!((total - 1.0).abs() < 1e-9, "shares of {:?} sum to {}", home, total);
            for client in clients(50) {
                let zone = assessment.pick_zone(home, client).expect("somebody serves");
                prop_assert!(!zone.candidates.is_empty());
                prop_assert!(assessment.shares(home).contains_key(&zone.zone));
                let order = assessment.zone_order(home, client);
                prop_assert_eq!(&order[0].zone, &zone.zone);
                prop_assert_eq!(order.len(), assessment.zones().iter().filter(|z| !z.candidates.is_empty()).count());
            }
        }
    }

    #[test]
    fn equal_input_gives_equal_choices((servers, percents) in trouble()) {
        let (s, health, failovers) = troubled(&servers, &percents);
        let failovers: Vec<&Failover> = failovers.iter().collect();
        let reversed: Vec<&Failover> = failovers.iter().rev().copied().collect();
        prop_assert_eq!(
            picks(&web(&s, &health, &failovers), "a", 100),
            picks(&web(&s.clone(), &health.clone(), &reversed), "a", 100)
        );
    }

    #[test]
    fn clients_are_shared_as_the_shares_say((servers, percents) in trouble()) {
        let (s, health, failovers) = troubled(&servers, &percents);
        let assessment = web(&s, &health, &failovers.iter().collect::<Vec<_>>());
        let mut counts: BTreeMap<Name, f64> = BTreeMap::new();
        for client in clients(10_000) {
            *counts.entry(assessment.pick_zone(Some(&name("a")), client).unwrap().zone.clone()).or_default() += 1e-4;
        }
        for (zone, share) in assessment.shares(Some(&name("a"))) {
            let seen = counts.get(&zone).copied().unwrap_or_default();
            prop_assert!((seen - share).abs() < 0.03, "{}: {} instead of {}", zone, seen, share);
        }
    }

    #[test]
    fn a_smaller_share_moves_only_the_clients_at_its_edge(small in 0u32..=100, large in 0u32..=100) {
        let (small, large) = (small.min(large), small.max(large));
        let s = three_zones(3);
        let health = HealthView::all_up(&s);
        let at = |percent: u32| {
            let f = failover("a", &format!("{percent}%"));
            picks(&web(&s, &health, &[&f]), "a", 2_000)
        };
        let (few, many) = (at(small), at(large));
        for (before, after) in few.iter().zip(&many) {
            // Whoever had already left stays where it went; whoever leaves, leaves home.
            prop_assert!(before == after || before.as_deref() == Some("a"));
        }
        prop_assert_eq!(at(small), few, "when the share grows back the same clients return");
    }

    #[test]
    fn a_zone_that_leaves_moves_only_its_own_clients(dead in 1usize..5) {
        let names = ["a", "b", "c", "d", "e"];
        let s = zones(&names, 2);
        let mut health = HealthView::all_up(&s);
        down(&mut health, &["a0", "a1"]);
        let before = picks(&web(&s, &health, &[]), "a", 2_000);
        let gone = names[dead];
        down(&mut health, &[&format!("{gone}0"), &format!("{gone}1")]);
        let after = picks(&web(&s, &health, &[]), "a", 2_000);
        for (before, after) in before.iter().zip(&after) {
            prop_assert!(before == after || before.as_deref() == Some(gone));
            prop_assert_ne!(after.as_deref(), Some(gone));
        }
    }
}

#[test]
fn backups_serve_when_nobody_else_can_in_any_zone_and_give_back() {
    let mut snapshot = three_zones(2);
    for backup in ["a1", "b1"] {
        snapshot.servers.get_mut(backup).unwrap().backup = true;
    }
    let pool = name("web");
    let mut view = HealthView::all_up(&snapshot);
    let serving = |view: &HealthView| {
        let assessment = assess(&snapshot, &pool, view, &[]).unwrap();
        let candidates = assessment.zones().iter().flat_map(|zone| zone.candidates.servers());
        let names: Vec<String> = candidates.map(|server| server.name.to_string()).collect();
        (assessment.mode(), names.join(" "))
    };
    assert_eq!(serving(&view), (Mode::Healthy, "a0 b0 c0 c1".into()));
    let assessment = assess(&snapshot, &pool, &view, &[]).unwrap();
    let zone = assessment.zone(&name("a")).unwrap();
    assert_eq!((zone.total_weight, zone.healthy_weight, zone.backups.servers().len()), (100, 100, 1));
    // Other zones before backups, and one server that is alive before all of these.
    for down in ["a0", "b0", "c0"] {
        view.set(&pool, &name(down), Health::Down);
    }
    assert_eq!(serving(&view), (Mode::Healthy, "c1".into()));
    view.set(&pool, &name("c1"), Health::Draining);
    assert_eq!(serving(&view), (Mode::Backup, "a1 b1".into()));
    assert!(assess(&snapshot, &pool, &view, &[]).unwrap().is_deliverable());
    view.set(&pool, &name("a1"), Health::Down);
    view.set(&pool, &name("b1"), Health::Down);
    assert_eq!(serving(&view), (Mode::LastResort, "c1".into()));
    view.set(&pool, &name("a1"), Health::Up);
    view.set(&pool, &name("a0"), Health::Up);
    assert_eq!(serving(&view), (Mode::Healthy, "a0".into()));
}

#[test]
fn a_server_gets_the_share_of_its_weight_it_is_to_get_and_its_zone_stays_as_able() {
    let snapshot = three_zones(2);
    let pool = name("web");
    let mut view = HealthView::all_up(&snapshot);
    view.set_weight(&pool, &name("a0"), 10);
    let assessment = assess(&snapshot, &pool, &view, &[]).unwrap();
    let zone = assessment.zone(&name("a")).unwrap();
    let weights: Vec<u32> = zone.candidates.servers().iter().map(|server| server.weight).collect();
    assert_eq!((weights, zone.healthy_weight, zone.total_weight), (vec![1_000, 10_000], 200, 200));
    view.reset_weights();
    assert_eq!(view, HealthView::all_up(&snapshot));
}
