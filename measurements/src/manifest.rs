//! Decides whether a manifest is trusted (SPEC.md §5).
//!
//! A manifest must be signed by enough pinned signers or pinned by its hash, and be within its validity period, not rolled
//! back, and not unlocked. Signers come from the verifier's configuration only, never from a guest or host.

use std::{collections::BTreeSet, ops::Deref};

use cocoon_protocol::{
    bytes::{Hex, Hex32},
    manifest::{Manifest, manifest_id},
};

mod dsse;
mod refusal;

pub use refusal::ManifestRefusal;

pub use dsse::{
    EnvelopeError, MANIFEST_SUBJECT, MAX_ENVELOPE_LEN, MAX_SIGNATURES, PAYLOAD_TYPE,
    PREDICATE_TYPE, STATEMENT_TYPE, SignError, add_signature, public_key, sign,
};

/// Lowest release that verifiers of this version accept, whatever their settings.
pub const RELEASE_FLOOR: u64 = 1;

/// The manifests that a verifier trusts: signers, pins and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestTrust {
    /// Ed25519 public keys of pinned signers. A repeated key counts once.
    pub signers: Vec<[u8; 32]>,
    /// Number of pinned signers that must have signed, at least 1.
    pub threshold: usize,
    /// Ids of pinned manifests; these need no signature.
    pub pinned: Vec<Hex32>,
    /// Whether to accept manifests built from inputs other than the locked ones. Verdicts still report them.
    pub allow_unlocked: bool,
    /// Lowest release accepted. A client raises it as it sees newer manifests.
    pub release_floor: u64,
}

impl Default for ManifestTrust {
    /// Trusts no manifest until signers or a pin are added.
    fn default() -> Self {
        Self {
            signers: Vec::new(),
            threshold: 1,
            pinned: Vec::new(),
            allow_unlocked: false,
            release_floor: RELEASE_FLOOR,
        }
    }
}

/// A trusted manifest. Only [`trust`] makes one, and appraisals accept nothing else.
#[derive(Clone, Debug)]
pub struct TrustedManifest {
    manifest: Manifest,
    id: Hex32,
    basis: Basis,
    release_floor: u64,
}

/// Why a manifest is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The manifest's id is pinned.
    Pinned,
    /// Enough pinned signers signed the manifest.
    Signed {
        /// Public keys of the pinned signers that signed.
        by: Vec<Hex32>,
        /// Number of signers required.
        threshold: usize,
        /// Number of pinned signers.
        of: usize,
    },
}

impl TrustedManifest {
    /// Returns the SHA-256 of the manifest's bytes.
    #[must_use]
    pub fn id(&self) -> Hex32 {
        self.id
    }

    /// Returns whether the image uses a GPU. Every variant but `cpu` is assumed to, so that an unknown variant claims too
    /// much rather than too little.
    #[must_use]
    pub fn claims_gpu(&self) -> bool {
        self.manifest.variant != "cpu"
    }

    /// Returns why the manifest is trusted.
    #[must_use]
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Returns the release floor with which the manifest was compared.
    #[must_use]
    pub fn release_floor(&self) -> u64 {
        self.release_floor
    }
}

impl Deref for TrustedManifest {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.manifest
    }
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned by SHA-256"),
            Self::Signed { by, threshold, of } => {
                write!(
                    f,
                    "signed by {} of {of} pinned signers, {threshold} needed",
                    by.len()
                )
            }
        }
    }
}

/// Decides whether to trust the manifest `bytes` at `now` (Unix time in seconds). `envelope` is the manifest's signature
/// file, if there is one; a pinned manifest does not need it.
///
/// # Errors
/// The first reason to refuse the manifest, in the order of [`ManifestRefusal`].
pub fn trust(
    bytes: &[u8],
    envelope: Option<&[u8]>,
    trust: &ManifestTrust,
    now: u64,
) -> Result<TrustedManifest, ManifestRefusal> {
    let manifest = Manifest::parse(bytes).map_err(ManifestRefusal::Malformed)?;
    let id = manifest_id(bytes);
    let basis = if trust.pinned.contains(&id) {
        Basis::Pinned
    } else {
        signers_of(&manifest, id, envelope, trust)?
    };
    check_time(&manifest, id, now)?;
    let floor = trust.release_floor.max(RELEASE_FLOOR);
    if manifest.release < floor {
        return Err(ManifestRefusal::ReleaseFloor {
            id,
            release: manifest.release,
            floor,
        });
    }
    if let Some(first) = manifest.unlocked.first()
        && !trust.allow_unlocked
    {
        return Err(ManifestRefusal::Unlocked {
            id,
            count: manifest.unlocked.len(),
            first: printable(first),
        });
    }
    Ok(TrustedManifest {
        manifest,
        id,
        basis,
        release_floor: floor,
    })
}

/// Checks the dates alone. Each appraisal repeats this, because a client may keep a trusted manifest for days.
pub(crate) fn check_time(manifest: &Manifest, id: Hex32, now: u64) -> Result<(), ManifestRefusal> {
    if now < manifest.not_before {
        return Err(ManifestRefusal::NotYetValid {
            id,
            ahead: manifest.not_before - now,
        });
    }
    // `not_after` is inclusive.
    if now > manifest.not_after {
        return Err(ManifestRefusal::Expired {
            id,
            ago: now - manifest.not_after,
        });
    }
    Ok(())
}

fn signers_of(
    manifest: &Manifest,
    id: Hex32,
    envelope: Option<&[u8]>,
    trust: &ManifestTrust,
) -> Result<Basis, ManifestRefusal> {
    let signers: BTreeSet<[u8; 32]> = trust.signers.iter().copied().collect();
    if signers.is_empty() {
        return Err(if trust.pinned.is_empty() {
            ManifestRefusal::NobodyTrusted
        } else {
            not_pinned(id, &trust.pinned)
        });
    }
    let threshold = trust.threshold;
    if threshold == 0 || threshold > signers.len() {
        return Err(ManifestRefusal::Threshold {
            threshold,
            signers: signers.len(),
        });
    }
    let envelope = envelope.ok_or(ManifestRefusal::Unsigned { id })?;
    let unreadable = |source| ManifestRefusal::Envelope { id, source };
    let envelope = dsse::Envelope::parse(envelope).map_err(unreadable)?;
    if envelope.signatures.is_empty() {
        return Err(ManifestRefusal::Unsigned { id });
    }
    let by: Vec<Hex32> = signers
        .iter()
        .filter(|signer| envelope.signed_by(signer))
        .map(|key| Hex(*key))
        .collect();
    if by.is_empty() {
        return Err(nobody(id, &envelope, &signers));
    }
    if by.len() < threshold {
        return Err(ManifestRefusal::TooFewSigners {
            id,
            valid: by.len(),
            threshold,
        });
    }
    let statement = envelope.statement().map_err(unreadable)?;
    let signed = statement.manifest();
    if signed != Some(id) {
        let signed = signed.map_or_else(|| "no manifest".to_owned(), |other| other.to_string());
        return Err(ManifestRefusal::OtherManifest { id, signed });
    }
    if !statement.says(dsse::Statement::of(manifest, id)) {
        return Err(ManifestRefusal::OtherStatement { id });
    }
    Ok(Basis::Signed {
        by,
        threshold,
        of: signers.len(),
    })
}

/// Refusal where no signer is pinned, so that no signature can help, and no pin matches.
fn not_pinned(id: Hex32, pinned: &[Hex32]) -> ManifestRefusal {
    let pins = pinned.iter().take(4).map(Hex32::to_string);
    ManifestRefusal::NotPinned {
        id,
        pinned: pins.collect::<Vec<_>>().join(", "),
    }
}

/// Distinguishes a damaged signature of a pinned signer from signatures of unknown keys. Key ids are not authenticated and
/// select only the error.
fn nobody(id: Hex32, envelope: &dsse::Envelope, signers: &BTreeSet<[u8; 32]>) -> ManifestRefusal {
    let named = |signer: &&[u8; 32]| {
        envelope
            .signatures
            .iter()
            .any(|s| s.keyid == hex::encode(signer))
    };
    if let Some(signer) = signers.iter().find(named) {
        return ManifestRefusal::BadSignature {
            id,
            signer: Hex(*signer),
        };
    }
    let names = envelope
        .signatures
        .iter()
        .take(4)
        .map(|s| printable(&s.keyid));
    ManifestRefusal::UnknownSigners {
        id,
        found: names.collect::<Vec<_>>().join(", "),
    }
}

/// Reduces untrusted text to at most 120 characters of plain ASCII, so that it cannot forge or reorder lines on a terminal.
pub(crate) fn printable(text: &str) -> String {
    printable_within(text, 120)
}

/// As [`printable`], with at most `longest` characters.
pub(crate) fn printable_within(text: &str, longest: usize) -> String {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    let mut shown: String = text.chars().take(longest).map(plain).collect();
    if text.chars().nth(longest).is_some() {
        shown.push_str("...");
    }
    if shown.is_empty() {
        "(no name)".to_owned()
    } else {
        shown
    }
}

#[cfg(test)]
pub(crate) mod tests;
