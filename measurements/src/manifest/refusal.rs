//! Reasons to refuse a manifest, with messages for the user.

use cocoon_protocol::{bytes::Hex32, manifest::ManifestError};

use super::EnvelopeError;

/// Why a manifest is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestRefusal {
    /// The bytes are not a manifest.
    #[error("the file is not a manifest this program can read")]
    Malformed(#[source] ManifestError),
    /// The verifier has neither signers nor pins.
    #[error(
        "no signer is trusted and no manifest is pinned: name a signer (--signer) or the manifest's hash (--manifest-sha256)"
    )]
    NobodyTrusted,
    /// The verifier has pins but no signers, and the manifest is not pinned.
    #[error(
        "manifest {id} is none of the pinned ones ({pinned}): it was exchanged, or is of another release than the pin (--manifest-sha256)"
    )]
    NotPinned {
        /// Identity of the manifest.
        id: Hex32,
        /// The first pinned ids, at most four.
        pinned: String,
    },
    /// The threshold is zero, or larger than the number of pinned signers.
    #[error(
        "{threshold} signatures are demanded of {signers} pinned signers: the threshold must be 1 to {signers}"
    )]
    Threshold {
        /// Number of signatures demanded.
        threshold: usize,
        /// Number of pinned signers.
        signers: usize,
    },
    /// The verifier has signers, and the manifest has no signature.
    #[error(
        "manifest {id} is not signed: get its signature file (manifest.json.dsse), or pin its hash if you built it yourself"
    )]
    Unsigned {
        /// Identity of the manifest.
        id: Hex32,
    },
    /// The signature file is not an envelope with a manifest's statement.
    #[error(
        "the signature file of manifest {id} cannot be read: get it again from where the manifest came from"
    )]
    Envelope {
        /// Identity of the manifest.
        id: Hex32,
        /// What is wrong with the file.
        #[source]
        source: EnvelopeError,
    },
    /// A signature that names a pinned signer does not verify.
    #[error(
        "manifest {id} is wrongly signed: the signature named {signer} is not valid; the signature file was changed or damaged"
    )]
    BadSignature {
        /// Identity of the manifest.
        id: Hex32,
        /// The pinned signer that the signature names.
        signer: Hex32,
    },
    /// No pinned signer signed the manifest.
    #[error(
        "manifest {id} is signed by nobody you trust: signed by {found}; if that is the new signer, verify the key by another way and pin it"
    )]
    UnknownSigners {
        /// Identity of the manifest.
        id: Hex32,
        /// Key ids in the envelope, at most four; they are not authenticated.
        found: String,
    },
    /// Fewer pinned signers signed than the threshold demands.
    #[error(
        "manifest {id} is signed by {valid} of the pinned signers, {threshold} are needed: wait for more signatures"
    )]
    TooFewSigners {
        /// Identity of the manifest.
        id: Hex32,
        /// Number of pinned signers that signed.
        valid: usize,
        /// Number of signers that must sign.
        threshold: usize,
    },
    /// The signatures verify, but over the statement of another manifest.
    #[error(
        "the signature file is about another manifest: it signs {signed}, the manifest is {id}; take both from the same release"
    )]
    OtherManifest {
        /// Identity of the manifest.
        id: Hex32,
        /// Id that the statement names, or "no manifest".
        signed: String,
    },
    /// The signatures verify and name this manifest, but the statement contradicts it.
    #[error(
        "manifest {id} is signed with a statement that contradicts it, in its artefacts or in what is said of the release: its signers sign it anew"
    )]
    OtherStatement {
        /// Identity of the manifest.
        id: Hex32,
    },
    /// The manifest's validity has ended.
    #[error(
        "manifest {id} expired {ago} seconds ago: get the current release's manifest, and check this machine's clock"
    )]
    Expired {
        /// Identity of the manifest.
        id: Hex32,
        /// Seconds since the end of the validity.
        ago: u64,
    },
    /// The manifest's validity has not begun.
    #[error("manifest {id} is not valid for another {ahead} seconds: check this machine's clock")]
    NotYetValid {
        /// Identity of the manifest.
        id: Hex32,
        /// Seconds until the beginning of the validity.
        ahead: u64,
    },
    /// The manifest's release is below the floor.
    #[error(
        "manifest {id} is of release {release}, older than the lowest accepted, {floor}: the image was rolled back; the operator has to update"
    )]
    ReleaseFloor {
        /// Identity of the manifest.
        id: Hex32,
        /// Release of the manifest.
        release: u64,
        /// Lowest release accepted.
        floor: u64,
    },
    /// The image was built from inputs other than the locked ones.
    #[error(
        "manifest {id} is unlocked, built from {count} inputs that are not the locked ones ({first}): it is no release; --allow-unlocked accepts it for trials"
    )]
    Unlocked {
        /// Identity of the manifest.
        id: Hex32,
        /// Number of such inputs.
        count: usize,
        /// The first such input.
        first: String,
    },
}
