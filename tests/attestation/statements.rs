//! Intel's signed statements about a platform and its quoting enclave, each field changed and signed again: either the
//! platform no longer satisfies them, or the test shows that the field does not affect the verdict.

use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::tdx::quote::{QuoteError, verify};
use cocoon_measurements::tdx::tcb::{TcbError, TcbPolicy};
use cocoon_protocol::document::{Collateral, Document, Evidence};
use cocoon_simulator::tdx::collateral::TCB_EVALUATION_DATA_NUMBER;
use cocoon_simulator::tdx::enclave::qe_mr_signer;
use cocoon_simulator::x509;
use serde_json::{Value, json};

use crate::machine::{NOW, ROOTS, accepted, refused};
use crate::platform::{Platform, restate, unverified};

/// Expected outcome for a changed statement.
pub enum Ends {
    /// The evidence does not verify, for this reason.
    Unverified(String),
    /// The evidence verifies, and the row with this id fails with this cause.
    Row(&'static str, &'static str),
    /// The verdict is the same as for the unchanged statement.
    Accepted,
}
use Ends::{Accepted, Row, Unverified};

pub const OLD_TCB: Ends = Row(
    "evidence.tcb",
    "the platform's firmware or microcode lacks fixes that Intel has published",
);
pub const ADVISORIES: Ends = Row(
    "evidence.advisories",
    "Intel's advisories apply to this platform",
);

pub fn not(reason: &str) -> Ends {
    Unverified(reason.into())
}

/// Sets the value at the JSON pointer, whose last member may be new.
pub fn put(statement: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match statement.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        object => object[last] = value,
    }
}

pub fn judged(member: &str, table: Vec<(&str, Value, Ends)>) {
    let platform = Platform::good();
    for (pointer, value, ends) in table {
        println!("{member} {pointer} {value}");
        let verdict = platform.verdict_on(|collateral| {
            restate(collateral, member, &ROOTS.intel.tcb_signing.key, |said| {
                put(said, pointer, value);
            });
        });
        match ends {
            Unverified(reason) => {
                refused(&verdict, &[("evidence.signature", &unverified(&reason))]);
            }
            Row(id, cause) => refused(&verdict, &[(id, cause)]),
            Accepted => accepted(&verdict),
        }
    }
}

#[test]
fn of_the_platforms_tcb() {
    const ANOTHER: &str = "TDX quote with non-TDX TCB info in the collateral";
    const NO_LEVEL: &str = "No matching TCB level found";
    let few = vec![json!({ "svn": 0 }); 15];
    judged(
        "tcb_info",
        vec![
            ("/id", "SGX".into(), not(ANOTHER)),
            ("/version", 2.into(), not(ANOTHER)),
            (
                "/version",
                4.into(),
                not("TCB info of version 4, 3 is known"),
            ),
            (
                "/tcbType",
                1.into(),
                not("TCB info of tcbType 1, 0 is known"),
            ),
            (
                "/pceId",
                "0100".into(),
                not("TCB info for PCE \"0100\", the platform's certificate is of 0000"),
            ),
            (
                "/pceId",
                "zz".into(),
                not("TCB info for PCE \"zz\", the platform's certificate is of 0000"),
            ),
            ("/fmspc", "00C0C00A0001".into(), not("Fmspc mismatch")),
            ("/fmspc", "00C0C00A00".into(), not("Fmspc mismatch")),
            ("/fmspc", "?".into(), not("Failed to decode TCB FMSPC")),
            (
                "/issueDate",
                "1".into(),
                not(
                    "Failed to parse TCB Info issue date: Failed to parse RFC3339 datetime: premature end of input",
                ),
            ),
            (
                "/nextUpdate",
                "1".into(),
                not(
                    "Failed to parse TCB Info next update: Failed to parse RFC3339 datetime: premature end of input",
                ),
            ),
            ("/tcbLevels", json!([]), not(NO_LEVEL)),
            (
                "/tcbLevels/0/tcb/sgxtcbcomponents/0/svn",
                4.into(),
                not(NO_LEVEL),
            ),
            (
                "/tcbLevels/0/tcb/sgxtcbcomponents/15/svn",
                1.into(),
                not(NO_LEVEL),
            ),
            (
                "/tcbLevels/0/tcb/sgxtcbcomponents",
                few.clone().into(),
                not("SGX component count mismatch: expected 16, got 15"),
            ),
            ("/tcbLevels/0/tcb/pcesvn", 14.into(), not(NO_LEVEL)),
            (
                "/tcbLevels/0/tcb/tdxtcbcomponents/2/svn",
                4.into(),
                not(NO_LEVEL),
            ),
            (
                "/tcbLevels/0/tcb/tdxtcbcomponents/15/svn",
                1.into(),
                not(NO_LEVEL),
            ),
            (
                "/tcbLevels/0/tcb/tdxtcbcomponents",
                few.into(),
                not("TDX component count mismatch: expected 16, got 15"),
            ),
            (
                "/tcbLevels/0/tcbStatus",
                "SWHardeningNeeded".into(),
                OLD_TCB,
            ),
            (
                "/tcbLevels/0/tcbStatus",
                "ConfigurationNeeded".into(),
                OLD_TCB,
            ),
            // A status of a trust domain, never of a TCB level.
            (
                "/tcbLevels/0/tcbStatus",
                "TDRelaunchAdvised".into(),
                not("Unrecognized TCB status TDRelaunchAdvised in TCB Info"),
            ),
            (
                "/tcbLevels/0/advisoryIDs",
                json!(["INTEL-SA-00001"]),
                ADVISORIES,
            ),
            // For a TDX module that has a version, the module's own identity determines these components.
            (
                "/tcbLevels/0/tcb/tdxtcbcomponents/0/svn",
                255.into(),
                Accepted,
            ),
            (
                "/tcbLevels/0/tcb/tdxtcbcomponents/1/svn",
                255.into(),
                Accepted,
            ),
            (
                "/tcbLevels/0/tcbDate",
                "1".into(),
                not(
                    "Invalid TCB level tcbDate: Failed to parse RFC3339 datetime: premature end of input",
                ),
            ),
            // Intel's evaluation number, which is required only under Intel's own root.
            ("/tcbEvaluationDataNumber", 0.into(), Accepted),
        ],
    );
}

#[test]
fn of_the_quoting_enclave() {
    let kind = |id: &str, version: u8| {
        Unverified(format!(
            "Unsupported QE Identity id/version for the quote TEE type: {id} version {version} (expected TD_QE version [2, 3])"
        ))
    };
    let signer = format!(
        "QE MRSIGNER mismatch: expected {}, got {}",
        "11".repeat(32),
        hex::encode_upper(qe_mr_signer())
    );
    judged(
        "qe_identity",
        vec![
            ("/id", "QE".into(), kind("QE", 2)),
            ("/version", 1.into(), kind("TD_QE", 1)),
            ("/version", 4.into(), kind("TD_QE", 4)),
            ("/version", 3.into(), Accepted),
            (
                "/issueDate",
                "1".into(),
                not(
                    "Failed to parse QE Identity issue date: Failed to parse RFC3339 datetime: premature end of input",
                ),
            ),
            (
                "/nextUpdate",
                "1".into(),
                not(
                    "Failed to parse QE Identity next update: Failed to parse RFC3339 datetime: premature end of input",
                ),
            ),
            ("/mrsigner", "11".repeat(32).into(), Unverified(signer)),
            (
                "/isvprodid",
                3.into(),
                not("QE ISVPRODID mismatch: expected 3, got 2"),
            ),
            (
                "/miscselect",
                "01000000".into(),
                not("QE MISCSELECT mismatch: expected 00000001 (masked), got 00000000 (masked)"),
            ),
            ("/miscselectMask", "00000000".into(), Accepted),
            (
                "/attributes",
                "31000000000000000000000000000000".into(),
                not("QE ATTRIBUTES mismatch at byte 0: expected 31 (masked), got 11 (masked)"),
            ),
            (
                "/attributesMask",
                "FFFFFFFFFFFFFFFF0000000000000000".into(),
                not("QE ATTRIBUTES mismatch at byte 0: expected 11 (masked), got 15 (masked)"),
            ),
            (
                "/tcbLevels",
                json!([]),
                not("No TCB levels found in QE Identity"),
            ),
            (
                "/tcbLevels/0/tcb/isvsvn",
                7.into(),
                not("QE ISVSVN 6 is below minimum required 7 from QE Identity"),
            ),
            ("/tcbLevels/0/tcbStatus", "OutOfDate".into(), OLD_TCB),
            (
                "/tcbLevels/0/tcbStatus",
                "Revoked".into(),
                not("TCB status is invalid: Revoked"),
            ),
            (
                "/tcbLevels/0/tcbStatus",
                "SWHardeningNeeded".into(),
                not("Unrecognized TCB status SWHardeningNeeded in QE Identity"),
            ),
            (
                "/tcbLevels/0/advisoryIDs",
                json!(["INTEL-SA-00001"]),
                ADVISORIES,
            ),
            ("/tcbEvaluationDataNumber", 0.into(), Accepted),
        ],
    );
}

/// A required evaluation number is compared with the lower one of both statements.
#[test]
fn of_the_evaluation() {
    let root = TrustRoot::development(&ROOTS.intel.root.certificate).unwrap();
    let demanding = TcbPolicy {
        min_evaluation_number: TCB_EVALUATION_DATA_NUMBER,
        ..TcbPolicy::default()
    };
    let judge = |document: &Document| {
        let (Evidence::Tdx { quote, .. }, Some(Collateral::Tdx { json })) =
            (&document.evidence, &document.collateral)
        else {
            panic!("TDX evidence was made")
        };
        verify(&quote.0, &json.0, &root, &demanding, NOW)
    };
    let platform = Platform::good();
    let claims = judge(&platform.document(|_| ())).unwrap();
    assert_eq!(claims.evaluation_number, TCB_EVALUATION_DATA_NUMBER);
    for member in ["tcb_info", "qe_identity"] {
        let document = platform.document(|collateral| {
            restate(collateral, member, &ROOTS.intel.tcb_signing.key, |said| {
                put(
                    said,
                    "/tcbEvaluationDataNumber",
                    (TCB_EVALUATION_DATA_NUMBER - 1).into(),
                );
            });
        });
        let low = TcbError::Evaluation {
            found: TCB_EVALUATION_DATA_NUMBER - 1,
            minimum: TCB_EVALUATION_DATA_NUMBER,
        };
        assert_eq!(judge(&document), Err(QuoteError::Tcb(low)), "{member}");
    }
}

/// Other keys below the root certify other things, so a statement signed with one of them is refused.
#[test]
fn signed_by_another_key_of_intels() {
    let own = &ROOTS.intel;
    const AUTHORITY: &str = "Failed to verify certificate chain: CaUsedAsEndEntity";
    let root = &own.root.certificate[..];
    let by_pck_ca = &own.pck_ca.certificate[..];
    for (member, signer, chain, reason) in [
        (
            "tcb_info",
            &own.pck,
            vec![by_pck_ca, root],
            "TCB Info signer must be issued directly by the root CA",
        ),
        (
            "qe_identity",
            &own.pck,
            vec![by_pck_ca, root],
            "QE Identity signer must be issued directly by the root CA",
        ),
        ("tcb_info", &own.pck_ca, vec![root], AUTHORITY),
        ("qe_identity", &own.pck_ca, vec![root], AUTHORITY),
    ] {
        println!("{member}: {reason}");
        let verdict = Platform::good().verdict_on(|collateral| {
            restate(collateral, member, &signer.key, |_| ());
            let chain = [vec![&signer.certificate[..]], chain].concat();
            collateral[format!("{member}_issuer_chain")] = x509::pem(&chain).unwrap().into();
        });
        refused(&verdict, &[("evidence.signature", &unverified(reason))]);
    }
}
