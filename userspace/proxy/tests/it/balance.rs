//! Who gets which request: by hash, within a bound, from backups, and slowly at first.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::SeqCst,
};

use weir_model::status::{Health, ProxyStatus};

use crate::{
    clients::{Client, field, get, get_request},
    servers::Server,
    subject::Proxy,
};

const CHECK: &str =
    "check = { kind = \"http\", path = \"/health\", interval = \"50ms\", rise = 2, fall = 2 }";

/// One zone, one pool; a server whose name begins with `backup` is one.
pub(crate) fn config(servers: &[Server], pool: &str) -> String {
    let mut text = format!(
        "[zone.az1]\n[pool.p]\n{pool}\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n"
    );
    for server in servers {
        text.push_str(&format!(
            "[server.{}]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\nbackup = {}\n",
            server.name,
            server.address,
            server.name.starts_with("backup")
        ));
    }
    text
}

/// Servers of these names.
pub(crate) async fn servers<const N: usize>(names: [&str; N]) -> [Server; N] {
    let mut servers = Vec::new();
    for name in names {
        servers.push(Server::start(name).await);
    }
    servers.try_into().ok().unwrap()
}

pub(crate) fn is(server: &'static str, health: Health) -> impl Fn(&ProxyStatus) -> bool {
    move |status| status.pools["p"].servers[server].health == health
}

/// How many of so many requests each server answers.
pub(crate) async fn spread(web: SocketAddr, requests: usize) -> BTreeMap<String, usize> {
    let mut spread = BTreeMap::new();
    let mut client = Client::connect(web).await.unwrap();
    for _ in 0..requests {
        let answer = client.get("/").await.unwrap();
        assert_eq!(answer.status(), 200);
        *spread.entry(field(&answer, "x-served-by").to_owned()).or_default() += 1;
    }
    spread
}

/// Which server answers each user, wherever the request comes from.
async fn served(web: SocketAddr, from: u8) -> BTreeMap<u8, String> {
    let mut served = BTreeMap::new();
    for user in 0..40u8 {
        let address = IpAddr::from([127, 0, from, user + 1]);
        let mut client = Client::connect_from(address, web).await.unwrap();
        let mut request = get_request(&format!("/{from}"));
        request.headers_mut().insert("X-User", format!("user {user}").parse().unwrap());
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        served.insert(user, field(&answer, "x-served-by").to_owned());
    }
    served
}

#[tokio::test]
async fn a_user_sticks_to_a_server_and_one_that_dies_moves_only_its_own() {
    let mut servers = servers(["s1", "s2", "s3", "s4"]).await;
    let pool = format!("balance = \"hash\"\nhash_on = \"header:x-user\"\n{CHECK}");
    let proxy = Proxy::start(&config(&servers, &pool), &[]).await;
    let web = proxy.address("web").await;
    proxy
        .until("checks pass", |status| status.pools["p"].servers.values().all(|s| s.health == Health::Up))
        .await;
    let before = served(web, 1).await;
    assert_eq!(before, served(web, 2).await, "the address of the client plays a part");
    for server in &servers {
        let users = before.values().filter(|name| **name == server.name).count();
        assert!((2..=20).contains(&users), "{} has {users} of 40 users", server.name);
    }
    servers[1].kill().await;
    // From the first request on, and as well when the check has noticed.
    for _ in 0..2 {
        let after = served(web, 3).await;
        for (user, server) in &before {
            assert!(after[user] == *server || server == "s2", "user {user} has moved from {server}");
            assert_ne!(after[user], "s2");
        }
        proxy.until("its loss is noticed", is("s2", Health::Down)).await;
    }
    servers[1].revive().await;
    proxy.until("it is back", is("s2", Health::Up)).await;
    assert_eq!(served(web, 4).await, before);
}

#[tokio::test]
async fn what_everybody_wants_is_spread_as_far_as_the_bound_says() {
    for (bound, most) in [("", 12), ("bounded_load = \"125%\"", 5)] {
        let servers = servers(["s1", "s2", "s3"]).await;
        for server in &servers {
            server.state.delay_ms.store(500, SeqCst);
        }
        let pool = format!("balance = \"hash\"\nhash_on = \"path\"\n{bound}");
        let proxy = Proxy::start(&config(&servers, &pool), &[]).await;
        let web = proxy.address("web").await;
        let target = |n| format!("/slow?{n}");
        let all = (0..12).map(|n| async move { get(web, &target(n)).await.status().as_u16() });
        let answers = futures_util::future::join_all(all).await;
        assert_eq!(answers, [200; 12]);
        let requests = servers.each_ref().map(Server::requests);
        assert_eq!(requests.iter().max(), Some(&most), "{bound}: {requests:?}");
    }
}

#[tokio::test]
async fn backups_take_over_from_the_first_request_on_and_give_back() {
    let mut servers = servers(["s1", "s2", "backup1"]).await;
    let proxy = Proxy::start(&config(&servers, CHECK), &[]).await;
    let web = proxy.address("web").await;
    proxy
        .until("checks pass", |status| status.pools["p"].servers.values().all(|s| s.health == Health::Up))
        .await;
    let before = spread(web, 20).await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["s1", "s2"]);
    servers[0].kill().await;
    servers[1].kill().await;
    assert_eq!(spread(web, 20).await, BTreeMap::from([("backup1".into(), 20)]));
    proxy.until("their loss is noticed", |s| is("s1", Health::Down)(s) && is("s2", Health::Down)(s)).await;
    assert_eq!(spread(web, 20).await, BTreeMap::from([("backup1".into(), 20)]));
    servers[0].revive().await;
    proxy.until("one is back", is("s1", Health::Up)).await;
    assert_eq!(spread(web, 20).await, BTreeMap::from([("s1".into(), 20)]));
}

#[tokio::test]
async fn backups_of_an_unchecked_pool_serve_when_nobody_else_answers() {
    let mut servers = servers(["s1", "backup1"]).await;
    let proxy = Proxy::start(&config(&servers, ""), &[]).await;
    let web = proxy.address("web").await;
    assert_eq!(spread(web, 10).await, BTreeMap::from([("s1".into(), 10)]));
    servers[0].kill().await;
    assert_eq!(spread(web, 10).await, BTreeMap::from([("backup1".into(), 10)]));
}

#[tokio::test]
async fn a_server_that_returns_gets_its_weight_by_and_by() {
    let mut servers = servers(["s1", "s2"]).await;
    let pool = format!("slow_start = \"4s\"\n{CHECK}");
    let proxy = Proxy::start(&config(&servers, &pool), &[]).await;
    let web = proxy.address("web").await;
    proxy
        .until("checks pass", |status| status.pools["p"].servers.values().all(|s| s.health == Health::Up))
        .await;
    assert_eq!(spread(web, 100).await["s2"], 50, "nobody starts slowly with the proxy");
    servers[1].kill().await;
    proxy.until("its loss is noticed", is("s2", Health::Down)).await;
    servers[1].revive().await;
    let status = proxy.until("it is back", is("s2", Health::Up)).await;
    let early = spread(web, 100).await.get("s2").copied().unwrap_or_default();
    let percent = status.pools["p"].servers["s2"].weight_percent;
    assert!((10..50).contains(&percent), "{percent}%");
    assert!((5..=35).contains(&early), "{early} of 100 requests");
    let full = |status: &ProxyStatus| status.pools["p"].servers["s2"].weight_percent == 100;
    proxy.until("it has all of its weight", full).await;
    assert_eq!(spread(web, 100).await["s2"], 50);
}
