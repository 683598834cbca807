//! Targets for manifests, their signature envelopes, the operator's configuration and the verifier's policy.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use cocoon_measurements::appraise::appraise;
use cocoon_measurements::manifest::{
    MANIFEST_SUBJECT, ManifestRefusal, ManifestTrust, PAYLOAD_TYPE, SignError, add_signature,
    public_key, sign, trust,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::tdx::tcb::TcbStatus;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::config::{MAX_CONFIG_LEN, OperatorConfig};
use cocoon_protocol::manifest::{MAX_MANIFEST_LIFE, Manifest};
use ed25519_dalek::{Signer as _, SigningKey};
use serde::Deserialize;
use serde_json::json;

use crate::memory::bounded;
use crate::platform::{
    EVENT_LOG, MANIFEST, NOW, TDX_COLLATERAL, TDX_QUOTE, made, presented, reference, tdx_document,
};

/// Secret key of the only pinned signer.
pub const SIGNER: [u8; 32] = [0x51; 32];

/// Bytes of the manifest that the envelopes are about.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| reference().to_json());

/// Memory in bytes, beyond a multiple of the input, that parsing JSON may hold at once.
const READ: usize = 64 << 10;

/// The multiple for TOML: each dot of a key is a table, and the library's smallest table takes about this many bytes. It
/// accepts 80 levels per key, but as many keys as the text holds, so that memory grows with the text.
const TOML: usize = 1280;

/// What the targets read of an envelope.
#[derive(Deserialize)]
struct Envelope {
    payload: Blob,
}

/// What the targets read of an in-toto statement.
#[derive(Deserialize)]
struct Statement {
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    digest: BTreeMap<String, String>,
}

/// Parses foreign bytes as a manifest. It is refused, because it is neither signed nor pinned.
pub fn manifest(data: &[u8]) {
    let parsed = bounded(READ + 64 * data.len(), || Manifest::parse(data));
    if let Ok(manifest) = &parsed {
        let written = manifest.to_json();
        assert_eq!(&made(Manifest::parse(&written)), manifest);
        assert!(manifest.not_after - manifest.not_before <= MAX_MANIFEST_LIFE);
    }
    let refusal = trust(data, None, &signer(), NOW);
    let expected = match parsed {
        Ok(_) => matches!(refusal, Err(ManifestRefusal::Unsigned { .. })),
        Err(_) => matches!(refusal, Err(ManifestRefusal::Malformed(_))),
    };
    assert!(expected, "{refusal:?}");
}

/// Trusts foreign bytes as a pinned manifest. The signatures are not needed then, but dates, release floor and lock still
/// decide.
pub fn manifest_pinned(data: &[u8]) {
    let pinned = ManifestTrust {
        pinned: vec![Hex32::sha256(data)],
        release_floor: 5,
        ..ManifestTrust::default()
    };
    let trusted = bounded(READ + 64 * data.len(), || trust(data, None, &pinned, NOW));
    let Ok(trusted) = trusted else { return };
    assert_eq!(trusted.id(), Hex32::sha256(data));
    assert!((trusted.not_before..=trusted.not_after).contains(&NOW));
    assert!(trusted.release >= 5 && trusted.unlocked.is_empty());
    // The contents become reference values, against which evidence of another image is appraised.
    let document = tdx_document(TDX_QUOTE.clone(), EVENT_LOG.clone(), TDX_COLLATERAL.clone());
    let policy = Policy::default();
    let verdict = appraise(&presented(&document), &trusted, &policy, NOW);
    assert!(verdict.authorizes().is_none(), "a root that nobody named");
}

/// Parses foreign bytes as a signature envelope, without verifying a signature. A signature may be added only to an envelope
/// of the statement about this manifest.
pub fn envelope_read(data: &[u8]) {
    let own = [0x52; 32];
    let limit = READ + 64 * data.len();
    match bounded(limit, || add_signature(data, &BYTES, &own)) {
        // Adding a signature that is present replaces it, so the result stays the same.
        Ok(added) => assert_eq!(made(add_signature(&added, &BYTES, &own)), added),
        Err(SignError::Manifest(error)) => panic!("the manifest is one: {error}"),
        Err(SignError::Envelope(_) | SignError::OtherStatement) => {}
    }
}

/// Verifies foreign bytes as a signature envelope. They count only with the payload that the pinned signer signed.
pub fn envelope(data: &[u8]) {
    let trusted = bounded(READ + 64 * data.len(), || {
        trust(&BYTES, Some(data), &signer(), NOW)
    });
    if trusted.is_ok() {
        let good: Envelope = made(serde_json::from_slice(&made(sign(&BYTES, &SIGNER))));
        let found: Envelope = made(serde_json::from_slice(data));
        assert_eq!(
            found.payload.0, good.payload.0,
            "a foreign statement counts"
        );
    }
    let own = [0x52; 32];
    if let Ok(added) = add_signature(data, &BYTES, &own) {
        let rebuilder = ManifestTrust {
            signers: vec![public_key(&own)],
            ..ManifestTrust::default()
        };
        assert!(trust(&BYTES, Some(&added), &rebuilder, NOW).is_ok());
        assert_eq!(
            trust(&BYTES, Some(&added), &signer(), NOW).is_ok(),
            trusted.is_ok()
        );
    }
}

/// Verifies foreign bytes as a statement that the pinned signer has signed. It counts only if it is about this manifest.
pub fn envelope_signed(data: &[u8]) {
    let head = format!(
        "DSSEv1 {} {PAYLOAD_TYPE} {} ",
        PAYLOAD_TYPE.len(),
        data.len()
    );
    let key = SigningKey::from_bytes(&SIGNER);
    let signature = key.sign(&[head.as_bytes(), data].concat());
    let envelope = json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": made(serde_json::to_value(Blob(data.to_vec()))),
        "signatures": [{"keyid": "", "sig": made(serde_json::to_value(Blob(signature.to_vec())))}],
    });
    let envelope = envelope.to_string();
    let trusted = bounded(READ + 64 * data.len(), || {
        trust(&BYTES, Some(envelope.as_bytes()), &signer(), NOW)
    });
    match trusted {
        Ok(trusted) => {
            let said: Statement = made(serde_json::from_str(made(str::from_utf8(data))));
            let about = |subject: &Subject| {
                let digest = subject.digest.get("sha256").map(|digest| digest.parse());
                subject.name == MANIFEST_SUBJECT && digest == Some(Ok(trusted.id()))
            };
            assert!(said.subject.iter().any(about), "about another manifest");
        }
        Err(
            ManifestRefusal::Envelope { .. }
            | ManifestRefusal::OtherManifest { .. }
            | ManifestRefusal::OtherStatement { .. },
        ) => {}
        Err(other) => panic!("refused for something else than its statement: {other:?}"),
    }
}

/// Parses foreign bytes as an operator's configuration. Each configuration has one encoding.
pub fn configuration(data: &[u8]) {
    let parsed = bounded(READ, || OperatorConfig::parse(data));
    if let Ok(config) = parsed {
        assert!(data.len() <= MAX_CONFIG_LEN);
        assert_eq!(config.canonical(), data);
    }
}

/// Parses foreign bytes as a stored policy. It stays the same when encoded and parsed again, and it names no development root.
pub fn policy(data: &[u8]) {
    let Some(policy) = stored_policy(data) else {
        return;
    };
    assert!(policy.development_roots.is_empty());
    let written = made(toml::to_string(&policy));
    assert_eq!(made(toml::from_str::<Policy>(&written)), policy);
}

/// Appraises simulated evidence under a stored policy. Without its development root named, nothing is authorised. With the
/// root named, the verdict is never confidential.
pub fn policy_applied(data: &[u8]) {
    let Some(stored) = stored_policy(data) else {
        return;
    };
    let document = tdx_document(TDX_QUOTE.clone(), EVENT_LOG.clone(), TDX_COLLATERAL.clone());
    let judge = |policy: &Policy| appraise(&presented(&document), &MANIFEST, policy, NOW);
    assert!(
        judge(&stored).authorizes().is_none(),
        "a root that nobody named"
    );
    let named = Policy {
        development_roots: crate::platform::policy(Tee::Tdx).development_roots,
        ..stored
    };
    let verdict = judge(&named);
    assert_ne!(verdict.class, Class::Confidential);
    if verdict.class == Class::Simulated {
        // The collateral is up to date and one hour old.
        assert!(named.accepted_tcb_statuses.contains(&TcbStatus::UpToDate));
        assert!(named.max_collateral_age >= 3600);
    }
}

fn stored_policy(data: &[u8]) -> Option<Policy> {
    // The client reads at most this much of a stored policy.
    let text = std::str::from_utf8(data.get(..data.len().min(16 << 10))?).ok()?;
    bounded(READ + TOML * text.len(), || toml::from_str(text)).ok()
}

fn signer() -> ManifestTrust {
    ManifestTrust {
        signers: vec![public_key(&SIGNER)],
        ..ManifestTrust::default()
    }
}
