//! Parses an appliance's certificate: its key and the boot document.
//!
//! The certificate is self-signed, and its name and dates are constants, so nothing in it is
//! trusted because of the certificate. It only says which key the evidence must commit to.

use cocoon_measurements::der;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{Document, DocumentError, EVIDENCE_OID, MAX_BOOT_DOCUMENT_LEN};
use x509_cert::Certificate;
use x509_cert::der::Encode;
use x509_cert::spki::ObjectIdentifier;

/// Largest certificate that is parsed: the boot document and two kilobytes for everything else.
pub const MAX_CERTIFICATE_LEN: usize = MAX_BOOT_DOCUMENT_LEN + 2048;

/// A well-formed leaf certificate. Nothing in it is verified yet.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// SubjectPublicKeyInfo in DER.
    pub spki: Vec<u8>,
    /// SHA-256 of `spki`, to which the evidence commits.
    pub spki_sha256: Hex32,
    /// The boot document in the evidence extension.
    pub document: Document,
}

/// Why a certificate carries no evidence that can be appraised.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate is longer than [`MAX_CERTIFICATE_LEN`].
    #[error("certificate of {0} bytes exceeds the limit of {MAX_CERTIFICATE_LEN}")]
    TooLong(usize),
    /// The certificate is not well-formed DER.
    #[error("certificate is not well-formed DER")]
    Malformed(#[source] x509_cert::der::Error),
    /// The certificate has no evidence extension.
    #[error(
        "certificate has no evidence extension ({EVIDENCE_OID}): this is not a Cocoon appliance"
    )]
    NoEvidence,
    /// The certificate has more than one evidence extension.
    #[error("certificate has the evidence extension more than once")]
    Repeated,
    /// The evidence extension is not marked critical.
    #[error("certificate's evidence extension is not marked critical")]
    NotCritical,
    /// The certificate has another critical extension.
    #[error("certificate has the critical extension {0}, which this client does not know")]
    UnknownCritical(ObjectIdentifier),
    /// The value of the evidence extension is not a document.
    #[error("certificate's evidence extension is not usable")]
    Document(#[source] DocumentError),
}

impl Leaf {
    /// Parses a leaf certificate in DER and the boot document in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLong(bytes.len()));
        }
        let certificate = der::decode::<Certificate>(bytes).map_err(CertificateError::Malformed)?;
        let tbs = certificate.tbs_certificate;
        let oid = ObjectIdentifier::new_unwrap(EVIDENCE_OID);
        let extensions = tbs.extensions.unwrap_or_default();
        let mut found = extensions
            .iter()
            .filter(|extension| extension.extn_id == oid);
        let extension = found.next().ok_or(CertificateError::NoEvidence)?;
        if found.next().is_some() {
            return Err(CertificateError::Repeated);
        }
        if !extension.critical {
            return Err(CertificateError::NotCritical);
        }
        // RFC 5280 §4.2: a certificate with an unrecognised critical extension must be rejected.
        if let Some(unknown) = extensions
            .iter()
            .find(|extension| extension.critical && extension.extn_id != oid)
        {
            return Err(CertificateError::UnknownCritical(unknown.extn_id));
        }
        let document = Document::parse(extension.extn_value.as_bytes(), MAX_BOOT_DOCUMENT_LEN)
            .map_err(CertificateError::Document)?;
        let spki = tbs
            .subject_public_key_info
            .to_der()
            .map_err(CertificateError::Malformed)?;
        Ok(Self {
            spki_sha256: Hex32::sha256(&spki),
            spki,
            document,
        })
    }
}
