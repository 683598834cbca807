//! Properties that hold for any bytes in the place of quotes, reports, certificates, revocation lists and envelopes: nothing
//! panics, each refusal has its row, and no signed byte can be changed undetected. The fuzz targets test the same for longer.

use std::sync::LazyLock;

use cocoon_measurements::manifest::{ManifestRefusal, ManifestTrust, public_key, sign, trust};
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Blob;
use cocoon_protocol::document::{Collateral, Document, Evidence};
use cocoon_protocol::manifest::manifest_id;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::machine::{IMAGE, Machine, NOW, SIGNER, judge, policy};
use crate::platform::Platform;
use crate::version_5::layouts;

/// Length of the bytes of a quote that the attestation key signs, header and TD report, in each layout.
const SIGNED_QUOTES: [usize; 4] = [48 + 584, 54 + 584, 54 + 648, 54 + 885];
/// Length of the signed bytes of an SNP report.
const SIGNED_REPORT: usize = 0x2a0;

/// A document with a good quote of each layout, with its collateral.
static TDX: LazyLock<Vec<Document>> = LazyLock::new(|| {
    let each = layouts().map(|layout| {
        let platform = Platform {
            layout,
            ..Platform::good()
        };
        platform.document(|_| ())
    });
    each.into()
});
static SNP: LazyLock<Document> = LazyLock::new(|| Machine::good(Tee::SevSnp).document());

/// Generates changes of a few bytes at random positions.
fn changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    vec((any::<Index>(), 1..=255_u8), 1..4)
}

fn changed(bytes: &mut [u8], changes: &[(Index, u8)]) {
    for (at, bits) in changes {
        bytes[at.index(bytes.len())] ^= bits;
    }
}

/// Returns the quote's or report's bytes.
fn evidence(document: &mut Document) -> &mut Vec<u8> {
    match &mut document.evidence {
        Evidence::Tdx { quote, .. } => &mut quote.0,
        Evidence::SevSnp { report, .. } => &mut report.0,
    }
}

fn stapled(document: &mut Document) -> (&mut Vec<Blob>, &mut Option<Blob>) {
    match &mut document.collateral {
        Some(Collateral::SevSnp { certificates, crl }) => (certificates, crl),
        _ => panic!("SNP has SNP's collateral"),
    }
}

/// Asserts a refusal with one row, which has a cause and is about evidence or its endorsements.
fn refused(verdict: &Verdict) -> Result<(), TestCaseError> {
    prop_assert_eq!(
        (verdict.class, verdict.authorizes()),
        (Class::Rejected, None)
    );
    let failures: Vec<_> = verdict.failures().collect();
    prop_assert_eq!(failures.len(), 1, "{:#?}", failures);
    // Fields that determine how to read the rest are checked before any signature.
    const ROWS: [&str; 8] = [
        "evidence.signature",
        "evidence.root",
        "evidence.collateral",
        "tdx.attributes",
        "snp.policy",
        "snp.vmpl",
        "snp.id_key",
        "snp.author_key",
    ];
    prop_assert!(ROWS.contains(&failures[0].id), "{:#?}", failures);
    prop_assert!(
        failures[0]
            .cause
            .as_ref()
            .is_some_and(|cause| !cause.is_empty())
    );
    Ok(())
}

/// Asserts a refusal, or the same verdict as on the original: changed bytes that are not signed may be irrelevant.
fn refused_or_alike(verdict: &Verdict, good: &Verdict) -> Result<(), TestCaseError> {
    if verdict.class == Class::Rejected {
        return refused(verdict);
    }
    prop_assert_eq!(&verdict.checks, &good.checks);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_no_evidence(bytes in vec(any::<u8>(), 0..2000), tdx: bool, keep in 0..64_usize) {
        let mut document = if tdx { TDX[0].clone() } else { SNP.clone() };
        let evidence = evidence(&mut document);
        // After a valid beginning the parsers get further.
        evidence.truncate(keep);
        evidence.extend(&bytes);
        refused(&judge(&document, &policy()))?;
    }

    #[test]
    fn any_bytes_are_no_certificate_and_no_list(bytes in vec(any::<u8>(), 0..600), place in 0..4_usize, keep in 0..64_usize) {
        let mut document = SNP.clone();
        let (certificates, list) = stapled(&mut document);
        let piece = match place {
            3 => list.as_mut().unwrap(),
            place => &mut certificates[place],
        };
        piece.0.truncate(keep);
        piece.0.extend(&bytes);
        let verdict = judge(&document, &policy());
        // A chain that does not end in a development root is verified under AMD's root, so there is always one row.
        refused(&verdict)?;
    }

    #[test]
    fn any_bytes_are_no_envelope(bytes in vec(any::<u8>(), 0..400), keep in 0..200_usize) {
        let manifest = IMAGE.manifest(NOW).to_json();
        let mut envelope = sign(&manifest, &SIGNER).unwrap();
        envelope.truncate(keep);
        envelope.extend(&bytes);
        let refusal = trust(&manifest, Some(&envelope), &believing(), NOW).unwrap_err();
        prop_assert!(matches!(refusal, ManifestRefusal::Envelope { .. }), "{:?}", refusal);
    }
}

fn believing() -> ManifestTrust {
    ManifestTrust {
        signers: vec![public_key(&SIGNER)],
        ..ManifestTrust::default()
    }
}

proptest! {
    // Fewer cases, because most of these tests verify signatures.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_signed_byte_of_a_quote_is_free(layout in 0..SIGNED_QUOTES.len(), changes in changes()) {
        let mut document = TDX[layout].clone();
        changed(&mut evidence(&mut document)[..SIGNED_QUOTES[layout]], &changes);
        prop_assume!(document.evidence != TDX[layout].evidence);
        refused(&judge(&document, &policy()))?;
    }

    #[test]
    fn no_signed_byte_of_a_report_is_free(changes in changes()) {
        let mut document = SNP.clone();
        changed(&mut evidence(&mut document)[..SIGNED_REPORT], &changes);
        prop_assume!(document.evidence != SNP.evidence);
        refused(&judge(&document, &policy()))?;
    }

    #[test]
    fn changed_anywhere_a_quote_is_refused_or_says_the_same(layout in 0..SIGNED_QUOTES.len(), changes in changes(), cut in any::<Index>()) {
        let good = judge(&TDX[layout], &policy());
        let mut document = TDX[layout].clone();
        changed(evidence(&mut document), &changes);
        refused_or_alike(&judge(&document, &policy()), &good)?;
        let quote = evidence(&mut document);
        quote.truncate(cut.index(quote.len()));
        refused_or_alike(&judge(&document, &policy()), &good)?;
    }

    #[test]
    fn changed_certificates_and_lists_vouch_for_nothing(place in 0..4_usize, changes in changes()) {
        let good = judge(&SNP, &policy());
        let mut document = SNP.clone();
        let (certificates, list) = stapled(&mut document);
        let piece = match place {
            3 => list.as_mut().unwrap(),
            place => &mut certificates[place],
        };
        changed(&mut piece.0, &changes);
        refused_or_alike(&judge(&document, &policy()), &good)?;
    }

    #[test]
    fn a_changed_envelope_says_the_same_or_is_refused(changes in changes()) {
        let manifest = IMAGE.manifest(NOW).to_json();
        let mut envelope = sign(&manifest, &SIGNER).unwrap();
        changed(&mut envelope, &changes);
        match trust(&manifest, Some(&envelope), &believing(), NOW) {
            // A changed key id has no effect.
            Ok(trusted) => prop_assert_eq!(trusted.id(), manifest_id(&manifest)),
            Err(refusal) => prop_assert!(
                matches!(
                    refusal,
                    ManifestRefusal::Envelope { .. }
                        | ManifestRefusal::BadSignature { .. }
                        | ManifestRefusal::UnknownSigners { .. }
                ),
                "{:?}",
                refusal
            ),
        }
    }

    #[test]
    fn no_byte_of_a_manifest_is_free(changes in changes()) {
        let manifest = IMAGE.manifest(NOW).to_json();
        let mut other = manifest.clone();
        changed(&mut other, &changes);
        prop_assume!(other != manifest);
        let envelope = sign(&manifest, &SIGNER).unwrap();
        let refusal = trust(&other, Some(&envelope), &believing(), NOW).unwrap_err();
        prop_assert!(
            matches!(
                refusal,
                ManifestRefusal::Malformed(_) | ManifestRefusal::OtherManifest { .. }
            ),
            "{:?}",
            refusal
        );
    }
}
