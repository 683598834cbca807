//! Clients whose expectations differ from what runs.

use cocoon_client::trust::development_roots;
use cocoon_client::{
    ChatError, ChatOptions, ConnectError, Conversation, Stage, UpstreamError, Upstreams, Verifier,
};
use cocoon_measurements::manifest::{self, ManifestTrust, TrustedManifest};
use cocoon_measurements::policy::Policy;
use cocoon_tests::trial::Appliance;

const SIGNER: [u8; 32] = [0x51; 32];

/// Asks through a client that trusts `manifest` under `policy`. Returns the stage and the failed checks of its refusal.
async fn failures(
    vm: &Appliance,
    manifest: TrustedManifest,
    policy: Policy,
) -> (Stage, Vec<(&'static str, String)>) {
    let upstreams = Upstreams::new(Verifier::new(manifest, policy), vec![vm.address().unwrap()]);
    let options = ChatOptions {
        model: vm.image.manifest.model.id.clone(),
        ..ChatOptions::default()
    };
    let mut conversation = Conversation::new(upstreams, options, None);
    let error = conversation.ask("a prompt that must not leave", |_| panic!("an answer"));
    let errors = match error.await {
        Err(ChatError::Upstream(UpstreamError::NoneUsable(errors))) => errors,
        other => panic!("{other:?}"),
    };
    let [ConnectError::Rejected { stage, verdict, .. }] = &errors[..] else {
        panic!("{errors:?}")
    };
    assert_eq!(verdict.authorizes(), None);
    let failed = verdict
        .failures()
        .map(|check| (check.id, check.cause.clone().unwrap_or_default()));
    (*stage, failed.collect())
}

fn named(vm: &Appliance) -> Policy {
    Policy {
        development_roots: development_roots(vm.root().unwrap().as_bytes()).unwrap(),
        ..Policy::default()
    }
}

fn believed(bytes: &[u8]) -> TrustedManifest {
    let envelope = manifest::sign(bytes, &SIGNER).unwrap();
    let trust = ManifestTrust {
        signers: vec![manifest::public_key(&SIGNER)],
        allow_unlocked: true,
        ..ManifestTrust::default()
    };
    manifest::trust(bytes, Some(&envelope), &trust, cocoon_tests::now()).unwrap()
}

/// The same image under a newer manifest: only the manifest's identity differs, and the evidence binds it.
pub async fn other_manifest(vm: &Appliance) {
    let mut newer = vm.image.manifest.clone();
    newer.release += 1;
    let (stage, failed) = failures(vm, believed(&newer.to_json()), named(vm)).await;
    assert_eq!(stage, Stage::Handshake);
    let cause = "the guest was started with another manifest than yours";
    assert_eq!(failed, [("document.manifest", cause.to_owned())]);
}

/// The right manifest, signed by a key that the client does not trust: it cannot even make a verifier.
pub fn other_signer(vm: &Appliance) {
    let trust = ManifestTrust {
        signers: vec![manifest::public_key(&SIGNER)],
        allow_unlocked: true,
        ..ManifestTrust::default()
    };
    let image = vm.image;
    let error = manifest::trust(
        &image.bytes,
        Some(&image.envelope),
        &trust,
        cocoon_tests::now(),
    )
    .expect_err("not trusted");
    let (id, key) = (
        cocoon_protocol::manifest::manifest_id(&image.bytes),
        cocoon_protocol::bytes::Hex(image.signer),
    );
    assert_eq!(
        error.to_string(),
        format!(
            "manifest {id} is signed by nobody you trust: signed by {key}; if that is the new signer, verify the key by another way and pin it"
        )
    );
}

/// A client that names no development root.
pub async fn no_development_root(vm: &Appliance) {
    let trusted = vm.image.trusted().unwrap();
    let (stage, failed) = failures(vm, trusted, Policy::default()).await;
    assert_eq!(stage, Stage::Attest);
    let cause = "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named";
    assert_eq!(failed, [("evidence.root", cause.to_owned())]);
}

/// The guest's own counters, once they include both connections, show no request.
pub async fn nobody_asked(vm: &Appliance) {
    let metrics = vm.seen.metrics(|metrics| metrics.connections >= 2).await;
    let metrics = metrics.unwrap();
    assert_eq!(metrics.requests, 0, "no prompt left the client");
    assert_eq!(metrics.prompt_tokens, 0);
}
