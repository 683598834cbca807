//! Roots of trust: the CPU vendors' own, and development roots that cannot be mistaken for them.
//!
//! A development root is the simulator's. Its certificate must carry our critical extension: no vendor's or other certificate
//! can be passed off as one, and verifiers that do not know the extension refuse it. Evidence under it is marked
//! [`RootClass::Development`] in every claim.

use cocoon_protocol::document::DEVELOPMENT_ROOT_OID;
use thiserror::Error;
use x509_cert::{
    Certificate,
    der::{Encode as _, oid::ObjectIdentifier},
};

use crate::der;

/// Largest certificate accepted, in bytes. AMD's have 1.7 KB.
pub const MAX_CERTIFICATE: usize = 8 << 10;
/// ASN.1 NULL, the extension's value.
const NULL: [u8; 2] = [5, 0];

/// Class of the root that vouches for evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootClass {
    /// The CPU vendor's root: the evidence is from hardware.
    Vendor,
    /// A development root: the evidence is simulated.
    Development,
}

/// The root under which a piece of evidence is to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustRoot {
    /// The vendor's pinned root: Intel's SGX root CA, or AMD's root keys of Milan, Genoa and Turin.
    Vendor,
    /// A development root, named explicitly by the verifier's user.
    Development(DevelopmentRoot),
}

impl TrustRoot {
    /// Returns the development root whose certificate in DER is `der`.
    ///
    /// # Errors
    /// [`RootError`] when the certificate is not marked as a development root.
    pub fn development(der: &[u8]) -> Result<Self, RootError> {
        DevelopmentRoot::parse(der).map(Self::Development)
    }

    /// Returns the class of evidence that verifies under this root.
    #[must_use]
    pub const fn class(&self) -> RootClass {
        match self {
            Self::Vendor => RootClass::Vendor,
            Self::Development(_) => RootClass::Development,
        }
    }
}

/// A certificate that carries the critical development extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevelopmentRoot {
    /// Boxed, because it is two hundred times larger than the other variant of [`TrustRoot`].
    certificate: Box<Certificate>,
}

/// Why a certificate is not a development root.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RootError {
    /// The certificate is larger than [`MAX_CERTIFICATE`].
    #[error("root certificate has {length} bytes, more than {MAX_CERTIFICATE}")]
    TooLarge {
        /// Length of the certificate in bytes.
        length: usize,
    },
    /// The bytes are not a certificate.
    #[error("root certificate is not X.509 in DER")]
    Malformed(#[source] x509_cert::der::Error),
    /// The certificate lacks our extension: it may be a vendor's or anyone's.
    #[error(
        "root certificate lacks the development extension {DEVELOPMENT_ROOT_OID}: only the simulator's root may be named"
    )]
    NotDevelopment,
    /// The extension is present, but not critical, not once, or not NULL, so that a verifier could overlook it.
    #[error(
        "root certificate has the development extension {DEVELOPMENT_ROOT_OID}, but not critical, once, and with the value NULL"
    )]
    ExtensionForm,
}

impl DevelopmentRoot {
    /// Parses a certificate in DER and checks its development extension. Its dates are checked on use.
    ///
    /// # Errors
    /// [`RootError`] when it is not a certificate, or lacks the extension in its exact form.
    pub fn parse(bytes: &[u8]) -> Result<Self, RootError> {
        if bytes.len() > MAX_CERTIFICATE {
            return Err(RootError::TooLarge {
                length: bytes.len(),
            });
        }
        let certificate: Certificate = der::decode(bytes).map_err(RootError::Malformed)?;
        let extensions = certificate
            .tbs_certificate
            .extensions
            .as_deref()
            .unwrap_or_default();
        let mut marks = extensions
            .iter()
            .filter(|extension| extension.extn_id == DEVELOPMENT);
        match (marks.next(), marks.next()) {
            (None, _) => Err(RootError::NotDevelopment),
            (Some(mark), None) if mark.critical && mark.extn_value.as_bytes() == NULL => Ok(Self {
                certificate: Box::new(certificate),
            }),
            _ => Err(RootError::ExtensionForm),
        }
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Returns the certificate without the development extension; name, key and serial number stay.
    ///
    /// The library that verifies Intel's chains refuses any unknown critical extension, even in a trust anchor, of which it
    /// uses name, key and serial number alone. The extension has been checked already. Its removal breaks the anchor's
    /// signature over itself, which is worthless and not checked.
    pub(crate) fn unmarked_der(&self) -> Result<Vec<u8>, x509_cert::der::Error> {
        let mut certificate = self.certificate.clone();
        if let Some(extensions) = &mut certificate.tbs_certificate.extensions {
            extensions.retain(|extension| extension.extn_id != DEVELOPMENT);
        }
        certificate.to_der()
    }
}

const DEVELOPMENT: ObjectIdentifier = ObjectIdentifier::new_unwrap(DEVELOPMENT_ROOT_OID);

/// A certificate or list outside its validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ValidityError {
    /// The validity has not begun.
    #[error(
        "{certificate} is valid from {not_before} (Unix time), and it is {now}: check the clock"
    )]
    NotYetValid {
        /// Name of the certificate or list.
        certificate: &'static str,
        /// First second of the validity, Unix time.
        not_before: u64,
        /// The caller's time, Unix time.
        now: u64,
    },
    /// The validity has ended.
    #[error(
        "{certificate} was valid until {not_after} (Unix time), and it is {now}: fetch a newer one"
    )]
    Expired {
        /// Name of the certificate or list.
        certificate: &'static str,
        /// Last second of the validity, Unix time.
        not_after: u64,
        /// The caller's time, Unix time.
        now: u64,
    },
}

impl ValidityError {
    /// Returns whether the error is about the development root itself, not about something below it.
    pub(crate) fn is_of_root(&self) -> bool {
        let (Self::NotYetValid { certificate, .. } | Self::Expired { certificate, .. }) = self;
        *certificate == DEVELOPMENT_ROOT
    }
}

/// Name of the development root in errors.
pub(crate) const DEVELOPMENT_ROOT: &str = "the development root";

pub(crate) fn check_dates(
    certificate: &'static str,
    (not_before, not_after): (u64, u64),
    now: u64,
) -> Result<(), ValidityError> {
    if now < not_before {
        return Err(ValidityError::NotYetValid {
            certificate,
            not_before,
            now,
        });
    }
    if now > not_after {
        return Err(ValidityError::Expired {
            certificate,
            not_after,
            now,
        });
    }
    Ok(())
}

/// Returns the first and the last second of a certificate's validity, Unix time.
pub(crate) fn validity(certificate: &Certificate) -> (u64, u64) {
    let validity = &certificate.tbs_certificate.validity;
    (
        validity.not_before.to_unix_duration().as_secs(),
        validity.not_after.to_unix_duration().as_secs(),
    )
}

#[cfg(test)]
mod tests {
    use x509_cert::{
        Certificate,
        der::{Decode as _, DecodePem as _, Encode as _, asn1::OctetString},
        ext::Extension,
    };

    use super::{
        DEVELOPMENT, DevelopmentRoot, MAX_CERTIFICATE, NULL, RootClass, RootError, TrustRoot,
        ValidityError, check_dates,
    };

    /// AMD's root certificate with `marks` as development extensions. Its signature is not checked here.
    fn marked(marks: &[(bool, &[u8])]) -> Vec<u8> {
        let mut certificate = Certificate::from_pem(sev::certs::snp::builtin::milan::ARK).unwrap();
        let extensions = certificate
            .tbs_certificate
            .extensions
            .get_or_insert_default();
        extensions.extend(marks.iter().map(|(critical, value)| Extension {
            extn_id: DEVELOPMENT,
            critical: *critical,
            extn_value: OctetString::new(*value).unwrap(),
        }));
        certificate.to_der().unwrap()
    }

    #[test]
    fn only_the_exact_mark_makes_a_development_root() {
        let root = TrustRoot::development(&marked(&[(true, &NULL)])).unwrap();
        assert_eq!(root.class(), RootClass::Development);
        assert_eq!(
            DevelopmentRoot::parse(&marked(&[])),
            Err(RootError::NotDevelopment)
        );
        for marks in [
            &[(false, &NULL[..])][..],
            &[(true, &[1, 1, 0xff])],
            &[(true, &NULL), (true, &NULL)],
        ] {
            assert_eq!(
                DevelopmentRoot::parse(&marked(marks)),
                Err(RootError::ExtensionForm)
            );
        }
        let length = MAX_CERTIFICATE + 1;
        assert_eq!(
            DevelopmentRoot::parse(&vec![0; length]),
            Err(RootError::TooLarge { length })
        );
    }

    #[test]
    fn the_mark_alone_is_taken_off() {
        let root = DevelopmentRoot::parse(&marked(&[(true, &NULL)])).unwrap();
        assert_eq!(root.unmarked_der().unwrap(), marked(&[]));
        let unmarked = Certificate::from_der(&root.unmarked_der().unwrap()).unwrap();
        let (a, b) = (
            &unmarked.tbs_certificate,
            &root.certificate().tbs_certificate,
        );
        assert_eq!(
            (&a.subject, &a.subject_public_key_info),
            (&b.subject, &b.subject_public_key_info)
        );
    }

    #[test]
    fn validity_includes_both_ends() {
        let certificate = "the ARK";
        let check = |now| check_dates(certificate, (10, 20), now);
        assert_eq!((check(10), check(20)), (Ok(()), Ok(())));
        assert_eq!(
            check(9),
            Err(ValidityError::NotYetValid {
                certificate,
                not_before: 10,
                now: 9
            })
        );
        assert_eq!(
            check(21),
            Err(ValidityError::Expired {
                certificate,
                not_after: 20,
                now: 21
            })
        );
    }
}
