use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use weir_model::{Timestamp, status::Health};

use crate::{
    clients::{Client, field, get_from, get_request},
    servers::Server,
    subject::Proxy,
};

const ZONES: [&str; 3] = ["az1", "az2", "az3"];

/// Two servers in each of three zones, named after their zone.
async fn servers() -> Vec<Server> {
    let mut servers = Vec::new();
    for zone in ZONES {
        for index in 1..=2 {
            servers.push(Server::start(&format!("{zone}-{index}")).await);
        }
    }
    servers
}

fn config(servers: &[Server], pool: &str) -> String {
    let mut text = format!(
        "[zone.az1]\nclient_prefixes = [\"127.0.1.0/24\"]\n\
         [zone.az2]\nclient_prefixes = [\"127.0.2.0/24\"]\n\
         [zone.az3]\nclient_prefixes = [\"127.0.3.0/24\"]\n\
         [pool.p]\ncheck = {{ kind = \"http\", path = \"/health\", interval = \"50ms\", fall = 2 }}\n{pool}\n\
         [listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n"
    );
    for server in servers {
        let zone = server.name.split('-').next().unwrap();
        text.push_str(&format!(
            "[server.{}]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"{zone}\"\n",
            server.name, server.address
        ));
    }
    text
}

async fn all_up(proxy: &Proxy) {
    proxy
        .until("all servers are up", |status| {
            status.pools["p"].servers.values().all(|server| server.health == Health::Up)
        })
        .await;
}

/// The zone that serves each client of a home zone.
async fn served(web: SocketAddr, home: u8) -> BTreeMap<IpAddr, String> {
    let mut zones = BTreeMap::new();
    for client in 1..=60u8 {
        let client = IpAddr::from([127, 0, home, client]);
        let answer = get_from(client, web, "/").await;
        assert_eq!(answer.status(), 200);
        zones.insert(client, field(&answer, "x-served-by").split('-').next().unwrap().to_owned());
    }
    zones
}

fn count(served: &BTreeMap<IpAddr, String>, zone: &str) -> usize {
    served.values().filter(|seen| *seen == zone).count()
}

#[tokio::test]
async fn a_zone_without_servers_is_shared_evenly_by_the_others_and_its_clients_return() {
    let mut servers = servers().await;
    let proxy = Proxy::start(&config(&servers, ""), &[]).await;
    let web = proxy.address("web").await;
    all_up(&proxy).await;
    for (home, zone) in (1..).zip(ZONES) {
        assert_eq!(count(&served(web, home).await, zone), 60, "clients of {zone} are not at home");
    }
    for server in &mut servers[..2] {
        server.kill().await;
    }
    // From the first request on, before any check has failed: none is lost.
    let during = served(web, 1).await;
    assert_eq!(count(&during, "az1"), 0);
    proxy
        .until("the loss is noticed", |status| {
            let shares = &status.pools["p"].shares["az1"];
            !shares.contains_key("az1") && (shares["az2"] - 0.5).abs() < 1e-9
        })
        .await;
    let after = served(web, 1).await;
    for zone in ["az2", "az3"] {
        let n = count(&after, zone);
        assert!((18..=42).contains(&n), "{n} of 60 clients are served by {zone}");
    }
    assert_eq!(served(web, 1).await, after, "clients do not stay where they are");
    assert_eq!(count(&served(web, 2).await, "az2"), 60, "clients of az2 were disturbed");
    for server in &mut servers[..2] {
        server.revive().await;
    }
    all_up(&proxy).await;
    assert_eq!(count(&served(web, 1).await, "az1"), 60);
}

#[tokio::test]
async fn a_failover_moves_a_share_and_ends_by_itself() {
    let servers = servers().await;
    let proxy = Proxy::start(&config(&servers, ""), &[]).await;
    let web = proxy.address("web").await;
    all_up(&proxy).await;
    let now = SystemTime::now();
    let at = |offset_ms: u64| Timestamp(now + Duration::from_millis(offset_ms)).to_string();
    proxy.write(
        "failover.toml",
        &format!("[failover.f]\nzone = \"az1\"\ncreated = \"{}\"\nexpires = \"{}\"\n", at(0), at(2_500)),
    );
    let home_share = |status: &weir_model::status::ProxyStatus| {
        status.pools["p"].shares["az1"].get("az1").copied().unwrap_or(0.0)
    };
    proxy.until("it is in force", |status| home_share(status) == 0.0).await;
    let moved = get_from([127, 0, 1, 9].into(), web, "/").await;
    assert_ne!(&field(&moved, "x-served-by")[..3], "az1");
    proxy.until("it has ended", |status| home_share(status) == 1.0).await;
    assert!(SystemTime::now() < now + Duration::from_millis(4_000), "it ended late");
    assert_eq!(count(&served(web, 1).await, "az1"), 60);
}

#[tokio::test]
async fn a_cookie_keeps_a_browser_in_its_zone_and_a_forged_one_does_not() {
    let servers = servers().await;
    let sticky = "sticky = { cookie = \"zone\", key = \"0123456789abcdef\" }";
    let proxy = Proxy::start(&config(&servers, sticky), &[]).await;
    let web = proxy.address("web").await;
    all_up(&proxy).await;
    let answer = get_from([127, 0, 1, 1].into(), web, "/").await;
    let set = field(&answer, "set-cookie").to_owned();
    assert!(set.starts_with("zone=az1:") && set.contains("HttpOnly"), "{set:?}");
    let cookie = set.split(';').next().unwrap();

    // The same browser from an address whose home is az2.
    for (cookie, zone) in [(cookie.to_owned(), "az1"), (cookie.replace("az1", "az3"), "az2")] {
        let mut client = Client::connect_from([127, 0, 2, 1].into(), web).await.unwrap();
        let mut request = get_request("/");
        request.headers_mut().insert("cookie", format!("a=b; {cookie}").parse().unwrap());
        let answer = client.send(request).await.unwrap();
        assert_eq!(&field(&answer, "x-served-by")[..3], zone, "{cookie}");
        assert_eq!(field(&answer, "set-cookie").is_empty(), zone == "az1");
    }
}
