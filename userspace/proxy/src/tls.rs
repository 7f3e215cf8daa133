//! Certificates: PEM files → one rustls configuration per listener, with a resolver by server name.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weir_model::{CertificateFiles, Name, Problem, Snapshot};
use weir_runtime::probe::tls::provider;

/// The TLS configuration of every listener that has one.
pub(crate) type Configs = BTreeMap<Name, Arc<ServerConfig>>;

/// Loads every certificate of a snapshot; all problems at once.
pub(crate) fn load(dir: &Path, snapshot: &Snapshot) -> Result<Configs, Vec<Problem>> {
    let mut configs = Configs::new();
    let mut problems = Vec::new();
    for (name, listener) in &snapshot.listeners {
        let Some(tls) = &listener.tls else { continue };
        let mut resolver = Resolver::default();
        for (index, files) in tls.certificates.iter().enumerate() {
            match certified_key(dir, files) {
                Ok(key) => resolver.add(Arc::new(key)),
                Err(what) => problems.push(Problem {
                    file: "weir-proxy".into(),
                    line: 0,
                    path: format!("listener.{name}.tls.certificates.{index}"),
                    what,
                    hint: "paths are relative to the configuration directory".into(),
                }),
            }
        }
        match server_config(resolver) {
            Ok(config) => drop(configs.insert(name.clone(), Arc::new(config))),
            Err(error) => problems.push(Problem {
                file: "weir-proxy".into(),
                line: 0,
                path: format!("listener.{name}.tls"),
                what: error.to_string(),
                hint: String::new(),
            }),
        }
    }
    if problems.is_empty() { Ok(configs) } else { Err(problems) }
}

/// Changes when a certificate file of the snapshot does: a renewed certificate is loaded without a change of objects.
pub(crate) fn fingerprint(dir: &Path, snapshot: &Snapshot) -> Vec<(PathBuf, Option<(SystemTime, u64)>)> {
    let files = snapshot.listeners.values().filter_map(|listener| listener.tls.as_ref());
    let paths = files.flat_map(|tls| &tls.certificates).flat_map(|files| [&files.certificate, &files.key]);
    let seen = |path: &PathBuf| {
        let path = dir.join(path);
        let state = std::fs::metadata(&path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        (path, state)
    };
    paths.map(seen).collect()
}

fn server_config(resolver: Resolver) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if let Some(ticketer) = ticketer() {
        config.ticketer = ticketer;
    }
    Ok(config)
}

/// One for the whole process, so that a reload does not end every client's session. Without one (no randomness)
/// sessions are not resumed.
fn ticketer() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETER: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETER.get_or_init(|| aws_lc_rs::Ticketer::new().ok()).clone()
}

fn certified_key(dir: &Path, files: &CertificateFiles) -> Result<CertifiedKey, String> {
    let path = dir.join(&files.certificate);
    let chain = CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("certificate {}: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!("certificate {}: holds no certificate", path.display()));
    }
    let key_path = dir.join(&files.key);
    let key = PrivateKeyDer::from_pem_file(&key_path)
        .map_err(|error| format!("key {}: {error}", key_path.display()))?;
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        format!("certificate {} with key {}: {error}", path.display(), key_path.display())
    })?;
    // from_der passes over algorithms whose public key it cannot extract; then the pair is taken as it is.
    Ok(certified)
}

/// Server name → certificate; names of several certificates belong to the first.
#[derive(Debug, Default)]
struct Resolver {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Resolver {
    fn add(&mut self, key: Arc<CertifiedKey>) {
        if let Some(leaf) = key.cert.first()
            && let Ok(leaf) = webpki::EndEntityCert::try_from(leaf)
        {
            for name in leaf.valid_dns_names() {
                self.by_name.entry(name.to_ascii_lowercase()).or_insert_with(|| Arc::clone(&key));
            }
        }
        self.first.get_or_insert(key);
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        // RFC 6125 §6.4.3: a wildcard stands for exactly the left-most label.
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.by_name.get(&format!("*.{rest}")));
        self.by_name.get(name).or_else(wildcard)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase()));
        named.or(self.first.as_ref()).cloned()
    }
}
