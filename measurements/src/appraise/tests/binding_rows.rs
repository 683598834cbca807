//! Checks of the document by what the verifier itself knows.

use super::{
    super::binding::{document as rows, manifest as manifest_rows},
    super::report_data::report_data,
    snp_rows, *,
};
use crate::roots::RootClass;
use cocoon_protocol::manifest::{GpuImage, Runtime};
use std::collections::BTreeMap;

fn verdict_on(edit: impl FnOnce(&mut Document)) -> (TrustedManifest, Document) {
    let manifest = trusted(&sample());
    let mut document = document(Tee::Tdx, &manifest);
    edit(&mut document);
    (manifest, document)
}

#[track_caller]
fn refused(edit: impl FnOnce(&mut Document)) -> (&'static str, String) {
    let (manifest, document) = verdict_on(edit);
    let checks = rows(&session(&document), &manifest, &Policy::default());
    let (id, cause) = only_failure(&checks);
    (id, cause.to_owned())
}

/// Returns the cause of the mismatch if the evidence was made for `found` of the original document, which is then edited.
#[track_caller]
fn cause(edit: impl FnOnce(&mut Document), found: impl FnOnce(&Document) -> Hex64) -> String {
    let (manifest, original) = verdict_on(|_| ());
    let found = found(&original);
    let mut edited = original;
    edit(&mut edited);
    let check = report_data(&session(&edited), &manifest, &found);
    assert_eq!(
        (check.id, check.outcome),
        ("evidence.report_data", Outcome::Fail)
    );
    check.cause.unwrap()
}

#[test]
fn a_fitting_document_passes() {
    let (manifest, document) = verdict_on(|_| ());
    no_failure(&rows(&session(&document), &manifest, &Policy::default()));
    no_failure(&manifest_rows(&manifest, NOW));
}

#[test]
fn cocoon_bind_5() {
    let (manifest, document) = verdict_on(|_| ());
    let found = bound(&document.claims, FRESH);
    assert_eq!(
        report_data(&session(&document), &manifest, &found).outcome,
        Outcome::Pass
    );
    assert_eq!(
        cause(|_| (), |_| Hex64::ZERO),
        "the evidence binds nothing: its report data are zero"
    );
    assert_eq!(
        cause(|_| (), |d| binding::report_data(&binding::boot(&d.claims))),
        "the evidence is that of the boot, shown as if it were of this session"
    );
}

/// Each input of the binding that can be told apart is named.
#[test]
fn cocoon_verdict_7() {
    let earlier = Freshness {
        nonce: Hex([9; 32]),
        ..FRESH
    };
    assert_eq!(
        cause(|d| d.nonce = earlier.nonce, |d| bound(&d.claims, earlier)),
        "replayed nonce: the evidence is of this TLS session, but answers an earlier challenge"
    );
    let elsewhere = Freshness {
        exporter: Hex([8; 32]),
        ..FRESH
    };
    assert_eq!(
        cause(|_| (), |d| bound(&d.claims, elsewhere)),
        "exporter mismatch: nonce and claims fit, so the evidence was made in another TLS session than this one (or for a \
         changed meter key, or for a batch whose path was left out): the connection is relayed by someone who holds the \
         guest's key, or an old document was given this session's nonce"
    );
    let old = Freshness {
        nonce: Hex([9; 32]),
        exporter: Hex([8; 32]),
    };
    assert_eq!(
        cause(|d| d.nonce = old.nonce, |d| bound(&d.claims, old)),
        "the evidence is of another session, like the document around it"
    );
    let edits: [(Edit<Document>, &str); 4] = [
        (
            |d| d.claims.leaf_spki_sha256.0[0] ^= 1,
            "the leaf key in the document was changed: the evidence is of the key in use",
        ),
        (
            |d| d.claims.manifest_id.0[0] ^= 1,
            "the manifest's identity in the document was changed: the evidence is of your manifest",
        ),
        (
            |d| d.claims.model_digest.0[0] ^= 1,
            "the model digest in the document was changed: the evidence is of the manifest's model",
        ),
        (
            |d| d.claims.config_digest.0[0] ^= 1,
            "the configuration digest in the document was changed: the evidence is of the configuration shown",
        ),
    ];
    for (edit, expected) in edits {
        assert_eq!(cause(edit, |d| bound(&d.claims, FRESH)), expected);
    }
}

#[test]
fn cocoon_doc_4() {
    assert_eq!(
        refused(|d| d.nonce = Hex([9; 32])),
        (
            "document.nonce",
            "replayed document: it answers another challenge than the one this client sent"
                .to_owned()
        )
    );
    assert_eq!(
        refused(|d| d.kind = Kind::Boot),
        (
            "document.kind",
            "a boot document was given where one of this session was asked for".to_owned()
        )
    );
    let (manifest, mut document) = verdict_on(|_| ());
    document.evidence = Evidence::SevSnp {
        report: Blob::default(),
        certificates: Vec::new(),
    };
    assert_eq!(
        only_failure(&rows(&session(&document), &manifest, &Policy::default())),
        (
            "document.form",
            "attestation document claims tdx but carries evidence of sev-snp"
        )
    );
    let (manifest, document) = verdict_on(|_| ());
    let checks = rows(
        &Presented {
            fresh: None,
            ..session(&document)
        },
        &manifest,
        &Policy::default(),
    );
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail)
        .map(|check| check.id)
        .collect();
    assert_eq!(failed, ["document.kind", "document.nonce"]);
}

#[test]
fn cocoon_doc_5() {
    let cases: [(Edit<Document>, &str, &str); 4] = [
        (
            |d| d.claims.leaf_spki_sha256 = Hex([1; 32]),
            "document.leaf_key",
            "the TLS connection ends at another key than the guest's: the server shows a document of a machine whose key \
             it does not hold, or something between takes the connection apart (a proxy that ends TLS)",
        ),
        (
            |d| d.claims.manifest_id = Hex([1; 32]),
            "document.manifest",
            "the guest was started with another manifest than yours",
        ),
        (
            |d| d.claims.model_digest = Hex([1; 32]),
            "document.model",
            "another model volume is mounted than the manifest's",
        ),
        (
            |d| d.claims.gpu_section_digest = Hex([1; 32]),
            "document.gpu",
            "the guest claims a GPU, and the manifest's image has none",
        ),
    ];
    for (edit, id, text) in cases {
        assert_eq!(refused(edit), (id, text.to_owned()));
    }
}

#[test]
fn cocoon_config_4() {
    assert_eq!(
        refused(|d| d.claims.config_digest = Hex([1; 48])),
        (
            "document.config_digest",
            "the configuration in the document is not the one whose digest the guest claims"
                .to_owned()
        )
    );
    let spaced = |d: &mut Document| {
        d.config.0.push(b' ');
        d.claims.config_digest = config::digest(Tee::Tdx, &d.config.0);
    };
    assert_eq!(
        refused(spaced),
        ("document.config", "operator configuration is not in canonical form: encode it again with this release's tools".to_owned())
    );
}

/// The dates of a trusted manifest are checked again, and it is still reported as unlocked.
#[test]
fn cocoon_manifest_9() {
    let manifest = trusted(&sample());
    let late = manifest.not_after + 1;
    assert_eq!(
        only_failure(&manifest_rows(&manifest, late)),
        (
            "manifest.time",
            format!(
                "manifest {} expired 1 seconds ago: get the current release's manifest, and check this machine's clock",
                manifest.id()
            )
            .as_str()
        )
    );
    let unlocked = trusted(&Manifest {
        unlocked: vec!["linux 1 2".into()],
        ..sample()
    });
    let rows = manifest_rows(&unlocked, NOW);
    let note = rows
        .iter()
        .find(|check| check.id == "manifest.locked")
        .unwrap();
    assert_eq!(
        (note.outcome, note.found.as_deref()),
        (Outcome::Note, Some("1 not as locked: linux 1 2"))
    );
    no_failure(&rows);
}

/// Missing protections are shown, but are no reason to refuse an image. Missing launch digests are, on SEV-SNP.
#[test]
fn cocoon_manifest_12() {
    let runtime = Runtime {
        verity_root: Hex([1; 32]),
        verity_salt: Hex([2; 32]),
        verity_data_blocks: 3,
        files: BTreeMap::new(),
    };
    let without = [("signed modules", "nobody's key"), ("a lock", "too early")];
    let gpu = GpuImage {
        driver: "550.163.01".into(),
        runtime,
        without: without.map(|(what, why)| (what.into(), why.into())).into(),
    };
    let manifest = Manifest {
        gpu: Some(gpu),
        ..sample()
    };
    assert!(manifest.snp.launch.is_empty());
    let manifest = trusted(&manifest);
    let rows = manifest_rows(&manifest, NOW);
    let shown: Vec<_> = rows
        .iter()
        .filter(|check| check.id == "manifest.without")
        .map(|check| (check.title.as_str(), check.outcome, check.cause.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [
            ("without a lock", Outcome::Note, Some("too early")),
            (
                "without signed modules",
                Outcome::Note,
                Some("nobody's key")
            ),
        ]
    );
    no_failure(&rows);
    // All of them are shown, each with its whole reason.
    let mut more = (*manifest).clone();
    let reason = "x".repeat(4000);
    let nine = (0..9).map(|number| (format!("protection {number}"), reason.clone()));
    more.gpu.as_mut().unwrap().without = nine.collect();
    let rows = manifest_rows(&trusted(&more), NOW);
    let shown = rows.iter().filter(|check| check.id == "manifest.without");
    let reasons: Vec<_> = shown.filter_map(|check| check.cause.as_deref()).collect();
    assert_eq!(reasons, [&*reason; 9]);
    let none = manifest_rows(&trusted(&sample()), NOW);
    assert!(none.iter().all(|check| check.id != "manifest.without"));
    let claims = snp_rows::claims(RootClass::Vendor);
    let rows = snp_rows::rows(&claims, &manifest, &Policy::default());
    let launch = rows.iter().find(|check| check.id == "snp.launch").unwrap();
    assert_eq!(
        (launch.outcome, launch.cause.as_deref()),
        (
            Outcome::Fail,
            Some("the manifest lists no launch digest: this image is not released for SEV-SNP")
        )
    );
}
