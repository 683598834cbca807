//! Each reason to refuse a manifest, with its exact message.

use std::collections::BTreeMap;

use cocoon_protocol::manifest::{
    Artefact, MANIFEST_VERSION, MAX_MANIFEST_LIFE, Model, SnpReference, TdxReference,
};

use super::*;
use crate::verdict::chain;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 60 * 60;
const ALICE: [u8; 32] = [1; 32];
const BOB: [u8; 32] = [2; 32];
const EVE: [u8; 32] = [3; 32];

/// A valid manifest with placeholder values.
pub(crate) fn sample() -> Manifest {
    let artefact = |byte| Artefact {
        sha256: Hex([byte; 32]),
        size: 7,
    };
    Manifest {
        version: MANIFEST_VERSION,
        release: 5,
        variant: "cpu".into(),
        source_revision: "0123456789012345678901234567890123456789".into(),
        not_before: NOW - DAY,
        not_after: NOW + DAY,
        inputs_lock: Hex([9; 32]),
        unlocked: Vec::new(),
        aml_guard: false,
        gpu: None,
        artefacts: BTreeMap::from([
            ("vmlinuz".into(), artefact(1)),
            ("initrd.img".into(), artefact(2)),
        ]),
        cmdline: "console=ttyS0 quiet".into(),
        model: Model {
            id: "sample".into(),
            verity_root: Hex([4; 32]),
            verity_salt: Hex([5; 32]),
            verity_data_blocks: 100,
            files: BTreeMap::from([("model.gguf".into(), artefact(3))]),
        },
        tdx: TdxReference {
            mrtd: Hex([0x10; 48]),
            rtmr1: Hex([0x11; 48]),
            rtmr2: Hex([0x12; 48]),
            platforms: Vec::new(),
        },
        snp: SnpReference {
            guest_features: 1,
            launch: Vec::new(),
        },
    }
}

fn signed_by(signers: &[&[u8; 32]], threshold: usize) -> ManifestTrust {
    let signers = signers.iter().map(|secret| public_key(secret)).collect();
    ManifestTrust {
        signers,
        threshold,
        ..ManifestTrust::default()
    }
}

fn pinning(bytes: &[u8]) -> ManifestTrust {
    ManifestTrust {
        pinned: vec![manifest_id(bytes)],
        ..ManifestTrust::default()
    }
}

fn refusal(bytes: &[u8], envelope: Option<&[u8]>, trusted: &ManifestTrust, now: u64) -> String {
    chain(&trust(bytes, envelope, trusted, now).unwrap_err())
}

mod envelopes;
mod limits;

#[test]
fn cocoon_manifest_1() {
    let bytes = sample().to_json();
    let id = manifest_id(&bytes);
    assert_eq!(
        refusal(
            &bytes,
            Some(&sign(&bytes, &ALICE).unwrap()),
            &ManifestTrust::default(),
            NOW
        ),
        "no signer is trusted and no manifest is pinned: name a signer (--signer) or the manifest's hash (--manifest-sha256)"
    );
    assert_eq!(
        refusal(&bytes, None, &signed_by(&[&ALICE], 1), NOW),
        format!(
            "manifest {id} is not signed: get its signature file (manifest.json.dsse), or pin its hash if you built it yourself"
        )
    );
    // No signer is pinned, so a signature cannot help. The message must not advise pinning the manifest that was received.
    let other_pins = ManifestTrust {
        pinned: (1..6).map(|byte| Hex([byte; 32])).collect(),
        ..ManifestTrust::default()
    };
    let pins: Vec<_> = (1..5).map(|byte| Hex([byte; 32]).to_string()).collect();
    let envelope = sign(&bytes, &ALICE).unwrap();
    for envelope in [None, Some(&envelope[..])] {
        assert_eq!(
            refusal(&bytes, envelope, &other_pins, NOW),
            format!(
                "manifest {id} is none of the pinned ones ({}): it was exchanged, or is of another release than the pin (--manifest-sha256)",
                pins.join(", ")
            )
        );
    }
    let trusted = trust(&bytes, None, &pinning(&bytes), NOW).unwrap();
    assert_eq!((trusted.id(), trusted.basis()), (id, &Basis::Pinned));
    assert_eq!(*trusted, sample());
}

#[test]
fn cocoon_manifest_2() {
    let bytes = sample().to_json();
    let id = manifest_id(&bytes);
    let envelope = sign(&bytes, &ALICE).unwrap();
    let trusted = trust(&bytes, Some(&envelope), &signed_by(&[&ALICE], 1), NOW).unwrap();
    assert_eq!(
        trusted.basis().to_string(),
        "signed by 1 of 1 pinned signers, 1 needed"
    );

    let eve = sign(&bytes, &EVE).unwrap();
    let key = hex::encode(public_key(&EVE));
    assert_eq!(
        refusal(&bytes, Some(&eve), &signed_by(&[&ALICE], 1), NOW),
        format!(
            "manifest {id} is signed by nobody you trust: signed by {key}; if that is the new signer, verify the key by another way and pin it"
        )
    );
    // Eve names Alice's key beside her own signature.
    let alice = hex::encode(public_key(&ALICE));
    let forged = String::from_utf8(eve).unwrap().replace(&key, &alice);
    assert_eq!(
        refusal(
            &bytes,
            Some(forged.as_bytes()),
            &signed_by(&[&ALICE], 1),
            NOW
        ),
        format!(
            "manifest {id} is wrongly signed: the signature named {alice} is not valid; the signature file was changed or damaged"
        )
    );
}

#[test]
fn cocoon_manifest_3() {
    let bytes = sample().to_json();
    let id = manifest_id(&bytes);
    let one = sign(&bytes, &ALICE).unwrap();
    let two = add_signature(&one, &bytes, &BOB).unwrap();
    assert!(
        trust(
            &bytes,
            Some(&two),
            &signed_by(&[&ALICE, &BOB, &EVE], 2),
            NOW
        )
        .is_ok()
    );
    let few = format!(
        "manifest {id} is signed by 1 of the pinned signers, 2 are needed: wait for more signatures"
    );
    assert_eq!(
        refusal(&bytes, Some(&one), &signed_by(&[&ALICE, &BOB], 2), NOW),
        few
    );
    // A repeated signature or a repeated pin still counts as one signer.
    let twice = add_signature(&one, &bytes, &ALICE).unwrap();
    assert_eq!(
        twice, one,
        "the same signer's signature is renewed, not repeated"
    );
    let value: serde_json::Value = serde_json::from_slice(&one).unwrap();
    let mut repeated = value.clone();
    repeated["signatures"]
        .as_array_mut()
        .unwrap()
        .push(value["signatures"][0].clone());
    assert_eq!(
        refusal(
            &bytes,
            Some(repeated.to_string().as_bytes()),
            &signed_by(&[&ALICE, &BOB], 2),
            NOW
        ),
        few
    );
    assert_eq!(
        refusal(&bytes, Some(&one), &signed_by(&[&ALICE, &ALICE], 2), NOW),
        "2 signatures are demanded of 1 pinned signers: the threshold must be 1 to 1"
    );
    assert!(matches!(
        trust(&bytes, Some(&one), &signed_by(&[&ALICE], 0), NOW),
        Err(ManifestRefusal::Threshold {
            threshold: 0,
            signers: 1
        })
    ));
}

#[test]
fn cocoon_manifest_4() {
    let bytes = sample().to_json();
    let other = Manifest {
        release: 6,
        ..sample()
    }
    .to_json();
    let envelope = sign(&other, &ALICE).unwrap();
    assert_eq!(
        refusal(&bytes, Some(&envelope), &signed_by(&[&ALICE], 1), NOW),
        format!(
            "the signature file is about another manifest: it signs {}, the manifest is {}; take both from the same release",
            manifest_id(&other),
            manifest_id(&bytes)
        )
    );
    assert_eq!(
        chain(&add_signature(&envelope, &bytes, &BOB).unwrap_err()),
        "cannot add a signature: the envelope is about other bytes than this manifest; sign anew without it"
    );
}

#[test]
fn cocoon_manifest_5() {
    let bytes = sample().to_json();
    let id = manifest_id(&bytes);
    let trusted = pinning(&bytes);
    let (begin, end) = (NOW - DAY, NOW + DAY);
    assert!(trust(&bytes, None, &trusted, begin).is_ok());
    assert!(trust(&bytes, None, &trusted, end).is_ok());
    assert_eq!(
        refusal(&bytes, None, &trusted, begin - 1),
        format!("manifest {id} is not valid for another 1 seconds: check this machine's clock")
    );
    assert_eq!(
        refusal(&bytes, None, &trusted, end + 1),
        format!(
            "manifest {id} expired 1 seconds ago: get the current release's manifest, and check this machine's clock"
        )
    );
    let long = Manifest {
        not_after: NOW - DAY + MAX_MANIFEST_LIFE + 1,
        ..sample()
    }
    .to_json();
    assert_eq!(
        refusal(&long, None, &pinning(&long), NOW),
        format!(
            "the file is not a manifest this program can read: manifest claims to be valid from {} to {}, more than the 90 days allowed or less than nothing",
            NOW - DAY,
            NOW - DAY + MAX_MANIFEST_LIFE + 1
        )
    );
}

#[test]
fn cocoon_manifest_6() {
    let bytes = sample().to_json();
    let id = manifest_id(&bytes);
    let floor = ManifestTrust {
        release_floor: 6,
        ..pinning(&bytes)
    };
    assert_eq!(
        refusal(&bytes, None, &floor, NOW),
        format!(
            "manifest {id} is of release 5, older than the lowest accepted, 6: the image was rolled back; the operator has to update"
        )
    );
    let ancient = Manifest {
        release: 0,
        ..sample()
    }
    .to_json();
    let no_floor = ManifestTrust {
        release_floor: 0,
        ..pinning(&ancient)
    };
    assert!(
        matches!(
            trust(&ancient, None, &no_floor, NOW),
            Err(ManifestRefusal::ReleaseFloor {
                floor: RELEASE_FLOOR,
                ..
            })
        ),
        "settings cannot go below the built-in floor"
    );
}

#[test]
fn cocoon_manifest_7() {
    let bytes = Manifest {
        unlocked: vec!["linux 6.12.1 6.12.2".into(), "ovmf 1 2".into()],
        ..sample()
    }
    .to_json();
    let id = manifest_id(&bytes);
    assert_eq!(
        refusal(&bytes, None, &pinning(&bytes), NOW),
        format!(
            "manifest {id} is unlocked, built from 2 inputs that are not the locked ones (linux 6.12.1 6.12.2): it is no release; --allow-unlocked accepts it for trials"
        )
    );
    let allowed = ManifestTrust {
        allow_unlocked: true,
        ..pinning(&bytes)
    };
    assert!(trust(&bytes, None, &allowed, NOW).is_ok());
}
