//! Property tests: no input causes a panic, and only what was signed is accepted.

use std::sync::LazyLock;

use proptest::{collection::vec, prelude::*};

use super::{Case, GPU, parts};
use crate::nvidia::{
    Known,
    ocsp::MAX_OCSP,
    rim::Rim,
    simulated::ReportParts,
    spdm::Report,
    xml::{canonical, parse, reparse},
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A report with any number of measurements of any length is decoded as it was encoded.
    #[test]
    fn reports_read_what_was_written(
        nonce: [u8; 32],
        own: [u8; 32],
        values in vec(vec(any::<u8>(), 0..64), 1..64),
        driver in "[0-9.]{1,20}",
    ) {
        let mut written = ReportParts::new(nonce, &driver, [1; 8], [2; 48]);
        written.response_nonce = own;
        let numbered = (1_u8..).zip(values.clone());
        written.measurements = numbered.map(|(index, value)| (index, 1, 1, value)).collect();
        let bytes = [written.transcript(), vec![7; 96]].concat();
        let read = Report::parse(&bytes).unwrap();
        prop_assert_eq!(read.nonce, nonce);
        prop_assert_eq!(read.response_nonce, own);
        prop_assert_eq!(read.opaque.driver_version, Some(driver));
        prop_assert_eq!(read.transcript, &written.transcript()[..]);
        prop_assert_eq!(read.signature, [7; 96]);
        let measured: Vec<Vec<u8>> = read.measurements.values().map(|value| value.to_vec()).collect();
        prop_assert_eq!(measured, values);
    }

    /// Two libraries agree on which signatures hold, in both forms: with and without a flipped bit, and under another key.
    #[test]
    fn signatures_hold_as_p384_says(
        secret in 1_u8..0xff,
        message in vec(any::<u8>(), 0..300),
        (place, bit) in (0_usize..96, 0_u8..9),
    ) {
        use p384::ecdsa::{Signature, SigningKey, signature::{Signer as _, Verifier as _}};
        use crate::nvidia::certificate::{der_signature_holds, raw_signature_holds};
        let signer = SigningKey::from_slice(&[secret; 48]).unwrap();
        let good: Signature = signer.sign(&message);
        let mut raw = good.to_bytes().to_vec();
        if let Some(mask) = 1_u8.checked_shl(bit.into()) {
            raw[place] ^= mask;
        }
        let key = signer.verifying_key();
        let expected = Signature::from_slice(&raw).is_ok_and(|signature| key.verify(&message, &signature).is_ok());
        prop_assert_eq!(raw_signature_holds(key, &message, &raw), expected);
        prop_assert_eq!(expected, bit == 8);
        if let Ok(signature) = Signature::from_slice(&raw) {
            let der = signature.to_der();
            prop_assert_eq!(der_signature_holds(key, &message, der.as_bytes()), expected);
        }
        let another = SigningKey::from_slice(&[secret % 0xfe + 1; 48]).unwrap();
        prop_assert!(!raw_signature_holds(another.verifying_key(), &message, &raw));
    }

    /// Arbitrary bytes cause an error, not a panic.
    #[test]
    fn foreign_bytes_are_refused(bytes in vec(any::<u8>(), 0..600)) {
        let _ = Report::parse(&bytes);
        let _ = Rim::parse(&bytes);
        let _ = crate::nvidia::ocsp::readable(&bytes);
        prop_assert!(bytes.len() <= MAX_OCSP);
    }

    /// Canonicalisation is idempotent.
    #[test]
    fn canonical_form_is_a_fixed_point(text in "(<[ab]( x:[cd]=\"[<e>]?\")?( e='[\" \t]?')?>[>\r\n\t f]{0,3}){0,4}(</[ab]>|<[ab]/>){0,5}") {
        let document = format!("<r xmlns:x=\"urn:x\">{text}</r>");
        if let Ok(document) = parse(document.as_bytes()) {
            let once = canonical(document.root_element(), None);
            let again = reparse(&once).unwrap();
            prop_assert_eq!(canonical(again.root_element(), None), once);
        }
    }
}

proptest! {
    // Few cases, because each verifies signatures.
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A flipped bit anywhere in a signed report is refused.
    #[test]
    fn no_bit_of_a_report_is_free(place: prop::sample::Index, bit in 0_u8..8) {
        let mut case = Case::good();
        let at = place.index(case.report.len());
        case.report[at] ^= 1 << bit;
        prop_assert!(case.judge().is_rejected(), "bit {} of byte {:#x}", bit, at);
        prop_assert!(case.judge().gpus.is_empty());
    }

    /// The cache of signatures from a good appraisal changes no other result: not for changed bytes, nor at another time.
    #[test]
    fn what_is_known_changes_no_verdict(what in 0_usize..10, place: prop::sample::Index, bit in 0_u8..8, days in 0_u64..9) {
        static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);
        let good = Case::good();
        prop_assert_eq!(good.judge_knowing(&KNOWN), good.judge());
        let flip = |bytes: &mut Vec<u8>, bit| {
            let at = place.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
        };
        // Leaves the highest bit alone, so that the text stays UTF-8.
        let flipped = |text: &String| {
            let mut bytes = text.clone().into_bytes();
            flip(&mut bytes, bit % 7);
            String::from_utf8(bytes).unwrap()
        };
        let mut case = Case { now: good.now + days * 86_400, ..good };
        match what {
            0 => flip(&mut case.report, bit),
            1 => case.chain = flipped(&case.chain),
            2 | 3 => case.rims[what - 2] = flipped(&case.rims[what - 2]),
            _ => flip(&mut case.ocsp[what - 4], bit),
        }
        prop_assert_eq!(case.judge_knowing(&KNOWN), case.judge());
    }

    /// A changed measurement that a manifest expects is refused, even if the GPU signed it.
    #[test]
    fn no_expected_measurement_is_free(place in 0_usize..7, byte in 0_usize..48, bit in 0_u8..8) {
        let index = [1_u8, 9, 35, 63, 0, 2, 40][place];
        let mut changed = parts();
        changed.measurements[usize::from(index)].3[byte] ^= 1 << bit;
        let case = Case { report: changed.signed(&GPU.attestation.key), ..Case::good() };
        let failed = case.failures();
        prop_assert_eq!(failed[0].id, "gpu.measurement");
        let title = format!("measurement {index} ");
        prop_assert!(failed[0].title.starts_with(&title), "{}", failed[0].title);
    }
}
