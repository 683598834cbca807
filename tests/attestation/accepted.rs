//! Good evidence passes every check, and the verdict claims no more than the evidence's root supports.

use cocoon_client::{TableStyle, table};
use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::{Class, Outcome, Verdict};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::document::{Document, MAX_DOCUMENT_LEN};

use crate::machine::{
    FRESH, LEAF, MANIFEST, Machine, NOW, accepted, judge, outcomes, policy, trusted,
};

const COMMON: [&str; 13] = [
    "manifest.trust",
    "manifest.time",
    "manifest.release",
    "manifest.locked",
    "document.kind",
    "document.nonce",
    "document.leaf_key",
    "document.manifest",
    "document.model",
    "document.gpu",
    "document.config",
    "document.config_digest",
    "evidence.signature",
];

/// Returns the ids of the rows that passed, and of the rows that are notes.
fn split(verdict: &Verdict) -> (Vec<&str>, Vec<&str>) {
    let of = |wanted| {
        let rows = outcomes(verdict).into_iter();
        rows.filter(|(_, outcome)| *outcome == wanted)
            .map(|(id, _)| id)
            .collect()
    };
    (of(Outcome::Pass), of(Outcome::Note))
}

#[test]
fn a_simulated_trust_domain_passes_every_check_and_is_called_simulated() {
    let verdict = Machine::good(Tee::Tdx).verdict();
    accepted(&verdict);
    let (passed, told) = split(&verdict);
    let mut expected = COMMON.to_vec();
    expected.extend([
        "evidence.report_data",
        "evidence.tcb",
        "evidence.advisories",
        "evidence.machine",
        "evidence.collateral",
        "evidence.collateral",
        "tdx.attributes",
        "tdx.xfam",
        "tdx.module",
        "tdx.mrtd",
        "tdx.event_log",
        "tdx.rtmr0",
        "tdx.rtmr1",
        "tdx.rtmr2",
        "tdx.rtmr3",
        "tdx.owner",
        "tdx.owner_config",
        "tdx.config",
    ]);
    assert_eq!(passed, expected);
    assert_eq!(told, ["evidence.root"], "the root that is no vendor's");
}

#[test]
fn a_simulated_snp_guest_passes_every_check_and_is_called_simulated() {
    let verdict = Machine::good(Tee::SevSnp).verdict();
    accepted(&verdict);
    let (passed, told) = split(&verdict);
    let mut expected = COMMON.to_vec();
    expected.extend([
        "evidence.report_data",
        "snp.vmpl",
        "snp.id_key",
        "snp.author_key",
        "snp.platform",
        "evidence.machine",
        "evidence.collateral",
        "evidence.collateral",
        "snp.policy",
        "snp.launch",
        "snp.config",
    ]);
    assert_eq!(passed, expected);
    assert_eq!(
        told,
        [
            "evidence.root",
            "evidence.tcb",
            "snp.aml_guard",
            "snp.firmware"
        ]
    );
}

/// In a table of 100 columns, a check that passed takes one line and shows only the first digits of its digests.
#[test]
fn verdicts_are_read_at_a_glance() {
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let verdict = Machine::good(tee).verdict();
        let text = table(&verdict, TableStyle::default());
        println!("{text}");
        let passed = verdict
            .checks
            .iter()
            .filter(|check| check.outcome == Outcome::Pass);
        let lines: Vec<_> = text.lines().collect();
        for check in passed {
            let head = format!("ok    {} ", check.title);
            let at = lines.iter().position(|line| line.starts_with(&head));
            let next = lines.get(at.expect(&head) + 1).copied().unwrap_or("ok");
            assert!(!next.starts_with(' '), "{head} is not alone: {next}");
        }
        assert!(lines.iter().all(|line| line.chars().count() <= 100));
        let digest = |word: &str| word.len() > 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(!text.split_whitespace().any(digest));
    }
}

/// A document that was encoded and parsed again gets the same verdict as the original.
#[test]
fn documents_keep_their_worth_on_the_wire() {
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let sent = Machine::good(tee).document();
        let received = Document::parse(&sent.to_json(), MAX_DOCUMENT_LEN).unwrap();
        assert_eq!(received, sent);
        accepted(&judge(&received, &policy()));
    }
}

/// The simulator can start every machine shape that the manifest lists, and the verdict accepts each.
#[test]
fn every_listed_shape_is_accepted() {
    for platform in &MANIFEST.tdx.platforms {
        let vm = Machine::started(Tee::Tdx, |start| {
            start.opened.memory = platform.memory_mib << 20
        });
        accepted(&vm.verdict());
    }
    for launch in &MANIFEST.snp.launch {
        let vm = Machine::started(Tee::SevSnp, |start| {
            start.opened.vcpus = launch.vcpus;
            start.cpu_model.clone_from(&launch.cpu_model);
        });
        accepted(&vm.verdict());
    }
}

/// A boot document passes all checks, but its kind is a note: it is not fresh, so it never authorises a prompt.
#[test]
fn a_boot_document_never_authorises() {
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let document = Machine::good(tee).boot_document();
        let presented = Presented {
            document: &document,
            leaf_spki_sha256: LEAF,
            fresh: None,
            handshake_gpus: None,
        };
        let verdict = appraise(&presented, &MANIFEST, &policy(), NOW);
        let failed: Vec<_> = verdict.failures().collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(
            (verdict.class, verdict.authorizes()),
            (Class::Simulated, None)
        );
        let kind = verdict
            .checks
            .iter()
            .find(|check| check.id == "document.kind")
            .unwrap();
        assert_eq!(
            (kind.outcome, kind.cause.as_deref()),
            (
                Outcome::Note,
                Some(
                    "the certificate's boot evidence: it shows early what runs there, and never authorises a prompt"
                )
            )
        );
    }
}

/// A boot quote without endorsements is compared with the manifest, but the verdict says that its signature is not
/// verified, even under the default policy, which names no development root.
#[test]
fn an_unverified_boot_quote_says_so() {
    let document = Machine::good(Tee::Tdx).boot_document();
    let presented = Presented {
        document: &document,
        leaf_spki_sha256: LEAF,
        fresh: None,
        handshake_gpus: None,
    };
    let verdict = appraise(&presented, &MANIFEST, &Policy::default(), NOW);
    let signature = verdict
        .checks
        .iter()
        .find(|check| check.id == "evidence.signature")
        .unwrap();
    assert_eq!(
        (signature.outcome, signature.cause.as_deref()),
        (
            Outcome::Note,
            Some(
                "not verified: the certificate's boot document carries no endorsements, so nothing vouches for its \
                 values; they are compared to fail early, and the session's document decides"
            )
        )
    );
    assert_eq!(
        (verdict.class, verdict.authorizes()),
        (Class::Simulated, None)
    );
}

/// The same evidence is accepted from the first to the last second in which manifest and endorsements are valid.
#[test]
fn the_first_and_the_last_second_count() {
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let vm = Machine::good(tee);
        let document = vm.document();
        for now in [NOW - 3600, NOW + crate::image::HALF_LIFE] {
            let presented = Presented {
                document: &document,
                leaf_spki_sha256: LEAF,
                fresh: Some(FRESH),
                handshake_gpus: None,
            };
            accepted(&appraise(&presented, &trusted(NOW), &policy(), now));
        }
    }
}
