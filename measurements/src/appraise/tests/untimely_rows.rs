//! Refusals because of a date, and refusals that must not be mistaken for one.

use super::*;
use crate::{
    roots::ValidityError,
    tdx::quote::{QuoteError, Refusal},
};

#[test]
fn cocoon_tdx_11() {
    let advice = "check this machine's clock; if it is right, the operator fetches the vendor's current collateral";
    let ended = ValidityError::Expired {
        certificate: "the TDX collateral",
        not_after: 5,
        now: 6,
    };
    let row = evidence::tdx_refusal(&QuoteError::Validity(ended), b"", b"", 6);
    assert_eq!(
        (row.id, row.cause.as_deref(), row.advice.as_deref()),
        (
            "evidence.collateral",
            Some(
                "expired collateral, or this machine's clock is wrong; for tdx: the TDX collateral was valid until 5 (Unix time), and it is 6: fetch a newer one"
            ),
            Some(advice)
        )
    );
    // The library's refusal gets the same text if the collateral's dates explain it.
    let refused = |now| refused_for("TCBInfo expired", now);
    for now in [NOW, NOW + 1] {
        let text = format!(
            "expired collateral, or this machine's clock is wrong; for tdx: the TCB information was valid until \
             1800000000 (Unix time), and it is {now}: fetch a newer one"
        );
        assert_eq!(refused(now), ("evidence.collateral", text));
    }
    let issued = NOW - 24 * 60 * 60;
    let text = format!(
        "expired collateral, or this machine's clock is wrong; for tdx: the TCB information is valid from {issued} \
         (Unix time), and it is {}: check the clock",
        issued - 1
    );
    assert_eq!(refused(issued - 1), ("evidence.collateral", text));
    assert_eq!(
        refused(NOW - 1),
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the vendor's root: TCBInfo expired".to_owned()
        )
    );
}

/// An invalid signature is reported as such, even if a date is wrong too.
#[test]
fn a_broken_signature_is_not_called_expired() {
    let broken = "Signature is invalid for tcb_info in quote_collateral";
    let text =
        format!("TDX quote does not verify with its collateral under the vendor's root: {broken}");
    let signature = |text: &str| ("evidence.signature", text.to_owned());
    assert_eq!(refused_for(broken, NOW - 1), signature(&text));
    let besides = format!(
        "{text}; besides, something is out of its time: the TCB information was valid until 1800000000 (Unix time), and \
         it is {}: fetch a newer one",
        NOW + 1
    );
    assert_eq!(refused_for(broken, NOW + 1), signature(&besides));
    let chain = |error: &str| format!("Failed to verify certificate chain: {error}");
    for error in [
        "CertExpired { .. }",
        "CertNotValidYet { .. }",
        "CrlExpired { .. }",
    ] {
        for reason in [&chain(error), error] {
            let (id, _) = refused_for(reason, NOW + 1);
            assert_eq!(id, "evidence.collateral", "{reason}");
        }
    }
    for other in [chain("CertRevoked"), "no CrlExpired { .. }".to_owned()] {
        let (id, _) = refused_for(&other, NOW + 1);
        assert_eq!(id, "evidence.signature", "{other}");
    }
}

/// Returns id and cause of the row for a refusal by the library with `reason`. The TCB information is from the day before
/// [`NOW`].
fn refused_for(reason: &str, now: u64) -> (&'static str, String) {
    let collateral = dcap_qvl::QuoteCollateralV3 {
        pck_crl_issuer_chain: String::new(),
        root_ca_crl: Vec::new(),
        pck_crl: Vec::new(),
        tcb_info_issuer_chain: String::new(),
        tcb_info: r#"{"issueDate":"2027-01-14T08:00:00Z","nextUpdate":"2027-01-15T08:00:00Z"}"#
            .into(),
        tcb_info_signature: Vec::new(),
        qe_identity_issuer_chain: String::new(),
        qe_identity: String::new(),
        qe_identity_signature: Vec::new(),
        pck_certificate_chain: None,
    };
    let json = serde_json::to_vec(&collateral).unwrap();
    let error = QuoteError::Unverified {
        root: "vendor's",
        reason: Refusal(reason.into()),
    };
    let row = evidence::tdx_refusal(&error, b"", &json, now);
    (row.id, row.cause.unwrap())
}
