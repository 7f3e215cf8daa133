//! An authority of our own, what it signs, and clients that believe it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        WantsClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_cert::{
    Certificate,
    der::{
        Decode, Encode,
        asn1::{BitString, GeneralizedTime, ObjectIdentifier, OctetString},
    },
    spki::AlgorithmIdentifierOwned,
};
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspResponse, ResponderId, ResponseData,
    SingleResponse, Version,
};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    /// Certificate and key, as PEM.
    pub(crate) fn sign(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Certificate and key in one.
    pub(crate) fn sign_in_one(&self, names: &[&str]) -> String {
        let (certificate, key) = self.sign(names);
        certificate + &key
    }

    /// Shows no certificate, and remembers its sessions.
    pub(crate) fn client(&self) -> ClientConfig {
        self.builder().with_no_client_auth()
    }

    /// The same, with these versions only.
    pub(crate) fn client_of_versions(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// Shows a certificate that `issuer` has signed.
    pub(crate) fn client_of(&self, issuer: &Authority) -> ClientConfig {
        let (certificate, key) = issuer.sign(&["client.example"]);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        self.builder().with_client_auth_cert(chain, key).unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    fn builder(&self) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(self.roots())
    }

    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.client();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        connect(&Arc::new(config), to, name).await
    }

    /// What is stapled for a name; empty when nothing is.
    pub(crate) async fn stapled(&self, to: SocketAddr, name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()), provider);
        let seen = Arc::new(Stapled { webpki: webpki.build().unwrap(), seen: Mutex::default() });
        let mut config = self.client();
        config.dangerous().set_certificate_verifier(seen.clone());
        connect(&Arc::new(config), to, name).await.unwrap();
        seen.seen.lock().unwrap().clone()
    }
}

pub(crate) async fn connect(
    config: &Arc<ClientConfig>,
    to: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, TcpStream::connect(to).await?).await
}

pub(crate) fn leaf(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Reads until the server has no more to say: the tickets it sends among it.
pub(crate) async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// An OCSP response that calls a certificate good until `until`; its signature nobody has made.
pub(crate) fn staple(certificate: &str, until: SystemTime) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let leaf = Certificate::from_der(&der).unwrap();
    let time = |at| OcspGeneralizedTime(GeneralizedTime::from_system_time(at).unwrap());
    let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let algorithm = AlgorithmIdentifierOwned {
        // SHA-1, as in every request of RFC 6960.
        oid: ObjectIdentifier::new_unwrap("1.3.14.3.2.26"),
        parameters: None,
    };
    let hash = OctetString::new([7; 20]).unwrap();
    let single = SingleResponse {
        cert_id: CertId {
            hash_algorithm: algorithm.clone(),
            issuer_name_hash: hash.clone(),
            issuer_key_hash: hash.clone(),
            serial_number: leaf.tbs_certificate.serial_number,
        },
        cert_status: CertStatus::good(),
        this_update: time(long_ago),
        next_update: Some(time(until)),
        single_extensions: None,
    };
    let basic = BasicOcspResponse {
        tbs_response_data: ResponseData {
            version: Version::V1,
            responder_id: ResponderId::ByKey(hash),
            produced_at: time(long_ago),
            responses: vec![single],
            response_extensions: None,
        },
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&[1; 64]).unwrap(),
        certs: None,
    };
    OcspResponse::successful(basic).unwrap().to_der().unwrap()
}

/// Notes what is stapled.
#[derive(Debug)]
struct Stapled {
    webpki: Arc<WebPkiServerVerifier>,
    seen: Mutex<Vec<u8>>,
}

impl ServerCertVerifier for Stapled {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.seen.lock().unwrap() = ocsp.to_vec();
        self.webpki.verify_server_cert(leaf, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
