//! Certificates as NVIDIA issues them: P-384 keys and ECDSA signatures with SHA-384, and no other algorithm.
//!
//! Path validation covers names, signatures, certificate authority rights and dates (RFC 5280, section 6.1). Device
//! certificates have no extended key usage and end in the year 9999, both of which general-purpose validators reject.

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
/// Critical extensions that are understood. Extended key usage is accepted on OCSP responders only.
const KNOWN: [ObjectIdentifier; 3] = [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE];

/// Why a certificate or a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// The certificate is larger than the limit.
    #[error("{certificate} has {length} bytes, more than {MAX_CERTIFICATE}")]
    TooLarge {
        /// Name of the certificate.
        certificate: &'static str,
        /// Size in bytes.
        length: usize,
    },
    /// The chain is larger than the limit.
    #[error("the GPU's certificate chain has {length} bytes of PEM, more than {MAX_CHAIN}")]
    ChainTooLarge {
        /// Size of the PEM text in bytes.
        length: usize,
    },
    /// The bytes are not an X.509 certificate in DER.
    #[error("{certificate} is not X.509 in DER")]
    Malformed {
        /// Name of the certificate.
        certificate: &'static str,
        /// The decoder's error, with the offset.
        #[source]
        reason: x509_cert::der::Error,
    },
    /// The chain has the wrong number of certificates.
    #[error("{chain} has {found} certificates, {expected} expected")]
    Count {
        /// Name of the chain.
        chain: &'static str,
        /// Number of certificates found.
        found: usize,
        /// Number of certificates required.
        expected: usize,
    },
    /// A key is not on P-384, or a signature is not ECDSA with SHA-384.
    #[error("{certificate} has {what} of another kind than ECDSA on P-384 with SHA-384")]
    Algorithm {
        /// Name of the certificate.
        certificate: &'static str,
        /// Whether its key or its signature is at fault.
        what: &'static str,
    },
    /// The issuer that the certificate names is not the subject of the next certificate.
    #[error("{certificate} names another issuer ({issuer})")]
    Issuer {
        /// Name of the certificate.
        certificate: &'static str,
        /// The issuer that it names.
        issuer: String,
    },
    /// The signature does not verify under the issuer's key.
    #[error("the signature on {certificate} does not hold")]
    Signature {
        /// Name of the certificate.
        certificate: &'static str,
    },
    /// The certificate is not allowed the role that it has in the chain.
    #[error("{certificate} is not {role}")]
    Role {
        /// Name of the certificate.
        certificate: &'static str,
        /// The role that it would have to be allowed.
        role: &'static str,
    },
    /// The certificate has an unknown critical extension.
    #[error("{certificate} has the critical extension {oid}, which this verifier does not know")]
    Critical {
        /// Name of the certificate.
        certificate: &'static str,
        /// Identifier of the extension.
        oid: ObjectIdentifier,
    },
    /// The certificate has the same extension twice.
    #[error("{certificate} has the extension {oid} twice")]
    Repeated {
        /// Name of the certificate.
        certificate: &'static str,
        /// Identifier of the extension.
        oid: ObjectIdentifier,
    },
    /// The certificate is not yet valid, or no longer.
    #[error(transparent)]
    Validity(#[from] ValidityError),
}

/// A decoded certificate, with its DER bytes and the part of them that is signed.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    /// Name of the certificate in error messages.
    pub name: &'static str,
    pub der: Vec<u8>,
    pub certificate: Certificate,
    /// The signed bytes as received. They are not encoded anew, because the encoding could differ.
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

    /// Returns the subject's public key.
    pub(super) fn key(&self) -> Result<VerifyingKey, CertificateError> {
        use x509_cert::der::referenced::OwnedToRef as _;
        let info = &self.certificate.tbs_certificate.subject_public_key_info;
        VerifyingKey::try_from(info.owned_to_ref()).map_err(|_| CertificateError::Algorithm {
            certificate: self.name,
            what: "a key",
        })
    }

    /// Returns the subject's public key in DER (SubjectPublicKeyInfo).
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

    /// Returns the extension `oid` if it occurs exactly once.
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

    /// Checks that `issuer` is the named issuer and that its key verifies the signature.
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

    /// Checks the dates, that each extension occurs once, and that every critical extension is known.
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

    /// Checks that this certificate may sign certificates, with `below` authorities between it and the leaf.
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

    /// Checks that this certificate may sign evidence, and is no certificate authority.
    pub(super) fn check_signer(&self) -> Result<(), CertificateError> {
        // Constraints that cannot be read count as an authority's.
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

/// Verifies `chain`, from the signer to its root: each certificate below the root is issued by the next and within its
/// dates, and all but the first may sign certificates.
///
/// Whether the root is trusted, the caller must check.
pub(super) fn check_path(
    chain: &[Parsed],
    now: u64,
    known: &Known,
) -> Result<(), CertificateError> {
    // A certificate with an extended key usage, such as an OCSP responder's, is for another purpose. NVIDIA's chains have
    // none.
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

/// Verifies an ECDSA signature in DER, on P-384 with SHA-384.
pub(super) fn der_signature_holds(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_der(signature).is_ok_and(|signature| holds(key, message, &signature))
}

/// Verifies an ECDSA signature of 96 bytes (r, then s), on P-384 with SHA-384.
pub(super) fn raw_signature_holds(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| holds(key, message, &signature))
}

/// Verifies a signature. `p384` decides strictly which keys and signatures are well-formed. The arithmetic is done by the
/// TLS stack's library, which takes a quarter of the time: the appraisal of one GPU verifies thirteen signatures and
/// spends little time on anything else.
fn holds(key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
    use graviola::{
        hashing::Sha384,
        signing::ecdsa::{P384, VerifyingKey as Fast},
    };
    Fast::<P384>::from_x962_uncompressed(key.to_encoded_point(false).as_bytes())
        .and_then(|fast| fast.verify::<Sha384>(&[message], &signature.to_bytes()))
        .is_ok()
}

/// Returns the first element of a DER sequence, header included: the part of a certificate or an OCSP response that is
/// signed.
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
