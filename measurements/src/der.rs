//! DER decoding with checked lengths, for untrusted certificates, revocation lists and OCSP responses.
//!
//! The library (`der` 0.7 and 0.8, `Reader::read_vec`) allocates as many bytes as an element claims, up to 256 MiB, before it
//! checks that they exist. One kilobyte of input could thus cost a quarter of a gibibyte. All untrusted DER is decoded here,
//! where an element that claims more than the input has left is refused before any allocation.

use std::collections::BTreeSet;

use x509_cert::{
    Certificate,
    der::{
        Decode, ErrorKind, Header, Reader as _, SliceReader,
        oid::ObjectIdentifier,
        pem::{self, PemLabel as _},
    },
};

pub use x509_cert::der::Error;

const END_OF_CERTIFICATE: &[u8] = b"-----END CERTIFICATE-----";

/// Decodes all of `der` as one value.
///
/// # Errors
/// The library's error, or [`ErrorKind::Incomplete`] when an element claims more bytes than the input has left.
pub fn decode<'a, T: Decode<'a>>(der: &'a [u8]) -> Result<T, Error> {
    check(der)?;
    T::from_der(der)
}

/// Refuses DER in which an element, at any depth, claims more bytes than the input has left.
///
/// The contents of octet and bit strings are not walked, because they are decoded separately.
///
/// # Errors
/// [`ErrorKind::Incomplete`] with its position in `der`, or the library's error for an invalid tag or length.
pub fn check(der: &[u8]) -> Result<(), Error> {
    let mut reader = SliceReader::new(der)?;
    while !reader.is_finished() {
        let header = Header::decode(&mut reader)?;
        if header.length > reader.remaining_len() {
            let expected_len = (reader.position() + header.length)?;
            let actual_len = reader.input_len();
            let incomplete = ErrorKind::Incomplete {
                expected_len,
                actual_len,
            };
            return Err(incomplete.at(reader.position()));
        }
        // The contents of a constructed element follow its header, so a flat walk reaches them without a stack.
        if !header.tag.is_constructed() {
            reader.read_slice(header.length)?;
        }
    }
    Ok(())
}

/// Returns the first extension that a certificate repeats, if any. RFC 5280, section 4.2, forbids repetition, and readers
/// could differ in which instance they use.
#[must_use]
pub fn repeated_extension(certificate: &Certificate) -> Option<ObjectIdentifier> {
    let mut seen = BTreeSet::new();
    let extensions = certificate.tbs_certificate.extensions.as_deref();
    let mut ids = extensions.into_iter().flatten().map(|one| one.extn_id);
    ids.find(|id| !seen.insert(*id))
}

/// Returns the certificates of a PEM file (RFC 7468) as DER, in file order. Each has been decoded once. A blank file yields
/// none.
///
/// # Errors
/// Fails when the text is not PEM, or a block has another label or is not a certificate.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut certificates = Vec::new();
    let mut rest = pem.trim_ascii_end();
    while !rest.is_empty() {
        let (block, after) = rest
            .windows(END_OF_CERTIFICATE.len())
            .position(|window| window == END_OF_CERTIFICATE)
            .and_then(|start| rest.split_at_checked(start + END_OF_CERTIFICATE.len()))
            .ok_or(pem::Error::PostEncapsulationBoundary)?;
        let (label, der) = pem::decode_vec(block)?;
        Certificate::validate_pem_label(label)?;
        decode::<Certificate>(&der)?;
        certificates.push(der);
        rest = after;
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use sev::certs::snp::builtin::milan;
    use x509_cert::der::{Encode as _, Length, asn1::AnyRef};

    use super::*;

    fn incomplete(error: Error) -> (u32, u32, u32) {
        let ErrorKind::Incomplete {
            expected_len,
            actual_len,
        } = error.kind()
        else {
            panic!("{error}")
        };
        let at = error.position().unwrap_or(Length::MAX);
        (at.into(), expected_len.into(), actual_len.into())
    }

    /// Strings that claim more bytes than there are, which fuzzing found: 7.9 MB at the top level, 268 MB nested.
    #[test]
    fn no_length_is_believed() {
        let lies = [0x0c, 0x83, 0x78, 0xd5, 0xdb, 1, 2, 3];
        assert_eq!(incomplete(check(&lies).unwrap_err()), (5, 7_919_072, 8));
        let in_a_set = [0x31, 8, 0x30, 6, 0x0c, 0x84, 0x0f, 0xff, 0, 0];
        let found = incomplete(check(&in_a_set).unwrap_err());
        assert_eq!(found, (10, 10 + 0x0fff_0000, 10));
        assert_eq!(
            decode::<AnyRef<'_>>(&in_a_set).unwrap_err().kind(),
            check(&in_a_set).unwrap_err().kind()
        );
        // An element that exceeds its parent but not the input costs no memory; the library refuses it.
        let nested = [0x30, 3, 0x0c, 4, 1, 2, 3, 4];
        assert_eq!(check(&nested), Ok(()));
        assert!(decode::<Certificate>(&nested).is_err());
    }

    #[test]
    fn real_certificates_pass() {
        let pem = [milan::ARK, b"\n", milan::ASK, b"\r\n"].concat();
        let ders = certificates(&pem).unwrap();
        assert_eq!(ders.len(), 2);
        for der in &ders {
            let certificate: Certificate = decode(der).unwrap();
            assert_eq!(certificate.to_der().unwrap(), *der);
            for end in 0..der.len() {
                assert!(decode::<Certificate>(&der[..end]).is_err(), "{end}");
            }
        }
        assert_eq!(certificates(b" \n\t"), Ok(Vec::new()));
    }

    #[test]
    fn other_files_are_refused() {
        let key = String::from_utf8_lossy(milan::ARK).replace("CERTIFICATE", "PRIVATE KEY");
        let mixed = String::from_utf8_lossy(milan::ARK).replace("BEGIN CERTIFICATE", "BEGIN KEY");
        let trailing = [milan::ARK, b"more"].concat();
        for text in [
            b"nothing".as_slice(),
            key.as_bytes(),
            mixed.as_bytes(),
            &trailing,
        ] {
            let error = certificates(text).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Pem(_)), "{error}");
        }
    }
}
