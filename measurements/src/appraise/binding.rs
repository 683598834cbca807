//! Checks of the document by what the verifier itself knows: its manifest, its TLS session and its nonce.

use cocoon_protocol::{
    bytes::Hex32,
    config::{self, OperatorConfig},
    document::{Document, Kind},
};

use super::{Presented, gpu};
use crate::{
    manifest::{TrustedManifest, check_time, printable, printable_within},
    policy::Policy,
    verdict::{Check, chain},
};

/// Returns the rows on the manifest. Its signatures were checked when it became a [`TrustedManifest`]. Its dates are checked
/// again, because a client may keep it for a long time.
pub(super) fn manifest(manifest: &TrustedManifest, now: u64) -> Vec<Check> {
    let span = format!("{} to {}", manifest.not_before, manifest.not_after);
    let time = match check_time(manifest, manifest.id(), now) {
        Ok(()) => Check::pass("manifest.time", "manifest is in its time", now),
        Err(refusal) => Check::fail(
            "manifest.time",
            "manifest is in its time",
            refusal.to_string(),
            RENEW,
        )
        .found(now),
    };
    let release = Check::pass("manifest.release", "release", manifest.release)
        .expected(format!("at least {}", manifest.release_floor()));
    let mut checks = vec![
        Check::pass("manifest.trust", "manifest counts", manifest.basis()).expected(manifest.id()),
        time.expected(span),
        release,
        locked(manifest),
    ];
    checks.extend(without(manifest));
    checks
}

/// Returns a note for each protection that the image lacks because of its GPUs, with the reason in the signers' words.
fn without(manifest: &TrustedManifest) -> impl Iterator<Item = Check> + '_ {
    // The limit for any text in a verdict.
    let whole = |text| printable_within(text, 4096);
    let all = manifest.gpu.iter().flat_map(|gpu| &gpu.without);
    all.map(move |(protection, reason)| {
        let title = format!("without {}", whole(protection));
        Check::note("manifest.without", title, whole(reason))
    })
}

fn locked(manifest: &TrustedManifest) -> Check {
    if manifest.unlocked.is_empty() {
        return Check::pass("manifest.locked", "inputs of the image", "all as locked");
    }
    let inputs: Vec<String> = manifest
        .unlocked
        .iter()
        .take(8)
        .map(|input| printable(input))
        .collect();
    Check::note("manifest.locked", "inputs of the image", UNLOCKED)
        .expected("all as locked")
        .found(format!(
            "{} not as locked: {}",
            manifest.unlocked.len(),
            inputs.join("; ")
        ))
}

/// Returns the rows on the document, except that on the report data.
pub(super) fn document(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
    policy: &Policy,
) -> Vec<Check> {
    let document = presented.document;
    let claims = &document.claims;
    let mut checks: Vec<Check> = form(document).into_iter().collect();
    checks.extend([
        kind(presented),
        nonce(presented),
        Check::equal(
            "document.leaf_key",
            "TLS key",
            &presented.leaf_spki_sha256,
            &claims.leaf_spki_sha256,
            || (OTHER_KEY, OTHER_KEY_ADVICE),
        ),
        Check::equal(
            "document.manifest",
            "manifest of the guest",
            &manifest.id(),
            &claims.manifest_id,
            || (OTHER_MANIFEST, OTHER_MANIFEST_ADVICE),
        ),
        Check::equal(
            "document.model",
            "model",
            &manifest.model.verity_root,
            &claims.model_digest,
            || (OTHER_MODEL, OTHER_MODEL_ADVICE),
        ),
        gpu::claimed(document, manifest, policy, presented.fresh.is_some()),
    ]);
    checks.extend(configuration(document));
    checks
}

/// Checks the form of the document. [`Document::parse`] does so too, but the caller may have built the document otherwise.
fn form(document: &Document) -> Option<Check> {
    let error = document.check().err()?;
    let title = "attestation document";
    Some(Check::fail(
        "document.form",
        title,
        chain(&error),
        SERVER_ADVICE,
    ))
}

fn kind(presented: &Presented<'_>) -> Check {
    let (name, expected) = match presented.fresh {
        Some(_) => ("session", Kind::Session),
        None => ("boot", Kind::Boot),
    };
    let title = "kind of document";
    if presented.document.kind != expected {
        let found = if expected == Kind::Session {
            "boot"
        } else {
            "session"
        };
        let cause = if expected == Kind::Session {
            BOOT_AS_SESSION
        } else {
            SESSION_AS_BOOT
        };
        return Check::fail("document.kind", title, cause, SERVER_ADVICE)
            .expected(name)
            .found(found);
    }
    match expected {
        Kind::Session => Check::pass("document.kind", title, name).expected(name),
        Kind::Boot => Check::note("document.kind", title, BOOT_ONLY)
            .expected(name)
            .found(name),
    }
}

fn nonce(presented: &Presented<'_>) -> Check {
    let expected = presented.fresh.map_or(Hex32::ZERO, |fresh| fresh.nonce);
    Check::equal(
        "document.nonce",
        "nonce",
        &expected,
        &presented.document.nonce,
        || {
            (
                if presented.fresh.is_some() {
                    REPLAYED_DOCUMENT
                } else {
                    NONCE_IN_BOOT
                },
                REPLAY_ADVICE,
            )
        },
    )
}

fn configuration(document: &Document) -> [Check; 2] {
    let title = "operator's configuration";
    let form = match OperatorConfig::parse(&document.config.0) {
        Ok(config) => Check::pass(
            "document.config",
            title,
            format!("{} bytes, named {}", document.config.0.len(), config.name),
        ),
        Err(error) => Check::fail("document.config", title, chain(&error), CONFIG_ADVICE),
    };
    let expected = config::digest(document.claims.tee, &document.config.0);
    let digest = Check::equal(
        "document.config_digest",
        "digest of the configuration",
        &expected,
        &document.claims.config_digest,
        || (CONFIG_EDITED, CONFIG_ADVICE),
    );
    [form, digest]
}

const RENEW: &str =
    "get the current release's manifest; if it is current, set this machine's clock";
const UNLOCKED: &str = "the manifest is unlocked: the image was built from other versions than the locked ones, so \
     it is no release and nobody else can rebuild it; accepted because unlocked manifests are allowed here";
const BOOT_AS_SESSION: &str = "a boot document was given where one of this session was asked for";
const SESSION_AS_BOOT: &str =
    "a session document was given where the certificate's boot document belongs";
const BOOT_ONLY: &str = "the certificate's boot evidence: it shows early what runs there, and never authorises a prompt";
const SERVER_ADVICE: &str = "the server does not follow the protocol: do not use it";
const REPLAYED_DOCUMENT: &str =
    "replayed document: it answers another challenge than the one this client sent";
const NONCE_IN_BOOT: &str = "a boot document carries no nonce: this one was changed";
const REPLAY_ADVICE: &str =
    "nothing was sent; connect again, and if it happens again do not use this server";
const OTHER_KEY: &str = "the TLS connection ends at another key than the guest's: the server shows a document of a \
     machine whose key it does not hold, or something between takes the connection apart (a proxy that ends TLS)";
const OTHER_KEY_ADVICE: &str = "connect to the appliance without a proxy that ends TLS; if there is none, do not use this server";
const OTHER_MANIFEST: &str = "the guest was started with another manifest than yours";
const OTHER_MANIFEST_ADVICE: &str = "get the manifest that the operator publishes for this machine, signed by a signer you trust; or ask the operator to update";
const OTHER_MODEL: &str = "another model volume is mounted than the manifest's";
const OTHER_MODEL_ADVICE: &str = "use the manifest of the model that you want; the operator starts the VM with the model volume of that manifest";
const CONFIG_EDITED: &str =
    "the configuration in the document is not the one whose digest the guest claims";
const CONFIG_ADVICE: &str =
    "the operator encodes the configuration with this release's tools and starts the VM again";
