//! A real TDX quote of version 5 with the extended report of TDX 1.5, as newer quoting enclaves write it, and Intel's
//! collateral of October 2026: accepted under the defaults, and refused when any field that it adds is changed.

use cocoon_measurements::{
    policy::MIN_TCB_EVALUATION,
    roots::{RootClass, TrustRoot},
    tdx::{
        attributes::AttributeError,
        quote::{QuoteError, TdxClaims, verify},
        tcb::{TcbPolicy, TcbStatus},
    },
};

use crate::vector;

/// Within the collateral's validity (issued 2026-10-08, for thirty days).
const NOW: u64 = 1_791_504_000;
/// Offset of the report, after header, kind and length.
const BODY: usize = 48 + 6;

fn judge(change: impl FnOnce(&mut [u8])) -> Option<Result<TdxClaims, QuoteError>> {
    let mut quote = vector("tdx/dcapqvl_tdx_quote_td15ex")?;
    let collateral = vector("tdx/dcapqvl_tdx_quote_td15ex_collateral.json")?;
    change(&mut quote);
    let policy = TcbPolicy {
        min_evaluation_number: MIN_TCB_EVALUATION,
        ..TcbPolicy::default()
    };
    Some(verify(
        &quote,
        &collateral,
        &TrustRoot::Vendor,
        &policy,
        NOW,
    ))
}

#[test]
fn a_real_extended_report_is_accepted_in_its_time() {
    let Some(judged) = judge(|_| ()) else {
        return;
    };
    let claims = judged.unwrap();
    assert_eq!((claims.root, claims.version), (RootClass::Vendor, 5));
    assert_eq!(claims.tcb_status, TcbStatus::UpToDate);
    assert!(claims.advisories.is_empty());
    assert_eq!(claims.evaluation_number, 20);
    let quote = vector("tdx/dcapqvl_tdx_quote_td15ex").unwrap();
    assert_eq!(claims.mrtd[..], quote[BODY + 136..BODY + 184]);
    assert_eq!(claims.rtmr.concat(), quote[BODY + 328..BODY + 520]);
    assert_eq!(claims.report_data[..], quote[BODY + 520..BODY + 584]);
    assert_eq!(claims.fmspc, [0xb0, 0xc0, 0x6f, 0, 0, 0]);
}

#[test]
fn what_it_adds_is_signed() {
    // TEE_TCB_SVN2 and TDID, first and last byte.
    for at in [584, 599, 649, 680] {
        let Some(judged) = judge(|quote| quote[BODY + at] ^= 1) else {
            return;
        };
        let error = judged.unwrap_err();
        let QuoteError::Unverified { reason, .. } = &error else {
            panic!("{at}: {error:?}")
        };
        assert_eq!(
            reason.0, "ISV enclave report signature is invalid",
            "offset {at}"
        );
    }
}

/// The first byte of every other added field is refused before any signature is checked.
#[test]
fn what_nobody_judges_is_refused() {
    for at in [600, 648, 681, 729, 777, 785, 801, 817, 829, 877] {
        let Some(judged) = judge(|quote| quote[BODY + at] ^= 1) else {
            return;
        };
        let error = judged.unwrap_err();
        let named = match at {
            600 | 729 | 829 => error == QuoteError::Attributes(AttributeError::ServiceTd),
            _ => matches!(
                error,
                QuoteError::Attributes(AttributeError::Unjudged { .. })
            ),
        };
        assert!(named, "offset {at}: {error:?}");
    }
}
