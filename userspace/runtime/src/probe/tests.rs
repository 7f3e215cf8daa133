use std::io::Write;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use weir_model::Snapshot;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

/// The check of a pool that says `text`.
fn check(text: &str) -> Check {
    let text = format!("[pool.p]\ncheck = {{ {text} }}\n");
    let file = weir_model::SourceFile { path: "t.toml".into(), text };
    Snapshot::read(&[file]).unwrap().pools["p"].check.clone().unwrap()
}

/// Reads a request and says `answer`, once; the request is the result.
async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> String {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n")
        && stream.read_buf(&mut request).await.unwrap_or(0) > 0
    {}
    // The other side may have heard enough.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    String::from_utf8_lossy(&request).into_owned()
}

async fn server(answer: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), answer.into());
    (address, tokio::spawn(async move { say(listener.accept().await.unwrap().0, &answer).await }))
}

/// One that speaks without being asked, as agents do.
async fn agent(line: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
        }
    });
    address
}

async fn probed(check: &Check, address: SocketAddr) -> ProbeResult {
    run(&ProbeTarget::check(check, address, Path::new("/nowhere")), LIMIT).await
}

async fn answered(answer: &'static [u8]) -> ProbeResult {
    let (address, served) = server(answer).await;
    let result = run(&ProbeTarget::readiness(address, &[]), LIMIT).await;
    served.await.unwrap();
    result
}

fn down(why: &str) -> ProbeResult {
    ProbeResult::Down(why.into())
}

#[tokio::test]
async fn an_answer_is_up_draining_or_down() {
    assert_eq!(answered(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await, ProbeResult::Up);
    assert_eq!(answered(b"HTTP/1.1 503 x\r\ncontent-length: 8\r\n\r\ndraining").await, ProbeResult::Draining);
    assert_eq!(answered(b"HTTP/1.1 503 x\r\n\r\nbroken").await, down("status 503"));
    assert_eq!(answered(b"HTTP/1.0 404\r\n\r\n").await, down("status 404"));
    assert!(matches!(answered(b"SSH-2.0\r\n").await, ProbeResult::Down(_)));
    assert!(matches!(answered(b"").await, ProbeResult::Down(_)));
}

#[tokio::test]
async fn nobody_listening_is_down_and_silence_ends_by_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tcp = check("kind = \"tcp\"");
    assert_eq!(probed(&tcp, address).await, ProbeResult::Up);
    let limit = Duration::from_millis(20);
    for kind in ["kind = \"http\"", "kind = \"https\"", "kind = \"tls\"", "kind = \"agent\", port = 9"] {
        let silent = Check { port: None, ..check(kind) };
        let target = ProbeTarget::check(&silent, address, Path::new(""));
        assert_eq!(run(&target, limit).await, down("no answer within 20ms"), "{kind}");
    }
    drop(listener);
    assert!(matches!(probed(&tcp, address).await, ProbeResult::Down(_)));
}

#[tokio::test]
async fn a_request_is_made_as_the_check_says() {
    let check = check(
        "kind = \"http\", method = \"POST\", path = \"/ping\", host = \"a.example\", version = \"1.0\", \
         headers = { X-Key = \"k v\", user-agent = \"me\" }",
    );
    let (address, served) = server("HTTP/1.0 204 No Content\r\n\r\n").await;
    assert_eq!(probed(&check, address).await, ProbeResult::Up);
    assert_eq!(
        served.await.unwrap(),
        "POST /ping HTTP/1.0\r\nhost: a.example\r\nX-Key: k v\r\nuser-agent: me\r\naccept: */*\r\nconnection: close\r\n\r\n"
    );
}

#[tokio::test]
async fn status_and_body_decide_whatever_the_framing() {
    let text = "body_contains = \"ready\"";
    let pattern = "body_matches = '^ok: \\d+ users$'";
    let both = "body_contains = \"ready\", body_matches = '(?i)READY\\z'";
    let codes = "expect = [[200, 299], [404, 404]]";
    let no_text = down("the body does not contain \"ready\"");
    let no_match = down("the body does not match \"^ok: \\\\d+ users$\"");
    for (extra, answer, expected) in [
        (text, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot ready", ProbeResult::Up),
        (text, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nready", no_text.clone()),
        (text, "HTTP/1.1 200 ready\r\nx: ready\r\n\r\n", no_text.clone()),
        (
            text,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n",
            ProbeResult::Up,
        ),
        (text, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nready", down("a broken chunk")),
        (text, "HTTP/1.1 500 x\r\ncontent-length: 5\r\n\r\nready", down("status 500")),
        (text, "HTTP/1.1 200 OK\r\nbro", no_text.clone()),
        (pattern, "HTTP/1.0 200 OK\r\n\r\nok: 17 users", ProbeResult::Up),
        (pattern, "HTTP/1.0 200 OK\r\n\r\nok: 17 users.", no_match.clone()),
        (pattern, "HTTP/1.0 200 OK\r\n\r\nok: \u{664} users", no_match),
        (both, "HTTP/1.0 200 OK\r\n\r\nit is Ready, ready", ProbeResult::Up),
        (codes, "HTTP/1.1 404 x\r\n\r\n", ProbeResult::Up),
        (codes, "HTTP/1.1 301 x\r\n\r\n", down("status 301")),
    ] {
        let (address, _served) = server(answer).await;
        let check = check(&format!("kind = \"http\", {extra}"));
        assert_eq!(probed(&check, address).await, expected, "{extra}: {answer:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let far = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &vec![b'x'; 1 << 20], b"ready"].concat();
    let head = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"x: y\r\n".repeat(1 << 16)].concat();
    let line = vec![b'x'; 1 << 20];
    for (answer, expected) in [
        (far, "the body does not contain \"ready\""),
        (head, "a head that is too large"),
        (line, "not an HTTP/1 answer"),
    ] {
        let (address, _served) = server(answer).await;
        let ProbeResult::Down(why) =
            probed(&check("kind = \"http\", body_contains = \"ready\""), address).await
        else {
            panic!("it passed")
        };
        assert!(why.starts_with(expected), "{why}");
    }
}

/// A server with a certificate for `a.example`, and the file of the authority that signed it.
async fn tls_server(answer: &'static [u8]) -> (SocketAddr, tempfile::TempDir) {
    let issuer = CertifiedIssuer::self_signed(
        {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        },
        KeyPair::generate().unwrap(),
    )
    .unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["a.example".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("ca.pem")).unwrap().write_all(issuer.pem().as_bytes()).unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    say(stream, answer).await;
                }
            });
        }
    });
    (address, dir)
}

#[tokio::test]
async fn a_handshake_suffices_unless_an_authority_and_a_name_are_asked_for() {
    let (address, dir) = tls_server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    for (extra, expected) in [
        ("", ""),
        ("tls = { ca = \"ca.pem\", name = \"a.example\" }", ""),
        ("tls = { ca = \"ca.pem\", name = \"b.example\" }", "tls handshake: "),
        ("tls = { ca = \"ca.pem\" }", "tls handshake: "),
        ("tls = { ca = \"empty.pem\", name = \"a.example\" }", "ca "),
        ("tls = { ca = \"none.pem\", name = \"a.example\" }", "ca "),
    ] {
        for kind in ["tls", "https"] {
            let check = check(format!("kind = \"{kind}\", {extra}").trim_end_matches([',', ' ']));
            let result = run(&ProbeTarget::check(&check, address, dir.path()), LIMIT).await;
            match result {
                ProbeResult::Up => assert!(expected.is_empty(), "{kind}, {extra} passed"),
                ProbeResult::Down(why) => {
                    assert!(!expected.is_empty() && why.starts_with(expected), "{kind}, {extra}: {why}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let by_host = check(
        "kind = \"https\", host = \"a.example:8443\", tls = { ca = \"ca.pem\" }, body_contains = \"ok\"",
    );
    assert_eq!(run(&ProbeTarget::check(&by_host, address, dir.path()), LIMIT).await, ProbeResult::Up);
    let plain = agent("HTTP/1.1 400 x\r\n\r\n").await;
    assert!(matches!(probed(&check("kind = \"tls\""), plain).await, ProbeResult::Down(_)));
}

#[tokio::test]
async fn an_agent_is_heard_and_beside_other_checks_its_silence_means_nothing() {
    let said = |line: &str| ProbeResult::Said(Said::read(line.as_bytes()).unwrap());
    let agent = agent("up 50%\n").await;
    let alone = check(&format!("kind = \"agent\", port = {}", agent.port()));
    assert_eq!(probed(&alone, agent).await, said("up 50%"));
    let (web, _served) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let beside = check(&format!("kind = \"http\", and = [{{ kind = \"agent\", port = {} }}]", agent.port()));
    assert_eq!(probed(&beside, web).await, said("up 50%"));

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (web, _served) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let gone = check(&format!("kind = \"http\", and = [{{ kind = \"agent\", port = {closed} }}]"));
    assert_eq!(probed(&gone, web).await, ProbeResult::Said(Said::default()));
    let alone = check(&format!("kind = \"agent\", port = {closed}"));
    assert!(matches!(probed(&alone, web).await, ProbeResult::Down(_)));
}

#[tokio::test]
async fn of_several_checks_all_must_pass_and_the_one_that_does_not_is_named() {
    let (web, _served) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = open.local_addr().unwrap().port();
    let all = check(&format!("kind = \"http\", and = [{{ kind = \"tcp\", port = {port} }}]"));
    assert_eq!(probed(&all, web).await, ProbeResult::Up);
    drop(open);
    let (web, _served) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let ProbeResult::Down(why) = probed(&all, web).await else { panic!("it passed") };
    assert!(why.starts_with(&format!("127.0.0.1:{port}: ")), "{why}");
}
