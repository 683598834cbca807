//! Why a manifest does not count, each reason in its own words.

use cocoon_protocol::{bytes::Hex32, manifest::ManifestError};

use super::EnvelopeError;

/// Why a manifest does not count.
#[derive(Debug, thiserror::Error)]
pub enum ManifestRefusal {
    /// Not a manifest.
    #[error("the file is not a manifest this program can read")]
    Malformed(#[source] ManifestError),
    /// The verifier trusts nobody.
    #[error(
        "no signer is trusted and no manifest is pinned: name a signer (--signer) or the manifest's hash (--manifest-sha256)"
    )]
    NobodyTrusted,
    /// Only pins are trusted, and it is none of them.
    #[error(
        "manifest {id} is none of the pinned ones ({pinned}): it was exchanged, or is of another release than the pin (--manifest-sha256)"
    )]
    NotPinned {
        /// Identity of the manifest.
        id: Hex32,
        /// The first of those that are pinned.
        pinned: String,
    },
    /// The policy cannot be met.
    #[error(
        "{threshold} signatures are demanded of {signers} pinned signers: the threshold must be 1 to {signers}"
    )]
    Threshold {
        /// Signatures demanded.
        threshold: usize,
        /// Signers pinned.
        signers: usize,
    },
    /// Signers are trusted, and there is no signature.
    #[error(
        "manifest {id} is not signed: get its signature file (manifest.json.dsse), or pin its hash if you built it yourself"
    )]
    Unsigned {
        /// Identity of the manifest.
        id: Hex32,
    },
    /// The signature file is none.
    #[error(
        "the signature file of manifest {id} cannot be read: get it again from where the manifest came from"
    )]
    Envelope {
        /// Identity of the manifest.
        id: Hex32,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// A pinned signer is named beside a signature that is not his.
    #[error(
        "manifest {id} is wrongly signed: the signature named {signer} is not valid; the signature file was changed or damaged"
    )]
    BadSignature {
        /// Identity of the manifest.
        id: Hex32,
        /// The pinned signer named beside it.
        signer: Hex32,
    },
    /// Nobody whom the verifier pins signed.
    #[error(
        "manifest {id} is signed by nobody you trust: signed by {found}; if that is the new signer, verify the key by another way and pin it"
    )]
    UnknownSigners {
        /// Identity of the manifest.
        id: Hex32,
        /// Key names in the envelope, which nobody vouches for.
        found: String,
    },
    /// Fewer of them than demanded.
    #[error(
        "manifest {id} is signed by {valid} of the pinned signers, {threshold} are needed: wait for more signatures"
    )]
    TooFewSigners {
        /// Identity of the manifest.
        id: Hex32,
        /// Pinned signers who signed.
        valid: usize,
        /// How many must.
        threshold: usize,
    },
    /// The signatures are good, and about another manifest.
    #[error(
        "the signature file is about another manifest: it signs {signed}, the manifest is {id}; take both from the same release"
    )]
    OtherManifest {
        /// Identity of the manifest.
        id: Hex32,
        /// What the statement names, or "no manifest".
        signed: String,
    },
    /// The signatures are good and about this manifest, and what was signed says something else of it.
    #[error(
        "manifest {id} is signed with a statement that contradicts it, in its artefacts or in what is said of the release: its signers sign it anew"
    )]
    OtherStatement {
        /// Identity of the manifest.
        id: Hex32,
    },
    /// After its end.
    #[error(
        "manifest {id} expired {ago} seconds ago: get the current release's manifest, and check this machine's clock"
    )]
    Expired {
        /// Identity of the manifest.
        id: Hex32,
        /// Seconds since its end.
        ago: u64,
    },
    /// Before its beginning.
    #[error("manifest {id} is not valid for another {ahead} seconds: check this machine's clock")]
    NotYetValid {
        /// Identity of the manifest.
        id: Hex32,
        /// Seconds until its beginning.
        ahead: u64,
    },
    /// An older release than the verifier has seen.
    #[error(
        "manifest {id} is of release {release}, older than the lowest accepted, {floor}: the image was rolled back; the operator has to update"
    )]
    ReleaseFloor {
        /// Identity of the manifest.
        id: Hex32,
        /// Its release.
        release: u64,
        /// The lowest accepted.
        floor: u64,
    },
    /// Built from other inputs than the locked ones.
    #[error(
        "manifest {id} is unlocked, built from {count} inputs that are not the locked ones ({first}): it is no release; --allow-unlocked accepts it for trials"
    )]
    Unlocked {
        /// Identity of the manifest.
        id: Hex32,
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
}
