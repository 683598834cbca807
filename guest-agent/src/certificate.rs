//! The self-signed leaf certificate that carries the boot document (SPEC.md §4).
//!
//! The validity dates are constants, because no decision depends on the guest's clock. The evidence extension is critical: a
//! TLS client that does not know it must not accept the certificate as an ordinary one.

use cocoon_protocol::document::EVIDENCE_OID;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use x509_cert::certificate::{CertificateInner, TbsCertificateInner, Version};
use x509_cert::der::asn1::{BitString, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{DateTime, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use crate::keys::Keys;

const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const SUBJECT: &str = "CN=cocoon";

/// Returns the self-signed certificate in DER, with `document` as the value of the evidence extension.
pub fn self_signed(keys: &Keys, document: &[u8]) -> Result<Vec<u8>, x509_cert::der::Error> {
    let name: Name = SUBJECT.parse()?;
    let algorithm = AlgorithmIdentifierOwned {
        oid: ECDSA_WITH_SHA256,
        parameters: None,
    };
    let spki = SubjectPublicKeyInfoOwned::from_key(keys.leaf().public_key())
        .map_err(|_| x509_cert::der::ErrorKind::Failed)?;
    let evidence = Extension {
        extn_id: ObjectIdentifier::new(EVIDENCE_OID)
            .map_err(|_| x509_cert::der::ErrorKind::Failed)?,
        critical: true,
        extn_value: OctetString::new(document)?,
    };
    let not_before = Time::UtcTime(UtcTime::from_date_time(DateTime::new(
        1970, 1, 1, 0, 0, 0,
    )?)?);
    let certificate: TbsCertificateInner = TbsCertificateInner {
        version: Version::V3,
        serial_number: SerialNumber::new(&[1])?,
        signature: algorithm.clone(),
        issuer: name.clone(),
        validity: Validity {
            not_before,
            not_after: Time::INFINITY,
        },
        subject: name,
        subject_public_key_info: spki,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(vec![evidence]),
    };
    let signature: DerSignature = SigningKey::from(keys.leaf()).sign(&certificate.to_der()?);
    CertificateInner {
        tbs_certificate: certificate,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(signature.as_bytes())?,
    }
    .to_der()
}
