//! Helpers for programs that fetch collateral: which certificates can be revoked, OCSP requests, and their responses.
//!
//! A host fetches collateral for guests and clients. They trust [`appraise`](super::appraise()) alone; these functions only
//! keep a host from passing on what they would refuse.

use sha2::{Digest as _, Sha384};
use x509_cert::{
    der::{
        Encode as _,
        asn1::{Null, OctetString},
        oid::ObjectIdentifier,
    },
    spki::AlgorithmIdentifierOwned,
};
use x509_ocsp::{CertId, CertStatus, OcspRequest, Request, TbsRequest, Version};

use super::{
    certificate::{CertificateError, Parsed},
    chain::DeviceChain,
    known::Known,
    ocsp::{OcspError, Response},
    rim::{Rim, RimError},
};
use crate::roots;

const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SUBJECT: &str = "the certificate that is asked about";
const ISSUER: &str = "the certificate of its issuer";

/// A certificate that can be revoked and its issuer's certificate, each in DER.
pub type Revocable = (Vec<u8>, Vec<u8>);

/// Returns the certificates of a GPU's chain (PEM, leaf first) that can be revoked: all but the root and that of the
/// attestation key, which the GPU issues itself. Verifies nothing.
///
/// # Errors
/// [`CertificateError`] if `chain` is not a GPU's chain.
pub fn revocable_of_gpu(chain: &[u8]) -> Result<Vec<Revocable>, CertificateError> {
    Ok(pairs(&DeviceChain::parse(chain)?.certificates, 1))
}

/// Returns the certificates of a reference manifest's chain that can be revoked. Verifies nothing.
///
/// # Errors
/// [`RimError`] if `manifest` is not a reference manifest.
pub fn revocable_of_manifest(manifest: &[u8]) -> Result<Vec<Revocable>, RimError> {
    Ok(pairs(Rim::parse(manifest)?.chain(), 0))
}

fn pairs(chain: &[Parsed], skipped: usize) -> Vec<Revocable> {
    chain
        .windows(2)
        .skip(skipped)
        .filter_map(|pair| match pair {
            [certificate, issuer] => Some((certificate.der.clone(), issuer.der.clone())),
            _ => None,
        })
        .collect()
}

/// Returns the earliest end of validity among the certificates of a manifest's chain, in Unix time. Clients refuse the
/// manifest from then on.
///
/// # Errors
/// [`RimError`] if `manifest` is not a reference manifest.
pub fn end_of_manifest(manifest: &[u8]) -> Result<u64, RimError> {
    let rim = Rim::parse(manifest)?;
    let ends = rim
        .chain()
        .iter()
        .map(|certificate| roots::validity(&certificate.certificate).1);
    Ok(ends.min().unwrap_or(0))
}

/// Builds an OCSP request (RFC 6960, section 4.1.1) for one certificate, with SHA-384. It has no nonce, so that the response
/// can be cached and shared.
///
/// # Errors
/// [`OcspError`] if a certificate cannot be decoded or encoded.
pub fn request(certificate: &[u8], issuer: &[u8]) -> Result<Vec<u8>, OcspError> {
    let certificate = Parsed::new(SUBJECT, certificate)?;
    let issuer = Parsed::new(ISSUER, issuer)?;
    let above = &issuer.certificate.tbs_certificate;
    let name = above.subject.to_der().map_err(OcspError::Malformed)?;
    let key = above.subject_public_key_info.subject_public_key.raw_bytes();
    let digest = |bytes: &[u8]| {
        OctetString::new(Sha384::digest(bytes).to_vec()).map_err(OcspError::Malformed)
    };
    let id = CertId {
        hash_algorithm: AlgorithmIdentifierOwned {
            oid: SHA384,
            parameters: Some(Null.into()),
        },
        issuer_name_hash: digest(&name)?,
        issuer_key_hash: digest(key)?,
        serial_number: certificate.certificate.tbs_certificate.serial_number,
    };
    let request = OcspRequest {
        tbs_request: TbsRequest {
            version: Version::V1,
            requestor_name: None,
            request_list: vec![Request {
                req_cert: id,
                single_request_extensions: None,
            }],
            request_extensions: None,
        },
        optional_signature: None,
    };
    request.to_der().map_err(OcspError::Malformed)
}

/// Status of a certificate in a verified OCSP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The certificate is not revoked.
    Good,
    /// The certificate is revoked.
    Revoked,
    /// The responder does not know the certificate.
    Unknown,
}

/// A certificate's entry in a verified OCSP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Status of the certificate.
    pub said: Said,
    /// `thisUpdate` of the entry, in Unix time.
    pub made: u64,
    /// `nextUpdate` of the entry, in Unix time. `None` if newer information is always available.
    pub due: Option<u64>,
}

/// Verifies `response` and returns what it says at `now` about `certificate`, issued by `issuer`. Returns `None` if it is
/// only about other certificates.
///
/// # Errors
/// [`OcspError`] if the response does not count.
pub fn told(
    response: &[u8],
    certificate: &[u8],
    issuer: &[u8],
    now: u64,
) -> Result<Option<Told>, OcspError> {
    let certificate = Parsed::new(SUBJECT, certificate)?;
    let issuer = Parsed::new(ISSUER, issuer)?;
    let answer = Response::parse(response)?;
    let answer = answer.about(&certificate, &issuer, now, &Known::default());
    answer.transpose().map(|answer| {
        answer.map(|answer| Told {
            said: match answer.status {
                CertStatus::Good(_) => Said::Good,
                CertStatus::Revoked(_) => Said::Revoked,
                CertStatus::Unknown(_) => Said::Unknown,
            },
            made: answer.this_update,
            due: answer.next_update,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::simulated::{
        Nvidia,
        pki::Identity,
        status::{self, Status, Times},
    };
    use super::*;
    use x509_cert::der::Decode as _;

    const NOW: u64 = 1_750_000_000;
    const TIMES: Times = Times {
        this_update: NOW - 60,
        next_update: Some(NOW + 60),
    };

    fn response(subject: &Identity, issuer: &Identity, status: Status) -> Vec<u8> {
        status::response(subject, issuer, status, TIMES).unwrap()
    }

    #[test]
    fn what_can_be_revoked_is_found_and_asked_for() {
        let nvidia = Nvidia::new("fetching").unwrap();
        let gpu = nvidia.gpu("1").unwrap();
        let found = revocable_of_gpu(nvidia.chain(&gpu).unwrap().as_bytes()).unwrap();
        let expected: Vec<Revocable> = nvidia.revocable(&gpu)[..3]
            .iter()
            .map(|(one, above)| (one.certificate.clone(), above.certificate.clone()))
            .collect();
        assert_eq!(found, expected);
        let (certificate, issuer) = &found[0];
        let asked = OcspRequest::from_der(&request(certificate, issuer).unwrap()).unwrap();
        // The request names the certificate as the simulated responder does.
        let answered = status::data(&gpu.identity, &nvidia.devices[2], Status::Good, TIMES);
        let answered = answered.unwrap().responses.remove(0);
        assert_eq!(asked.tbs_request.request_list[0].req_cert, answered.cert_id);
    }

    #[test]
    fn a_response_is_verified_before_it_says_anything() {
        let nvidia = Nvidia::new("fetching").unwrap();
        let gpu = nvidia.gpu("1").unwrap();
        let [_, line, provisioner] = &nvidia.devices;
        let (der, above) = (&gpu.identity.certificate, &provisioner.certificate);
        let told = |bytes: &[u8]| told(bytes, der, above, NOW);
        for (status, said) in [
            (Status::Good, Said::Good),
            (Status::Revoked(NOW - 100), Said::Revoked),
            (Status::Unknown, Said::Unknown),
        ] {
            let response = response(&gpu.identity, provisioner, status);
            let (made, due) = (NOW - 60, Some(NOW + 60));
            assert_eq!(told(&response), Ok(Some(Told { said, made, due })));
        }
        let open = Times {
            next_update: None,
            ..TIMES
        };
        let open = status::response(&gpu.identity, provisioner, Status::Good, open).unwrap();
        let (said, made, due) = (Said::Good, NOW - 60, None);
        assert_eq!(told(&open), Ok(Some(Told { said, made, due })));
        let other = response(provisioner, line, Status::Good);
        assert_eq!(told(&other), Ok(None));
        // It names the right certificate, but another issuer's key signed it.
        let data = status::data(&gpu.identity, provisioner, Status::Good, TIMES).unwrap();
        let forged = status::signed(data, &line.key, &[]).unwrap();
        assert_eq!(told(&forged), Err(OcspError::Signer));
    }
}
