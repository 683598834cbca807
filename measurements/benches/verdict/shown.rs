//! A session document with real evidence, and another image's manifest: an appraisal makes every row, and some fail.

use cocoon_measurements::appraise::{Freshness, Presented};
use cocoon_measurements::manifest::{ManifestTrust, TrustedManifest, trust};
use cocoon_protocol::binding::Claims;
use cocoon_protocol::bytes::{Blob, Hex, Hex32};
use cocoon_protocol::config::{self, OperatorConfig};
use cocoon_protocol::document::{Collateral, DOCUMENT_VERSION, Document, Evidence, Kind};

const FRESH: Freshness = Freshness {
    nonce: Hex([0x31; 32]),
    exporter: Hex([0x32; 32]),
};

/// Returns the document as its verifier sees it.
pub fn presented(document: &Document) -> Presented<'_> {
    Presented {
        document,
        leaf_spki_sha256: document.claims.leaf_spki_sha256,
        fresh: Some(FRESH),
        handshake_gpus: None,
    }
}

/// Returns a session document with invented claims, which the evidence does not support.
pub fn document(
    manifest: &TrustedManifest,
    evidence: Evidence,
    collateral: Collateral,
) -> Document {
    let tee = evidence.tee();
    let config = OperatorConfig::default().canonical();
    Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Session,
        claims: Claims {
            tee,
            leaf_spki_sha256: Hex([0x21; 32]),
            meter_key: Hex([0x22; 32]),
            manifest_id: manifest.id(),
            model_digest: manifest.model.verity_root,
            config_digest: config::digest(tee, &config),
            gpu_section_digest: Hex32::ZERO,
        },
        nonce: FRESH.nonce,
        evidence,
        config: Blob(config),
        collateral: Some(collateral),
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    }
}

/// Returns a pinned manifest that is valid around `now`, with ten events for a machine, as real ones have.
pub fn manifest(now: u64) -> TrustedManifest {
    let zero = Hex32::ZERO;
    let digest = "11".repeat(48);
    let event = format!(r#"{{"name":"event","digest":"{digest}"}}"#);
    let events = vec![event; 10].join(",");
    let (not_before, not_after) = (now - 1000, now + 1000);
    let json = format!(
        r#"{{"version":1,"release":5,"variant":"cpu","source_revision":"0","not_before":{not_before},
        "not_after":{not_after},"inputs_lock":"{zero}","unlocked":[],"aml_guard":true,"artefacts":{{}},
        "cmdline":"console=ttyS0 quiet","model":{{"id":"sample","verity_root":"{zero}","verity_salt":"{zero}",
        "verity_data_blocks":100,"files":{{}}}},"tdx":{{"mrtd":"{digest}","rtmr1":"{digest}","rtmr2":"{digest}",
        "platforms":[{{"name":"one","memory_mib":1024,"source":"computed","rtmr0_events":[{events}]}}]}},
        "snp":{{"guest_features":1,"launch":[{{"cpu_model":"EPYC-v4","vcpus":1,"digest":"{digest}"}}]}}}}"#
    );
    let pinned = ManifestTrust {
        pinned: vec![Hex32::sha256(json.as_bytes())],
        ..ManifestTrust::default()
    };
    trust(json.as_bytes(), None, &pinned, now).unwrap()
}
