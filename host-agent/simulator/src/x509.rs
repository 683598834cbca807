//! Certificates and revocation lists, assembled field by field and signed with the three kinds of keys that TEE vendors use.
//! The keys are held in software, because development roots protect nothing.

use std::str::FromStr;
use std::time::Duration;

mod key;

use p256::pkcs8::LineEnding;
use sha2::{Digest, Sha256};
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{BitString, GeneralizedTime, Ia5String, Null, OctetString, UtcTime};
use x509_cert::der::flagset::FlagSet;
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{Any, Decode, Encode, Tag};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, CrlNumber, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

use cocoon_protocol::document::DEVELOPMENT_ROOT_OID;

pub use key::{KeyKind, PrivateKey, RSA_BITS};

/// Start of validity of every certificate, in Unix seconds: the beginning of 2020. Only collateral has dates from the real
/// clock.
pub const NOT_BEFORE: u64 = 1_577_836_800;
/// End of validity of every certificate, in Unix seconds: the end of 2049, the last second that UTCTime can represent.
pub const NOT_AFTER: u64 = 2_524_607_999;

/// Why a certificate or key could not be created or read: a bug in this program, or a damaged file.
#[derive(Debug, thiserror::Error)]
pub enum X509Error {
    /// A structure cannot be encoded or decoded.
    #[error("cannot encode or decode {what}")]
    Der {
        /// Name of the structure.
        what: &'static str,
        /// Cause.
        #[source]
        source: x509_cert::der::Error,
    },
    /// A time that cannot be encoded as a date, in Unix seconds.
    #[error("{0} seconds after 1970 cannot be written as a date")]
    Date(u64),
    /// An operation on a private key failed.
    #[error("cannot {operation} a private key: {reason}")]
    Key {
        /// Failed operation: `make`, `read` or `write`, for example.
        operation: &'static str,
        /// Cause.
        reason: String,
    },
}

pub(crate) fn der(what: &'static str) -> impl FnOnce(x509_cert::der::Error) -> X509Error {
    move |source| X509Error::Der { what, source }
}

/// Role of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Self-signed root, marked as a development root.
    Root,
    /// Intermediate CA.
    Intermediate,
    /// Certificate of a key that signs evidence or collateral.
    Leaf,
}

/// A private key and its certificate.
#[derive(Debug)]
pub struct Identity {
    /// The private key.
    pub key: PrivateKey,
    /// Certificate in DER.
    pub certificate: Vec<u8>,
}

/// Issues a certificate for `key` with the subject `name` (RFC 4514) and further extensions. Without `issuer` it is
/// self-signed.
///
/// # Errors
/// [`X509Error`] if encoding fails.
pub fn issue(
    key: &PrivateKey,
    name: &str,
    role: Role,
    issuer: Option<&Identity>,
    further: Vec<Extension>,
) -> Result<Vec<u8>, X509Error> {
    let subject = Name::from_str(name).map_err(der("subject"))?;
    let public = key.public()?;
    let (issuer_name, issuer_public) = match issuer {
        Some(issuer) => {
            let tbs = Certificate::from_der(&issuer.certificate)
                .map_err(der("issuer"))?
                .tbs_certificate;
            (tbs.subject, tbs.subject_public_key_info)
        }
        None => (subject.clone(), public.clone()),
    };
    let signer = issuer.map_or(key, |issuer| &issuer.key);
    let mut extensions = vec![
        extension(
            false,
            &AuthorityKeyIdentifier {
                key_identifier: Some(key_id(&issuer_public)?),
                ..Default::default()
            },
        )?,
        extension(false, &SubjectKeyIdentifier(key_id(&public)?))?,
        extension(true, &KeyUsage(usage(role)))?,
        extension(
            true,
            &BasicConstraints {
                ca: role != Role::Leaf,
                path_len_constraint: path_length(role),
            },
        )?,
    ];
    if role == Role::Root {
        extensions.push(development_mark()?);
    }
    extensions.extend(further);
    let tbs = TbsCertificate {
        version: Version::V3,
        serial_number: serial(&public, name)?,
        signature: signer.algorithm()?,
        issuer: issuer_name,
        validity: Validity {
            not_before: time(NOT_BEFORE)?,
            not_after: time(NOT_AFTER)?,
        },
        subject,
        subject_public_key_info: public,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    sign_certificate(tbs, signer)
}

/// Signs any certificate body, so that tests can forge certificates.
///
/// # Errors
/// [`X509Error`] if encoding fails.
pub fn sign_certificate(tbs: TbsCertificate, signer: &PrivateKey) -> Result<Vec<u8>, X509Error> {
    let signature = signer.sign(&tbs.to_der().map_err(der("certificate body"))?);
    let certificate = Certificate {
        signature_algorithm: tbs.signature.clone(),
        tbs_certificate: tbs,
        signature: BitString::from_bytes(&signature).map_err(der("signature"))?,
    };
    certificate.to_der().map_err(der("certificate"))
}

/// Returns a revocation list of `issuer`, valid from `this_update` to `next_update` in Unix seconds. It contains the serial
/// numbers of the `revoked` certificates, which are in DER.
///
/// # Errors
/// [`X509Error`] if an entry is not a certificate or encoding fails, for example for a time after 9999.
pub fn crl(
    issuer: &Identity,
    this_update: u64,
    next_update: u64,
    revoked: &[&[u8]],
) -> Result<Vec<u8>, X509Error> {
    let certificate = Certificate::from_der(&issuer.certificate)
        .map_err(der("issuer"))?
        .tbs_certificate;
    let authority = key_id(&certificate.subject_public_key_info)?;
    // CRL numbers must increase from list to list, as the time of issue does.
    let number = CrlNumber(
        x509_cert::der::asn1::Uint::new(&this_update.min(u32::MAX.into()).to_be_bytes())
            .map_err(der("CRL number"))?,
    );
    let entry = |certificate: &&[u8]| {
        let certificate = Certificate::from_der(certificate).map_err(der("revoked certificate"))?;
        Ok(RevokedCert {
            serial_number: certificate.tbs_certificate.serial_number,
            revocation_date: time(this_update)?,
            crl_entry_extensions: None,
        })
    };
    let revoked: Vec<RevokedCert> = revoked
        .iter()
        .map(entry)
        .collect::<Result<_, X509Error>>()?;
    let tbs = TbsCertList {
        version: Version::V2,
        signature: issuer.key.algorithm()?,
        issuer: certificate.subject,
        this_update: time(this_update)?,
        next_update: Some(time(next_update)?),
        // Absent if empty (RFC 5280, section 5.1.2.6).
        revoked_certificates: (!revoked.is_empty()).then_some(revoked),
        crl_extensions: Some(vec![
            extension(false, &number)?,
            extension(
                false,
                &AuthorityKeyIdentifier {
                    key_identifier: Some(authority),
                    ..Default::default()
                },
            )?,
        ]),
    };
    let signature = issuer.key.sign(&tbs.to_der().map_err(der("CRL body"))?);
    let list = CertificateList {
        signature_algorithm: tbs.signature.clone(),
        tbs_cert_list: tbs,
        signature: BitString::from_bytes(&signature).map_err(der("signature"))?,
    };
    list.to_der().map_err(der("CRL"))
}

/// Returns concatenated PEM of certificates in DER.
///
/// # Errors
/// [`X509Error`] if one of them is not DER.
pub fn pem(certificates: &[&[u8]]) -> Result<String, X509Error> {
    use x509_cert::der::EncodePem;
    let mut text = String::new();
    for certificate in certificates {
        let certificate = Certificate::from_der(certificate).map_err(der("certificate"))?;
        text.push_str(&certificate.to_pem(LineEnding::LF).map_err(der("PEM"))?);
    }
    Ok(text)
}

/// Returns an extension whose content is DER or, for AMD's hardware id, plain bytes.
///
/// # Errors
/// [`X509Error`] if the content is too long.
pub fn raw_extension(
    oid: ObjectIdentifier,
    critical: bool,
    content: Vec<u8>,
) -> Result<Extension, X509Error> {
    Ok(Extension {
        extn_id: oid,
        critical,
        extn_value: OctetString::new(content).map_err(der("extension"))?,
    })
}

/// Returns a DER sequence of parts that are already encoded.
///
/// # Errors
/// [`X509Error`] if the parts are too long.
pub fn sequence(parts: &[Vec<u8>]) -> Result<Vec<u8>, X509Error> {
    Any::new(Tag::Sequence, parts.concat())
        .and_then(|any| any.to_der())
        .map_err(der("sequence"))
}

/// Returns the DER encoding of `value`. `what` names it in errors.
///
/// # Errors
/// [`X509Error`] if encoding fails.
pub fn encoded<T: Encode>(what: &'static str, value: &T) -> Result<Vec<u8>, X509Error> {
    value.to_der().map_err(der(what))
}

/// Returns the DER encoding of an IA5 string.
///
/// # Errors
/// [`X509Error`] if the text is not ASCII.
pub fn ia5(text: &str) -> Result<Vec<u8>, X509Error> {
    encoded(
        "IA5 string",
        &Ia5String::new(text).map_err(der("IA5 string"))?,
    )
}

fn development_mark() -> Result<Extension, X509Error> {
    let oid = ObjectIdentifier::from_str(DEVELOPMENT_ROOT_OID)
        .map_err(|error| der("object identifier")(error.into()))?;
    raw_extension(oid, true, encoded("NULL", &Null)?)
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> Result<Extension, X509Error> {
    raw_extension(T::OID, critical, encoded("extension", value)?)
}

fn usage(role: Role) -> FlagSet<KeyUsages> {
    match role {
        Role::Root | Role::Intermediate => KeyUsages::KeyCertSign | KeyUsages::CRLSign,
        Role::Leaf => KeyUsages::DigitalSignature | KeyUsages::NonRepudiation,
    }
}

fn path_length(role: Role) -> Option<u8> {
    match role {
        Role::Root => Some(1),
        Role::Intermediate => Some(0),
        Role::Leaf => None,
    }
}

/// Key identifier by method 1 of RFC 5280, with SHA-256 instead of SHA-1.
fn key_id(public: &SubjectPublicKeyInfoOwned) -> Result<OctetString, X509Error> {
    let digest = Sha256::digest(public.subject_public_key.raw_bytes());
    OctetString::new(&digest[..20]).map_err(der("key identifier"))
}

/// Returns a serial number derived from key and name: positive, 16 bytes, and different for each pair.
fn serial(public: &SubjectPublicKeyInfoOwned, name: &str) -> Result<SerialNumber, X509Error> {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update(public.subject_public_key.raw_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[0] = bytes[0] & 0x3f | 0x40;
    SerialNumber::new(&bytes).map_err(der("serial number"))
}

/// Encodes a time as UTCTime up to 2049 and as GeneralizedTime after that, as RFC 5280 requires.
fn time(seconds: u64) -> Result<Time, X509Error> {
    let duration = Duration::from_secs(seconds);
    if seconds <= NOT_AFTER {
        UtcTime::from_unix_duration(duration)
            .map(Time::UtcTime)
            .map_err(der("time"))
    } else {
        GeneralizedTime::from_unix_duration(duration)
            .map(Time::GeneralTime)
            .map_err(der("time"))
    }
}
