//! Certificates: PEM files → one rustls configuration per listener, with a resolver by server name, and one per pool whose servers
//! are spoken to by TLS.
//!
//! What an operator names one by one must be right, or nothing changes. Of what stands in a directory each file is for itself:
//! one that cannot be used is reported, and what it held before stays.

mod files;
mod resolver;
mod staple;
mod towards;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use weir_model::{CertificateFiles, ClientCertificates, Name, Problem, Snapshot, Timestamp, Tls, TlsVersion};
use weir_runtime::{metrics::Text, probe::tls::provider};

use files::{Files, Seen};
use resolver::Resolver;
pub(crate) use towards::{Terms as ServerTerms, Towards};

/// The TLS configuration of every listener that has one.
pub(crate) type Configs = BTreeMap<Name, Terms>;

/// All of TLS in one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) listeners: Configs,
    pub(crate) towards: Towards,
}

/// How a listener shakes hands.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) clients: Arc<ServerConfig>,
    /// With our own checks of the listener, of which no certificate is demanded.
    pub(crate) own: Arc<ServerConfig>,
}

/// What is demanded of clients: sessions are only resumed where the same is. A session says nothing of certificates that were
/// never asked for, and believes those that another authority signed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Demand {
    authorities: Vec<Vec<u8>>,
    required: bool,
}

/// All certificates, and what encrypts the sessions of clients.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    files: Files,
    /// One per demand for the whole process, so that a reload does not end every client's session.
    ticketers: BTreeMap<Option<Demand>, Arc<dyn ProducesTickets>>,
    /// As last loaded, so that sessions and connections outlive what does not concern them.
    towards: Towards,
    /// Files of directories that are not used as they are, and why.
    complaints: BTreeMap<PathBuf, String>,
}

/// What tells that something is to be loaded again.
pub(crate) type Fingerprint = Vec<(PathBuf, Seen)>;

/// Changes when a file of the snapshot's certificates does, or one comes into a directory of them: a renewed certificate is loaded
/// without a change of objects.
pub(crate) fn fingerprint(dir: &Path, snapshot: &Snapshot) -> Fingerprint {
    let mut paths = Vec::new();
    for tls in snapshot.listeners.values().filter_map(|listener| listener.tls.as_ref()) {
        paths.extend(tls.client.iter().map(|client| dir.join(&client.ca)));
        let named = tls.certificates.iter().map(|files| within(dir, files));
        let listed = tls.directory.iter().flat_map(|more| {
            // A directory that is gone is a change as well.
            files::list(&dir.join(more)).unwrap_or_default()
        });
        for files in named.chain(listed) {
            paths.extend([files.certificate, files.key]);
            paths.extend(files.ocsp);
        }
    }
    let pools = snapshot.pools.values().filter_map(|pool| pool.tls.as_ref());
    paths.extend(pools.flat_map(|tls| towards::paths(dir, tls)));
    paths.sort();
    paths.dedup();
    paths.into_iter().map(|path| (path.clone(), files::look(&path))).collect()
}

fn within(dir: &Path, files: &CertificateFiles) -> CertificateFiles {
    CertificateFiles {
        certificate: dir.join(&files.certificate),
        key: dir.join(&files.key),
        ocsp: files.ocsp.as_ref().map(|ocsp| dir.join(ocsp)),
    }
}

impl Keyring {
    /// Loads every certificate of a snapshot; all problems at once.
    pub(crate) fn load(&mut self, dir: &Path, snapshot: &Snapshot) -> Result<Loaded, Vec<Problem>> {
        let now = SystemTime::now();
        let mut configs = Configs::new();
        let mut problems = Vec::new();
        let mut complaints = BTreeMap::new();
        let mut demands = Vec::new();
        self.files.begin();
        for (name, listener) in &snapshot.listeners {
            let Some(tls) = &listener.tls else { continue };
            let mut problem = |field: &str, what: String| {
                problems.push(problem_at(format!("listener.{name}.tls{field}"), what));
            };
            let mut resolver = Resolver::default();
            for (index, files) in tls.certificates.iter().enumerate() {
                match self.files.get(&within(dir, files), now) {
                    Ok((held, complaint)) => {
                        resolver.add(&held.key);
                        complaints.extend(complaint.map(|what| (dir.join(&files.certificate), what)));
                    }
                    Err(what) => problem(&format!(".certificates.{index}"), what),
                }
            }
            if let Some(more) = &tls.directory {
                match files::list(&dir.join(more)) {
                    Ok(list) => self.add_all(list, now, &mut resolver, &mut complaints),
                    Err(error) => problem(".directory", format!("{}: {error}", more.display())),
                }
            }
            let demand = match tls.client.as_ref().map(|client| demand(dir, client)).transpose() {
                Ok(demand) => demand,
                Err(what) => {
                    problem(".client.ca", what);
                    continue;
                }
            };
            match self.terms(tls, Arc::new(resolver), demand.as_ref()) {
                Ok(terms) => drop(configs.insert(name.clone(), terms)),
                Err(what) => problem("", what),
            }
            demands.push(demand);
        }
        let mut towards = Towards::new();
        for (name, pool) in &snapshot.pools {
            let Some(tls) = &pool.tls else { continue };
            match ServerTerms::load(&mut self.files, dir, (pool, tls), self.towards.get(name), now) {
                Ok(terms) => drop(towards.insert(name.clone(), terms)),
                Err((field, what)) => problems.push(problem_at(format!("pool.{name}.tls.{field}"), what)),
            }
        }
        problems.extend(problems_of_checks(dir, snapshot));
        if !problems.is_empty() {
            return Err(problems);
        }
        self.files.end();
        self.towards.clone_from(&towards);
        self.ticketers.retain(|demand, _| demand.is_none() || demands.contains(demand));
        for (path, what) in complaints.iter().filter(|(path, what)| self.complaints.get(*path) != Some(*what))
        {
            tracing::error!(certificate = %path.display(), "{what}");
        }
        self.complaints = complaints;
        Ok(Loaded { listeners: configs, towards })
    }

    /// The usable files of a directory, and those that were.
    fn add_all(
        &mut self,
        list: Vec<CertificateFiles>,
        now: SystemTime,
        resolver: &mut Resolver,
        complaints: &mut BTreeMap<PathBuf, String>,
    ) {
        for files in list {
            match self.files.get(&files, now) {
                Ok((held, complaint)) => {
                    resolver.add(&held.key);
                    complaints.extend(complaint.map(|what| (files.certificate, what)));
                }
                Err(what) => {
                    let before = self.files.before(&files);
                    let becomes = if before.is_some() { "what it was stays" } else { "not served" };
                    if let Some(held) = before {
                        resolver.add(&held.key);
                    }
                    complaints.insert(files.certificate, format!("{becomes}: {what}"));
                }
            }
        }
    }

    fn terms(
        &mut self,
        tls: &Tls,
        resolver: Arc<Resolver>,
        demand: Option<&Demand>,
    ) -> Result<Terms, String> {
        let clients = Arc::new(self.server_config(tls, Arc::clone(&resolver), demand)?);
        let own = match demand {
            Some(_) => Arc::new(self.server_config(tls, resolver, None)?),
            None => Arc::clone(&clients),
        };
        Ok(Terms { clients, own })
    }

    fn server_config(
        &mut self,
        tls: &Tls,
        resolver: Arc<Resolver>,
        demand: Option<&Demand>,
    ) -> Result<ServerConfig, String> {
        let versions: &[&SupportedProtocolVersion] = match tls.min_version {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match demand {
            Some(demand) => builder.with_client_cert_verifier(demand.verifier()?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if let Some(ticketer) = self.ticketer(demand) {
            config.ticketer = ticketer;
            // What tickets cannot do is not worth a lock that all threads share.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        Ok(config)
    }

    /// Its keys change every six hours, and open what the last ones sealed for as long. Without one (no randomness) sessions are
    /// resumed from memory, by listener.
    fn ticketer(&mut self, demand: Option<&Demand>) -> Option<Arc<dyn ProducesTickets>> {
        if let Some(known) = self.ticketers.get(&demand.cloned()) {
            return Some(Arc::clone(known));
        }
        let new = aws_lc_rs::Ticketer::new().ok()?;
        self.ticketers.insert(demand.cloned(), Arc::clone(&new));
        Some(new)
    }

    /// Whether something has run out since it was loaded.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        self.files.held().any(|(_, held)| held.staple_expires.is_some_and(|until| until <= now))
    }

    /// What there is to say of each file.
    pub(crate) fn report(&self) -> Report {
        let expires = |(path, held): (&Path, &files::Held)| (path.to_owned(), Timestamp(held.expires));
        Report { expires: self.files.held().map(expires).collect(), refused: self.complaints.len() }
    }
}

/// Certificates as the metrics show them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    expires: Vec<(PathBuf, Timestamp)>,
    refused: usize,
}

impl Report {
    /// Appends the metrics.
    pub(crate) fn render(&self, text: &mut Text) {
        let name = "weir_proxy_certificate_expires_timestamp_seconds";
        text.family(name, "gauge", "When a certificate in use ends.");
        for (path, Timestamp(expires)) in &self.expires {
            let at = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            text.value(name, &[("certificate", &path.to_string_lossy())], at.as_secs_f64());
        }
        let name = "weir_proxy_certificate_files_refused";
        text.family(name, "gauge", "Certificate files that are not used as they are; the log says why.");
        text.value(name, &[], self.refused as f64);
    }
}

/// Checks read their authorities each time; that there are none is said at once all the same, and not only by servers that are down.
fn problems_of_checks(dir: &Path, snapshot: &Snapshot) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, pool) in &snapshot.pools {
        let steps = pool.check.iter().flat_map(|check| check.steps().enumerate());
        for (index, step) in steps {
            let Some(ca) = step.tls.as_ref().and_then(|tls| tls.ca.as_ref()) else { continue };
            if let Err(what) = towards::authorities(&dir.join(ca)) {
                let at = if index == 0 { "check".to_owned() } else { format!("check.and.{}", index - 1) };
                problems.push(problem_at(format!("pool.{name}.{at}.tls.ca"), what));
            }
        }
    }
    problems
}

fn problem_at(path: String, what: String) -> Problem {
    let hint = "paths are relative to the configuration directory".into();
    Problem { file: "weir-proxy".into(), line: 0, path, what, hint }
}

fn demand(dir: &Path, client: &ClientCertificates) -> Result<Demand, String> {
    let mut authorities: Vec<Vec<u8>> =
        files::certificates(&dir.join(&client.ca))?.into_iter().map(|der| der.to_vec()).collect();
    authorities.sort();
    Ok(Demand { authorities, required: client.required })
}

impl Demand {
    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(authority.clone().into()).map_err(|error| error.to_string())?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if self.required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| error.to_string())
    }
}
