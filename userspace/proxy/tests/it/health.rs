//! Checks of every kind, by the real proxy.

use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;
use weir_model::status::{Health, ProxyStatus};

use crate::{
    balance::{config, is, servers, spread},
    subject::Proxy,
};

const FAST: &str = "interval = \"50ms\", timeout = \"2s\", rise = 1, fall = 1";

/// An agent, and what it says.
async fn agent(line: &str) -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let line = Arc::new(Mutex::new(line.to_owned()));
    let says = Arc::clone(&line);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let line = says.lock().unwrap().clone();
            // Who asked may have gone.
            let _ = stream.write_all(line.as_bytes()).await;
        }
    });
    (port, line)
}

#[tokio::test]
async fn an_agent_drains_its_server_stops_it_and_says_its_weight() {
    let servers = servers(["s1"]).await;
    let (port, line) = agent("up 100%\n").await;
    let check = format!(
        "check = {{ kind = \"http\", path = \"/health\", {FAST}, and = [{{ kind = \"agent\", port = {port} }}] }}"
    );
    let text = config(&servers, &check);
    let proxy = Proxy::start(&text, &[]).await;
    proxy.until("checks pass", is("s1", Health::Up)).await;
    let say = |words: &str| words.clone_into(&mut line.lock().unwrap());
    say("drain\n");
    let status = proxy.until("it drains", is("s1", Health::Draining)).await;
    assert!(status.pools["p"].servers["s1"].reason.contains("no new flows"), "{status:?}");
    say("ready 20%\n");
    let weighs = |status: &ProxyStatus| {
        is("s1", Health::Up)(status) && status.pools["p"].servers["s1"].weight_percent == 20
    };
    proxy.until("it takes a fifth", weighs).await;
    say("down #disk full\n");
    let status = proxy.until("it is down", is("s1", Health::Down)).await;
    assert!(status.pools["p"].servers["s1"].reason.contains("disk full"), "{status:?}");
    say("up 100%\n");
    proxy.until("it is up", is("s1", Health::Up)).await;
}

#[tokio::test]
async fn what_an_agent_says_moves_new_requests() {
    let [one, two] = servers(["s1", "s2"]).await;
    let (port, line) = agent("up\n").await;
    // The agent answers for 127.0.0.1; s2 is asked at 127.0.0.2, where nobody answers, which beside another check means nothing.
    let check = format!(
        "check = {{ kind = \"tcp\", port = {}, {FAST}, and = [{{ kind = \"agent\", port = {port} }}] }}",
        two.address.port()
    );
    let web = two.address.port();
    let listener = tokio::net::TcpListener::bind(("127.0.0.2", web)).await.unwrap();
    let target = two.address;
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    let text = config(&[one], &check)
        + &format!("[server.s2]\npools = [\"p\"]\naddress = \"127.0.0.2:{web}\"\nzone = \"az1\"\n");
    let proxy = Proxy::start(&text, &[]).await;
    let address = proxy.address("web").await;
    proxy.until("checks pass", |s| is("s1", Health::Up)(s) && is("s2", Health::Up)(s)).await;
    assert_eq!(spread(address, 60).await["s1"], 30);
    "drain\n".clone_into(&mut line.lock().unwrap());
    proxy.until("it drains", is("s1", Health::Draining)).await;
    assert_eq!(spread(address, 60).await.get("s1"), None);
    "ready up 25%\n".clone_into(&mut line.lock().unwrap());
    proxy.until("it is up", is("s1", Health::Up)).await;
    assert_eq!(spread(address, 60).await["s1"], 12);
}

#[tokio::test]
async fn a_check_reads_the_body_and_looks_at_every_port() {
    let servers = servers(["s1"]).await;
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = second.local_addr().unwrap().port();
    let check = format!(
        "check = {{ kind = \"http\", path = \"/health\", body_matches = '^ok: [1-9]\\d* users\\n$', {FAST}, \
         and = [{{ kind = \"tcp\", port = {port} }}] }}"
    );
    let say = |words: &str| *servers[0].state.health.lock().unwrap() = Some(words.to_owned());
    say("ok: 17 users");
    let proxy = Proxy::start(&config(&servers, &check), &[]).await;
    proxy.until("it is up", is("s1", Health::Up)).await;
    say("ok: 0 users");
    let status = proxy.until("it is down", is("s1", Health::Down)).await;
    let reason = |status: &ProxyStatus| status.pools["p"].servers["s1"].reason.clone();
    assert!(reason(&status).contains("the body does not match"), "{}", reason(&status));
    say("ok: 1 users");
    proxy.until("it is up again", is("s1", Health::Up)).await;
    drop(second);
    let status = proxy.until("a port is gone", is("s1", Health::Down)).await;
    assert!(reason(&status).contains(&format!("127.0.0.1:{port}")), "{}", reason(&status));
}

#[tokio::test]
async fn a_check_by_tls_wants_the_certificate_it_was_told_to_want() {
    let servers = servers(["s1"]).await;
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["a.example".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that trusts nobody hangs up.
                let _ = acceptor.accept(stream).await;
            });
        }
    });
    let check = |name: &str| {
        let tls = format!("tls = {{ ca = \"ca.pem\", name = \"{name}\" }}");
        config(&servers, &format!("check = {{ kind = \"tls\", port = {port}, {tls}, {FAST} }}"))
    };
    let files = [("ca.pem", issuer.pem())];
    let proxy = Proxy::start_with_files(&check("a.example"), &files, &[]).await;
    proxy.until("it is up", is("s1", Health::Up)).await;
    proxy.write("a.toml", &check("b.example"));
    let status = proxy.until("it is down", is("s1", Health::Down)).await;
    let reason = &status.pools["p"].servers["s1"].reason;
    assert!(reason.contains("tls handshake"), "{reason}");
}
