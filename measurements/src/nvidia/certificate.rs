//! Certificates as NVIDIA issues them: keys on P-384, signed with ECDSA and SHA-384, and nothing else.
//!
//! A path is walked by name, signature, authority and dates (RFC 5280, section 6.1). Device certificates have no extended
//! key usage and end in the year 9999, which general-purpose validators object to.

use p384::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha384};
use thiserror::Error;
use x509_cert::{
    Certificate,
    der::{Encode as _, Reader as _, SliceReader, oid::ObjectIdentifier},
    ext::{
        Extension,
        pkix::{BasicConstraints, KeyUsage, KeyUsages},
    },
};

use super::{MAX_CHAIN, known::Known};
use crate::{
    der::{decode, repeated_extension},
    roots::{self, MAX_CERTIFICATE, ValidityError},
};

const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
pub(super) const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// Critical extensions that are looked at; the last one stands on responders of OCSP only.
const KNOWN: [ObjectIdentifier; 3] = [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE];

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Larger than any.
    #[error("{certificate} has {length} bytes, more than {MAX_CERTIFICATE}")]
    TooLarge {
        /// Which one.
        certificate: &'static str,
        /// Bytes given.
        length: usize,
    },
    /// A chain larger than any.
    #[error("the GPU's certificate chain has {length} bytes of PEM, more than {MAX_CHAIN}")]
    ChainTooLarge {
        /// Bytes given.
        length: usize,
    },
    /// Not what it should be.
    #[error("{certificate} is not X.509 in DER")]
    Malformed {
        /// Which one.
        certificate: &'static str,
        /// What the decoder says, with the offset.
        #[source]
        reason: x509_cert::der::Error,
    },
    /// Another number of certificates than the chain has.
    #[error("{chain} has {found} certificates, {expected} expected")]
    Count {
        /// Which chain.
        chain: &'static str,
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A key or signature of another kind.
    #[error("{certificate} has {what} of another kind than ECDSA on P-384 with SHA-384")]
    Algorithm {
        /// Which one.
        certificate: &'static str,
        /// Its key or its signature.
        what: &'static str,
    },
    /// It names an issuer that is not the next one's subject.
    #[error("{certificate} names another issuer ({issuer})")]
    Issuer {
        /// Which one.
        certificate: &'static str,
        /// The issuer that it names.
        issuer: String,
    },
    /// The signature of the next key does not hold.
    #[error("the signature on {certificate} does not hold")]
    Signature {
        /// Which one.
        certificate: &'static str,
    },
    /// It may not do what it does.
    #[error("{certificate} is not {role}")]
    Role {
        /// Which one.
        certificate: &'static str,
        /// What it would have to be.
        role: &'static str,
    },
    /// It demands something that this verifier does not know.
    #[error("{certificate} has the critical extension {oid}, which this verifier does not know")]
    Critical {
        /// Which one.
        certificate: &'static str,
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// Two extensions of one kind.
    #[error("{certificate} has the extension {oid} twice")]
    Repeated {
        /// Which one.
        certificate: &'static str,
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// Too early or too late.
    #[error(transparent)]
    Validity(#[from] ValidityError),
}

/// A certificate, and where its signed part lies in its bytes.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    /// As errors call it.
    pub name: &'static str,
    pub der: Vec<u8>,
    pub certificate: Certificate,
    /// The bytes under the signature, as they were sent: encoded anew they might be others.
    signed: Vec<u8>,
}

impl Parsed {
    pub(super) fn new(name: &'static str, der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE {
            return Err(CertificateError::TooLarge {
                certificate: name,
                length: der.len(),
            });
        }
        let malformed = |reason| CertificateError::Malformed {
            certificate: name,
            reason,
        };
        Ok(Self {
            name,
            der: der.to_vec(),
            certificate: decode(der).map_err(malformed)?,
            signed: first_of(der).map_err(malformed)?.to_vec(),
        })
    }

    /// The subject's key.
    pub(super) fn key(&self) -> Result<VerifyingKey, CertificateError> {
        use x509_cert::der::referenced::OwnedToRef as _;
        let info = &self.certificate.tbs_certificate.subject_public_key_info;
        VerifyingKey::try_from(info.owned_to_ref()).map_err(|_| CertificateError::Algorithm {
            certificate: self.name,
            what: "a key",
        })
    }

    /// The subject's key in DER (SubjectPublicKeyInfo).
    pub(super) fn key_info(&self) -> Result<Vec<u8>, CertificateError> {
        let info = &self.certificate.tbs_certificate.subject_public_key_info;
        info.to_der().map_err(|reason| CertificateError::Malformed {
            certificate: self.name,
            reason,
        })
    }

    pub(super) fn key_sha384(&self) -> Result<[u8; 48], CertificateError> {
        Ok(Sha384::digest(self.key_info()?).into())
    }

    /// The one extension of this kind; of several none counts.
    pub(super) fn extension(&self, oid: ObjectIdentifier) -> Option<&Extension> {
        let mut found = self
            .extensions()
            .filter(|extension| extension.extn_id == oid);
        found.next().filter(|_| found.next().is_none())
    }

    fn extensions(&self) -> impl Iterator<Item = &Extension> {
        let extensions = self.certificate.tbs_certificate.extensions.as_deref();
        extensions.unwrap_or_default().iter()
    }

    /// Name and signature of `issuer`.
    pub(super) fn check_issued_by(
        &self,
        issuer: &Self,
        known: &Known,
    ) -> Result<(), CertificateError> {
        let body = &self.certificate.tbs_certificate;
        if body.issuer != issuer.certificate.tbs_certificate.subject {
            return Err(CertificateError::Issuer {
                certificate: self.name,
                issuer: body.issuer.to_string(),
            });
        }
        if self.certificate.signature_algorithm.oid != ECDSA_WITH_SHA384
            || body.signature != self.certificate.signature_algorithm
        {
            return Err(CertificateError::Algorithm {
                certificate: self.name,
                what: "a signature",
            });
        }
        let signature = self.certificate.signature.raw_bytes();
        if known.der(&issuer.key()?, &self.signed, signature) {
            return Ok(());
        }
        Err(CertificateError::Signature {
            certificate: self.name,
        })
    }

    /// Dates, each extension once, and critical extensions that nobody here knows.
    pub(super) fn check_own(&self, now: u64) -> Result<(), CertificateError> {
        roots::check_dates(self.name, roots::validity(&self.certificate), now)?;
        if let Some(oid) = repeated_extension(&self.certificate) {
            return Err(CertificateError::Repeated {
                certificate: self.name,
                oid,
            });
        }
        let unknown = self
            .extensions()
            .find(|extension| extension.critical && !KNOWN.contains(&extension.extn_id));
        match unknown {
            Some(extension) => Err(CertificateError::Critical {
                certificate: self.name,
                oid: extension.extn_id,
            }),
            None => Ok(()),
        }
    }

    /// May sign certificates, with `below` authorities between it and the last certificate.
    pub(super) fn check_authority(&self, below: usize) -> Result<(), CertificateError> {
        let constraints = self
            .extension(BASIC_CONSTRAINTS)
            .and_then(|extension| decode::<BasicConstraints>(extension.extn_value.as_bytes()).ok());
        let long_enough = |constraints: &BasicConstraints| {
            let most = constraints.path_len_constraint;
            constraints.ca && most.is_none_or(|most| usize::from(most) >= below)
        };
        let allowed =
            constraints.as_ref().is_some_and(long_enough) && self.may(KeyUsages::KeyCertSign, true);
        self.role(allowed, "an authority for this chain")
    }

    /// May sign evidence, and no certificates.
    pub(super) fn check_signer(&self) -> Result<(), CertificateError> {
        // Constraints that cannot be read may be an authority's.
        let authority = self
            .extension(BASIC_CONSTRAINTS)
            .map(|extension| decode::<BasicConstraints>(extension.extn_value.as_bytes()))
            .is_some_and(|constraints| constraints.map_or(true, |constraints| constraints.ca));
        let allowed = !authority && self.may(KeyUsages::DigitalSignature, true);
        self.role(allowed, "a certificate that may sign this")
    }

    fn may(&self, usage: KeyUsages, by_default: bool) -> bool {
        if !self
            .extensions()
            .any(|extension| extension.extn_id == KEY_USAGE)
        {
            return by_default;
        }
        self.extension(KEY_USAGE)
            .and_then(|extension| decode::<KeyUsage>(extension.extn_value.as_bytes()).ok())
            .is_some_and(|allowed| allowed.0.contains(usage))
    }

    fn role(&self, allowed: bool, role: &'static str) -> Result<(), CertificateError> {
        if allowed {
            return Ok(());
        }
        Err(CertificateError::Role {
            certificate: self.name,
            role,
        })
    }
}

/// `chain` from the signer to its root: each issued by the next, all but the first authorities, all in their time. The root is
/// taken for what it is: whoever calls has checked it.
pub(super) fn check_path(
    chain: &[Parsed],
    now: u64,
    known: &Known,
) -> Result<(), CertificateError> {
    // A certificate for a purpose of its own, as a responder's is, is for no other; NVIDIA's chains name none.
    for certificate in chain {
        let limited = certificate
            .extensions()
            .any(|extension| extension.extn_id == EXTENDED_KEY_USAGE);
        certificate.role(
            !limited,
            "a certificate for this chain: it is for another purpose",
        )?;
    }
    for (place, pair) in chain.windows(2).enumerate() {
        let [certificate, issuer] = pair else {
            continue;
        };
        certificate.check_issued_by(issuer, known)?;
        certificate.check_own(now)?;
        issuer.check_authority(place)?;
    }
    chain.first().map_or(Ok(()), Parsed::check_signer)
}

/// Whether an ECDSA signature in DER holds. `key` and hash are P-384's.
pub(super) fn der_signature_holds(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_der(signature).is_ok_and(|signature| holds(key, message, &signature))
}

/// Whether an ECDSA signature of 96 bytes (r, then s) holds.
pub(super) fn raw_signature_holds(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| holds(key, message, &signature))
}

/// What a key and a signature may look like is `p384`'s strict word; the arithmetic is that of the library under TLS,
/// which takes a fourth of the time: a GPU's verdict verifies thirteen signatures, and takes hardly longer for all else.
fn holds(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    use graviola::{
        hashing::Sha384,
        signing::ecdsa::{P384, VerifyingKey as Fast},
    };
    Fast::<P384>::from_x962_uncompressed(key.to_encoded_point(false).as_bytes())
        .and_then(|fast| fast.verify::<Sha384>(&[message], &signature.to_bytes()))
        .is_ok()
}

/// The first element of a DER sequence, header included: what a certificate's or response's signature covers.
pub(super) fn first_of(der: &[u8]) -> Result<&[u8], x509_cert::der::Error> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|inner| {
        let first = inner.tlv_bytes()?;
        while !inner.is_finished() {
            inner.tlv_bytes()?;
        }
        Ok(first)
    })
}
