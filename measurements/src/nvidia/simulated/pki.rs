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
/// Validity of the certificates: from the start of 2020 to the last second that X.509 can express.
const VALIDITY: (u64, u64) = (1_577_836_800, 253_402_300_799);

/// Why a simulated structure cannot be made.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A structure cannot be encoded or decoded.
    #[error("cannot encode or decode a simulated structure")]
    Der(#[from] x509_cert::der::Error),
    /// A key cannot be made or encoded.
    #[error("cannot make or encode a simulated key")]
    Key,
}

/// A P-384 private key that protects nothing.
#[derive(Clone, Debug)]
pub struct Key(SigningKey);

impl Key {
    /// Derives a key from a text.
    ///
    /// # Errors
    /// [`Error::Key`] if the derived scalar is not a valid key, which is practically impossible.
    pub fn from_seed(seed: &str) -> Result<Self, Error> {
        let mut scalar: [u8; 48] = Sha384::digest(seed).into();
        // Keeps the scalar below the order of the curve.
        scalar[0] &= 0x7f;
        SigningKey::from_slice(&scalar)
            .map(Self)
            .map_err(|_| Error::Key)
    }

    /// Returns the public key.
    ///
    /// # Errors
    /// [`Error::Key`] if the key cannot be encoded.
    pub fn public(&self) -> Result<SubjectPublicKeyInfoOwned, Error> {
        let der = self
            .0
            .verifying_key()
            .to_public_key_der()
            .map_err(|_| Error::Key)?;
        Ok(SubjectPublicKeyInfoOwned::from_der(der.as_bytes())?)
    }

    /// Signs `message` in the form of reports and manifests: r, then s.
    #[must_use]
    pub fn sign_raw(&self, message: &[u8]) -> [u8; 96] {
        let signature: Signature = self.0.sign(message);
        let mut bytes = [0; 96];
        bytes.copy_from_slice(&signature.to_bytes());
        bytes
    }

    /// Signs `message` in the form of certificates and OCSP responses: DER.
    #[must_use]
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.0.sign(message);
        signature.as_bytes().to_vec()
    }
}

/// Returns the algorithm identifier of ECDSA with SHA-384.
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
    /// The private key.
    pub key: Key,
    /// The key's certificate in DER.
    pub certificate: Vec<u8>,
}

impl Identity {
    /// Returns the decoded certificate.
    ///
    /// # Errors
    /// [`Error::Der`] if a test replaced it by something that is not a certificate.
    pub fn parsed(&self) -> Result<Certificate, Error> {
        Ok(Certificate::from_der(&self.certificate)?)
    }
}

/// Purpose of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A development root.
    Root,
    /// A certificate authority, with the path length constraint if any.
    Authority(Option<u8>),
    /// Signs reports or manifests.
    Signer,
    /// Signs OCSP responses.
    Responder,
}

/// A certificate to be made. Any field may be set to an invalid value.
#[derive(Clone, Debug)]
pub struct Template {
    /// Distinguished name of the subject (RFC 4514).
    pub subject: String,
    /// First and last second of the validity, in Unix time.
    pub validity: (u64, u64),
    /// Extensions of the certificate.
    pub extensions: Result<Vec<Extension>, x509_cert::der::Error>,
}

impl Template {
    /// Returns a certificate as NVIDIA issues them.
    #[must_use]
    pub fn new(subject: &str, role: Role) -> Self {
        Self {
            subject: subject.to_owned(),
            validity: VALIDITY,
            extensions: extensions(role),
        }
    }

    /// Sets the first and last second of the validity, in Unix time.
    #[must_use]
    pub fn valid(self, validity: (u64, u64)) -> Self {
        Self { validity, ..self }
    }

    /// Adds an extension.
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

    /// Issues the certificate of `key`, signed by itself.
    ///
    /// # Errors
    /// [`Error`] if the certificate cannot be encoded.
    pub fn self_signed(self, key: Key) -> Result<Identity, Error> {
        let subject = Name::from_str(&self.subject)?;
        let certificate = self.certificate(&key.public()?, subject, &key)?;
        Ok(Identity { key, certificate })
    }

    /// Issues the certificate of `key`, signed by `issuer`.
    ///
    /// # Errors
    /// [`Error`] if the certificate cannot be encoded.
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

/// Signs the body of a certificate, which may be invalid.
///
/// # Errors
/// [`Error`] if the certificate cannot be encoded.
pub fn sign(tbs: TbsCertificate, signer: &Key) -> Result<Vec<u8>, Error> {
    let signature = signer.sign_der(&tbs.to_der()?);
    let certificate = Certificate {
        signature_algorithm: algorithm(),
        tbs_certificate: tbs,
        signature: BitString::from_bytes(&signature)?,
    };
    Ok(certificate.to_der()?)
}

/// Returns the certificates as one PEM text.
///
/// # Errors
/// [`Error`] if one of them is not a certificate in DER.
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

/// Makes a critical extension.
fn extension<T: AssociatedOid + Encode>(value: &T) -> Result<Extension, x509_cert::der::Error> {
    Ok(Extension {
        extn_id: T::OID,
        critical: true,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}

/// Encodes a time. NVIDIA uses GeneralizedTime even for dates before 2050.
fn time(seconds: u64) -> Result<Time, x509_cert::der::Error> {
    GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).map(Time::GeneralTime)
}
