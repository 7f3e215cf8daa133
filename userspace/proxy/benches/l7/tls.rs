//! The certificate of all three proxies, and the client's side of TLS.
//!
//! The client offers TLS 1.3 with AES-128-GCM and X25519 only, so that no proxy chooses something dearer.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, client::Resumption, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The name in the certificate, and the host of every request.
pub(crate) const HOST: &str = "bench.example";

/// Tickets a client keeps; it uses one for each connection and is given at least one on each.
const TICKETS_MAX: usize = 8;

/// ECDSA with P-256, signed by itself.
pub(crate) struct Certificate {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn make() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).context("make a certificate")?;
        Ok(Self {
            chain_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            der: made.cert.der().clone(),
        })
    }
}

/// A client with sessions of its own.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    pub(crate) fn new(certificate: &Certificate, resumes: bool) -> Result<Self> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der.clone())?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption =
            if resumes { Resumption::in_memory_sessions(TICKETS_MAX) } else { Resumption::disabled() };
        Ok(Self { config: Arc::new(config) })
    }

    /// A new connection, and whether it took up an old session.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<(TlsStream<TcpStream>, bool)> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(HOST)?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok((stream, resumed))
    }
}
