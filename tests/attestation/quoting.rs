//! The contents of the PCK certificate and of the quoting enclave's report, each changed and signed again, so that
//! Intel's statements no longer apply to them.

use cocoon_measurements::policy::Policy;
use cocoon_simulator::tdx::enclave::qe_mr_signer;
use cocoon_simulator::tdx::{PckSays, QuotingEnclave};
use cocoon_simulator::x509::{self, Role};

use crate::machine::{accepted, judge, refused};
use crate::platform::{Platform, unverified};

fn certified(edit: fn(&mut PckSays)) -> Platform {
    let mut says = PckSays::GOOD;
    edit(&mut says);
    let mut platform = Platform::good();
    platform.identity.pck.certificate = platform.identity.certify_pck(&says).unwrap();
    platform
}

#[test]
fn each_extension_of_the_platforms_certificate() {
    type Edit = fn(&mut PckSays);
    let edits: [(&str, Edit, &str); 7] = [
        ("FMSPC", |s| s.fmspc[5] ^= 1, "Fmspc mismatch"),
        (
            "CPUSVN, first component",
            |s| s.cpu_svn[0] -= 1,
            "No matching TCB level found",
        ),
        (
            "CPUSVN, eighth component",
            |s| s.cpu_svn[7] -= 1,
            "No matching TCB level found",
        ),
        (
            "CPUSVN of nothing",
            |s| s.cpu_svn = [0; 16],
            "No matching TCB level found",
        ),
        ("PCESVN", |s| s.pce_svn -= 1, "No matching TCB level found"),
        (
            "PCESVN of nothing",
            |s| s.pce_svn = 0,
            "No matching TCB level found",
        ),
        (
            "PCE-ID",
            |s| s.pce_id = [1, 0],
            "TCB info for PCE \"0000\", the platform's certificate is of 0100",
        ),
    ];
    for (field, edit, reason) in edits {
        println!("{field}");
        let verdict = certified(edit).verdict();
        refused(&verdict, &[("evidence.signature", &unverified(reason))]);
    }
    // Newer than Intel's statements require.
    accepted(&certified(|s| s.cpu_svn = [255; 16]).verdict());
    accepted(&certified(|s| s.pce_svn += 1).verdict());
}

/// The PPID identifies the machine. Any is accepted, unless the policy lists machines.
#[test]
fn the_platforms_identity_is_judged_by_who_lists_machines() {
    let other = certified(|s| s.ppid[15] ^= 1);
    accepted(&other.verdict());
    let own = format!("intel-ppid:{}", hex::encode(PckSays::GOOD.ppid));
    let listing = |platform: &Platform| {
        let policy = Policy {
            machines: vec![own.parse().unwrap()],
            ..platform.named()
        };
        judge(&platform.document(|_| ()), &policy)
    };
    accepted(&listing(&Platform::good()));
    refused(
        &listing(&other),
        &[(
            "evidence.machine",
            "genuine evidence, of a machine that your policy does not list",
        )],
    );
}

#[test]
fn a_certificate_without_intels_extension_is_of_no_platform() {
    let mut platform = Platform::good();
    let own = &platform.identity;
    let (key, issuer) = (&own.pck.key, Some(&own.pck_ca));
    let bare = x509::issue(key, "CN=PCK,O=Cocoon Simulator", Role::Leaf, issuer, vec![]);
    platform.identity.pck.certificate = bare.unwrap();
    refused(
        &platform.verdict(),
        &[(
            "evidence.signature",
            &unverified("Intel extension not found"),
        )],
    );
}

fn enclave(edit: fn(&mut QuotingEnclave)) -> Platform {
    let mut platform = Platform::good();
    edit(&mut platform.enclave);
    platform
}

#[test]
fn each_field_of_the_quoting_enclaves_report() {
    type Edit = fn(&mut QuotingEnclave);
    let mut signer = qe_mr_signer();
    let expected = hex::encode_upper(signer);
    signer[31] ^= 1;
    let signer = format!(
        "QE MRSIGNER mismatch: expected {expected}, got {}",
        hex::encode_upper(signer)
    );
    let edits: [(&str, Edit, &str); 10] = [
        ("MRSIGNER", |e| e.mr_signer[31] ^= 1, &signer),
        (
            "ISVPRODID",
            |e| e.prod_id = 1,
            "QE ISVPRODID mismatch: expected 2, got 1",
        ),
        (
            "ISVSVN",
            |e| e.svn -= 1,
            "QE ISVSVN 5 is below minimum required 6 from QE Identity",
        ),
        (
            "MISCSELECT",
            |e| e.misc_select = 1 << 31,
            "QE MISCSELECT mismatch: expected 00000000 (masked), got 80000000 (masked)",
        ),
        (
            "ATTRIBUTES: debug",
            |e| e.attributes[0] |= 2,
            "QE report validation failed: Debug mode is enabled",
        ),
        (
            "ATTRIBUTES: not initialised",
            |e| e.attributes[0] &= !1,
            "QE ATTRIBUTES mismatch at byte 0: expected 11 (masked), got 10 (masked)",
        ),
        (
            "ATTRIBUTES: a bit that nobody knows",
            |e| e.attributes[7] |= 0x80,
            "QE ATTRIBUTES mismatch at byte 7: expected 00 (masked), got 80 (masked)",
        ),
        (
            "REPORTDATA of nothing",
            |e| e.report_data = Some([0; 64]),
            "QE report hash mismatch",
        ),
        (
            "REPORTDATA of another key",
            |e| e.report_data = Some([0x77; 64]),
            "QE report hash mismatch",
        ),
        (
            "all of another enclave",
            |e| (e.mr_signer[31], e.prod_id, e.svn) = (e.mr_signer[31] ^ 1, 1, 99),
            &signer,
        ),
    ];
    for (field, edit, reason) in edits {
        println!("{field}");
        let verdict = enclave(edit).verdict();
        refused(&verdict, &[("evidence.signature", &unverified(reason))]);
    }
    // MRENCLAVE is not compared, because the signer vouches for the build; a newer ISVSVN is accepted; and the
    // processor features of the enclave depend on its launch.
    for edit in [
        (|e| e.mr_enclave[0] ^= 1) as Edit,
        |e| e.svn += 1,
        |e| e.attributes[8] ^= 4,
        |e| e.cpu_svn = [0; 16],
    ] {
        accepted(&enclave(edit).verdict());
    }
}
