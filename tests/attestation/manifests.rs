//! Manifests that are refused: each refusal is a verdict of its own, given before any evidence is examined.

use cocoon_measurements::manifest::{
    ManifestRefusal, ManifestTrust, add_signature, public_key, sign, trust,
};
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{Manifest, manifest_id};

use crate::image::HALF_LIFE;
use crate::machine::{IMAGE, MANIFEST, Machine, NOW, SIGNER, judge_at, policy, refused};

const SECOND: [u8; 32] = [0x52; 32];
const STRANGER: [u8; 32] = [0x53; 32];

fn pinning(signers: &[&[u8; 32]], threshold: usize) -> ManifestTrust {
    ManifestTrust {
        signers: signers.iter().map(|secret| public_key(secret)).collect(),
        threshold,
        ..ManifestTrust::default()
    }
}

fn edited(edit: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let mut manifest = IMAGE.manifest(NOW);
    edit(&mut manifest);
    manifest.to_json()
}

fn refusal(
    bytes: &[u8],
    envelope: Option<&[u8]>,
    believed: &ManifestTrust,
    now: u64,
) -> ManifestRefusal {
    trust(bytes, envelope, believed, now).unwrap_err()
}

/// Asserts the refusal as users see it: a verdict with one row.
#[track_caller]
fn says(refusal: &ManifestRefusal, text: &str) {
    refused(&Verdict::from(refusal), &[("manifest.trust", text)]);
}

#[test]
fn unsigned() {
    let bytes = edited(|_| ());
    let id = manifest_id(&bytes);
    let text = format!(
        "manifest {id} is not signed: get its signature file (manifest.json.dsse), or pin its hash if you built it yourself"
    );
    says(&refusal(&bytes, None, &pinning(&[&SIGNER], 1), NOW), &text);
    says(
        &refusal(&bytes, None, &ManifestTrust::default(), NOW),
        "no signer is trusted and no manifest is pinned: name a signer (--signer) or the manifest's hash (--manifest-sha256)",
    );
}

#[test]
fn signed_by_another_key() {
    let bytes = edited(|_| ());
    let (id, key) = (manifest_id(&bytes), Hex(public_key(&STRANGER)));
    let envelope = sign(&bytes, &STRANGER).unwrap();
    let refusal = refusal(&bytes, Some(&envelope), &pinning(&[&SIGNER], 1), NOW);
    let text = format!(
        "manifest {id} is signed by nobody you trust: signed by {key}; if that is the new signer, verify the key by another way and pin it"
    );
    says(&refusal, &text);
}

#[test]
fn signed_by_too_few() {
    let bytes = edited(|_| ());
    let id = manifest_id(&bytes);
    let believed = pinning(&[&SIGNER, &SECOND], 2);
    let one = sign(&bytes, &SIGNER).unwrap();
    let text = format!(
        "manifest {id} is signed by 1 of the pinned signers, 2 are needed: wait for more signatures"
    );
    says(&refusal(&bytes, Some(&one), &believed, NOW), &text);
    let with_stranger = add_signature(&one, &bytes, &STRANGER).unwrap();
    says(
        &refusal(&bytes, Some(&with_stranger), &believed, NOW),
        &text,
    );
    let two = add_signature(&one, &bytes, &SECOND).unwrap();
    assert!(trust(&bytes, Some(&two), &believed, NOW).is_ok());
}

/// One byte of the manifest was changed after signing, so the envelope signs another manifest.
#[test]
fn changed_after_signing() {
    let signed = edited(|_| ());
    let envelope = sign(&signed, &SIGNER).unwrap();
    let changed = edited(|manifest| manifest.tdx.mrtd.0[0] ^= 1);
    let text = format!(
        "the signature file is about another manifest: it signs {}, the manifest is {}; take both from the same release",
        manifest_id(&signed),
        manifest_id(&changed)
    );
    says(
        &refusal(&changed, Some(&envelope), &pinning(&[&SIGNER], 1), NOW),
        &text,
    );
}

#[test]
fn expired_and_not_yet_valid() {
    let bytes = edited(|_| ());
    let envelope = sign(&bytes, &SIGNER).unwrap();
    let id = manifest_id(&bytes);
    let believed = pinning(&[&SIGNER], 1);
    let at = |now| refusal(&bytes, Some(&envelope), &believed, now);
    let expired = format!(
        "manifest {id} expired 1 seconds ago: get the current release's manifest, and check this machine's clock"
    );
    says(&at(NOW + HALF_LIFE + 1), &expired);
    says(
        &at(NOW - HALF_LIFE - 7),
        &format!("manifest {id} is not valid for another 7 seconds: check this machine's clock"),
    );
}

/// A manifest that expires after a client trusted it is refused at the next appraisal.
#[test]
fn expired_since_it_was_trusted() {
    let document = Machine::good(Tee::SevSnp).document();
    let verdict = judge_at(&document, &policy(), NOW + HALF_LIFE + 60);
    let text = format!(
        "manifest {} expired 60 seconds ago: get the current release's manifest, and check this machine's clock",
        MANIFEST.id()
    );
    refused(&verdict, &[("manifest.time", &text)]);
}

#[test]
fn unlocked_without_permission() {
    let bytes = edited(|manifest| manifest.unlocked = vec!["linux 6.12.1 6.12.2".into()]);
    let envelope = sign(&bytes, &SIGNER).unwrap();
    let id = manifest_id(&bytes);
    let text = format!(
        "manifest {id} is unlocked, built from 1 inputs that are not the locked ones (linux 6.12.1 6.12.2): it is no release; --allow-unlocked accepts it for trials"
    );
    let believed = pinning(&[&SIGNER], 1);
    says(&refusal(&bytes, Some(&envelope), &believed, NOW), &text);
    let allowed = ManifestTrust {
        allow_unlocked: true,
        ..believed
    };
    assert!(trust(&bytes, Some(&envelope), &allowed, NOW).is_ok());
}

#[test]
fn release_below_the_floor() {
    let bytes = edited(|_| ());
    let envelope = sign(&bytes, &SIGNER).unwrap();
    let believed = ManifestTrust {
        release_floor: 6,
        ..pinning(&[&SIGNER], 1)
    };
    let text = format!(
        "manifest {} is of release 5, older than the lowest accepted, 6: the image was rolled back; the operator has to update",
        manifest_id(&bytes)
    );
    says(&refusal(&bytes, Some(&envelope), &believed, NOW), &text);
}

/// The host gives the guest another manifest than the verifier's, for the same image.
#[test]
fn the_guest_was_started_with_another() {
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let mut vm = Machine::good(tee);
        vm.claims.manifest_id = manifest_id(&edited(|manifest| manifest.release += 1));
        refused(
            &vm.verdict(),
            &[(
                "document.manifest",
                "the guest was started with another manifest than yours",
            )],
        );
    }
}
