//! TLS to servers: one configuration per pool, which remembers sessions.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_model::{CertificateFiles, Name, Pool, PoolProtocol, PoolTls};
use weir_runtime::probe::tls::{any_certificate, provider};

use super::files::{self, Files, Seen};

/// How every pool that has TLS shakes hands with its servers.
pub(crate) type Towards = BTreeMap<Name, Arc<Terms>>;

/// How a pool does.
#[derive(Debug)]
pub(crate) struct Terms {
    config: Arc<ClientConfig>,
    /// The same for whatever is not HTTP: no protocol is named.
    bytes: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    wanted: (PoolTls, PoolProtocol),
    seen: Vec<Seen>,
}

impl Terms {
    /// Loads what a pool wants; `before` is what it was, and stays the same where nothing has changed: connections that are kept, and
    /// sessions, belong to it.
    pub(super) fn load(
        files: &mut Files,
        dir: &Path,
        (pool, tls): (&Pool, &PoolTls),
        before: Option<&Arc<Self>>,
        now: SystemTime,
    ) -> Result<Arc<Self>, (&'static str, String)> {
        let seen = paths(dir, tls).iter().map(|path| files::look(path)).collect();
        let wanted = (tls.clone(), pool.protocol);
        let certificate = certificate(files, dir, tls, now).map_err(|what| ("certificate", what))?;
        if let Some(before) = before.filter(|before| before.wanted == wanted && before.seen == seen) {
            return Ok(Arc::clone(before));
        }
        let mut config = match &tls.ca {
            Some(ca) if tls.verify => signed_by(&dir.join(ca)).map_err(|what| ("ca", what))?,
            _ => any_certificate().map_err(|error| ("", error.to_string()))?,
        };
        if let Some(key) = certificate {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(key));
        }
        config.resumption = Resumption::default();
        let bytes = Arc::new(config.clone());
        config.alpn_protocols = vec![alpn(pool.protocol).to_vec()];
        let name = tls.name.clone().map(ServerName::try_from).transpose();
        let name = name.map_err(|error| ("name", error.to_string()))?;
        Ok(Arc::new(Self { config: Arc::new(config), bytes, name, wanted, seen }))
    }

    /// Shakes hands with a server that is to speak HTTP.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        server: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.connect(&self.config, stream, server).await?;
        let wanted = alpn(self.wanted.1);
        match stream.get_ref().1.alpn_protocol() {
            Some(agreed) if agreed == wanted => Ok(stream),
            // Many servers of HTTP/1.1 know no ALPN.
            None if !self.wanted.1.is_h2() => Ok(stream),
            _ => Err(io::Error::other("the server does not speak HTTP/2 (ALPN)")),
        }
    }

    /// The same with one that speaks whatever clients do.
    pub(crate) async fn handshake_for_bytes(
        &self,
        stream: TcpStream,
        server: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.connect(&self.bytes, stream, server).await
    }

    async fn connect(
        &self,
        config: &Arc<ClientConfig>,
        stream: TcpStream,
        server: SocketAddr,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self.name.clone().unwrap_or_else(|| server.ip().into());
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

fn alpn(protocol: PoolProtocol) -> &'static [u8] {
    if protocol.is_h2() { b"h2" } else { b"http/1.1" }
}

/// The files a pool names.
pub(super) fn paths(dir: &Path, tls: &PoolTls) -> Vec<PathBuf> {
    [&tls.ca, &tls.certificate, &tls.key].into_iter().flatten().map(|path| dir.join(path)).collect()
}

fn certificate(
    files: &mut Files,
    dir: &Path,
    tls: &PoolTls,
    now: SystemTime,
) -> Result<Option<CertifiedKey>, String> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else { return Ok(None) };
    let pair = CertificateFiles { certificate: dir.join(certificate), key: dir.join(key), ocsp: None };
    files.get(&pair, now).map(|(held, _)| Some(held.key.as_ref().clone()))
}

/// The authorities of a PEM file.
pub(super) fn authorities(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in files::certificates(ca)? {
        roots.add(authority).map_err(|error| format!("{}: {error}", ca.display()))?;
    }
    Ok(roots)
}

fn signed_by(ca: &Path) -> Result<ClientConfig, String> {
    let roots = authorities(ca)?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
