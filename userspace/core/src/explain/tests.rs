use std::collections::BTreeMap;

use super::*;
use crate::routing::assess::testing::{failover, name, three_zones};
use weir_model::{SourceFile, status::Health};

fn question(port: u16) -> Question<'static> {
    Question {
        to: Destination::Vip(name("web"), port),
        protocol: Protocol::Tcp,
        source: "192.0.2.7".parse().unwrap(),
        host: "www.example",
        path: "/x?q",
        cookie: None,
        zone: None,
        balancer: None,
        now_unix: 1_000,
    }
}

fn snapshot() -> Snapshot {
    let mut snapshot = three_zones(2);
    let text = r#"
        [zone.a]
        [node.n]
        zone = "a"
        address = "198.51.100.1"
        [group.g]
        nodes = ["n"]
        [vip.web]
        addresses = ["203.0.113.1", "2001:db8::1"]
        group = "g"
        services = ["tcp/80", "tcp/443", "udp/53"]
        home_zone = "a"
        [listener.web]
        protocol = "http"
        vip = "web"
        port = 80
        routes = [{ path = "/x", pool = "web" }]
        [listener.plain]
        protocol = "tcp"
        bind = "127.0.0.1:9000"
        pool = "web"
        [pool.web]
        sticky = { cookie = "weir", key = "0123456789abcdef" }
    "#;
    let extra = Snapshot::read(&[SourceFile { path: "t.toml".into(), text: text.into() }]).unwrap();
    snapshot.nodes = extra.nodes;
    snapshot.groups = extra.groups;
    snapshot.vips = extra.vips;
    snapshot.listeners = extra.listeners;
    snapshot.pools = extra.pools;
    snapshot
}

fn stages(answer: &Explanation) -> Vec<Stage> {
    answer.steps.iter().map(|step| step.stage).collect()
}

#[test]
fn a_request_is_followed_from_the_vip_to_the_servers() {
    let s = snapshot();
    let answer = explain(&s, &HealthView::all_up(&s), &[], &question(80));
    use Stage::*;
    assert_eq!(stages(&answer), [Vip, Service, Balancer, Listener, Route, Pool, Home, Shares, Zone, Server]);
    assert!(answer.delivered);
    assert_eq!(answer.home, Some(name("a")));
    assert_eq!(answer.servers, [name("a0"), name("a1")]);
}

#[test]
fn a_failover_and_dead_servers_are_named_as_reasons() {
    let s = snapshot();
    let mut health = HealthView::all_up(&s);
    let moved = explain(&s, &health, &[&failover("a", "100%")], &question(80));
    assert!(moved.steps.iter().any(|step| step.reason.contains("failover moves 100.0%")), "{moved:#?}");
    assert_ne!(moved.zone, Some(name("a")));
    health.set(&name("web"), &name("a0"), Health::Down);
    let answer =
        explain(&s, &health, &[], &Question { source: "192.0.2.1".parse().unwrap(), ..question(80) });
    assert!(answer.steps.iter().any(|step| step.reason.contains("can carry 70.0%")), "{answer:#?}");
}

#[test]
fn a_valid_cookie_outranks_the_vip_and_a_forged_one_does_not() {
    let s = snapshot();
    let health = HealthView::all_up(&s);
    let good = sticky::encode(&name("c"), 2_000, b"0123456789abcdef");
    let bad = sticky::encode(&name("c"), 2_000, b"0123456789abcdeX");
    let with = |cookie: &str| {
        explain(&s, &health, &[], &Question { cookie: Some(cookie), ..question(80) })
            .home
            .unwrap()
            .to_string()
    };
    assert_eq!(with(&good), "c");
    assert_eq!(with(&bad), "a");
}

#[test]
fn what_is_not_served_says_where_it_ends() {
    let s = snapshot();
    let health = HealthView::all_up(&s);
    let last = |q: Question<'_>| {
        let answer = explain(&s, &health, &[], &q);
        let last = answer.steps.last().unwrap();
        (answer.delivered, last.stage, last.reason.clone())
    };
    assert!(matches!(last(question(22)), (false, Stage::Service, _)));
    assert!(matches!(last(question(443)), (false, Stage::Listener, _)));
    assert!(matches!(last(Question { path: "/y", ..question(80) }), (false, Stage::Route, _)));
    assert!(matches!(last(Question { protocol: Protocol::Udp, ..question(53) }), (true, Stage::Listener, _)));
    let to = |text: &str| Destination::Address(text.parse().unwrap());
    assert!(matches!(last(Question { to: to("127.0.0.1:9000"), ..question(0) }), (true, Stage::Server, _)));
    assert!(matches!(
        last(Question { to: to("127.0.0.1:9001"), ..question(0) }),
        (false, Stage::Listener, _)
    ));
    assert!(matches!(last(Question { to: to("[2001:db8::1]:80"), ..question(0) }), (true, Stage::Server, _)));
    let to = Destination::Vip(name("nope"), 80);
    assert!(matches!(last(Question { to, ..question(0) }), (false, Stage::Vip, _)));
}

#[test]
fn a_vip_straight_at_servers_is_explained_down_to_the_server() {
    let mut s = snapshot();
    let vip = s.vips.get_mut(&name("web")).unwrap();
    (vip.pool, vip.home_zone, vip.spread) = (Some(name("web")), None, Spread::Group);
    s.listeners.remove(&name("web"));
    let mut health = HealthView::all_up(&s);
    s.pools.get_mut(&name("web")).unwrap().check = Some(toml_check());
    health.set(&name("web"), &name("a0"), Health::Down);
    let answer = explain(&s, &health, &[], &question(443));
    use Stage::*;
    assert_eq!(stages(&answer), [Vip, Service, Pool, Balancer]);
    assert!(answer.delivered);
    assert_eq!(answer.pool, Some(name("web")));
    assert!(!answer.servers.contains(&name("a0")) && answer.servers.contains(&name("a1")));

    let node = name("n");
    let (source, to) = ("192.0.2.7:40000".parse().unwrap(), "203.0.113.1:443".parse().unwrap());
    let balancer = balance(&s, &node, &BTreeMap::new(), &health, Protocol::Tcp, source, to);
    let chosen = balancer.clone().unwrap().owner;
    assert!(answer.servers.contains(&chosen));
    let answer = explain(&s, &health, &[], &Question { balancer, ..question(443) });
    assert_eq!(answer.servers, [chosen]);
}

fn toml_check() -> weir_model::Check {
    let text = "[pool.p]\ncheck = { kind = \"tcp\" }".to_owned();
    let file = SourceFile { path: "t.toml".into(), text };
    Snapshot::read(&[file]).unwrap().pools[&name("p")].check.clone().unwrap()
}
