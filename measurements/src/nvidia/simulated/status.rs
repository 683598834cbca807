//! OCSP responses of the simulated NVIDIA, signed by a responder that the issuer certified.

use std::time::Duration;

use sha2::{Digest as _, Sha384};
use x509_cert::{
    Certificate,
    der::{
        Decode as _, Encode as _,
        asn1::{BitString, GeneralizedTime, Null, OctetString},
        oid::ObjectIdentifier,
    },
    ext::pkix::CrlReason,
    spki::AlgorithmIdentifierOwned,
};
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspResponse, ResponderId,
    ResponseData, RevokedInfo, SingleResponse, Version,
};

use super::pki::{Error, Identity, Key, Role, Template, algorithm};

const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// Status of a certificate in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked at this time, in Unix time.
    Revoked(u64),
    /// Unknown to the responder.
    Unknown,
}

/// Dates of a response, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// `thisUpdate`: when the response was made.
    pub this_update: u64,
    /// `nextUpdate`: when the next response is due.
    pub next_update: Option<u64>,
}

/// Makes a response about `subject`, signed by a responder of `issuer`.
///
/// # Errors
/// [`Error`] if the response cannot be encoded.
pub fn response(
    subject: &Identity,
    issuer: &Identity,
    status: Status,
    times: Times,
) -> Result<Vec<u8>, Error> {
    let responder = responder(issuer)?;
    let data = data(subject, issuer, status, times)?;
    signed(data, &responder.key, &[&responder])
}

/// Makes the OCSP responder of `issuer`.
///
/// # Errors
/// [`Error`] if its certificate cannot be encoded.
pub fn responder(issuer: &Identity) -> Result<Identity, Error> {
    let key = Key::from_seed(&format!("responder {}", hex::encode(&issuer.certificate)))?;
    Template::new(
        "O=NVIDIA Corporation,CN=Simulated OCSP Responder",
        Role::Responder,
    )
    .issued(key, issuer)
}

/// Makes the content of a response, unsigned.
///
/// # Errors
/// [`Error`] if a part of it cannot be encoded.
pub fn data(
    subject: &Identity,
    issuer: &Identity,
    status: Status,
    times: Times,
) -> Result<Answers, Error> {
    let above = issuer.parsed()?.tbs_certificate;
    let key = above.subject_public_key_info.subject_public_key.raw_bytes();
    let cert_status = match status {
        Status::Good => CertStatus::good(),
        Status::Unknown => CertStatus::unknown(),
        Status::Revoked(at) => CertStatus::revoked(RevokedInfo {
            revocation_time: time(at)?,
            revocation_reason: Some(CrlReason::KeyCompromise),
        }),
    };
    let answer = SingleResponse {
        cert_id: CertId {
            hash_algorithm: AlgorithmIdentifierOwned {
                oid: SHA384,
                parameters: Some(Null.into()),
            },
            issuer_name_hash: OctetString::new(Sha384::digest(above.subject.to_der()?).to_vec())?,
            issuer_key_hash: OctetString::new(Sha384::digest(key).to_vec())?,
            serial_number: subject.parsed()?.tbs_certificate.serial_number,
        },
        cert_status,
        this_update: time(times.this_update)?,
        next_update: times.next_update.map(time).transpose()?,
        single_extensions: None,
    };
    Ok(ResponseData {
        version: Version::V1,
        responder_id: ResponderId::ByName(above.subject),
        produced_at: time(times.this_update)?,
        responses: vec![answer],
        response_extensions: None,
    })
}

/// The content of a response, unsigned.
pub type Answers = ResponseData;

/// Encodes the bytes of `data` that are signed.
///
/// # Errors
/// [`Error::Der`] if they cannot be encoded.
pub fn encoded(data: &Answers) -> Result<Vec<u8>, Error> {
    Ok(data.to_der()?)
}

/// Whether two answers give the same status for the same certificate, regardless of their dates.
#[must_use]
pub fn same(one: &SingleResponse, other: &SingleResponse) -> bool {
    (&one.cert_status, &one.cert_id.serial_number)
        == (&other.cert_status, &other.cert_id.serial_number)
        && one.cert_id.issuer_key_hash == other.cert_id.issuer_key_hash
        && one.cert_id.issuer_name_hash == other.cert_id.issuer_name_hash
}

/// Decodes the content of a response, which allows a test to change a byte of it.
///
/// # Errors
/// [`Error::Der`] if it cannot be decoded.
pub fn decoded(der: &[u8]) -> Result<Answers, Error> {
    Ok(ResponseData::from_der(der)?)
}

/// Makes a response of `data`, a signature by `key` and the certificates `explained`.
///
/// # Errors
/// [`Error`] if the response cannot be encoded.
pub fn signed(data: Answers, key: &Key, explained: &[&Identity]) -> Result<Vec<u8>, Error> {
    let signature = key.sign_der(&data.to_der()?);
    let certificates: Result<Vec<Certificate>, Error> =
        explained.iter().map(|identity| identity.parsed()).collect();
    let basic = BasicOcspResponse {
        tbs_response_data: data,
        signature_algorithm: algorithm(),
        signature: BitString::from_bytes(&signature)?,
        certs: Some(certificates?).filter(|certificates| !certificates.is_empty()),
    };
    Ok(OcspResponse::successful(basic)?.to_der()?)
}

fn time(seconds: u64) -> Result<OcspGeneralizedTime, x509_cert::der::Error> {
    GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).map(OcspGeneralizedTime)
}
