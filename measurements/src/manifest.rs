//! Whether a manifest counts (SPEC.md §5): signed by enough of the verifier's own signers or pinned by its hash, in
//! its time, not rolled back, not unlocked. Nothing that a guest or host sends chooses signers.

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

/// Releases below this one are refused by every verifier of this version, whatever its settings.
pub const RELEASE_FLOOR: u64 = 1;

/// Whom a verifier believes about manifests, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestTrust {
    /// Ed25519 public keys of pinned signers. The same key twice counts once.
    pub signers: Vec<[u8; 32]>,
    /// How many of them must have signed, at least 1.
    pub threshold: usize,
    /// Manifests pinned by identity; these need no signature.
    pub pinned: Vec<Hex32>,
    /// Accept manifests whose inputs were not the locked ones. Verdicts go on saying so.
    pub allow_unlocked: bool,
    /// Refuse releases below this one; a client raises it as it sees newer manifests.
    pub release_floor: u64,
}

impl Default for ManifestTrust {
    /// Trusts nobody: signers or a pin have to be added.
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

/// A manifest that counts. Only [`trust`] makes one; an appraisal takes nothing else.
#[derive(Clone, Debug)]
pub struct TrustedManifest {
    manifest: Manifest,
    id: Hex32,
    basis: Basis,
    release_floor: u64,
}

/// Why a manifest counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Its identity is pinned.
    Pinned,
    /// Pinned signers signed it.
    Signed {
        /// Those who did.
        by: Vec<Hex32>,
        /// How many had to.
        threshold: usize,
        /// How many are pinned.
        of: usize,
    },
}

impl TrustedManifest {
    /// SHA-256 of the manifest's bytes.
    #[must_use]
    pub fn id(&self) -> Hex32 {
        self.id
    }

    /// Whether its image uses a GPU: every variant but `cpu` does, so that a name from the future is taken for more
    /// than it may be, never for less.
    #[must_use]
    pub fn claims_gpu(&self) -> bool {
        self.manifest.variant != "cpu"
    }

    /// Why it counts.
    #[must_use]
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The release floor that it was held against.
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

/// Decides whether the manifest `bytes` count at `now` (seconds since 1970). `envelope` is the signature file beside
/// it, if there is one; a pinned manifest does not need it.
///
/// # Errors
/// The first reason why not, in the order of [`ManifestRefusal`].
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

/// The dates alone: appraisals ask again, because a client may keep a trusted manifest for days.
pub(crate) fn check_time(manifest: &Manifest, id: Hex32, now: u64) -> Result<(), ManifestRefusal> {
    if now < manifest.not_before {
        return Err(ManifestRefusal::NotYetValid {
            id,
            ahead: manifest.not_before - now,
        });
    }
    // The last second counts.
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

/// Nobody's signature would count, and no pin fits.
fn not_pinned(id: Hex32, pinned: &[Hex32]) -> ManifestRefusal {
    let pins = pinned.iter().take(4).map(Hex32::to_string);
    ManifestRefusal::NotPinned {
        id,
        pinned: pins.collect::<Vec<_>>().join(", "),
    }
}

/// Tells a damaged signature of a pinned signer from signatures of strangers; the key names decide only the words.
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

/// Foreign text for a message: short plain ASCII, so that it can neither forge lines on a terminal nor reorder them.
pub(crate) fn printable(text: &str) -> String {
    printable_within(text, 120)
}

/// The same of at most `longest` characters.
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
