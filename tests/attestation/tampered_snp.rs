//! Every meaningful field of an SNP report, changed and signed again: the row of that field fails, and every other row
//! stays the same.

use cocoon_measurements::policy::{Policy, SnpTcbFloor, SnpTcbFloors};
use cocoon_measurements::verdict::{Outcome, Verdict};
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::document::{Document, Evidence};
use cocoon_simulator::launch::Launched;
use cocoon_simulator::snp::{SnpReport, Tcb};

use crate::machine::{Machine, accepted, judge, outcomes, policy, refused};

pub type Edit = fn(&mut SnpReport);
/// Id of a check and its cause.
type Row = (&'static str, &'static str);

const ODD_POLICY: Row = (
    "snp.policy",
    "guest policy bits are set or missing whose meaning this verifier does not know",
);

/// Fields compared once the signatures are verified: field, change, and the row that fails.
const COMPARED: &[(&str, Edit, Row)] = &[
    (
        "MEASUREMENT",
        |r| r.measurement[0] ^= 1,
        (
            "snp.launch",
            "other image, edited command line, wrong initrd, or another CPU model, vCPU count or set of guest features than \
             the manifest lists: one digest covers them all, so it cannot be told which (the manifest assumes guest features \
             0x1)",
        ),
    ),
    (
        "HOST_DATA",
        |r| r.host_data[31] ^= 1,
        (
            "snp.config",
            "the launch was given another configuration than the document shows",
        ),
    ),
    (
        "REPORT_DATA of nothing",
        |r| r.report_data = [0; 64],
        (
            "evidence.report_data",
            "the evidence binds nothing: its report data are zero",
        ),
    ),
    (
        "REPORT_DATA of something else",
        |r| r.report_data[0] ^= 1,
        (
            "evidence.report_data",
            "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS session than this one (or for a \
             changed meter key, or for a batch whose path was left out): the connection is relayed by someone who holds the \
             guest's key, or an old document was given this session's nonce",
        ),
    ),
    (
        "POLICY with a bit that nobody knows",
        |r| r.policy |= 1 << 40,
        ODD_POLICY,
    ),
    (
        "POLICY without its constant bit",
        |r| r.policy &= !(1 << 17),
        ODD_POLICY,
    ),
];

/// Values that are refused whoever signs them, and values that do not match the certificate: refused before any comparison.
const REFUSED_EARLY: &[(&str, Edit, Row)] = &[
    (
        "POLICY: debugging",
        |r| r.policy |= 1 << 19,
        (
            "snp.policy",
            "SNP report: policy is 0xb0000: debugging is allowed, so the host can read the guest's memory",
        ),
    ),
    (
        "POLICY: migration agent",
        |r| r.policy |= 1 << 18,
        (
            "snp.policy",
            "SNP report: policy is 0x70000: migration is allowed, so the guest's memory can leave this machine",
        ),
    ),
    (
        "VMPL",
        |r| r.vmpl = 1,
        (
            "snp.vmpl",
            "SNP report: VMPL is 1: code of a higher privilege controls the guest",
        ),
    ),
    (
        "ID_KEY_DIGEST",
        |r| r.id_key_digest[0] = 1,
        (
            "snp.id_key",
            "SNP report: ID key digest is \
             010000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000: \
             it is not the key that was expected to vouch for the launch",
        ),
    ),
    (
        "AUTHOR_KEY_DIGEST",
        |r| r.author_key_digest[47] = 1,
        (
            "snp.author_key",
            "SNP report: author key digest is \
             000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001: \
             it is not the key that was expected to vouch for the launch",
        ),
    ),
    (
        "REPORTED_TCB: boot loader",
        |r| r.reported_tcb.bootloader += 1,
        (
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the boot loader of the report is at 5, its certificate \
             is for 4: fetch the certificate for the reported TCB",
        ),
    ),
    (
        "REPORTED_TCB: TEE",
        |r| r.reported_tcb.tee = 1,
        (
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the TEE of the report is at 1, its certificate is for \
             0: fetch the certificate for the reported TCB",
        ),
    ),
    (
        "REPORTED_TCB: SNP firmware",
        |r| r.reported_tcb.snp -= 1,
        (
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the SNP firmware of the report is at 26, its \
             certificate is for 27: fetch the certificate for the reported TCB",
        ),
    ),
    (
        "REPORTED_TCB: microcode",
        |r| r.reported_tcb.microcode -= 1,
        (
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the microcode of the report is at 221, its certificate \
             is for 222: fetch the certificate for the reported TCB",
        ),
    ),
    (
        "CHIP_ID of another chip",
        |r| r.chip_id[63] ^= 1,
        (
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the VCEK is not the one of the processor that made the \
             report",
        ),
    ),
    (
        "CHIP_ID masked",
        |r| r.chip_id = [0; 64],
        (
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the report's chip id is masked, so that its VCEK \
             cannot be matched: the operator must clear MASK_CHIP_ID",
        ),
    ),
];

/// Returns the session document, whose report `edit` changed before it was signed.
pub fn tampered_document(edit: Edit) -> Document {
    let vm = Machine::good(Tee::SevSnp);
    let mut document = vm.document();
    let Launched::Snp { platform, report } = &vm.vm else {
        panic!("an SNP guest was launched")
    };
    let mut report = SnpReport::clone(report);
    report.report_data = binding::report_data(&binding::session(&vm.claims, &vm.fresh)).0;
    edit(&mut report);
    let Evidence::SevSnp { report: signed, .. } = &mut document.evidence else {
        panic!("SNP evidence was made")
    };
    *signed = platform.report(&report).unwrap().into();
    document
}

fn tampered_under(edit: Edit, policy: &Policy) -> Verdict {
    judge(&tampered_document(edit), policy)
}

fn tampered(edit: Edit) -> Verdict {
    tampered_under(edit, &policy())
}

#[test]
fn each_compared_field_fails_in_its_own_row_alone() {
    let good = outcomes(&Machine::good(Tee::SevSnp).verdict());
    for (field, edit, expected) in COMPARED {
        println!("{field}");
        let verdict = tampered(*edit);
        refused(&verdict, &[*expected]);
        let rest = |rows: Vec<_>| -> Vec<_> {
            let others = rows.into_iter();
            others
                .filter(|(id, _): &(&str, _)| *id != expected.0)
                .collect()
        };
        assert_eq!(rest(outcomes(&verdict)), rest(good.clone()), "{field}");
    }
}

#[test]
fn what_no_signature_redeems_is_refused_before_anything_is_compared() {
    for (field, edit, expected) in REFUSED_EARLY {
        println!("{field}");
        let verdict = tampered(*edit);
        refused(&verdict, &[*expected]);
        let compared = outcomes(&verdict)
            .iter()
            .filter(|(id, _)| id.starts_with("snp.") && *id != expected.0)
            .count();
        assert_eq!(compared, 0, "{field}");
        assert_eq!(verdict.checks.last().unwrap().id, "evidence.measurements");
    }
}

const SIMULATED: &str = "simulated: no hardware stands behind these numbers, so they reject nothing; on hardware they would be";

/// The simulator's TCB is compared with the floor of the processor that it imitates, but the result is only a note. On
/// hardware the same row fails; `cocoon-measurements` tests that with claims under AMD's root.
#[test]
fn each_part_of_the_tcb_is_held_against_its_floor() {
    let row = |edit: fn(&mut SnpTcbFloor)| {
        let mut floors = SnpTcbFloors::default();
        edit(&mut floors.milan);
        let verdict = tampered_under(
            |_| (),
            &Policy {
                snp_tcb_floor: floors,
                ..policy()
            },
        );
        accepted(&verdict);
        let found = verdict
            .checks
            .iter()
            .find(|check| check.id == "evidence.tcb");
        let found = found.unwrap();
        assert_eq!(found.outcome, Outcome::Note);
        assert_eq!(
            found.found.as_deref(),
            Some("boot loader 4, TEE 0, SNP 27, microcode 222")
        );
        found.cause.clone().unwrap()
    };
    assert_eq!(row(|_| ()), format!("{SIMULATED} good enough"));
    type Edit = fn(&mut SnpTcbFloor);
    let edits: [(Edit, &str); 4] = [
        (|floor| floor.bootloader = 5, "boot loader 4 instead of 5"),
        (|floor| floor.tee = 1, "TEE 0 instead of 1"),
        (|floor| floor.snp = 28, "SNP firmware 27 instead of 28"),
        (
            |floor| floor.microcode = 223,
            "microcode 222 instead of 223",
        ),
    ];
    for (edit, low) in edits {
        assert_eq!(
            row(edit),
            format!(
                "{SIMULATED} below the policy's floor: reported: {low}; committed: {low}; launch: {low}"
            )
        );
    }
}

/// No certificate constrains the committed and the launch TCB, so each is named if it is below the floor. The current
/// TCB is not compared, because it adds nothing to the committed one.
#[test]
fn committed_and_launch_tcb_are_held_against_the_floor_too() {
    let row = |edit: Edit| {
        let verdict = tampered(edit);
        accepted(&verdict);
        let mut rows = verdict.checks.into_iter();
        let found = rows.find(|check| check.id == "evidence.tcb").unwrap();
        (found.found.unwrap(), found.cause.unwrap())
    };
    const OLD: Tcb = Tcb {
        snp: 23,
        ..Tcb::CURRENT
    };
    let good = "boot loader 4, TEE 0, SNP 27, microcode 222";
    let old = "boot loader 4, TEE 0, SNP 23, microcode 222";
    let low = |level| {
        format!("{SIMULATED} below the policy's floor: {level}: SNP firmware 23 instead of 27")
    };
    assert_eq!(
        row(|r| r.committed_tcb = OLD),
        (
            format!("reported {good}; committed {old}; at launch {good}"),
            low("committed")
        )
    );
    assert_eq!(
        row(|r| r.launch_tcb = OLD),
        (
            format!("reported {good}; committed {good}; at launch {old}"),
            low("launch")
        )
    );
    assert_eq!(
        row(|r| r.current_tcb = OLD),
        (good.into(), format!("{SIMULATED} good enough"))
    );
}

/// Fields that do not affect the verdict: the guest's SVN and the names from an ID block (which is refused), the
/// platform's settings, and the ids of this run and its migration agent. A change of that must also change this test.
#[test]
fn fields_that_are_not_judged() {
    let edits: [Edit; 6] = [
        |r| r.guest_svn = 7,
        |r| r.family_id[15] = 1,
        |r| r.image_id[0] = 1,
        |r| r.platform_info ^= 1,
        |r| r.report_id[0] ^= 1,
        |r| r.report_id_ma[0] ^= 1,
    ];
    for edit in edits {
        accepted(&tampered(edit));
    }
}
