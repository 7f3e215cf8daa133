//! Access lists through a running `weir-l4`, with real datagrams.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use weir_model::status::L4Status;
use weir_runtime::access::{self, Reply, Request};
use weir_tests::rig::{Rig, VIP4, VIP6, config, own4};

/// The client: the router itself.
fn client() -> IpAddr {
    own4(1, 1).into()
}

fn list(until: &str) -> String {
    format!("[access.mine]\naction = \"block\"\nentries = [{{ prefix = \"{}/32\"{until} }}]\n", client())
}

/// Asks until the client is answered, or until it is not, as wished.
fn until_answered(rig: &Rig, wished: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while rig.ask(VIP4.into(), b"may I?").is_ok() != wished {
        assert!(
            Instant::now() < deadline,
            "the client is never {}",
            if wished { "answered" } else { "blocked" }
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blocked_source_gets_no_answer_until_the_list_goes() {
    let rig = Rig::build().await.expect("rig");
    until_answered(&rig, true);
    rig.configure("access.toml", &list("")).expect("write");
    let hits = |status: &L4Status| status.access_hits.get("mine").copied();
    rig.until(0, "the list", |status| hits(status).is_some()).await.expect("status");
    assert!(rig.ask(VIP4.into(), b"may I?").is_err());
    rig.ask(VIP6.into(), b"and by IPv6?").expect("another address is not blocked");
    rig.until(0, "a hit", |status| hits(status) > Some(0)).await.expect("status");
    rig.deconfigure("access.toml").expect("remove");
    until_answered(&rig, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_entry_with_an_end_ends_though_weir_l4_is_dead() {
    let mut rig = Rig::build().await.expect("rig");
    let end = weir_model::Timestamp(std::time::SystemTime::now() + Duration::from_secs(8));
    rig.configure("access.toml", &list(&format!(", until = \"{end}\""))).expect("write");
    let listed = |status: &L4Status| status.access_hits.contains_key("mine");
    rig.until(0, "the list", listed).await.expect("status");
    rig.kill(0).expect("kill");
    assert!(rig.ask(VIP4.into(), b"may I?").is_err());
    until_answered(&rig, true);
    rig.start(0).expect("start");
    let status = rig.until(0, "it is back", |status| status.vips.contains_key("dns")).await.expect("status");
    assert!(status.adopted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_blocked_for_the_moment_survives_a_restart_and_ends() {
    let mut rig = Rig::build().await.expect("rig");
    let socket = rig.run_dir(0).join(access::SOCKET);
    let prefix = client().into();
    let (reason, from) = (String::from("too many requests"), String::from("test"));
    let block = |ttl| Request::Block { prefix, ttl, reason: reason.clone(), from: from.clone() };
    let reply = access::ask(&socket, &block(Duration::from_secs(3600))).await.expect("an answer");
    assert_eq!(reply, Reply::Ok);
    assert!(rig.ask(VIP4.into(), b"may I?").is_err());
    let status = rig.until(0, "it is shown", |status| status.blocked_count == 1).await.expect("status");
    let shown = &status.blocked[0];
    assert_eq!(
        (shown.prefix, shown.reason.as_str(), shown.from.as_str()),
        (prefix, "too many requests", "test")
    );
    assert!((3_500..=3_601).contains(&shown.seconds_left), "{shown:?}");

    rig.kill(0).expect("kill");
    rig.start(0).expect("start");
    let again = rig.until(0, "it is still shown", |status| status.blocked_count == 1).await.expect("status");
    assert!(again.adopted && again.last_plan.is_empty(), "{:?}", again.last_plan);
    assert!(rig.ask(VIP4.into(), b"may I?").is_err());

    // Again is for a while from now: here for a shorter one.
    let reply = access::ask(&socket, &block(Duration::from_secs(2))).await.expect("an answer");
    assert_eq!(reply, Reply::Ok);
    until_answered(&rig, true);
    rig.until(0, "it is gone", |status| status.blocked_count == 0).await.expect("status");
    let reply = access::ask(&socket, &Request::Unblock { prefix }).await.expect("an answer");
    assert!(matches!(reply, Reply::Error(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sources_of_a_canary_group_are_served_by_it_and_nobody_else_is() {
    let rig = Rig::build().await.expect("rig");
    let canary = format!(
        "{}sources = [{{ prefixes = [\"{}/32\"], group = \"canary\" }}]\n[group.canary]\nnodes = [\"h2\"]\n",
        config(),
        client()
    );
    let before = rig.until(0, "a status", |_| true).await.expect("status").config.generation;
    rig.configure("rig.toml", &canary).expect("write");
    for host in 0..2 {
        let changed = |status: &L4Status| status.config.generation != before;
        rig.until(host, "the new configuration", changed).await.expect("status");
    }
    // The client's IPv6 address is no source of the canary.
    let mut elsewhere = 0;
    for _ in 0..40 {
        assert_eq!(rig.ask(VIP4.into(), b"who?").expect("an answer"), 1);
        elsewhere += usize::from(rig.ask(VIP6.into(), b"who?").expect("an answer") == 0);
    }
    assert!(elsewhere > 5, "{elsewhere}");
}
