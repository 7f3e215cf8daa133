//! Where certificates come from, what is stapled to them, what is demanded of clients, and whose sessions are resumed.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
};
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;

use crate::{
    authority::{Authority, connect, leaf, read_to_end, staple},
    servers::Server,
    subject::{LIMIT, Proxy},
};

/// A listener `web` with this in its `tls` table, and one server.
fn config(server: &Server, tls: &str) -> String {
    format!(
        "[zone.az1]\n[pool.p]\n[listener.web]\nprotocol = \"https\"\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
         routes = [{{ path = \"/admin\", pool = \"p\", client_certificate = CLIENT }}]\n\
         [listener.web.tls]\n{tls}\n\
         [server.s]\npools = [\"p\"]\naddress = \"{}\"\nzone = \"az1\"\n",
        server.address
    )
    .replace("CLIENT", if tls.contains("client") { "true" } else { "false" })
}

/// One request on a connection of its own: the status line, and how hands were shaken.
async fn ask(
    client: &Arc<ClientConfig>,
    to: SocketAddr,
    name: &str,
    path: &str,
) -> std::io::Result<(String, HandshakeKind)> {
    let mut stream = connect(client, to, name).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let answer = read_to_end(&mut stream).await?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    Ok((answer.lines().next().unwrap_or_default().to_owned(), kind))
}

const OK: &str = "HTTP/1.1 200 OK";

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_file_dropped_into_the_directory_is_served_and_a_bad_one_leaves_what_was() {
    let server = Server::start("s").await;
    let authority = Authority::new();
    let proxy = Proxy::spawn(&config(&server, "directory = \"certs\""), &[], &[]);
    std::fs::create_dir_all(proxy.config_dir().join("certs")).unwrap();
    let web = proxy.address("web").await;
    assert!(authority.connect(web, "a.example", &[]).await.is_err(), "there is no certificate yet");

    proxy.write("certs/a.pem", &authority.sign_in_one(&["a.example"]));
    until("a file is served", || async { authority.connect(web, "a.example", &[]).await.is_ok() }).await;
    let (certificate, key) = authority.sign(&["*.b.example"]);
    proxy.write("certs/b.crt", &certificate);
    proxy.write("certs/b.key", &key);
    until("a pair is served", || async { authority.connect(web, "x.b.example", &[]).await.is_ok() }).await;

    // Cut in half, with the key of another, and no certificate at all: beside them a good one comes.
    let before = leaf(&authority.connect(web, "a.example", &[]).await.unwrap());
    let renewed = authority.sign_in_one(&["a.example"]);
    proxy.write("certs/a.pem", &renewed[..renewed.len() / 2]);
    proxy.write("certs/d.crt", &certificate);
    proxy.write("certs/d.key", &authority.sign(&["d.example"]).1);
    proxy.write("certs/e.pem", "nothing of the kind");
    proxy.write("certs/c.pem", &authority.sign_in_one(&["c.example"]));
    until("the good one is served", || async { authority.connect(web, "c.example", &[]).await.is_ok() })
        .await;
    assert_eq!(leaf(&authority.connect(web, "a.example", &[]).await.unwrap()), before);
    let refused = || async {
        let metrics = proxy.metrics().await;
        metrics.lines().any(|line| line == "weir_proxy_certificate_files_refused 3")
    };
    until("all three are counted", refused).await;
    assert!(proxy.log().contains("what it was stays: "), "nothing is said of the file cut in half");

    proxy.write("certs/a.pem", &renewed);
    let is_renewed = || async { leaf(&authority.connect(web, "a.example", &[]).await.unwrap()) != before };
    until("the whole file is served", is_renewed).await;
    std::fs::remove_file(proxy.config_dir().join("certs/c.pem")).unwrap();
    until("a removed one is not", || async { authority.connect(web, "c.example", &[]).await.is_err() }).await;
    let metrics = proxy.metrics().await;
    let expires = "weir_proxy_certificate_expires_timestamp_seconds{certificate=\"";
    assert_eq!(metrics.lines().filter(|line| line.starts_with(expires)).count(), 2, "{metrics}");
}

#[tokio::test]
async fn an_ocsp_response_is_stapled_while_it_is_valid() {
    let server = Server::start("s").await;
    let authority = Authority::new();
    let proxy = Proxy::spawn(&config(&server, "directory = \"certs\""), &[], &[]);
    let certs = proxy.config_dir().join("certs");
    std::fs::create_dir_all(&certs).unwrap();
    let web = proxy.address("web").await;
    let (certificate, key) = authority.sign(&["a.example"]);
    let good = staple(&certificate, SystemTime::now() + Duration::from_secs(3600));
    std::fs::write(certs.join("a.ocsp"), &good).unwrap();
    std::fs::write(certs.join("a.pem"), format!("{certificate}{key}")).unwrap();
    until("it is served", || async { authority.connect(web, "a.example", &[]).await.is_ok() }).await;
    assert_eq!(authority.stapled(web, "a.example").await, good);

    let other = staple(&authority.sign(&["b.example"]).0, SystemTime::now() + Duration::from_secs(3600));
    let expired = staple(&certificate, SystemTime::now() - Duration::from_secs(3600));
    for (what, bytes) in [("of another", other), ("expired", expired), ("cut in half", good[..99].to_vec())] {
        std::fs::write(certs.join("a.ocsp"), &bytes).unwrap();
        until(what, || async { authority.stapled(web, "a.example").await.is_empty() }).await;
        std::fs::write(certs.join("a.ocsp"), &good).unwrap();
        until("the good one is back", || async { authority.stapled(web, "a.example").await == good }).await;
    }
    let short = staple(&certificate, SystemTime::now() + Duration::from_secs(5));
    std::fs::write(certs.join("a.ocsp"), &short).unwrap();
    until("the short one is there", || async { authority.stapled(web, "a.example").await == short }).await;
    until("it is gone by itself", || async { authority.stapled(web, "a.example").await.is_empty() }).await;
}

#[tokio::test]
async fn clients_show_certificates_where_they_must() {
    let server = Server::start("s").await;
    let (authority, staff, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = authority.sign(&["a.example"]);
    let files =
        [("a.pem", certificate), ("a.key", key), ("staff.pem", staff.pem.clone()), ("bad.pem", "x".into())];
    let named = "certificates = [{ certificate = \"a.pem\", key = \"a.key\" }]\n";
    let required = format!("{named}client = {{ ca = \"staff.pem\" }}");
    let proxy = Proxy::start_with_files(&config(&server, &required), &files, &[]).await;
    let web = proxy.address("web").await;
    let member = Arc::new(authority.client_of(&staff));
    let nobody = Arc::new(authority.client());
    let stranger = Arc::new(authority.client_of(&strangers));
    assert_eq!(ask(&member, web, "a.example", "/admin").await.unwrap().0, OK);
    assert!(ask(&nobody, web, "a.example", "/").await.is_err());
    assert!(ask(&stranger, web, "a.example", "/").await.is_err());

    let optional = format!("{named}client = {{ ca = \"staff.pem\", required = false }}");
    proxy.write("a.toml", &config(&server, &optional));
    until("it is optional", || async { ask(&nobody, web, "a.example", "/").await.is_ok() }).await;
    assert_eq!(ask(&nobody, web, "a.example", "/admin").await.unwrap().0, "HTTP/1.1 403 Forbidden");
    assert_eq!(ask(&member, web, "a.example", "/admin").await.unwrap().0, OK);
    assert_eq!(ask(&member, web, "a.example", "/admin").await.unwrap(), (OK.into(), HandshakeKind::Resumed));
    assert!(ask(&stranger, web, "a.example", "/").await.is_err());

    // Whoever was let in without a certificate does not come in by that where one is demanded.
    let (_, kind) = ask(&nobody, web, "a.example", "/").await.unwrap();
    assert_eq!(kind, HandshakeKind::Resumed);
    proxy.write("a.toml", &config(&server, &required));
    until("it is required again", || async { ask(&nobody, web, "a.example", "/").await.is_err() }).await;

    proxy.write("a.toml", &config(&server, &required.replace("staff", "bad")));
    let status = proxy.until("it is refused", |status| !status.config.refused.is_empty()).await;
    assert_eq!(status.config.refused[0].path, "listener.web.tls.client.ca");
    assert_eq!(ask(&member, web, "a.example", "/admin").await.unwrap().0, OK);
}

/// Gives every name the sessions of one.
#[derive(Debug)]
struct AnyName(ClientSessionMemoryCache);

impl AnyName {
    fn name() -> ServerName<'static> {
        ServerName::try_from("any.example").unwrap()
    }
}

impl ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::name(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::name())
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::name(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::name())
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::name());
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::name(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::name())
    }
}

#[tokio::test]
async fn sessions_are_resumed_over_a_reload_and_never_under_another_name() {
    let server = Server::start("s").await;
    let authority = Authority::new();
    let (certificate, key) = authority.sign(&["a.example", "b.example"]);
    let files = [("a.pem", certificate), ("a.key", key)];
    let tls = "certificates = [{ certificate = \"a.pem\", key = \"a.key\" }]\n";
    let proxy = Proxy::start_with_files(&config(&server, tls), &files, &[]).await;
    let web = proxy.address("web").await;
    for (round, version) in [&rustls::version::TLS13, &rustls::version::TLS12].into_iter().enumerate() {
        let mut client = authority.client_of_versions(&[version]);
        client.resumption = Resumption::store(Arc::new(AnyName(ClientSessionMemoryCache::new(8))));
        let client = Arc::new(client);
        let (_, first) = ask(&client, web, "a.example", "/").await.unwrap();
        assert_ne!(first, HandshakeKind::Resumed);
        assert_eq!(ask(&client, web, "a.example", "/").await.unwrap().1, HandshakeKind::Resumed);
        let generation = proxy.status().await.unwrap().config.generation;
        proxy.write("a.toml", &config(&server, &format!("{tls}[pool.p{round}]\n")));
        proxy.until("it is reloaded", |status| status.config.generation != generation).await;
        assert_eq!(ask(&client, web, "a.example", "/").await.unwrap().1, HandshakeKind::Resumed);
        assert_ne!(ask(&client, web, "b.example", "/").await.unwrap().1, HandshakeKind::Resumed);
    }
    let only_13 = format!("{tls}min_version = \"1.3\"\n");
    proxy.write("a.toml", &config(&server, &only_13));
    let old = Arc::new(authority.client_of_versions(&[&rustls::version::TLS12]));
    until("1.2 is refused", || async { ask(&old, web, "a.example", "/").await.is_err() }).await;
    assert!(authority.connect(web, "a.example", &[]).await.is_ok());
}
