//! Development roots: certificates under which simulated evidence is accepted, as simulated.

use cocoon_measurements::der;
use cocoon_protocol::document::DEVELOPMENT_ROOT_OID;
use x509_cert::Certificate;
use x509_cert::spki::ObjectIdentifier;

/// Why a file is not usable as development root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file does not contain well-formed PEM certificates.
    #[error("it holds no certificate in PEM")]
    Malformed(#[source] x509_cert::der::Error),
    /// The file contains no certificate.
    #[error("it holds no certificate")]
    Empty,
    /// A certificate is not marked as development root, so it could be a vendor's root.
    #[error(
        "it lacks the critical extension of development roots ({DEVELOPMENT_ROOT_OID}): only a simulator's root can be named, never one for real hardware"
    )]
    NotDevelopment,
}

/// Returns the certificates of a PEM file in DER. All of them must be marked as development roots.
pub fn development_roots(pem: &[u8]) -> Result<Vec<Vec<u8>>, RootError> {
    let oid = ObjectIdentifier::new_unwrap(DEVELOPMENT_ROOT_OID);
    let certificates = der::certificates(pem).map_err(RootError::Malformed)?;
    if certificates.is_empty() {
        return Err(RootError::Empty);
    }
    let mut roots = Vec::new();
    for bytes in certificates {
        let certificate: Certificate = der::decode(&bytes).map_err(RootError::Malformed)?;
        let mut extensions = certificate.tbs_certificate.extensions.iter().flatten();
        if !extensions.any(|extension| extension.extn_id == oid && extension.critical) {
            return Err(RootError::NotDevelopment);
        }
        roots.push(bytes);
    }
    Ok(roots)
}
