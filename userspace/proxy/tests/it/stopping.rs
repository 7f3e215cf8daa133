use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use weir_runtime::status;

use crate::{
    clients::{Client, Load, get},
    servers::Server,
    subject::Proxy,
};

fn config(server: &Server) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
}

#[tokio::test]
async fn a_stop_drains_first_and_finishes_what_is_open() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(700, SeqCst);
    let mut proxy = Proxy::start(&config(&server), &["--drain-wait", "300ms"]).await;
    let web = proxy.address("web").await;
    let mut idle = Client::connect(web).await.unwrap();
    assert_eq!(idle.get("/").await.unwrap().status(), 200);
    let load = Load::start(web, 4);
    let slow = tokio::spawn(async move { get(web, "/slow").await });
    while server.requests() < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.terminate();
    proxy.until("it says that it drains", |status| status.draining).await;
    let refused = status::get(&proxy.socket(), "/healthz").await.unwrap_err();
    assert!(refused.to_string().contains("503"), "{refused}");
    // Whoever looks at healthz goes elsewhere now; up to here nothing was lost.
    let tally = load.finish().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(slow.await.unwrap().status(), 200);
    assert!(proxy.exited().await.success(), "{}", proxy.log());
    assert!(!proxy.socket().exists());
    assert!(proxy.log().contains("every connection has ended"), "{}", proxy.log());
    assert!(proxy.logged(1).await.iter().any(|line| line["target"] == "/slow" && line["status"] == 200));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let server = Server::start("s").await;
    server.state.delay_ms.store(60_000, SeqCst);
    let mut proxy = Proxy::start(&config(&server), &["--stop-timeout", "100ms"]).await;
    let web = proxy.address("web").await;
    let slow = tokio::spawn(async move { Client::connect(web).await.unwrap().get("/slow").await.is_err() });
    while server.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.terminate();
    assert!(proxy.exited().await.success());
    assert!(slow.await.unwrap());
}
