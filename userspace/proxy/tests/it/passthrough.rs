//! TLS that is passed on by its server name.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::{Authority, read_to_end},
    subject::Proxy,
};

/// A server that ends TLS itself and says its name.
async fn serve(authority: &Authority, name: &'static str) -> String {
    let (certificate, key) = authority.sign(&[name]);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await?;
                stream.write_all(name.as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

#[tokio::test]
async fn tls_goes_undecrypted_to_the_pool_of_its_server_name() {
    let authority = Authority::new();
    let (a, b) = (serve(&authority, "a.example").await, serve(&authority, "x.b.example").await);
    let proxy = Proxy::start(
        &format!(
            "[zone.az1]\n[pool.a]\n[pool.b]\n[listener.tls]\nprotocol = \"tls-passthrough\"\n\
             bind = \"127.0.0.1:0\"\n\
             routes = [{{ hosts = [\"a.example\"], pool = \"a\" }}, {{ hosts = [\"*.b.example\"], pool = \"b\" }}]\n\
             [server.a]\npools = [\"a\"]\naddress = \"{a}\"\nzone = \"az1\"\n\
             [server.b]\npools = [\"b\"]\naddress = \"{b}\"\nzone = \"az1\"\n"
        ),
        &[],
    )
    .await;
    let tls = proxy.address("tls").await;
    for name in ["a.example", "x.b.example"] {
        // The certificate is the server's own, or there would be no stream.
        let mut stream = authority.connect(tls, name, &[]).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await.unwrap(), name);
    }
    let unknown = authority.connect(tls, "c.example", &[]).await.unwrap_err().to_string();
    assert!(unknown.contains("UnrecognisedName"), "{unknown}");

    // Whatever else comes is told so and let go.
    for garbage in
        [&b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\0\0"]
    {
        let mut stream = TcpStream::connect(tls).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50], "{garbage:?}");
    }
    let log = proxy.logged(6).await;
    let seen: Vec<_> = log.iter().map(|line| (line["host"].as_str(), line["cause"].as_str())).collect();
    for expected in [
        (Some("a.example"), None),
        (Some("x.b.example"), None),
        (Some("c.example"), Some("no-route")),
        (None, Some("bad-client-hello")),
    ] {
        assert!(seen.contains(&expected), "{expected:?} is not in {seen:?}");
    }
    let metrics = proxy.metrics().await;
    assert!(metrics.contains("weir_proxy_tls_handshake_failures_total{listener=\"tls\"} 3\n"), "{metrics}");
}
