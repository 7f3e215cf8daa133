//! Which certificate a client is served.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    SignatureAlgorithm,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Server name → certificates: of several with one key each the first that the client can verify, elliptic curves before RSA,
/// since they cost a tenth; of several alike the first that came.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Resolver {
    pub(super) fn add(&mut self, key: &Arc<CertifiedKey>) {
        if let Some(leaf) = key.cert.first()
            && let Ok(leaf) = webpki::EndEntityCert::try_from(leaf)
        {
            for name in leaf.valid_dns_names() {
                let of_name = self.by_name.entry(name.to_ascii_lowercase()).or_default();
                let at = of_name.partition_point(|other| rank(other) <= rank(key));
                of_name.insert(at, Arc::clone(key));
            }
        }
        self.first.get_or_insert_with(|| Arc::clone(key));
    }

    fn find(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        // RFC 6125 §6.4.3: a wildcard stands for exactly the left-most label.
        let wildcard = || name.split_once('.').and_then(|(_, rest)| self.by_name.get(&format!("*.{rest}")));
        self.by_name.get(name).or_else(wildcard).map(Vec::as_slice)
    }
}

fn rank(key: &CertifiedKey) -> u8 {
    u8::from(key.key.algorithm() == SignatureAlgorithm::RSA)
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(&name.to_ascii_lowercase()));
        let verifiable =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = named.and_then(|keys| keys.iter().find(verifiable).or(keys.first()));
        named.or(self.first.as_ref()).cloned()
    }
}
