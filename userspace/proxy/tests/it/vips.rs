use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::timeout;
use weir_runtime::{
    probe::{self, ProbeResult, ProbeTarget},
    steer::{self, Reply},
};

use crate::{
    clients::{field, get},
    servers::Server,
    subject::{LIMIT, Proxy},
    upgrade::only_child,
};

fn config(server: &Server, probe_port: u16) -> String {
    format!(
        r#"
[zone.az1]
[node.lb1]
zone = "az1"
address = "127.0.0.1"
address6 = "::1"
probe_port = {probe_port}
[group.g]
nodes = ["lb1"]
[vip.web]
addresses = ["192.0.2.1", "2001:db8::1"]
group = "g"
services = ["tcp/80"]
[listener.web]
protocol = "http"
vip = "web"
port = 80
pool = "p"
[pool.p]
check = {{ kind = "http", path = "/health", interval = "50ms", fall = 2 }}
[server.s]
pools = ["p"]
address = "{}"
zone = "az1"
"#,
        server.address
    )
}

#[tokio::test]
async fn vip_sockets_are_handed_over_and_only_then_the_node_is_healthy() {
    let mut server = Server::start("s").await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy::start(&config(&server, port), &["--node", "lb1"]).await;
    let group: weir_model::Name = "g".parse().unwrap();
    let healthz = |address: &str| {
        ProbeTarget::readiness(SocketAddr::new(address.parse::<IpAddr>().unwrap(), port), &[&group])
    };
    let foreign =
        ProbeTarget::readiness(SocketAddr::new([127, 0, 0, 1].into(), port), &[&"other".parse().unwrap()]);
    assert_eq!(probe::run(&healthz("127.0.0.1"), LIMIT).await, ProbeResult::Down("status 503".into()));

    let mut listener = steer::Listener::bind(&proxy.run_dir().join(steer::SOCKET)).await.unwrap();
    let mut sockets = Vec::new();
    for _family in 0..2 {
        let request = timeout(LIMIT, listener.next()).await.unwrap();
        assert_eq!(request.registration.service.to_string(), "tcp/80");
        sockets.push((request.registration.address, TcpListener::from(request.socket.try_clone().unwrap())));
        request.answer(Reply::Ok);
    }
    let status = proxy.until("it is steered", |status| status.listeners["web"].steered).await;
    assert_eq!((status.node.as_str(), status.zone.as_str()), ("lb1", "az1"));
    proxy.until("the VIP is deliverable", |status| status.vips["web"].deliverable).await;
    for address in ["127.0.0.1", "::1"] {
        assert_eq!(probe::run(&healthz(address), LIMIT).await, ProbeResult::Up);
    }
    assert_eq!(
        probe::run(&foreign, LIMIT).await,
        ProbeResult::Down("status 503".into()),
        "not of this group"
    );
    for (vip, socket) in &sockets {
        let local = socket.local_addr().unwrap();
        assert_eq!(vip.is_ipv4(), local.is_ipv4());
        assert!(local.ip().is_loopback());
        assert_eq!(field(&get(local, "/").await, "x-served-by"), "s");
    }

    server.kill().await;
    let status = proxy.until("the VIP is not deliverable", |status| !status.vips["web"].deliverable).await;
    assert_eq!(status.vips["web"].reason, "pool p has no server in any zone");
    // The loss of weir-l4 takes nothing away that the kernel has.
    drop(listener);
    proxy.until("the loss is seen", |status| !status.listeners["web"].steered).await;
    assert_eq!(probe::run(&healthz("127.0.0.1"), LIMIT).await, ProbeResult::Up);

    proxy.terminate();
}

/// Answers the next registrations of both families; says which sockets they are.
async fn steer_both(listener: &mut steer::Listener) -> BTreeSet<(IpAddr, u64)> {
    let mut sockets = BTreeSet::new();
    while sockets.len() < 2 {
        let request = timeout(LIMIT, listener.next()).await.unwrap();
        let socket = nix::sys::stat::fstat(&request.socket).unwrap().st_ino;
        sockets.insert((request.registration.address, socket));
        request.answer(Reply::Ok);
    }
    sockets
}

#[tokio::test]
async fn what_is_steered_to_outlives_upgrades_and_crashes_and_the_node_stays_healthy() {
    let server = Server::start("s").await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = Proxy::start(&config(&server, port), &["--node", "lb1", "--keep"]).await;
    let mut listener = steer::Listener::bind(&proxy.run_dir().join(steer::SOCKET)).await.unwrap();
    let sockets = steer_both(&mut listener).await;
    proxy.until("it is steered", |status| status.listeners["web"].steered).await;
    let group: weir_model::Name = "g".parse().unwrap();
    let target = ProbeTarget::readiness(SocketAddr::new([127, 0, 0, 1].into(), port), &[&group]);
    for round in 0..4 {
        let probing = AtomicBool::new(true);
        let probe = async {
            let (mut up, mut in_a_row) = (0, 0);
            while probing.load(SeqCst) {
                match probe::run(&target, LIMIT).await {
                    ProbeResult::Up => (up, in_a_row) = (up + 1, 0),
                    // Whom the old one had just accepted.
                    other => {
                        in_a_row += 1;
                        assert!(in_a_row < 2, "round {round}: {other:?}");
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            up
        };
        let change = async {
            let old = only_child(&proxy).await;
            if round % 2 == 0 {
                proxy.signal(Signal::SIGUSR2);
            } else {
                kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
            }
            // The successor registers the very same sockets: what the kernel steers to never changes.
            assert_eq!(steer_both(&mut listener).await, sockets, "round {round}");
            while proxy.children().contains(&old) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            proxy.until("it is steered", |status| status.listeners["web"].steered).await;
            probing.store(false, SeqCst);
        };
        let ((), up) = tokio::join!(change, probe);
        assert!(up > 0);
    }
}

#[tokio::test]
async fn without_a_node_vip_listeners_are_not_served_and_say_so() {
    let server = Server::start("s").await;
    let proxy = Proxy::start(&config(&server, 9180), &["--zone", "az1"]).await;
    let status = proxy.status().await.unwrap();
    assert!(!status.listeners["web"].error.is_empty());
    assert!(status.vips.is_empty());
}
