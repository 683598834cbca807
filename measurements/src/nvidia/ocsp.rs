//! Revocation status of NVIDIA's certificates, from stapled OCSP responses (RFC 6960).
//!
//! A response counts if it is about this certificate and issuer, is within its dates, and is signed by the issuer or by a
//! responder that the issuer certified for this purpose. It is not bound to a nonce, because it is shared by many clients.
//! The caller must judge its age.

use sha2::{Digest as _, Sha256, Sha384};
use thiserror::Error;
use x509_cert::{
    der::{Encode as _, oid::ObjectIdentifier},
    ext::{Extensions, pkix::ExtendedKeyUsage},
};
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspResponse, OcspResponseStatus,
    SingleResponse,
};

/// Largest OCSP response that is read, in bytes.
pub use cocoon_protocol::gpu::MAX_OCSP;

use super::{
    certificate::{CertificateError, EXTENDED_KEY_USAGE, Parsed, first_of},
    known::Known,
};
use crate::{
    der::decode,
    roots::{self, ValidityError},
};

/// Largest number of certificates in a response.
const MAX_CERTIFICATES: usize = 4;
/// Largest number of single responses in a response.
const MAX_SINGLE: usize = 16;

const RESPONSE: &str = "the OCSP response";
const RESPONDER: &str = "the certificate of the OCSP responder";

const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// The nonce extension, which answers the party that fetched the response.
const NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// Why an OCSP response does not count.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OcspError {
    /// The response is larger than the limit.
    #[error("{RESPONSE} has {length} bytes, more than {MAX_OCSP}")]
    TooLarge {
        /// Size in bytes.
        length: usize,
    },
    /// The response is not DER in the form of RFC 6960.
    #[error("{RESPONSE} is not DER of the form of RFC 6960")]
    Malformed(#[source] x509_cert::der::Error),
    /// The responder answered with an error status.
    #[error("{RESPONSE} says {0:?} instead of answering")]
    NoAnswer(OcspResponseStatus),
    /// The response is not a basic response.
    #[error("{RESPONSE} is of another kind ({0}) than a basic one")]
    Kind(ObjectIdentifier),
    /// The response has too many certificates or single responses.
    #[error("{RESPONSE} has {found} {what}, at most {most} are read")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// Number found.
        found: usize,
        /// Largest number accepted.
        most: usize,
    },
    /// The response has an unknown critical extension.
    #[error("{RESPONSE} has the critical extension {0}, which this verifier does not know")]
    Critical(ObjectIdentifier),
    /// Neither the issuer nor a responder that it certified signed the response.
    #[error(
        "{RESPONSE} is signed neither by the issuer nor by a responder that the issuer certified"
    )]
    Signer,
    /// The responder's certificate is refused.
    #[error(transparent)]
    Responder(#[from] CertificateError),
    /// The response is from the future or has expired.
    #[error(transparent)]
    Validity(#[from] ValidityError),
}

/// Checks that `der` is an OCSP response that can be read, whatever its signer and content.
///
/// # Errors
/// [`OcspError`] if it cannot be read.
pub fn readable(der: &[u8]) -> Result<(), OcspError> {
    Response::parse(der).map(|_| ())
}

/// Returns the latest `thisUpdate` of the responses, in Unix time. Verifies nothing: it is a hint for a caller without a
/// trusted clock, which leaves the judgement of ages to others.
#[must_use]
pub fn newest(responses: &[&[u8]]) -> Option<u64> {
    let made = |der: &&[u8]| {
        let response = Response::parse(der).ok()?;
        let answers = &response.basic.tbs_response_data.responses;
        let times = answers.iter().map(|answer| seconds(answer.this_update));
        times.max()
    };
    responses.iter().filter_map(made).max()
}

/// Status of a certificate in a verified response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: CertStatus,
    /// `thisUpdate`, in Unix time.
    pub this_update: u64,
    /// `nextUpdate`, in Unix time. `None` if newer information is always available.
    pub next_update: Option<u64>,
}

/// A decoded response, not verified.
#[derive(Debug)]
pub(super) struct Response {
    basic: BasicOcspResponse,
    /// The signed bytes as received.
    signed: Vec<u8>,
    certificates: Vec<Parsed>,
}

impl Response {
    pub(super) fn parse(der: &[u8]) -> Result<Self, OcspError> {
        if der.len() > MAX_OCSP {
            return Err(OcspError::TooLarge { length: der.len() });
        }
        let response = decode::<OcspResponse>(der).map_err(OcspError::Malformed)?;
        let bytes = match (response.response_status, response.response_bytes) {
            (OcspResponseStatus::Successful, Some(bytes)) => bytes,
            (status, _) => return Err(OcspError::NoAnswer(status)),
        };
        if bytes.response_type != BASIC {
            return Err(OcspError::Kind(bytes.response_type));
        }
        let der = bytes.response.as_bytes();
        let basic = decode::<BasicOcspResponse>(der).map_err(OcspError::Malformed)?;
        let certificates = basic.certs.as_deref().unwrap_or_default();
        let counts = [
            ("certificates", certificates.len(), MAX_CERTIFICATES),
            (
                "answers",
                basic.tbs_response_data.responses.len(),
                MAX_SINGLE,
            ),
        ];
        for (what, found, most) in counts {
            if found > most {
                return Err(OcspError::TooMany { what, found, most });
            }
        }
        let certificates = certificates
            .iter()
            .map(|certificate| {
                let der = certificate.to_der().map_err(OcspError::Malformed)?;
                Ok(Parsed::new(RESPONDER, &der)?)
            })
            .collect::<Result<_, OcspError>>()?;
        Ok(Self {
            signed: first_of(der).map_err(OcspError::Malformed)?.to_vec(),
            basic,
            certificates,
        })
    }

    /// Verifies what this response says about `certificate`. Returns `None` if it is only about other certificates.
    pub(super) fn about(
        &self,
        certificate: &Parsed,
        issuer: &Parsed,
        now: u64,
        known: &Known,
    ) -> Option<Result<Answer, OcspError>> {
        let answers = &self.basic.tbs_response_data.responses;
        let answer = answers
            .iter()
            .find(|answer| names(&answer.cert_id, certificate, issuer))?;
        Some(self.verified(answer, issuer, now, known))
    }

    fn verified(
        &self,
        answer: &SingleResponse,
        issuer: &Parsed,
        now: u64,
        known: &Known,
    ) -> Result<Answer, OcspError> {
        self.check_signature(issuer, now, known)?;
        let extensions = [
            &self.basic.tbs_response_data.response_extensions,
            &answer.single_extensions,
        ];
        extensions.into_iter().try_for_each(no_critical)?;
        let this_update = seconds(answer.this_update);
        // Without nextUpdate, newer information is always available (RFC 6960, section 4.2.2.1), so that only the age counts. A
        // revocation counts even after its nextUpdate: nothing newer is needed to refuse.
        let next_update = answer.next_update.map(seconds);
        let end = match answer.cert_status {
            CertStatus::Revoked(_) => u64::MAX,
            CertStatus::Good(_) | CertStatus::Unknown(_) => next_update.unwrap_or(u64::MAX),
        };
        roots::check_dates(RESPONSE, (this_update, end), now)?;
        Ok(Answer {
            status: answer.cert_status,
            this_update,
            next_update,
        })
    }

    /// Finds the signer by trying the keys. The responder id in the response is only a hint and is ignored.
    fn check_signature(&self, issuer: &Parsed, now: u64, known: &Known) -> Result<(), OcspError> {
        if self.basic.signature_algorithm.oid != ECDSA_WITH_SHA384 {
            return Err(OcspError::Signer);
        }
        let signature = self.basic.signature.raw_bytes();
        let signed_by = |signer: &Parsed| {
            signer
                .key()
                .is_ok_and(|key| known.der(&key, &self.signed, signature))
        };
        let delegates = self
            .certificates
            .iter()
            .filter(|certificate| may_answer(certificate));
        if let Some(delegate) = delegates
            .into_iter()
            .find(|certificate| signed_by(certificate))
        {
            delegate.check_issued_by(issuer, known)?;
            delegate.check_own(now)?;
            return Ok(delegate.check_signer()?);
        }
        if signed_by(issuer) {
            return Ok(());
        }
        Err(OcspError::Signer)
    }
}

/// Whether `id` names `certificate` of `issuer`, by the digests of the issuer's name and key and the serial number.
fn names(id: &CertId, certificate: &Parsed, issuer: &Parsed) -> bool {
    let body = &certificate.certificate.tbs_certificate;
    let above = &issuer.certificate.tbs_certificate;
    let key = above.subject_public_key_info.subject_public_key.raw_bytes();
    let Ok(name) = above.subject.to_der() else {
        return false;
    };
    let (name, key) = match id.hash_algorithm.oid {
        SHA256 => (Sha256::digest(name).to_vec(), Sha256::digest(key).to_vec()),
        SHA384 => (Sha384::digest(name).to_vec(), Sha384::digest(key).to_vec()),
        // SHA-1 is refused too: requests are made with SHA-256 or SHA-384.
        _ => return false,
    };
    id.serial_number == body.serial_number
        && id.issuer_name_hash.as_bytes() == name
        && id.issuer_key_hash.as_bytes() == key
}

/// Whether the certificate may sign OCSP responses on behalf of its issuer.
fn may_answer(certificate: &Parsed) -> bool {
    certificate
        .extension(EXTENDED_KEY_USAGE)
        .and_then(|extension| decode::<ExtendedKeyUsage>(extension.extn_value.as_bytes()).ok())
        .is_some_and(|usages| usages.0.contains(&OCSP_SIGNING))
}

fn no_critical(extensions: &Option<Extensions>) -> Result<(), OcspError> {
    let mut extensions = extensions.iter().flatten();
    let unknown = extensions.find(|extension| extension.critical && extension.extn_id != NONCE);
    unknown.map_or(Ok(()), |extension| {
        Err(OcspError::Critical(extension.extn_id))
    })
}

fn seconds(time: OcspGeneralizedTime) -> u64 {
    time.0.to_unix_duration().as_secs()
}
