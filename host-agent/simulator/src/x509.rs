//! Certificates and revocation lists, assembled field by field and signed with keys of the three kinds that TEE
//! vendors use. Signing in software is the whole point here: these roots are worth nothing to anybody.

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

/// Every certificate here is valid from 2020 on, in seconds since 1970: only collateral has a real clock.
pub const NOT_BEFORE: u64 = 1_577_836_800;
/// The end of 2049, the last second that UTCTime can write.
pub const NOT_AFTER: u64 = 2_524_607_999;

/// Why a certificate or key could not be made or read: always a fault of this program or of damaged files.
#[derive(Debug, thiserror::Error)]
pub enum X509Error {
    /// Encoding or decoding.
    #[error("cannot encode or decode {what}")]
    Der {
        /// The structure.
        what: &'static str,
        /// Why not.
        #[source]
        source: x509_cert::der::Error,
    },
    /// A moment that no statement can carry.
    #[error("{0} seconds after 1970 cannot be written as a date")]
    Date(u64),
    /// A private key.
    #[error("cannot {operation} a private key: {reason}")]
    Key {
        /// Make, read or write.
        operation: &'static str,
        /// Why not.
        reason: String,
    },
}

pub(crate) fn der(what: &'static str) -> impl FnOnce(x509_cert::der::Error) -> X509Error {
    move |source| X509Error::Der { what, source }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Self-signed authority, marked as a development root.
    Root,
    /// Authority below the root.
    Intermediate,
    /// Signs evidence or collateral.
    Leaf,
}

/// A key and its certificate.
#[derive(Debug)]
pub struct Identity {
    /// The private key.
    pub key: PrivateKey,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
}

/// Issues a certificate for `key`, by `issuer` or by itself, with the subject `name` (RFC 4514) and further
/// extensions.
///
/// # Errors
/// [`X509Error`] when something cannot be encoded.
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

/// Signs a certificate body, whatever it says: for forging, too.
///
/// # Errors
/// [`X509Error`] when something cannot be encoded.
pub fn sign_certificate(tbs: TbsCertificate, signer: &PrivateKey) -> Result<Vec<u8>, X509Error> {
    let signature = signer.sign(&tbs.to_der().map_err(der("certificate body"))?);
    let certificate = Certificate {
        signature_algorithm: tbs.signature.clone(),
        tbs_certificate: tbs,
        signature: BitString::from_bytes(&signature).map_err(der("signature"))?,
    };
    certificate.to_der().map_err(der("certificate"))
}

/// A revocation list of `issuer`, from `this_update` until `next_update`, in seconds since 1970, with the serial numbers of
/// the `revoked` certificates (DER).
///
/// # Errors
/// [`X509Error`] when something cannot be encoded, such as a time after 9999, or is no certificate.
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
    // The number must rise from list to list; the time of issue does.
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
        // Absent where there is none (RFC 5280, section 5.1.2.6).
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

/// Certificates as PEM, one after the other.
///
/// # Errors
/// [`X509Error`] when one of them is not DER.
pub fn pem(certificates: &[&[u8]]) -> Result<String, X509Error> {
    use x509_cert::der::EncodePem;
    let mut text = String::new();
    for certificate in certificates {
        let certificate = Certificate::from_der(certificate).map_err(der("certificate"))?;
        text.push_str(&certificate.to_pem(LineEnding::LF).map_err(der("PEM"))?);
    }
    Ok(text)
}

/// An extension whose content is given as DER, or (AMD's hardware id) as bytes of no structure.
///
/// # Errors
/// [`X509Error`] when the content is too long.
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

/// A DER sequence of parts that are DER already.
///
/// # Errors
/// [`X509Error`] when they are too long.
pub fn sequence(parts: &[Vec<u8>]) -> Result<Vec<u8>, X509Error> {
    Any::new(Tag::Sequence, parts.concat())
        .and_then(|any| any.to_der())
        .map_err(der("sequence"))
}

/// The DER of `value`.
///
/// # Errors
/// [`X509Error`] when it cannot be encoded.
pub fn encoded<T: Encode>(what: &'static str, value: &T) -> Result<Vec<u8>, X509Error> {
    value.to_der().map_err(der(what))
}

/// An IA5 string as DER.
///
/// # Errors
/// [`X509Error`] when the text is not ASCII.
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

/// RFC 5280 method 1 with SHA-256 in place of SHA-1.
fn key_id(public: &SubjectPublicKeyInfoOwned) -> Result<OctetString, X509Error> {
    let digest = Sha256::digest(public.subject_public_key.raw_bytes());
    OctetString::new(&digest[..20]).map_err(der("key identifier"))
}

/// Derived, not random: positive, 16 bytes, different for every key and name.
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

/// UTCTime up to 2049, GeneralizedTime after, as RFC 5280 wants it.
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
