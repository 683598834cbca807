//! Every meaningful field of a TD report, changed and signed again: the row of that field fails, and every other row
//! stays the same.

use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::document::{Document, Evidence};
use cocoon_simulator::launch::Launched;
use cocoon_simulator::tdx::TdReport;

use crate::machine::{Machine, accepted, judge, outcomes, policy, refused};
use crate::platform::{Layout, quoted};
use crate::version_5::layouts;

pub type Edit = fn(&mut TdReport);
/// Id of a check and its cause.
type Row = (&'static str, &'static str);

const LIES: Row = (
    "tdx.event_log",
    "the event log is not the one of this guest: replayed, it gives another register than the quote",
);
const NOTHING_BOUND: &str = "the evidence binds nothing: its report data are zero";
const EXPORTER: &str = "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS session than this one \
     (or for a changed meter key, or for a batch whose path was left out): the connection is relayed by someone who holds \
     the guest's key, or an old document was given this session's nonce";

/// Fields compared once the signatures are verified: field, change, and the rows that fail, each with its cause.
const COMPARED: &[(&str, Edit, &[Row])] = &[
    (
        "MRTD",
        |r| r.mr_td[47] ^= 1,
        &[(
            "tdx.mrtd",
            "other image: the VM was started with another firmware than the manifest's OVMF.tdx.fd, or on a host whose KVM \
             adds pages in the older order (before 6.16)",
        )],
    ),
    (
        "RTMR0",
        |r| r.rtmr[0][0] ^= 1,
        &[
            LIES,
            (
                "tdx.rtmr0",
                "another machine shape than the manifest's; without an event log it cannot be told which part differs",
            ),
        ],
    ),
    (
        "RTMR1",
        |r| r.rtmr[1][0] ^= 1,
        &[
            LIES,
            (
                "tdx.rtmr1",
                "another kernel than the manifest's vmlinuz, or another firmware release starts it; without an event log it \
                 cannot be told which",
            ),
        ],
    ),
    (
        "RTMR2",
        |r| r.rtmr[2][0] ^= 1,
        &[
            LIES,
            (
                "tdx.rtmr2",
                "another kernel command line or another initrd than the manifest's; without an event log it cannot be told \
                 which",
            ),
        ],
    ),
    (
        "RTMR3",
        |r| r.rtmr[3][47] = 1,
        &[
            LIES,
            (
                "tdx.rtmr3",
                "something measured itself into RTMR3, which this image never uses: other code ran in the guest",
            ),
        ],
    ),
    (
        "MRCONFIGID",
        |r| r.mr_config_id[0] ^= 1,
        &[(
            "tdx.config",
            "the launch was given another configuration than the document shows",
        )],
    ),
    (
        "MROWNER",
        |r| r.mr_owner[0] = 1,
        &[(
            "tdx.owner",
            "the launch names an owner (MROWNER), which this image does not use",
        )],
    ),
    (
        "MROWNERCONFIG",
        |r| r.mr_owner_config[47] = 0x80,
        &[(
            "tdx.owner_config",
            "the launch has an owner's configuration (MROWNERCONFIG), which this image does not use",
        )],
    ),
    (
        "XFAM with a feature that nobody knows",
        |r| r.xfam |= 1 << 62,
        &[("tdx.xfam", ODD_XFAM)],
    ),
    (
        "XFAM without SSE",
        |r| r.xfam &= !2,
        &[("tdx.xfam", ODD_XFAM)],
    ),
    (
        "REPORTDATA of nothing",
        |r| r.report_data = [0; 64],
        &[("evidence.report_data", NOTHING_BOUND)],
    ),
    (
        "REPORTDATA of something else",
        |r| r.report_data[63] ^= 1,
        &[("evidence.report_data", EXPORTER)],
    ),
];

const ODD_XFAM: &str =
    "processor features are enabled that this verifier does not know, or basic ones are missing";

/// Values that are refused whoever signs them, and values that Intel's collateral judges: refused before any comparison.
const REFUSED_EARLY: &[(&str, Edit, Row)] = &[
    (
        "ATTRIBUTES: debug",
        |r| r.td_attributes |= 1,
        (
            "tdx.attributes",
            "TDX quote is of a trust domain that must not be trusted: the trust domain runs in debug mode (attributes \
             0x0000000010000001): the host can read its memory",
        ),
    ),
    (
        "ATTRIBUTES: profiling",
        |r| r.td_attributes |= 1 << 4,
        (
            "tdx.attributes",
            "TDX quote is of a trust domain that must not be trusted: the trust domain can be profiled (attributes \
             0x0000000010000010): the host can observe its execution",
        ),
    ),
    (
        "ATTRIBUTES: migratable",
        |r| r.td_attributes |= 1 << 29,
        (
            "tdx.attributes",
            "TDX quote is of a trust domain that must not be trusted: the trust domain can be migrated (attributes \
             0x0000000030000000): its memory can leave this machine",
        ),
    ),
    (
        "ATTRIBUTES: SERVTD_EXT",
        |r| r.td_attributes |= 1 << 17,
        (
            "tdx.attributes",
            "TDX quote is of a trust domain that must not be trusted: service domains can be bound to the trust domain while it \
             runs (attributes 0x0000000010020000): nothing here judges their code",
        ),
    ),
    (
        "ATTRIBUTES: SEPT_VE_DISABLE clear",
        |r| r.td_attributes = 0,
        (
            "tdx.attributes",
            "TDX quote is of a trust domain that must not be trusted: the trust domain has SEPT_VE_DISABLE clear (attributes \
             0x0000000000000000): the host can replace pages unseen",
        ),
    ),
    (
        "ATTRIBUTES: a bit that nobody knows",
        |r| r.td_attributes |= 1 << 40,
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: Reserved bits in TD \
             attributes are set",
        ),
    ),
    (
        "MRSIGNERSEAM",
        |r| r.mr_signer_seam[0] = 1,
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: TDX module identity check: \
             TDX module MRSIGNER mismatch: expected \
             000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000, \
             got 010000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
        ),
    ),
    (
        "SEAMATTRIBUTES",
        |r| r.seam_attributes = 1,
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: TDX module identity check: \
             TDX module SEAMATTRIBUTES mismatch at byte 0: expected 00 (masked), got 01 (masked)",
        ),
    ),
    (
        "TEE_TCB_SVN: an older TDX module",
        |r| r.tee_tcb_svn[0] -= 1,
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: TDX module TCB level \
             check: TDX module ISVSVN 5 is below minimum required from TDX module TCB levels",
        ),
    ),
    (
        "TEE_TCB_SVN: a TDX module of another generation",
        |r| r.tee_tcb_svn[1] = 7,
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: TDX module TCB level \
             check: No TDX module identity with id TDX_07 found in TCB Info",
        ),
    ),
    (
        "TEE_TCB_SVN: older microcode",
        |r| r.tee_tcb_svn[2] -= 1,
        (
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: No matching TCB level \
             found",
        ),
    ),
];

/// Returns the session document, whose TD report `edit` changed before it was quoted.
pub fn tampered_document(edit: Edit) -> Document {
    laid_out(edit, &layouts()[0])
}

fn laid_out(edit: Edit, layout: &Layout) -> Document {
    let vm = Machine::good(Tee::Tdx);
    let mut document = vm.document();
    let Launched::Tdx {
        platform, report, ..
    } = &vm.vm
    else {
        panic!("a trust domain was launched")
    };
    let mut report = TdReport::clone(report);
    report.report_data = binding::report_data(&binding::session(&vm.claims, &vm.fresh)).0;
    edit(&mut report);
    let Evidence::Tdx { quote, .. } = &mut document.evidence else {
        panic!("TDX evidence was made")
    };
    *quote = quoted(platform, &report, layout).into();
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
    let good = outcomes(&Machine::good(Tee::Tdx).verdict());
    let all = layouts();
    let each = COMPARED
        .iter()
        .flat_map(|row| all.iter().map(move |layout| (row, layout)));
    for ((field, edit, expected), layout) in each {
        let verdict = judge(&laid_out(*edit, layout), &policy());
        println!("{field} {layout:?}");
        refused(&verdict, expected);
        let failed: Vec<&str> = expected.iter().map(|(id, _)| *id).collect();
        let rest = |rows: Vec<_>| -> Vec<_> {
            let others = rows.into_iter();
            others
                .filter(|(id, _): &(&str, _)| !failed.contains(id))
                .collect()
        };
        assert_eq!(rest(outcomes(&verdict)), rest(good.clone()), "{field}");
    }
}

#[test]
fn what_no_signature_redeems_is_refused_before_anything_is_compared() {
    let all = layouts();
    let each = REFUSED_EARLY
        .iter()
        .flat_map(|row| all.iter().map(move |layout| (row, layout)));
    for ((field, edit, expected), layout) in each {
        println!("{field} {layout:?}");
        let verdict = judge(&laid_out(*edit, layout), &policy());
        refused(&verdict, &[*expected]);
        let compared = outcomes(&verdict)
            .iter()
            .filter(|(id, _)| id.starts_with("tdx.") && *id != expected.0)
            .count();
        assert_eq!(compared, 0, "{field}");
        let last = verdict.checks.last().unwrap();
        assert_eq!(
            (last.id, last.cause.as_deref()),
            (
                "evidence.measurements",
                Some("not judged: the evidence that carries them is not verified")
            )
        );
    }
}

/// MRSEAM identifies the TDX module's build. Intel's collateral judges the module's version by TEE_TCB_SVN; the build
/// is judged only if the policy lists builds, but the row always shows it.
#[test]
fn the_modules_own_digest_is_shown_and_judged_by_who_lists_builds() {
    let good = TdReport::good([0; 48], [[0; 48]; 4], [0; 48]).mr_seam;
    let verdict = tampered(|r| r.mr_seam[0] ^= 1);
    accepted(&verdict);
    let mut other = good;
    other[0] ^= 1;
    let row = verdict.checks.iter().find(|check| check.id == "tdx.module");
    let found = row.and_then(|row| row.found.as_deref());
    assert_eq!(
        found,
        Some(&*format!("MRSEAM {}, of Intel's", hex::encode(other)))
    );
    let listing = Policy {
        tdx_modules: vec![Hex(good)],
        ..policy()
    };
    accepted(&tampered_under(|_| (), &listing));
    refused(
        &tampered_under(|r| r.mr_seam[0] ^= 1, &listing),
        &[(
            "tdx.module",
            "the platform runs a build of the TDX module (MRSEAM) that your policy does not list",
        )],
    );
}
