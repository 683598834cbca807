//! How long the verdict on a boot document holds: unchanged in the last second that it names, and different in the next.

use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::document::{Collateral, Document, Evidence};
use cocoon_simulator::launch::Launched;

use crate::collateral::DAY;
use crate::machine::{LEAF, MANIFEST, Machine, NOW, ROOTS, accepted, policy};
use crate::times::redated;

fn boot(tee: Tee) -> (Machine, Document) {
    let vm = Machine::good(tee);
    let document = vm.boot_document();
    (vm, document)
}

/// Returns an SNP guest and its boot document, whose VCEK certificate expires after `until`.
fn snp_boot(until: u64) -> (Machine, Document) {
    let (vm, mut document) = boot(Tee::SevSnp);
    let Evidence::SevSnp { certificates, .. } = &mut document.evidence else {
        panic!("SNP evidence was made")
    };
    let span = (NOW - DAY, until);
    certificates[0] = redated(&certificates[0].0, span, &ROOTS.amd.ask.key).into();
    (vm, document)
}

fn judged(document: &Document, now: u64) -> Verdict {
    let presented = Presented {
        document,
        leaf_spki_sha256: LEAF,
        fresh: None,
        handshake_gpus: None,
    };
    appraise(&presented, &MANIFEST, &policy(), now)
}

/// Asserts that the document is accepted now, and returns the last second for which the verdict holds.
fn held(document: &Document) -> Option<u64> {
    let verdict = judged(document, NOW);
    assert_eq!(verdict.class, Class::Simulated, "{:#?}", verdict.checks);
    verdict.holds_until()
}

#[test]
fn manifest_and_certificates_end_it() {
    let manifest_ends = MANIFEST.not_after;
    for ((_, document), end, reason) in [
        (boot(Tee::Tdx), manifest_ends, "manifest.time"),
        (snp_boot(NOW + 9), NOW + 9, "evidence.collateral"),
        (
            snp_boot(manifest_ends + DAY),
            manifest_ends,
            "manifest.time",
        ),
    ] {
        assert_eq!(held(&document), Some(end));
        let last = judged(&document, end);
        assert_eq!(
            (last.class, last.holds_until()),
            (Class::Simulated, Some(end))
        );
        let after = judged(&document, end + 1);
        let failed: Vec<_> = after.failures().map(|check| check.id).collect();
        assert_eq!(failed, [reason]);
        assert_eq!(after.holds_until(), None, "a rejection may end any second");
    }
}

/// A host may also attach AMD's revocation list to a boot document. The verdict then holds at most until the next list
/// is due, or until this one is older than the policy allows.
#[test]
fn amds_list_ends_it() {
    let (vm, document) = snp_boot(NOW + 9 * DAY);
    let Launched::Snp { platform, .. } = &vm.vm else {
        panic!("an SNP guest was launched")
    };
    for (issued, due, end) in [
        (NOW, NOW + 9, NOW + 9),
        (NOW - 400 * DAY, NOW + DAY, NOW),
        (NOW + 7 - 400 * DAY, NOW + DAY, NOW + 7),
    ] {
        let Evidence::SevSnp { certificates, .. } = &document.evidence else {
            panic!("SNP evidence was made")
        };
        let stapled = Document {
            collateral: Some(Collateral::SevSnp {
                certificates: certificates.clone(),
                crl: Some(platform.crl(issued, due).unwrap().into()),
            }),
            ..document.clone()
        };
        assert_eq!(held(&stapled), Some(end));
        assert_eq!(judged(&stapled, end).class, Class::Simulated);
        assert_eq!(judged(&stapled, end + 1).class, Class::Rejected);
    }
}

#[test]
fn others_have_no_end_because_they_are_judged_each_time() {
    let (vm, mut document) = boot(Tee::Tdx);
    document.collateral.clone_from(&vm.collateral);
    assert_eq!(held(&document), None, "Intel's collateral");
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let session = Machine::good(tee).verdict();
        accepted(&session);
        assert_eq!(session.holds_until(), None, "a session's of {tee}");
    }
}
