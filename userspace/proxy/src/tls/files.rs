//! Certificate files: read once, read again when they change, and kept as they were while what they hold is unusable.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use weir_model::CertificateFiles;
use x509_cert::{Certificate, der::Decode};

use super::{provider, staple};

/// Bytes of a file with certificates; the longest chains have some ten thousand.
const FILE_LEN_MAX: u64 = 1 << 20;

/// What tells one state of a file from the next: time and length; `None` while it cannot be had.
pub(super) type Seen = Option<(SystemTime, u64)>;

/// The state of a file.
pub(super) fn look(path: &Path) -> Seen {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// One certificate in use.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) key: Arc<CertifiedKey>,
    /// Until when it is valid.
    pub(crate) expires: SystemTime,
    /// Until when its staple is; `None` without one.
    pub(super) staple_expires: Option<SystemTime>,
    seen: Vec<Seen>,
}

/// All that were read, by the file of the chain.
#[derive(Debug, Default)]
pub(super) struct Files {
    held: BTreeMap<PathBuf, Held>,
    used: BTreeSet<PathBuf>,
}

impl Files {
    /// Before a round of [`Files::get`].
    pub(super) fn begin(&mut self) {
        self.used.clear();
    }

    /// After it: forgets what nobody asked for.
    pub(super) fn end(&mut self) {
        self.held.retain(|path, _| self.used.contains(path));
    }

    /// All in use.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Path, &Held)> {
        self.held.iter().map(|(path, held)| (path.as_path(), held))
    }

    /// What the files hold: what they held before if they are as they were. Beside it what is wrong with a staple.
    pub(super) fn get(
        &mut self,
        files: &CertificateFiles,
        now: SystemTime,
    ) -> Result<(Held, Option<String>), String> {
        let seen = [Some(&files.certificate), Some(&files.key), files.ocsp.as_ref()];
        let seen: Vec<Seen> = seen.into_iter().flatten().map(|path| look(path)).collect();
        self.used.insert(files.certificate.clone());
        let is_same = |held: &&Held| held.seen == seen && held.staple_expires.is_none_or(|until| until > now);
        if let Some(held) = self.held.get(&files.certificate).filter(is_same) {
            return Ok((held.clone(), None));
        }
        let (held, complaint) = read(files, seen, now)?;
        self.held.insert(files.certificate.clone(), held.clone());
        Ok((held, complaint))
    }

    /// What the files held when they were last usable.
    pub(super) fn before(&self, files: &CertificateFiles) -> Option<&Held> {
        self.held.get(&files.certificate)
    }
}

/// The files of a directory, each with what belongs to it, in order of their names.
pub(super) fn list(dir: &Path) -> io::Result<Vec<CertificateFiles>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        names.insert(PathBuf::from(entry?.file_name()));
    }
    // Whoever writes a file beside its place first hides it by a dot.
    names.retain(|name| !name.as_os_str().as_encoded_bytes().starts_with(b"."));
    let beside = |name: &Path, extension| {
        let name = name.with_extension(extension);
        names.contains(&name).then(|| dir.join(name))
    };
    let files = names.iter().filter_map(|name| {
        let certificate = dir.join(name);
        let key = match name.extension()?.to_str()? {
            "pem" => beside(name, "key").unwrap_or_else(|| certificate.clone()),
            "crt" => dir.join(name.with_extension("key")),
            _ => return None,
        };
        Some(CertificateFiles { certificate, key, ocsp: beside(name, "ocsp") })
    });
    Ok(files.collect())
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = bounded(path)
        .and_then(|pem| {
            CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())
        })
        .map_err(|error| format!("certificate {}: {error}", path.display()))?;
    if chain.is_empty() {
        return Err(format!("certificate {}: holds no certificate", path.display()));
    }
    Ok(chain)
}

fn bounded(path: &Path) -> Result<Vec<u8>, String> {
    let len = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if len > FILE_LEN_MAX {
        return Err(format!("{len} bytes are too many; at most {FILE_LEN_MAX}"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

fn read(
    files: &CertificateFiles,
    seen: Vec<Seen>,
    now: SystemTime,
) -> Result<(Held, Option<String>), String> {
    let CertificateFiles { certificate: path, key: key_path, ocsp } = files;
    let chain = certificates(path)?;
    let leaf = Certificate::from_der(&chain[0])
        .map_err(|error| format!("certificate {}: {error}", path.display()))?;
    let key = bounded(key_path)
        .and_then(|pem| PrivateKeyDer::from_pem_slice(&pem).map_err(|error| error.to_string()))
        .map_err(|error| format!("key {}: {error}", key_path.display()))?;
    // It passes over algorithms whose public key it cannot extract; then the pair is taken as it is.
    let mut key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
        format!("certificate {} with key {}: {error}", path.display(), key_path.display())
    })?;
    let mut staple_expires = None;
    let mut complaint = None;
    if let Some(ocsp) = ocsp {
        let staple = bounded(ocsp).and_then(|der| staple::check(der, &leaf, now));
        match staple {
            Ok(staple) => (key.ocsp, staple_expires) = (Some(staple.der), staple.expires),
            // A certificate without a staple serves nearly everybody; a stale one nobody who looks.
            Err(error) => complaint = Some(format!("not stapled: {}: {error}", ocsp.display())),
        }
    }
    let expires = leaf.tbs_certificate.validity.not_after.to_system_time();
    Ok((Held { key: Arc::new(key), expires, staple_expires, seen }, complaint))
}
