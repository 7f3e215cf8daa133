use std::time::Duration;

use crate::{
    clients::{Client, Load, field, get},
    servers::Server,
    subject::Proxy,
};

fn config(server: &Server, extra: &str) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"http\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         [server.{}]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n{extra}",
        server.name, server.address
    )
}

#[tokio::test]
async fn good_and_bad_changes_under_load_lose_no_request() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let proxy = Proxy::start(&config(&a, ""), &[]).await;
    let web = proxy.address("web").await;
    let mut kept = Client::connect(web).await.unwrap();
    assert_eq!(field(&kept.get("/").await.unwrap(), "x-served-by"), "a");
    let load = Load::start(web, 6);
    for round in 0..5 {
        let before = proxy.status().await.unwrap().config.generation;
        proxy.write("a.toml", "[listener.web]\nprotocol = \"htp\"\n");
        let status =
            proxy.until("the bad change is refused", |status| !status.config.refused.is_empty()).await;
        assert_eq!(status.config.generation, before);
        let server = if round % 2 == 0 { &b } else { &a };
        proxy.write("a.toml", &config(server, &format!("[zone.round{round}]\n")));
        proxy
            .until("the good change is in force", |status| {
                status.config.generation != before && status.config.refused.is_empty()
            })
            .await;
        let answer = kept.get("/").await.unwrap();
        assert_eq!(field(&answer, "x-served-by"), server.name, "round {round}");
    }
    let tally = load.finish().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(proxy.metrics().await.contains("weir_config_refused_total 5\n"));
}

#[tokio::test]
async fn listeners_come_and_go_and_an_address_in_use_is_refused() {
    let server = Server::start("a").await;
    let proxy = Proxy::start(&config(&server, ""), &[]).await;
    let web = proxy.address("web").await;
    let second =
        |bind: &str| format!("[listener.second]\nprotocol = \"http\"\nbind = \"{bind}\"\npool = \"p\"\n");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.write("b.toml", &second(&taken.local_addr().unwrap().to_string()));
    let status = proxy.until("it is refused", |status| !status.config.refused.is_empty()).await;
    assert!(status.config.refused[0].what.contains("cannot listen"), "{:?}", status.config.refused);
    assert_eq!(get(web, "/").await.status(), 200);

    proxy.write("b.toml", &second("127.0.0.2:0"));
    let other = proxy.address("second").await;
    assert_eq!(get(other, "/").await.status(), 200);

    let mut kept = Client::connect(other).await.unwrap();
    assert_eq!(kept.get("/").await.unwrap().status(), 200);
    std::fs::remove_file(proxy.config_dir().join("b.toml")).unwrap();
    proxy.until("it is gone", |status| !status.listeners.contains_key("second")).await;
    while Client::connect(other).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its connections end in good order.
    let _closed_or_told_to = kept.get("/").await;
    assert_eq!(get(web, "/").await.status(), 200);
}

#[tokio::test]
async fn a_listener_that_is_renamed_keeps_its_socket() {
    let server = Server::start("a").await;
    let text = config(&server, "");
    let proxy = Proxy::start(&text, &[]).await;
    let web = proxy.address("web").await;
    let load = Load::start(web, 4);
    proxy.write("a.toml", &text.replace("listener.web", "listener.shop"));
    assert_eq!(proxy.address("shop").await, web);
    assert_eq!(get(web, "/").await.status(), 200);
    let tally = load.finish().await;
    // A kept connection of the old listener is closed; a request just sent into it is the client's to repeat.
    let lost: Vec<_> =
        tally.failures.iter().filter(|failure| failure.contains("404") || failure.contains("50")).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn a_first_configuration_that_is_bad_ends_the_start_with_every_problem() {
    let mut proxy = Proxy::spawn("[listener.web]\nprotocol = \"http\"\n[zoen.a]\n", &[], &[]);
    assert_eq!(proxy.exited().await.code(), Some(1));
    let mut proxy = Proxy::spawn("[zone.a]\n", &[], &["--node", "nobody"]);
    assert_eq!(proxy.exited().await.code(), Some(1));
}
