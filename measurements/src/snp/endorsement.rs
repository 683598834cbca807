//! Checks that the certificate of a VCEK or VLEK is for the processor and TCB of the report.
//!
//! The secure processor derives the key from its TCB, so a certificate for one TCB must not vouch for another. The
//! extensions are those of AMD 57230, table 9 (`1.3.6.1.4.1.3704.1.3.*` and `.1.4`).

use thiserror::Error;
use x509_cert::{Certificate, der::oid::ObjectIdentifier};

use super::{
    chain::Product,
    report::{SigningKey, TcbVersion},
};

const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// Why a certificate does not belong to a report.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndorsementError {
    /// An extension is absent, repeated or malformed.
    #[error("the VCEK or VLEK has no readable extension for the {part}")]
    Extension {
        /// What the extension should state.
        part: &'static str,
    },
    /// The certificate is for another TCB.
    #[error(
        "the {part} of the report is at {reported}, its certificate is for {certified}: fetch the certificate for the reported TCB"
    )]
    Tcb {
        /// Name of the TCB component.
        part: &'static str,
        /// Patch level in the report.
        reported: u8,
        /// Patch level in the certificate.
        certified: u8,
    },
    /// The certificate is for another processor.
    #[error("the VCEK is not the one of the processor that made the report")]
    ChipId,
    /// The report's chip id is masked, so that the processor is unknown.
    #[error(
        "the report's chip id is masked, so that its VCEK cannot be matched: the operator must clear MASK_CHIP_ID"
    )]
    ChipIdMasked,
    /// The report is of another processor generation than the root key.
    #[error(
        "the report is of another processor than AMD's root key for {product:?} vouches for: {found}"
    )]
    Generation {
        /// Generation of the root key.
        product: Product,
        /// Description of the mismatch.
        found: String,
    },
    /// The certificate is for the other kind of key than the report names.
    #[error("the report was signed with a {named:?}, the certificate is of the other kind")]
    KeyKind {
        /// Kind of key that the report names.
        named: SigningKey,
    },
}

pub(super) fn check(
    certificate: &Certificate,
    key: SigningKey,
    reported: &TcbVersion,
    chip_id: &[u8; 64],
) -> Result<(), EndorsementError> {
    let kind = if extension(certificate, CSP_ID).is_some() {
        SigningKey::Vlek
    } else {
        SigningKey::Vcek
    };
    if kind != key {
        return Err(EndorsementError::KeyKind { named: key });
    }
    let parts = [
        ("boot loader", BOOTLOADER, Some(reported.bootloader)),
        ("TEE", TEE, Some(reported.tee)),
        ("SNP firmware", SNP, Some(reported.snp)),
        ("microcode", MICROCODE, Some(reported.microcode)),
        ("FMC", FMC, reported.fmc),
    ];
    for (part, oid, reported) in parts {
        let Some(reported) = reported else { continue };
        let certified = extension(certificate, oid).and_then(small_integer);
        let certified = certified.ok_or(EndorsementError::Extension { part })?;
        if certified != reported {
            return Err(EndorsementError::Tcb {
                part,
                reported,
                certified,
            });
        }
    }
    if key == SigningKey::Vcek {
        check_chip(certificate, chip_id, reported.fmc.is_some())?;
    }
    Ok(())
}

/// Checks that the report is of the root's generation, by the processor's family and model (absent in reports of version 2)
/// and by the form of its TCB. These decide how a report is decoded. A development root (`product` is `None`) is for any
/// generation.
pub(super) fn check_generation(
    product: Option<Product>,
    cpuid: Option<[u8; 3]>,
    reported: &TcbVersion,
) -> Result<(), EndorsementError> {
    let Some(product) = product else {
        return Ok(());
    };
    let refused = |found| Err(EndorsementError::Generation { product, found });
    if let Some([family, model, _]) = cpuid
        && Product::of_cpu(family, model) != Some(product)
    {
        return refused(format!("it names family {family:#x}, model {model:#x}"));
    }
    match (product, reported.fmc) {
        (Product::Turin, None) => refused("its TCB has no FMC".to_owned()),
        (Product::Milan | Product::Genoa, Some(_)) => {
            refused("its TCB has an FMC, as only Turin's has".to_owned())
        }
        _ => Ok(()),
    }
}

/// Checks the chip id. Turin, the only generation whose TCB has an FMC, has ids of 8 bytes, padded with zeroes.
fn check_chip(
    certificate: &Certificate,
    chip_id: &[u8; 64],
    turin: bool,
) -> Result<(), EndorsementError> {
    if *chip_id == [0; 64] {
        return Err(EndorsementError::ChipIdMasked);
    }
    let hwid =
        extension(certificate, HWID).ok_or(EndorsementError::Extension { part: "chip id" })?;
    let (id, rest) = chip_id.split_at(if turin { 8 } else { 64 });
    // AMD writes the bytes themselves, but some of its services wrap them in an OCTET STRING.
    let hwid = match hwid {
        [4, length, inner @ ..]
            if usize::from(*length) == inner.len() && inner.len() == id.len() =>
        {
            inner
        }
        plain => plain,
    };
    match hwid == id && rest.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(EndorsementError::ChipId),
    }
}

/// Returns the value of the extension `oid` if it occurs exactly once.
fn extension(certificate: &Certificate, oid: ObjectIdentifier) -> Option<&[u8]> {
    let extensions = certificate
        .tbs_certificate
        .extensions
        .as_deref()
        .unwrap_or_default();
    let mut found = extensions
        .iter()
        .filter(|extension| extension.extn_id == oid);
    match (found.next(), found.next()) {
        (Some(extension), None) => Some(extension.extn_value.as_bytes()),
        _ => None,
    }
}

/// Decodes a DER integer from 0 to 255.
const fn small_integer(der: &[u8]) -> Option<u8> {
    match der {
        [2, 1, value] if *value < 0x80 => Some(*value),
        [2, 2, 0, value] if *value >= 0x80 => Some(*value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use x509_cert::{
        Certificate,
        der::{DecodePem as _, asn1::OctetString, oid::ObjectIdentifier},
        ext::Extension,
    };

    use super::{
        BOOTLOADER, CSP_ID, EndorsementError, FMC, HWID, MICROCODE, Product, SNP, TEE, check,
        check_generation, small_integer,
    };
    use crate::snp::report::{SigningKey, TcbVersion};

    const CHIP: [u8; 64] = [7; 64];
    const TCB: TcbVersion = TcbVersion {
        fmc: None,
        bootloader: 4,
        tee: 0,
        snp: 24,
        microcode: 0xdb,
    };

    fn certificate(extensions: &[(ObjectIdentifier, &[u8])]) -> Certificate {
        let mut certificate = Certificate::from_pem(sev::certs::snp::builtin::milan::ARK).unwrap();
        let extension = |(extn_id, value): &(ObjectIdentifier, &[u8])| Extension {
            extn_id: *extn_id,
            critical: false,
            extn_value: OctetString::new(*value).unwrap(),
        };
        certificate.tbs_certificate.extensions = Some(extensions.iter().map(extension).collect());
        certificate
    }

    fn parts() -> Vec<(ObjectIdentifier, &'static [u8])> {
        vec![
            (BOOTLOADER, &[2, 1, 4]),
            (TEE, &[2, 1, 0]),
            (SNP, &[2, 1, 24]),
            (MICROCODE, &[2, 2, 0, 0xdb]),
            (HWID, &CHIP),
        ]
    }

    /// Covers the patch levels. The next three tests cover the chip id and the kind of key.
    #[test]
    fn cocoon_snp_13() {
        let check = |tcb: TcbVersion| check(&certificate(&parts()), SigningKey::Vcek, &tcb, &CHIP);
        assert_eq!(check(TCB), Ok(()));
        let refused = |part, reported, certified| {
            Err(EndorsementError::Tcb {
                part,
                reported,
                certified,
            })
        };
        assert_eq!(
            check(TcbVersion {
                bootloader: 3,
                ..TCB
            }),
            refused("boot loader", 3, 4)
        );
        assert_eq!(check(TcbVersion { tee: 1, ..TCB }), refused("TEE", 1, 0));
        assert_eq!(
            check(TcbVersion { snp: 25, ..TCB }),
            refused("SNP firmware", 25, 24)
        );
        assert_eq!(
            check(TcbVersion {
                microcode: 0xda,
                ..TCB
            }),
            refused("microcode", 0xda, 0xdb)
        );
        let missing = Err(EndorsementError::Extension { part: "FMC" });
        assert_eq!(
            check(TcbVersion {
                fmc: Some(1),
                ..TCB
            }),
            missing
        );
    }

    #[test]
    fn the_chip_must_be_the_reported_one() {
        let check = |chip| check(&certificate(&parts()), SigningKey::Vcek, &TCB, &chip);
        assert_eq!(check([8; 64]), Err(EndorsementError::ChipId));
        assert_eq!(check([0; 64]), Err(EndorsementError::ChipIdMasked));
    }

    #[test]
    fn turins_chip_id_is_short_and_padded_with_zeroes() {
        let mut turin = parts();
        turin.retain(|(oid, _)| *oid != HWID);
        turin.extend([(HWID, &CHIP[..8]), (FMC, &[2, 1, 1])]);
        let tcb = TcbVersion {
            fmc: Some(1),
            ..TCB
        };
        let check = |chip| check(&certificate(&turin), SigningKey::Vcek, &tcb, &chip);
        let mut chip = [0; 64];
        chip[..8].fill(7);
        assert_eq!(check(chip), Ok(()));
        chip[63] = 1;
        assert_eq!(check(chip), Err(EndorsementError::ChipId));
    }

    #[test]
    fn a_key_is_of_the_kind_that_the_report_names() {
        let judge = |parts: &[_], named, chip| check(&certificate(parts), named, &TCB, chip);
        let refused = |named| Err(EndorsementError::KeyKind { named });
        assert_eq!(
            judge(&parts(), SigningKey::Vlek, &CHIP),
            refused(SigningKey::Vlek)
        );
        let mut vlek = parts();
        vlek.retain(|(oid, _)| *oid != HWID);
        vlek.push((CSP_ID, b"provider"));
        assert_eq!(judge(&vlek, SigningKey::Vlek, &[0; 64]), Ok(()));
        assert_eq!(
            judge(&vlek, SigningKey::Vcek, &CHIP),
            refused(SigningKey::Vcek)
        );
    }

    #[test]
    fn cocoon_snp_10() {
        let (milan, genoa, turin) = (Product::Milan, Product::Genoa, Product::Turin);
        let judge =
            |product, cpuid, fmc| check_generation(product, cpuid, &TcbVersion { fmc, ..TCB });
        for (product, cpuid, fmc) in [
            (milan, Some([0x19, 0x01, 1]), None),
            (milan, None, None),
            (genoa, Some([0x19, 0x11, 1]), None),
            (genoa, Some([0x19, 0xa0, 2]), None),
            (turin, Some([0x1a, 0x02, 1]), Some(1)),
            (turin, Some([0x1a, 0x11, 0]), Some(1)),
            (turin, None, Some(0)),
        ] {
            assert_eq!(judge(Some(product), cpuid, fmc), Ok(()), "{product:?}");
        }
        let fmc = "its TCB has an FMC, as only Turin's has";
        for (product, cpuid, fmc, found) in [
            (
                milan,
                Some([0x19, 0x11, 1]),
                None,
                "it names family 0x19, model 0x11",
            ),
            (
                milan,
                Some([0x1a, 0x01, 1]),
                None,
                "it names family 0x1a, model 0x1",
            ),
            (
                genoa,
                Some([0x19, 0x01, 1]),
                None,
                "it names family 0x19, model 0x1",
            ),
            (
                turin,
                Some([0x19, 0x11, 1]),
                Some(1),
                "it names family 0x19, model 0x11",
            ),
            (
                turin,
                Some([0x1a, 0x50, 0]),
                Some(1),
                "it names family 0x1a, model 0x50",
            ),
            (milan, None, Some(1), fmc),
            (genoa, Some([0x19, 0x11, 1]), Some(0), fmc),
            (turin, None, None, "its TCB has no FMC"),
        ] {
            let found = found.to_owned();
            let error = Err(EndorsementError::Generation { product, found });
            assert_eq!(judge(Some(product), cpuid, fmc), error);
        }
        assert_eq!(
            judge(Some(genoa), None, Some(1)).unwrap_err().to_string(),
            "the report is of another processor than AMD's root key for Genoa vouches for: its TCB has an FMC, as only \
             Turin's has"
        );
        // A development root is for any generation.
        assert_eq!(judge(None, Some([0x19, 0x11, 1]), Some(1)), Ok(()));
    }

    #[test]
    fn integers_are_read_in_their_one_form() {
        assert_eq!(small_integer(&[2, 1, 0]), Some(0));
        assert_eq!(small_integer(&[2, 2, 0, 0xd3]), Some(0xd3));
        for other in [
            &[2, 1, 0xd3][..],
            &[2, 2, 0, 5],
            &[2, 2, 1, 5],
            &[4, 1, 0],
            &[],
        ] {
            assert_eq!(small_integer(other), None, "{other:?}");
        }
    }
}
