//! Keys and certificates of the simulated NVIDIA, assembled field by field.

use std::{str::FromStr as _, time::Duration};

use cocoon_protocol::document::DEVELOPMENT_ROOT_OID;
use p384::{
    ecdsa::{DerSignature, Signature, SigningKey, signature::Signer as _},
    pkcs8::{EncodePublicKey as _, LineEnding},
};
use sha2::{Digest as _, Sha256, Sha384};
use thiserror::Error as ThisError;
use x509_cert::{
    Certificate, TbsCertificate, Version,
    der::{
        Decode as _, Encode, EncodePem as _,
        asn1::{BitString, GeneralizedTime, OctetString},
        oid::{AssociatedOid, ObjectIdentifier},
    },
    ext::{
        Extension,
        pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages},
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
    time::{Time, Validity},
};

const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// The beginning of 2020 and the last second that a certificate can name.
const VALIDITY: (u64, u64) = (1_577_836_800, 253_402_300_799);

/// Why something could not be made.
#[derive(Debug, ThisError)]
pub enum Error {
    /// Encoding or decoding.
    #[error("cannot encode or decode a simulated structure")]
    Der(#[from] x509_cert::der::Error),
    /// A key.
    #[error("cannot make or encode a simulated key")]
    Key,
}

/// A P-384 key of no value.
#[derive(Clone, Debug)]
pub struct Key(SigningKey);

impl Key {
    /// The key that follows from a text.
    ///
    /// # Errors
    /// [`Error::Key`] when the digest is no key, which happens to nobody.
    pub fn from_seed(seed: &str) -> Result<Self, Error> {
        let mut scalar: [u8; 48] = Sha384::digest(seed).into();
        // Below the curve's order, whatever follows.
        scalar[0] &= 0x7f;
        SigningKey::from_slice(&scalar)
            .map(Self)
            .map_err(|_| Error::Key)
    }

    /// The public half.
    ///
    /// # Errors
    /// [`Error::Key`] when it cannot be encoded.
    pub fn public(&self) -> Result<SubjectPublicKeyInfoOwned, Error> {
        let der = self
            .0
            .verifying_key()
            .to_public_key_der()
            .map_err(|_| Error::Key)?;
        Ok(SubjectPublicKeyInfoOwned::from_der(der.as_bytes())?)
    }

    /// A signature as reports and manifests have it: r, then s.
    #[must_use]
    pub fn sign_raw(&self, message: &[u8]) -> [u8; 96] {
        let signature: Signature = self.0.sign(message);
        let mut bytes = [0; 96];
        bytes.copy_from_slice(&signature.to_bytes());
        bytes
    }

    /// A signature as certificates and OCSP responses have it.
    #[must_use]
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.0.sign(message);
        signature.as_bytes().to_vec()
    }
}

/// ECDSA with SHA-384, as certificates name it.
#[must_use]
pub fn algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned {
        oid: ECDSA_WITH_SHA384,
        parameters: None,
    }
}

/// A key and its certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The key.
    pub key: Key,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
}

impl Identity {
    /// The certificate, decoded.
    ///
    /// # Errors
    /// [`Error::Der`] when it was made to be none.
    pub fn parsed(&self) -> Result<Certificate, Error> {
        Ok(Certificate::from_der(&self.certificate)?)
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A development root.
    Root,
    /// An authority, with so many authorities below it at most.
    Authority(Option<u8>),
    /// Signs reports or manifests.
    Signer,
    /// Signs OCSP responses.
    Responder,
}

/// A certificate to be made; every field can be set to something wrong.
#[derive(Clone, Debug)]
pub struct Template {
    /// The subject (RFC 4514).
    pub subject: String,
    /// First and last second of its validity.
    pub validity: (u64, u64),
    /// Extensions.
    pub extensions: Result<Vec<Extension>, x509_cert::der::Error>,
}

impl Template {
    /// A certificate as NVIDIA makes them.
    #[must_use]
    pub fn new(subject: &str, role: Role) -> Self {
        Self {
            subject: subject.to_owned(),
            validity: VALIDITY,
            extensions: extensions(role),
        }
    }

    /// Valid from and until these seconds.
    #[must_use]
    pub fn valid(self, validity: (u64, u64)) -> Self {
        Self { validity, ..self }
    }

    /// With a further extension.
    #[must_use]
    pub fn with(mut self, oid: ObjectIdentifier, critical: bool, value: Vec<u8>) -> Self {
        if let Ok(extensions) = &mut self.extensions {
            match OctetString::new(value) {
                Ok(extn_value) => extensions.push(Extension {
                    extn_id: oid,
                    critical,
                    extn_value,
                }),
                Err(error) => self.extensions = Err(error),
            }
        }
        self
    }

    /// The certificate of `key`, by itself.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
    pub fn self_signed(self, key: Key) -> Result<Identity, Error> {
        let subject = Name::from_str(&self.subject)?;
        let certificate = self.certificate(&key.public()?, subject, &key)?;
        Ok(Identity { key, certificate })
    }

    /// The certificate of `key`, by `issuer`.
    ///
    /// # Errors
    /// [`Error`] when something cannot be encoded.
    pub fn issued(self, key: Key, issuer: &Identity) -> Result<Identity, Error> {
        let above = issuer.parsed()?.tbs_certificate.subject;
        let certificate = self.certificate(&key.public()?, above, &issuer.key)?;
        Ok(Identity { key, certificate })
    }

    fn certificate(
        self,
        public: &SubjectPublicKeyInfoOwned,
        issuer: Name,
        signer: &Key,
    ) -> Result<Vec<u8>, Error> {
        let (not_before, not_after) = self.validity;
        let mut serial = [0; 16];
        serial.copy_from_slice(
            &Sha256::new()
                .chain_update(&self.subject)
                .chain_update(public.subject_public_key.raw_bytes())
                .finalize()[..16],
        );
        serial[0] = serial[0] & 0x3f | 0x40;
        let tbs = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&serial)?,
            signature: algorithm(),
            issuer,
            validity: Validity {
                not_before: time(not_before)?,
                not_after: time(not_after)?,
            },
            subject: Name::from_str(&self.subject)?,
            subject_public_key_info: public.clone(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(self.extensions?),
        };
        sign(tbs, signer)
    }
}

/// Signs a certificate body, whatever it says.
///
/// # Errors
/// [`Error`] when something cannot be encoded.
pub fn sign(tbs: TbsCertificate, signer: &Key) -> Result<Vec<u8>, Error> {
    let signature = signer.sign_der(&tbs.to_der()?);
    let certificate = Certificate {
        signature_algorithm: algorithm(),
        tbs_certificate: tbs,
        signature: BitString::from_bytes(&signature)?,
    };
    Ok(certificate.to_der()?)
}

/// Certificates as PEM, one after the other.
///
/// # Errors
/// [`Error`] when one of them is not DER.
pub fn pem(identities: &[&Identity]) -> Result<String, Error> {
    let mut text = String::new();
    for identity in identities {
        text.push_str(&identity.parsed()?.to_pem(LineEnding::LF)?);
    }
    Ok(text)
}

fn extensions(role: Role) -> Result<Vec<Extension>, x509_cert::der::Error> {
    let (authority, path_len_constraint) = match role {
        Role::Root => (true, None),
        Role::Authority(below) => (true, below),
        Role::Signer | Role::Responder => (false, None),
    };
    let usage = if authority {
        KeyUsages::KeyCertSign | KeyUsages::CRLSign
    } else {
        KeyUsages::DigitalSignature.into()
    };
    let constraints = BasicConstraints {
        ca: authority,
        path_len_constraint,
    };
    let mut extensions = vec![extension(&constraints)?, extension(&KeyUsage(usage))?];
    match role {
        Role::Root => extensions.push(Extension {
            extn_id: ObjectIdentifier::new_unwrap(DEVELOPMENT_ROOT_OID),
            critical: true,
            // ASN.1 NULL.
            extn_value: OctetString::new([5, 0])?,
        }),
        Role::Responder => extensions.push(extension(&ExtendedKeyUsage(vec![OCSP_SIGNING]))?),
        Role::Authority(_) | Role::Signer => {}
    }
    Ok(extensions)
}

/// A critical extension.
fn extension<T: AssociatedOid + Encode>(value: &T) -> Result<Extension, x509_cert::der::Error> {
    Ok(Extension {
        extn_id: T::OID,
        critical: true,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}

/// NVIDIA writes GeneralizedTime, before 2050 too.
fn time(seconds: u64) -> Result<Time, x509_cert::der::Error> {
    GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).map(Time::GeneralTime)
}
