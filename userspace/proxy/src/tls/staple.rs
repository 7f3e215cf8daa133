//! OCSP responses to staple (RFC 6960; RFC 6066 §8): fetched by whoever renews the certificates, looked at here.

use std::time::SystemTime;

use x509_cert::{Certificate, der::Decode};
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspResponse, OcspResponseStatus};

/// A response a client can believe, as far as is seen without the authority's key.
pub(super) struct Staple {
    pub(super) der: Vec<u8>,
    pub(super) expires: Option<SystemTime>,
}

/// Takes a response for `leaf` that says something at `now`.
pub(super) fn check(der: Vec<u8>, leaf: &Certificate, now: SystemTime) -> Result<Staple, String> {
    let bad = |error: x509_cert::der::Error| format!("no OCSP response: {error}");
    let response = OcspResponse::from_der(&der).map_err(bad)?;
    if response.response_status != OcspResponseStatus::Successful {
        return Err(format!("the responder said {:?}", response.response_status));
    }
    let bytes = response.response_bytes.ok_or("says nothing")?;
    let basic = BasicOcspResponse::from_der(bytes.response.as_bytes()).map_err(bad)?;
    let serial = &leaf.tbs_certificate.serial_number;
    let single =
        basic.tbs_response_data.responses.iter().find(|single| single.cert_id.serial_number == *serial);
    let single = single.ok_or("is for another certificate")?;
    if let CertStatus::Revoked(_) = single.cert_status {
        return Err("the certificate has been revoked".into());
    }
    if single.this_update.0.to_system_time() > now {
        return Err("is not valid yet".into());
    }
    let expires = single.next_update.as_ref().map(|at| at.0.to_system_time());
    if expires.is_some_and(|until| until <= now) {
        return Err("has expired".into());
    }
    Ok(Staple { der, expires })
}
