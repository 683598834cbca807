//! A real TDX quote with Intel's collateral: accepted within its dates, and otherwise refused for one named reason.

use cocoon_measurements::{
    roots::{RootClass, RootError, TrustRoot},
    tdx::{
        attributes::AttributeError,
        quote::{INTEL_ROOT_KEY, MAX_COLLATERAL, MAX_QUOTE, QuoteError, TdxClaims, verify},
        tcb::{TcbError, TcbPolicy, TcbStatus},
    },
};

use crate::{unhex, vector};

/// Within the collateral's validity (issued 2025-06-19, for thirty days).
const NOW: u64 = 1_752_048_802;
const ATTRIBUTES: usize = 48 + 120;

fn judge(
    change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>),
    policy: &TcbPolicy,
    now: u64,
) -> Option<Result<TdxClaims, QuoteError>> {
    let mut quote = vector("tdx/dcapqvl_tdx_quote")?;
    let mut collateral = vector("tdx/dcapqvl_tdx_quote_collateral.json")?;
    change(&mut quote, &mut collateral);
    Some(verify(&quote, &collateral, &TrustRoot::Vendor, policy, now))
}

fn refusal(change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>), now: u64) -> Option<QuoteError> {
    judge(change, &TcbPolicy::default(), now).map(|judged| judged.unwrap_err())
}

/// Returns the library's reason for its refusal.
fn reason(error: &QuoteError) -> &str {
    match error {
        QuoteError::Unverified { reason, .. } | QuoteError::Malformed(reason) => &reason.0,
        other => panic!("another error: {other:?}"),
    }
}

#[test]
fn a_real_quote_is_accepted_in_its_time() {
    let Some(judged) = judge(|_, _| (), &TcbPolicy::default(), NOW) else {
        return;
    };
    let claims = judged.unwrap();
    assert_eq!(claims.root, RootClass::Vendor);
    assert_eq!(claims.version, 4);
    assert_eq!(claims.tcb_status, TcbStatus::UpToDate);
    assert!(claims.advisories.is_empty());
    assert_eq!(claims.issued.tcb_info, 1_750_328_163);
    assert!(
        claims.issued.root_crl > 0 && claims.issued.pck_crl > 0 && claims.issued.qe_identity > 0
    );
    assert!(claims.ppid.iter().any(|byte| *byte != 0));
    let quote = vector("tdx/dcapqvl_tdx_quote").unwrap();
    assert_eq!(claims.mrtd[..], quote[184..232]);
    assert_eq!(claims.rtmr.concat(), quote[376..568]);
    assert_eq!(claims.report_data[..], quote[568..632]);
    assert_eq!(claims.td_attributes[..], quote[ATTRIBUTES..ATTRIBUTES + 8]);
}

#[test]
fn too_early_and_too_late_are_refused() {
    let Some(early) = refusal(|_, _| (), 1_750_328_162) else {
        return;
    };
    assert_eq!(reason(&early), "TCBInfo issue date is in the future");
    let late = refusal(|_, _| (), 1_752_920_164).unwrap();
    assert_eq!(reason(&late), "TCBInfo expired");
    let years_late = refusal(|_, _| (), 4_000_000_000).unwrap();
    assert!(
        reason(&years_late).contains("Expired"),
        "{}",
        reason(&years_late)
    );
}

#[test]
fn every_signed_field_is_covered_by_the_signature() {
    // MRSEAM, MRTD, MRCONFIGID, MROWNER, RTMR0 to RTMR3, report data.
    for at in [64, 184, 232, 280, 376, 424, 472, 520, 568] {
        let Some(error) = refusal(|quote, _| quote[at] ^= 1, NOW) else {
            return;
        };
        assert_eq!(
            reason(&error),
            "ISV enclave report signature is invalid",
            "offset {at}"
        );
    }
}

#[test]
fn dangerous_attributes_have_their_own_errors() {
    let attributes = |byte: usize, bit: u8| {
        refusal(|quote, _| quote[ATTRIBUTES + byte] ^= bit, NOW).map(|error| match error {
            QuoteError::Attributes(error) => error,
            other => panic!("another error: {other:?}"),
        })
    };
    let Some(debug) = attributes(0, 1) else {
        return;
    };
    assert!(matches!(debug, AttributeError::Debug { .. }));
    assert!(matches!(
        attributes(3, 0x20).unwrap(),
        AttributeError::Migratable { .. }
    ));
    assert!(matches!(
        attributes(3, 0x10).unwrap(),
        AttributeError::SeptVeEnabled { .. }
    ));
}

#[test]
fn changed_collateral_is_refused() {
    let change = |from: &'static str, to: &'static str| {
        refusal(
            |_, collateral| {
                let text = String::from_utf8(std::mem::take(collateral)).unwrap();
                assert!(text.contains(from), "{from}");
                *collateral = text.replace(from, to).into_bytes();
            },
            NOW,
        )
    };
    let Some(error) = change(
        r#"\"tcbEvaluationDataNumber\":17"#,
        r#"\"tcbEvaluationDataNumber\":99"#,
    ) else {
        return;
    };
    assert_eq!(
        reason(&error),
        "Signature is invalid for tcb_info in quote_collateral"
    );
    let expired = change("2025-06-19T10:16:03Z", "2025-09-19T10:16:03Z").unwrap();
    assert_eq!(reason(&expired), "TCBInfo issue date is in the future");
}

#[test]
fn shapes_that_are_no_quote_or_collateral_are_named() {
    let policy = TcbPolicy::default();
    let judge = |quote: &[u8], collateral: &[u8]| {
        verify(quote, collateral, &TrustRoot::Vendor, &policy, NOW).unwrap_err()
    };
    assert_eq!(
        judge(&vec![0; MAX_QUOTE + 1], b"{}"),
        QuoteError::TooLarge {
            length: MAX_QUOTE + 1
        }
    );
    assert!(matches!(judge(&[], b"{}"), QuoteError::Malformed(_)));
    let Some(quote) = vector("tdx/dcapqvl_tdx_quote") else {
        return;
    };
    assert!(matches!(
        judge(&quote[..700], b"{}"),
        QuoteError::Malformed(_)
    ));
    assert!(matches!(judge(&quote, b"{}"), QuoteError::Collateral(_)));
    let large = vec![b' '; MAX_COLLATERAL + 1];
    assert_eq!(
        judge(&quote, &large),
        QuoteError::CollateralTooLarge {
            length: MAX_COLLATERAL + 1
        }
    );
    let sgx = vector("tdx/dcapqvl_sgx_quote").unwrap();
    assert_eq!(
        judge(&sgx, b"{}"),
        QuoteError::NotTdx {
            version: 3,
            tee_type: 0
        }
    );
}

#[test]
fn the_tcb_policy_is_applied() {
    let only_old = TcbPolicy {
        statuses: vec![TcbStatus::OutOfDate],
        ..TcbPolicy::default()
    };
    let Some(judged) = judge(|_, _| (), &only_old, NOW) else {
        return;
    };
    assert_eq!(
        judged.unwrap_err(),
        QuoteError::Tcb(TcbError::Status {
            status: TcbStatus::UpToDate
        })
    );
    let newer = TcbPolicy {
        min_evaluation_number: 1000,
        ..TcbPolicy::default()
    };
    let error = judge(|_, _| (), &newer, NOW).unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            QuoteError::Tcb(TcbError::Evaluation { minimum: 1000, .. })
        ),
        "{error:?}"
    );
}

/// A version 5 quote from a platform below every TCB level that Intel still lists.
#[test]
fn an_outdated_platform_is_refused() {
    let Some(quote) = vector("tdx/dcapqvl_tdx_quote_outdated") else {
        return;
    };
    let collateral = vector("tdx/dcapqvl_tdx_quote_outdated_collateral.json").unwrap();
    let policy = TcbPolicy::judged_by_caller();
    let error = verify(
        &quote,
        &collateral,
        &TrustRoot::Vendor,
        &policy,
        1_773_100_000,
    )
    .unwrap_err();
    assert!(
        reason(&error).contains("No matching TCB level"),
        "{}",
        reason(&error)
    );
}

#[test]
fn other_real_quotes_are_decoded_and_refused_with_foreign_collateral() {
    let Some(text) = vector("tdx/dcapqvl_tdx-quote.hex") else {
        return;
    };
    let collateral = vector("tdx/dcapqvl_tdx_quote_collateral.json").unwrap();
    let error = verify(
        &unhex(&text),
        &collateral,
        &TrustRoot::Vendor,
        &TcbPolicy::default(),
        NOW,
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            QuoteError::Unverified {
                root: "vendor's",
                ..
            } | QuoteError::Attributes(_)
        ),
        "{error:?}"
    );
}

#[test]
fn a_vendor_certificate_is_no_development_root() {
    let Some(pem) = vector("snp/builtin_milan_ark.pem") else {
        return;
    };
    let der = cocoon_measurements::snp::report::certificates_from_pem(&pem)
        .unwrap()
        .remove(0);
    assert_eq!(TrustRoot::development(&der), Err(RootError::NotDevelopment));
    assert!(matches!(
        TrustRoot::development(&der[1..]),
        Err(RootError::Malformed(_))
    ));
    assert!(INTEL_ROOT_KEY.starts_with(&[0x46, 0xe4]));
}
