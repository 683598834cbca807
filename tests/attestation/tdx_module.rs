//! The fields about the TDX module in Intel's TCB information, each changed and signed again.

use serde_json::{Value, json};

use crate::machine::{ROOTS, accepted, refused};
use crate::platform::{Platform, restate, unverified};
use crate::statements::Ends::{Accepted, Unverified};
use crate::statements::{ADVISORIES, OLD_TCB, judged, not, put};

#[test]
fn each_field_of_what_is_said_of_the_module() {
    let other = "11".repeat(48);
    let signer = format!(
        "TDX module identity check: TDX module MRSIGNER mismatch: expected {other}, got {}",
        "00".repeat(48)
    );
    const UNKNOWN: &str =
        "TDX module TCB level check: No TDX module identity with id TDX_01 found in TCB Info";
    const ATTRIBUTES: &str = "TDX module identity check: TDX module SEAMATTRIBUTES mismatch at byte 0: expected 01 (masked), \
         got 00 (masked)";
    const OLD: &str = "TDX module TCB level check: TDX module ISVSVN 6 is below minimum required from TDX module TCB levels";
    let own = [
        (
            "/tdxModuleIdentities/0/mrsigner",
            other.clone().into(),
            Unverified(signer.clone()),
        ),
        (
            "/tdxModuleIdentities/0/mrsigner",
            "11".into(),
            not(
                "TDX module identity check: tdxModuleIdentity.mrsigner has invalid length 1, expected 48",
            ),
        ),
        (
            "/tdxModuleIdentities/0/attributes",
            "0100000000000000".into(),
            not(ATTRIBUTES),
        ),
        // With an empty mask, the attributes must still be zero.
        (
            "/tdxModuleIdentities/0/attributesMask",
            "0000000000000000".into(),
            Accepted,
        ),
        ("/tdxModuleIdentities/0/id", "TDX_02".into(), not(UNKNOWN)),
        ("/tdxModuleIdentities", json!([]), not(UNKNOWN)),
        ("/tdxModuleIdentities/0/tcbLevels", json!([]), not(OLD)),
        (
            "/tdxModuleIdentities/0/tcbLevels/0/tcb/isvsvn",
            7.into(),
            not(OLD),
        ),
        (
            "/tdxModuleIdentities/0/tcbLevels/0/tcbStatus",
            "OutOfDate".into(),
            OLD_TCB,
        ),
        (
            "/tdxModuleIdentities/0/tcbLevels/0/tcbStatus",
            "Revoked".into(),
            not("TCB status is invalid: Revoked"),
        ),
        (
            "/tdxModuleIdentities/0/tcbLevels/0/tcbStatus",
            "SWHardeningNeeded".into(),
            not(
                "TDX module TCB level check: Unrecognized TCB status SWHardeningNeeded in TDX module identity",
            ),
        ),
        (
            "/tdxModuleIdentities/0/tcbLevels/0/advisoryIDs",
            json!(["INTEL-SA-00001"]),
            ADVISORIES,
        ),
        (
            "/tdxModule",
            Value::Null,
            not("TDX module identity check: TDX TCB Info is missing tdxModule field"),
        ),
        // The identity of the module's own version takes precedence over this member.
        ("/tdxModule/mrsigner", other.clone().into(), Accepted),
        ("/tdxModule/attributes", "0100000000000000".into(), Accepted),
    ];
    judged("tcb_info", own.into());

    // A module without a version has no identity of its own: the common one applies, and so do the TCB level's components.
    let first = Platform {
        report: |report| report.tee_tcb_svn[1] = 0,
        ..Platform::good()
    };
    accepted(&first.verdict());
    for (pointer, value, reason) in [
        ("/tdxModule/mrsigner", Value::from(other), &*signer),
        (
            "/tdxModule/attributes",
            "0100000000000000".into(),
            ATTRIBUTES,
        ),
        (
            "/tcbLevels/0/tcb/tdxtcbcomponents/0/svn",
            7.into(),
            "No matching TCB level found",
        ),
        (
            "/tcbLevels/0/tcb/tdxtcbcomponents/1/svn",
            1.into(),
            "No matching TCB level found",
        ),
    ] {
        println!("without a version: {pointer}");
        let verdict = first.verdict_on(|collateral| {
            restate(
                collateral,
                "tcb_info",
                &ROOTS.intel.tcb_signing.key,
                |said| {
                    put(said, pointer, value);
                },
            );
        });
        refused(&verdict, &[("evidence.signature", &unverified(reason))]);
    }
}
